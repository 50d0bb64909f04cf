// What was used, by whom, and what it costs: any line and any name in a legend filters the rest.
import { query, useAnswer } from "../api.js";
import { compact, milliseconds, money, number } from "../format.js";
import { html, useMemo, useState } from "../lib.js";
import { go, link } from "../location.js";
import { Stacked } from "../parts/chart.js";
import { Choice } from "../parts/form.js";
import { ConsumerName } from "../parts/pick.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { bounds, PERIODS, pieces } from "../period.js";
import { byClass, byName, nameOf } from "../series.js";
import { t } from "../texts.js";
import { Budgets, Refusals, Throttles } from "./overview-more.js";

const DIMENSIONS = ["model", "team", "product", "key", "region", "backend"];
const MOST_LINES = 50;
const MEASURES = ["cost_usd", "requests", "total_tokens", "classes", "errors", "refused"];

/** @param {{place: Record<string, string>}} props */
export function Overview({ place }) {
  const period = PERIODS.find((one) => one.name === place.period) ?? PERIODS[2];
  const every = period.every.find((one) => one === place.every) ?? period.every[0];
  const by = DIMENSIONS.includes(place.by) ? place.by : "model";
  const measure = MEASURES.includes(place.measure) ? place.measure : "cost_usd";
  const filters = Object.fromEntries(DIMENSIONS.filter((name) => place[name]).map((name) => [name, place[name]]));
  const span = useMemo(() => bounds(period.name, new Date()), [period.name]);
  const lines = useAnswer(`/gateway/usage${query({ by, ...filters, ...span })}`, 30_000);
  const series = useAnswer(`/gateway/usage${query({ by, every, ...filters, ...span })}`, 60_000);
  const [turn, setTurn] = useState(0);
  const again = () => { void lines.again(); void series.again(); setTurn((n) => n + 1); };
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "overview", ...changed });
  return html`<h1>${t("nav.overview")}</h1>
    <div class="bar">
      <${Choice} label=${t("overview.period")} value=${period.name} options=${PERIODS.map((one) => [one.name, t(one.text)])} onChange=${(/** @type {string} */ value) => move({ period: value })} />
      <${Choice} label=${t("overview.every")} value=${every} options=${period.every.map((one) => [one, t(`every.${one}`)])} onChange=${(/** @type {string} */ value) => move({ every: value })} />
      <${Choice} label=${t("overview.by")} value=${by} options=${DIMENSIONS.map((name) => [name, t(dimension(name))])} onChange=${(/** @type {string} */ value) => move({ by: value })} />
      <${Choice} label=${t("overview.measure")} value=${measure} options=${MEASURES.map((name) => [name, t(column(name))])} onChange=${(/** @type {string} */ value) => move({ measure: value })} />
      ${Object.entries(filters).map(([name, value]) => html`<button type="button" class="filter" onClick=${() => move({ [name]: undefined })}>
        ${t(dimension(name))}: ${name === "key" ? html`<${ConsumerName} id=${value} />` : value}${" "}<span aria-label=${t("overview.unfilter")}>×</span></button>`)}
      <button type="button" class="filter" onClick=${again}>${t("overview.again")}</button>
    </div>
    <${Shown} of=${lines}>${(/** @type {any} */ data) => html`<${Totals} total=${data.total} />`}<//>
    <${Shown} of=${series}>${(/** @type {any} */ data) => html`<${Chart} lines=${data.lines} by=${by} measure=${measure} place=${place}
      times=${pieces(span.since, span.until, every)} />`}<//>
    <${Shown} of=${lines}>${(/** @type {any} */ data) => html`<${Lines} lines=${data.lines} by=${by} place=${place} />`}<//>
    <div class="columns" key=${turn}><${Budgets} /><${Refusals} filters=${filters} span=${span} /><${Throttles} /></div>`;
}

/** @param {string} name @returns {import("../texts.js").Key} */
const dimension = (name) => /** @type {any} */ (`dimension.${name}`);
/** @param {string} name @returns {import("../texts.js").Key} */
const column = (name) => /** @type {any} */ (`column.${name}`);

/** Two quantiles of times. @param {number | null} low @param {number | null} high in milliseconds */
const both = (low, high) => (low == null ? "–" : `${number(Math.round(low))} / ${milliseconds(high)}`);

/** @param {{total: any}} props */
function Totals({ total }) {
  const cards = [
    ["column.cost_usd", money(total.cost_usd)], ["column.forecast_usd", money(total.forecast_usd)],
    ["column.requests", number(total.requests)], ["column.errors", number(total.errors)], ["column.refused", number(total.refused)],
    ["column.input_tokens", compact(total.input_tokens)], ["column.cached_input_tokens", compact(total.cached_input_tokens)],
    ["column.output_tokens", compact(total.output_tokens)], ["column.reasoning_tokens", compact(total.reasoning_tokens)],
    ["overview.duration", both(total.p50_ms, total.p95_ms)], ["overview.first-byte", both(total.first_byte_p50_ms, total.first_byte_p95_ms)],
  ];
  return html`<dl class="cards">${cards.map(([key, value]) => html`<div><dt>${t(/** @type {any} */ (key))}</dt><dd>${value}</dd></div>`)}</dl>
    ${total.forecast_usd !== undefined && html`<p class="quiet">${t("overview.forecast")}</p>`}`;
}

/** @param {{lines: any[], by: string, measure: string, times: number[], place: Record<string, string>}} props */
function Chart({ lines, by, measure, times, place }) {
  const series = useMemo(() => (measure === "classes" ? byClass(lines, times) : byName(lines, by, measure, times)), [lines, by, measure]);
  if (lines.length === 0) return html`<p class="empty">${t("overview.nothing")}</p>`;
  const linked = series.map((one) => ({ ...one, href: one.value ? link({ ...place, view: "overview", [by]: one.value }) : undefined }));
  return html`<${Stacked} title=${t(column(measure))} times=${times} series=${linked} unit=${measure === "cost_usd" ? money : compact} />`;
}

/** @param {{lines: any[], by: string, place: Record<string, string>}} props */
function Lines({ lines, by, place }) {
  const columns = [
    { head: t(dimension(by)), cell: (/** @type {any} */ line) => (line[by]
      ? html`<a href=${link({ ...place, view: "overview", [by]: line[by] })}>${nameOf(line, by)}</a>${by === "key" && html` <a href=${link({ view: "consumer", id: line.key })} aria-label=${t("overview.open", { name: nameOf(line, by) })}>↗</a>`}` : nameOf(line, by)) },
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ line) => money(line.cost_usd) },
    { head: t("column.forecast_usd"), right: true, cell: (/** @type {any} */ line) => money(line.forecast_usd) },
    ...["requests", "errors", "refused", "input_tokens", "cached_input_tokens", "output_tokens"].map((name) => ({
      head: t(column(name)), right: true, cell: (/** @type {any} */ line) => number(line[name]) })),
    { head: t("overview.duration"), right: true, cell: (/** @type {any} */ line) => both(line.p50_ms, line.p95_ms) },
    { head: t("overview.first-byte"), right: true, cell: (/** @type {any} */ line) => both(line.first_byte_p50_ms, line.first_byte_p95_ms) },
  ];
  const shown = lines.slice(0, MOST_LINES);
  return html`<${Table} caption=${t("overview.lines")} columns=${columns} rows=${shown} id=${(/** @type {any} */ line) => line[by]} />
    ${lines.length > shown.length && html`<p class="quiet">${t("overview.most", { shown: shown.length, all: number(lines.length) })}</p>`}`;
}
