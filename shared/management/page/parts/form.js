// Fields and dialogs. A form says what is wrong beside the field that is wrong.
import { html, useEffect, useRef, useState } from "../lib.js";
import { t } from "../texts.js";

let made = 0;

/** @param {{label: string, value: string, onInput: (value: string) => void, hint?: any, type?: string, required?: boolean, list?: string, onChange?: (event: Event) => void,
 *  placeholder?: string, min?: string, step?: string, maxlength?: string, autofocus?: boolean, autocomplete?: string}} props */
export function Field({ label, value, onInput, hint, type = "text", ...rest }) {
  const id = useRef("");
  id.current ||= `field-${(made += 1)}`;
  return html`<div class="field"><label for=${id.current}>${label}</label>
    <input id=${id.current} type=${type} value=${value} aria-describedby=${hint ? `${id.current}-hint` : undefined} ...${rest}
      onInput=${(/** @type {InputEvent} */ event) => onInput(/** @type {HTMLInputElement} */ (event.target).value)} />
    ${hint && html`<small id=${`${id.current}-hint`}>${hint}</small>`}</div>`;
}

/** @param {{label: string, value: string, options: (string | [string, string])[], onChange: (value: string) => void, hint?: any}} props */
export function Choice({ label, value, options, onChange, hint }) {
  const id = useRef("");
  id.current ||= `choice-${(made += 1)}`;
  return html`<div class="field"><label for=${id.current}>${label}</label>
    <select id=${id.current} value=${value} aria-describedby=${hint ? `${id.current}-hint` : undefined}
      onChange=${(/** @type {Event} */ event) => onChange(/** @type {HTMLSelectElement} */ (event.target).value)}>
      ${options.map((option) => (Array.isArray(option) ? option : [option, option])).map(([key, shown]) =>
        html`<option value=${key} selected=${key === value}>${shown}</option>`)}
    </select>${hint && html`<small id=${`${id.current}-hint`}>${hint}</small>`}</div>`;
}

/** A modal dialog, which takes and returns the focus. It closes with Escape or by a link, but asks first if something was typed.
 * @param {{title: string, onClose: () => void, children: any}} props */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const typed = useRef(false);
  const [asking, setAsking] = useState(/** @type {{go: () => void} | null} */ (null));
  useEffect(() => dialog.current?.showModal(), []);
  const close = () => dialog.current?.close();
  /** @param {Event} [event] */
  const leave = (event) => {
    event?.preventDefault();
    if (typed.current) setAsking({ go: close });
    else close();
  };
  /** @param {MouseEvent} event */
  const follow = (event) => {
    const anchor = /** @type {Element} */ (event.target).closest("a[href]");
    if (!(anchor instanceof HTMLAnchorElement) || !typed.current || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    setAsking({ go: () => { typed.current = false; anchor.click(); } });
  };
  return html`<dialog ref=${dialog} aria-label=${title} onClose=${onClose} onCancel=${leave} onClick=${follow} onInput=${() => (typed.current = true)}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => event.key === "Escape" && leave(event)}>
    <header><h2>${title}</h2>
      <button type="button" class="plain" aria-label=${t("close")} onClick=${() => leave()}>×</button></header>
    ${asking && html`<${Discard} onDiscard=${asking.go} onStay=${() => setAsking(null)} />`}
    ${children}
  </dialog>`;
}

/** @param {{onDiscard: () => void, onStay: () => void}} props */
function Discard({ onDiscard, onStay }) {
  const stay = useRef(/** @type {HTMLButtonElement | null} */ (null));
  useEffect(() => stay.current?.focus(), []);
  return html`<div class="problem" role="alert"><p>${t("dialog.lose")}</p>
    <button type="button" ref=${stay} onClick=${onStay}>${t("dialog.stay")}</button> <button type="button" onClick=${onDiscard}>${t("dialog.discard")}</button></div>`;
}

/** Runs work that may fail: what it threw the last time, and true while it is under way. */
export function useAttempt() {
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);
  /** @param {() => Promise<unknown>} work */
  const attempt = async (work) => {
    setBusy(true);
    setError(null);
    try {
      await work();
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return { error, busy, attempt };
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
