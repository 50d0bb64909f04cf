// The audit trail, of everything or of one object: who, when, what, from where, before and after.
import { query, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html } from "../lib.js";
import { go } from "../location.js";
import { t } from "../texts.js";
import { Shown, State } from "./status.js";
import { Pages, Table } from "./table.js";

/** @param {{place: Record<string, string>, object?: string, filters?: Record<string, string | undefined>, size?: number}} props
 * `object`: the only one that is shown, with what is below it; `filters`: of the whole, or beside the object */
export function AuditTrail({ place, object, filters = {}, size = 50 }) {
  const state = useAnswer(`/gateway/audit${query({ ...filters, object: object ?? filters.object, after: place.after, limit: size })}`);
  const columns = [
    { head: t("audit.at"), cell: (/** @type {any} */ one) => time(one.at) },
    { head: t("audit.actor"), cell: (/** @type {any} */ one) => one.actor },
    { head: t("audit.action"), cell: (/** @type {any} */ one) => one.action },
    ...(object === undefined ? [{ head: t("audit.object"), cell: (/** @type {any} */ one) => one.object }] : []),
    { head: t("audit.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />` },
    { head: t("audit.address"), cell: (/** @type {any} */ one) => one.address },
    { head: t("audit.change"), cell: (/** @type {any} */ one) => html`<${Changed} before=${one.before} after=${one.after} />` },
  ];
  return html`<${Shown} of=${state}>${(/** @type {any} */ data) => html`
    <${Table} caption=${t("nav.audit")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.at + one.object + one.action + one.request} />
    <${Pages} first=${!place.after} next=${data.after} onFirst=${() => go({ ...place, after: undefined })}
      onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>`;
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
