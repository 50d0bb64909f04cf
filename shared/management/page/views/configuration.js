// The configuration in effect, with the source of each section: edit, validate as one types, apply, go back.
import { ask, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useEffect, useState } from "../lib.js";
import { Choice, Field } from "../parts/form.js";
import { Problem, Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";

const WAIT = 500; // milliseconds after the last key before the text is validated

export function Configuration() {
  const state = useAnswer("/gateway/configuration");
  const versions = useAnswer("/gateway/configuration/versions");
  const again = () => { state.again(); versions.again(); };
  return html`<h1>${t("nav.configuration")}</h1>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      ${data.warnings.map((/** @type {string} */ text) => html`<p class="problem" role="alert">${text}</p>`)}
      ${data.refused.map((/** @type {any} */ one) => html`<${Problem} error=${{ status: 400, code: "", message: t("configuration.refused", { name: one.name }), body: one }} />`)}
      ${data.needs_restart.length > 0 && html`<p class="quiet">${t("configuration.restart", { keys: data.needs_restart.join(", ") })}</p>`}
      <${Sections} data=${data} etag=${state.etag} again=${again} />`}<//>
    <h2>${t("configuration.history")}</h2>
    <${Shown} of=${versions}>${(/** @type {any} */ data) => html`<${History} versions=${data.data} again=${again} />`}<//>`;
}

/** @param {{data: any, etag: string, again: () => void}} props */
function Sections({ data, etag, again }) {
  const names = Object.keys(data.document).sort();
  const version = Object.fromEntries(names.filter((one) => data.sections[one] !== "base").map((one) => [one, data.document[one]]));
  const [name, setName] = useState(names.includes("limits") ? "limits" : names[0]);
  return html`<div class="bar"><${Choice} label=${t("configuration.section")} value=${name} options=${names} onChange=${setName} />
      <p class="quiet">${t("configuration.source", { source: data.sections[name] === "base" ? data.base.source : data.sections[name] })}</p></div>
    <${Editor} key=${name + etag} name=${name} value=${data.document[name]} version=${version} etag=${etag} again=${again} />`;
}

/** @param {{name: string, value: any, version: Record<string, any>, etag: string, again: () => void}} props */
function Editor({ name, value, version, etag, again }) {
  const given = JSON.stringify(value, null, 2);
  const [text, setText] = useState(given);
  const [note, setNote] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const [valid, setValid] = useState(false);
  /** @returns {any} the sections of the next version; throws a `SyntaxError` */
  const next = () => ({ ...version, [name]: JSON.parse(text) });
  useEffect(() => {
    setValid(false);
    if (text === given) return undefined;
    const timer = setTimeout(async () => {
      try {
        await ask("/gateway/configuration/validate", { method: "POST", body: next() });
        setError(null);
        setValid(true);
      } catch (problem) {
        setError(problem);
      }
    }, WAIT);
    return () => clearTimeout(timer);
  }, [text]);
  const apply = async () => {
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
    ${valid && html`<p role="status" class="good">${t("configuration.valid")}</p><${Difference} before=${given} after=${text} />
      <${Field} label=${t("configuration.note")} value=${note} onInput=${setNote} />
      <button type="button" class="main" onClick=${apply}>${t("configuration.apply")}</button>`}</div>`;
}

/** The lines that differ. @param {{before: string, after: string}} props */
function Difference({ before, after }) {
  const old = before.split("\n");
  const current = after.split("\n");
  const gone = old.filter((line) => !current.includes(line));
  const come = current.filter((line) => !old.includes(line));
  return html`<pre class="difference" tabindex="0" aria-label=${t("configuration.difference")}>${gone.map((line) => html`<del>- ${line}\n</del>`)}${come.map((line) => html`<ins>+ ${line}\n</ins>`)}</pre>`;
}

/** @param {{versions: any[], again: () => void}} props */
function History({ versions, again }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  /** @param {number | string} to */
  const back = async (to) => {
    try {
      await ask("/gateway/configuration/rollback", { method: "POST", body: { version: String(to) } });
      again();
    } catch (problem) {
      setError(problem);
    }
  };
  const columns = [
    { head: t("configuration.version"), cell: (/** @type {any} */ one) => one.version },
    { head: t("audit.at"), cell: (/** @type {any} */ one) => time(one.at) },
    { head: t("audit.actor"), cell: (/** @type {any} */ one) => one.by },
    { head: t("configuration.note"), cell: (/** @type {any} */ one) => one.note },
    { head: t("configuration.sections"), cell: (/** @type {any} */ one) => one.sections.join(", ") },
    ...(session.isAdmin() ? [{ head: t("actions"), cell: (/** @type {any} */ one) => (one.current ? t("configuration.current")
      : html`<button type="button" onClick=${() => back(one.version)}>${t("configuration.rollback")}</button>`) }] : []),
  ];
  return html`<${Problem} error=${error} /><${Table} caption=${t("configuration.history")} columns=${columns} rows=${versions}
      id=${(/** @type {any} */ one) => String(one.version)} empty=${t("configuration.base-only")} />
    ${session.isAdmin() && versions.length > 0 && html`<button type="button" onClick=${() => back("base")}>${t("configuration.to-base")}</button>`}`;
}
