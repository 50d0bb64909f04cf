// One call in full: why it was refused, its tries on one axis of time, its tokens and cost. No prompts.
import { useAnswer } from "../api.js";
import { milliseconds, money, number, time } from "../format.js";
import { html } from "../lib.js";
import { link } from "../location.js";
import { Limits } from "../parts/limits.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t, word } from "../texts.js";

/** Codes of refusals by a limit of the caller. */
const HELD = ["rate_limit_exceeded", "quota_exceeded", "budget_exceeded", "insufficient_quota"];
/** Fields that are shown elsewhere. */
const APART = ["id", "at", "consumer", "name", "status", "ended", "code", "message", "cost_usd", "estimated"];
/** Amounts that are shown although they are 0. */
const ALWAYS = ["input_tokens", "output_tokens", "ms"];

/** @param {{id: string, place: Record<string, string>}} props */
export function Call({ id, place }) {
  const state = useAnswer(`/gateway/requests/${encodeURIComponent(id)}`);
  return html`<p><a href=${link({ ...place, view: "requests", id: undefined })}>${t("requests.back")}</a></p><h1>${t("requests.one")}</h1>
    <${Shown} of=${state}>${(/** @type {any} */ call) => html`<${Facts} call=${call} />
      ${call.code && html`<div class="problem"><p><strong>${t("requests.why")}</strong> <code>${call.code}</code> ${call.message ?? ""}</p></div>`}
      ${HELD.includes(call.code) && call.consumer && html`<${Held} consumer=${call.consumer} />`}
      <${Tries} tries=${call.tries} /><${Charges} charges=${call.charges} />`}<//>`;
}

/** @param {{call: any}} props */
function Facts({ call }) {
  const facts = [
    [t("consumer.id"), html`<code>${call.id}</code>`], [t("requests.at"), time(call.at)],
    [t("requests.status"), html`<span class=${call.status >= 400 ? "bad" : "good"}>${call.status ?? "–"}</span> ${call.ended ? word("ended", call.ended) : ""}`],
    [t("dimension.key"), call.consumer ? html`<a href=${link({ view: "consumer", id: call.consumer })}>${call.name || call.consumer}</a>` : "–"],
    [t("column.cost_usd"), `${money(call.cost_usd)}${call.estimated ? ` (${t("requests.estimated")})` : ""}`],
    ...Object.entries(call).filter(([name, value]) => !APART.includes(name) && typeof value !== "object" && value !== "" && (value !== 0 || ALWAYS.includes(name)))
      .map(([name, value]) => [word("call", name), inWords(name, value)]),
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A value with its unit. @param {string} name @param {any} value */
function inWords(name, value) {
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (typeof value !== "number") return String(value);
  return name.endsWith("ms") ? milliseconds(value) : number(value);
}

/** The limits of the consumer as they are now. @param {{consumer: string}} props */
function Held({ consumer }) {
  const state = useAnswer(`/gateway/limits/${encodeURIComponent(consumer)}`);
  return html`<h2>${t("requests.held")}</h2><${Shown} of=${state}>${(/** @type {any} */ data) => html`<${Limits} lines=${data.limits} />`}<//>`;
}

/** The tries one after the other on one axis of time. @param {{tries: any[]}} props */
function Tries({ tries }) {
  if (tries.length === 0) return null;
  const took = (/** @type {any} */ one) => one.ms ?? 0;
  const start = (/** @type {any} */ _, /** @type {number} */ i) => tries.slice(0, i).reduce((sum, old) => sum + took(old), 0);
  const end = Math.max(1, ...tries.map((one, i) => start(one, i) + took(one)));
  return html`<h2>${t("requests.tries")}</h2><ol class="tries">${tries.map((one, i) => html`<li>
    <span>${one.backend} ${one.deployment ?? ""} ${one.role === "try" ? "" : word("role", one.role)} ${one.problem || one.status || ""} · ${milliseconds(took(one))}</span>
    <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect x=${(start(one, i) / end) * 100} width=${Math.max(0.5, (took(one) / end) * 100)} height="4"
      class=${one.status >= 200 && one.status < 400 && !one.problem ? "good" : "bad"} /></svg></li>`)}</ol>`;
}

/** What was charged for tries that did not answer the call. @param {{charges: any[]}} props */
function Charges({ charges }) {
  if (charges.length === 0) return null;
  const columns = [
    { head: t("requests.role"), cell: (/** @type {any} */ one) => word("role", one.role) }, { head: t("dimension.backend"), cell: (/** @type {any} */ one) => one.backend },
    { head: t("column.input_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.input_tokens) },
    { head: t("column.output_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.output_tokens) },
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ one) => money(one.cost_usd) },
  ];
  return html`<h2>${t("requests.charges")}</h2><${Table} caption=${t("requests.charges")} columns=${columns} rows=${charges} id=${(/** @type {any} */ one) => one.role + one.backend} />`;
}
