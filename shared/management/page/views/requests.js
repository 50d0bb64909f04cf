// Find a call: by id, consumer, model, status, error and time. No prompts.
import { query, useAnswer } from "../api.js";
import { milliseconds, money, number, time } from "../format.js";
import { html } from "../lib.js";
import { go, link } from "../location.js";
import { Field } from "../parts/form.js";
import { ConsumerName, ConsumerPick } from "../parts/pick.js";
import { Shown } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { fromZone, toZone } from "../period.js";
import { t } from "../texts.js";
import { Call } from "./call.js";

/** The fields of text, and their names in the query. @type {[string, import("../texts.js").Key][]} */
const FILTERS = [["team", "dimension.team"], ["product", "dimension.product"], ["model", "dimension.model"],
  ["status", "requests.status"], ["code", "requests.code"]];
const ID = 26; // characters

/** @param {{place: Record<string, string>}} props */
export function Requests({ place }) {
  return place.id ? html`<${Call} id=${place.id} place=${place} />` : html`<${List} place=${place} />`;
}

/** @param {{place: Record<string, string>}} props */
function List({ place }) {
  const filters = Object.fromEntries(["consumer", ...FILTERS.map(([name]) => name), "since", "until", "after"].map((name) => [name, place[name]]));
  const state = useAnswer(`/gateway/requests${query({ ...filters, limit: 50 })}`);
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "requests", after: undefined, ...changed }, true);
  const columns = [
    { head: t("requests.at"), cell: (/** @type {any} */ one) => html`<a href=${link({ ...place, view: "requests", id: one.id })}>${time(one.at)}</a>` },
    { head: t("requests.status"), cell: (/** @type {any} */ one) => html`<span class=${one.status >= 400 ? "bad" : "good"}>${one.status ?? "–"}</span> ${one.code ?? ""}` },
    { head: t("dimension.key"), cell: (/** @type {any} */ one) => one.consumer && html`<a href=${link({ view: "consumer", id: one.consumer })}>${one.name || one.consumer}</a>` },
    { head: t("dimension.model"), cell: (/** @type {any} */ one) => one.model },
    { head: t("dimension.backend"), cell: (/** @type {any} */ one) => one.backend ?? "" },
    { head: t("requests.tries"), right: true, cell: (/** @type {any} */ one) => number(one.attempts) },
    { head: t("column.input_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.input_tokens) },
    { head: t("column.output_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.output_tokens) },
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ one) => money(one.cost_usd) },
    { head: t("requests.took"), right: true, cell: (/** @type {any} */ one) => milliseconds(one.ms) },
  ];
  return html`<h1>${t("nav.requests")}</h1><div class="bar">
      <${Field} label=${t("requests.id")} type="search" value="" onInput=${(/** @type {string} */ id) => id.trim().length === ID && move({ id: id.trim() })} hint=${t("requests.id-hint")} />
      ${place.consumer ? html`<button type="button" class="filter" onClick=${() => move({ consumer: undefined })}>${t("dimension.key")}: <${ConsumerName} id=${place.consumer} />${" "}<span aria-label=${t("overview.unfilter")}>×</span></button>` : html`<${ConsumerPick} onChoose=${(/** @type {string} */ consumer) => move({ consumer })} />`}
      ${FILTERS.map(([name, text]) => html`<${Field} label=${t(text)} value=${place[name] ?? ""} onInput=${(/** @type {string} */ value) => move({ [name]: value })} />`)}
      ${["since", "until"].map((name) => html`<${Field} label=${t(/** @type {any} */ (`requests.${name}`))} type="datetime-local" value=${toZone(place[name])}
        onInput=${(/** @type {string} */ value) => move({ [name]: fromZone(value) })} />`)}
      <button type="button" class="filter" onClick=${state.again}>${t("requests.find")}</button>
    </div>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("nav.requests")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.id} empty=${t(place.since ? "requests.none-since" : "requests.none")} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => move({})} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>`;
}
