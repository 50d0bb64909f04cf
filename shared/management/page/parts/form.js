// Fields and dialogs. A form says what is wrong beside the field that is wrong.
import { html, useEffect, useRef } from "../lib.js";
import { t } from "../texts.js";

let made = 0;

/** @param {{label: string, value: string, onInput: (value: string) => void, hint?: string, type?: string, required?: boolean,
 *  placeholder?: string, min?: string, step?: string, maxlength?: string, autofocus?: boolean, autocomplete?: string}} props */
export function Field({ label, value, onInput, hint, type = "text", ...rest }) {
  const id = useRef("");
  id.current ||= `field-${(made += 1)}`;
  return html`<div class="field"><label for=${id.current}>${label}</label>
    <input id=${id.current} type=${type} value=${value} aria-describedby=${hint ? `${id.current}-hint` : undefined} ...${rest}
      onInput=${(/** @type {InputEvent} */ event) => onInput(/** @type {HTMLInputElement} */ (event.target).value)} />
    ${hint && html`<small id=${`${id.current}-hint`}>${hint}</small>`}</div>`;
}

/** @param {{label: string, value: string, options: (string | [string, string])[], onChange: (value: string) => void}} props */
export function Choice({ label, value, options, onChange }) {
  const id = useRef("");
  id.current ||= `choice-${(made += 1)}`;
  return html`<div class="field"><label for=${id.current}>${label}</label>
    <select id=${id.current} value=${value}
      onChange=${(/** @type {Event} */ event) => onChange(/** @type {HTMLSelectElement} */ (event.target).value)}>
      ${options.map((option) => (Array.isArray(option) ? option : [option, option])).map(([key, shown]) =>
        html`<option value=${key} selected=${key === value}>${shown}</option>`)}
    </select></div>`;
}

/** A modal dialog, which takes and returns the focus and closes with Escape.
 * @param {{title: string, onClose: () => void, children: any}} props */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => dialog.current?.showModal(), []);
  return html`<dialog ref=${dialog} aria-label=${title} onClose=${onClose}>
    <header><h2>${title}</h2>
      <button type="button" class="plain" aria-label=${t("close")} onClick=${() => dialog.current?.close()}>×</button></header>
    ${children}
  </dialog>`;
}

/** A button that puts a text on the clipboard and says so. @param {{text: string, label?: string}} props */
export function Copy({ text, label }) {
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const copy = async () => {
    const node = button.current;
    if (!node) return;
    try {
      await navigator.clipboard.writeText(text);
      node.textContent = t("copied");
    } catch {
      node.textContent = t("copy.failed");
    }
    setTimeout(() => (node.textContent = label ?? t("copy")), 2000);
  };
  return html`<button type="button" ref=${button} class="copy" onClick=${copy}>${label ?? t("copy")}</button>`;
}
