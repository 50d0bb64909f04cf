// Every change: who, when, what, from where, before and after.
import { query, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html } from "../lib.js";
import { go } from "../location.js";
import { Shown, State } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { t } from "../texts.js";

/** @param {{place: Record<string, string>}} props */
export function Audit({ place }) {
  const state = useAnswer(`/gateway/audit${query({ object: place.object, actor: place.actor, after: place.after, limit: 50 })}`);
  const columns = [
    { head: t("audit.at"), cell: (/** @type {any} */ one) => time(one.at) },
    { head: t("audit.actor"), cell: (/** @type {any} */ one) => one.actor },
    { head: t("audit.action"), cell: (/** @type {any} */ one) => one.action },
    { head: t("audit.object"), cell: (/** @type {any} */ one) => one.object },
    { head: t("audit.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />` },
    { head: t("audit.address"), cell: (/** @type {any} */ one) => one.address },
    { head: t("audit.change"), cell: (/** @type {any} */ one) => html`<${Changed} before=${one.before} after=${one.after} />` },
  ];
  return html`<h1>${t("nav.audit")}</h1>
    ${place.object && html`<button type="button" class="filter" onClick=${() => go({ view: "audit" })}>${place.object} ×</button>`}
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("nav.audit")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.at + one.object + one.action} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => go({ ...place, after: undefined })} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>`;
}

/** The fields that differ. @param {{before: any, after: any}} props */
function Changed({ before, after }) {
  if (before === null && after === null) return null;
  const old = flat(before);
  const current = flat(after);
  const names = [...new Set([...Object.keys(old), ...Object.keys(current)])].filter((name) => old[name] !== current[name]);
  return html`<ul class="changes">${names.slice(0, 12).map((name) => html`<li><code>${name}</code>
    ${old[name] !== undefined && html` <del>${old[name]}</del>`} ${current[name] !== undefined && html` <ins>${current[name]}</ins>`}</li>`)}</ul>`;
}

/** @param {any} value @returns {Record<string, string>} */
function flat(value, path = "") {
  if (value === null || value === undefined) return {};
  if (typeof value !== "object") return { [path]: String(value) };
  return Object.assign({}, ...Object.entries(value).map(([name, inner]) => flat(inner, path ? `${path}.${name}` : name)));
}
