// The configuration in effect, with the source of each section: edit, validate as one types, apply.
import { ask, useAnswer } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { Changes } from "../parts/difference.js";
import { Choice, Field } from "../parts/form.js";
import { Problem, Shown } from "../parts/status.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { History } from "./history.js";

const WAIT = 500; // milliseconds after the last key before the text is validated
/** Sections that a configuration need not have yet. */
const SECTIONS = ["alerts", "backends", "client_address", "cors", "end_users", "entra", "limits", "models", "prices", "products", "teams", "telemetry", "timeouts"];
const LISTS = ["backends", "prices"];

/** @param {{place: Record<string, string>}} props */
export function Configuration({ place }) {
  const state = useAnswer("/gateway/configuration");
  const [applied, setApplied] = useState(0);
  const again = () => { state.again(); setApplied((n) => n + 1); };
  return html`<h1>${t("nav.configuration")}</h1>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      ${data.warnings.map((/** @type {string} */ text) => html`<p class="problem" role="alert">${text}</p>`)}
      ${data.refused.map((/** @type {any} */ one) => html`<${Problem} error=${{ status: 400, code: "", message: t("configuration.refused", { name: one.name }), body: one }} />`)}
      ${data.needs_restart.length > 0 && html`<p class="quiet">${t("configuration.restart", { keys: data.needs_restart.join(", ") })}</p>`}
      <${Sections} data=${data} etag=${state.etag} again=${again} /><${History} key=${applied} etag=${state.etag} place=${place} again=${again} />`}<//>`;
}

/** The sections that the version in effect has, by name. @param {any} data */
const versioned = (data) => Object.fromEntries(Object.keys(data.document).filter((one) => data.sections[one] !== "base").map((one) => [one, data.document[one]]));

/** @param {{data: any, etag: string, again: () => void}} props */
function Sections({ data, etag, again }) {
  const names = [...new Set([...Object.keys(data.document), ...SECTIONS])].sort();
  const [name, setName] = useState("limits");
  const source = data.sections[name] === "base" ? data.base.source : data.sections[name] ?? t("configuration.absent");
  return html`<div class="bar"><${Choice} label=${t("configuration.section")} value=${name} options=${names} onChange=${setName} />
      <p class="quiet">${t("configuration.source", { source })}</p></div>
    <${Editor} key=${name + etag} name=${name} value=${data.document[name]} version=${versioned(data)} etag=${etag} again=${again} />`;
}

/** @param {{name: string, value: any, version: Record<string, any>, etag: string, again: () => void}} props */
function Editor({ name, value, version, etag, again }) {
  const given = JSON.stringify(value ?? (LISTS.includes(name) ? [] : {}), null, 2);
  const [text, setText] = useState(given);
  const [note, setNote] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [changes, setChanges] = useState(/** @type {any[] | null} */ (null));
  /** @returns {any} the sections of the next version; throws a `SyntaxError` */
  const next = () => ({ ...version, [name]: JSON.parse(text) });
  useEffect(() => {
    setChanges(null);
    setError(null);
    if (text === given) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const { data } = await ask("/gateway/configuration/validate", { method: "POST", body: next(), signal: controller.signal });
        setChanges(data.changes);
      } catch (problem) {
        if (!controller.signal.aborted) setError(problem);
      }
    }, WAIT);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [text]);
  const apply = async () => {
    setError(null);
    try {
      await ask(`/gateway/configuration${note ? `?note=${encodeURIComponent(note)}` : ""}`, { method: "PUT", body: next(), etag });
      again();
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<div class="editor"><label for="document">${t("configuration.text")}</label>
    <textarea id="document" spellcheck="false" rows="20" value=${text} readonly=${!session.isAdmin()}
      onInput=${(/** @type {InputEvent} */ event) => setText(/** @type {HTMLTextAreaElement} */ (event.target).value)}></textarea>
    <${Problem} error=${error} />
    ${changes && html`<p role="status" class="good">${t("configuration.valid")}</p><${Changes} changes=${changes} />
      <${Field} label=${t("configuration.note")} value=${note} onInput=${setNote} />
      <button type="button" class="main" onClick=${apply}>${t("configuration.apply")}</button>`}</div>`;
}
