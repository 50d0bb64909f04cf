// What was used, by whom, and what it costs: any line of a table filters the rest.
import { query, useAnswer } from "../api.js";
import { compact, milliseconds, money, number } from "../format.js";
import { html, useMemo } from "../lib.js";
import { go, link } from "../location.js";
import { Stacked } from "../parts/chart.js";
import { Choice } from "../parts/form.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { bounds, PERIODS, pieces, startOf } from "../period.js";
import { t } from "../texts.js";

const DIMENSIONS = ["model", "team", "product", "key", "region", "backend"];
const MEASURES = ["cost_usd", "requests", "total_tokens", "errors"];
const MOST_SERIES = 7; // the others are summed

/** @param {{place: Record<string, string>}} props */
export function Overview({ place }) {
  const period = PERIODS.find((one) => one.name === place.period) ?? PERIODS[2];
  const by = DIMENSIONS.includes(place.by) ? place.by : "model";
  const measure = MEASURES.includes(place.measure) ? place.measure : "cost_usd";
  const filters = Object.fromEntries(DIMENSIONS.filter((name) => place[name]).map((name) => [name, place[name]]));
  const span = useMemo(() => bounds(period.name, new Date()), [period.name]);
  const lines = useAnswer(`/gateway/usage${query({ by, ...filters, ...span })}`, 30_000);
  const series = useAnswer(`/gateway/usage${query({ by, every: period.every, ...filters, ...span })}`, 60_000);
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "overview", ...changed });
  return html`<h1>${t("nav.overview")}</h1>
    <div class="bar">
      <${Choice} label=${t("overview.period")} value=${period.name} options=${PERIODS.map((one) => [one.name, t(one.text)])} onChange=${(/** @type {string} */ value) => move({ period: value })} />
      <${Choice} label=${t("overview.by")} value=${by} options=${DIMENSIONS.map((name) => [name, t(dimension(name))])} onChange=${(/** @type {string} */ value) => move({ by: value })} />
      <${Choice} label=${t("overview.measure")} value=${measure} options=${MEASURES.map((name) => [name, t(column(name))])} onChange=${(/** @type {string} */ value) => move({ measure: value })} />
      ${Object.entries(filters).map(([name, value]) => html`<button type="button" class="filter" onClick=${() => move({ [name]: undefined })}>
        ${t(dimension(name))}: ${value} <span aria-label=${t("overview.unfilter")}>×</span></button>`)}
    </div>
    <${Shown} of=${lines}>${(/** @type {any} */ data) => html`<${Totals} total=${data.total} />`}<//>
    <${Shown} of=${series}>${(/** @type {any} */ data) => html`<${Chart} lines=${data.lines} by=${by} measure=${measure}
      times=${pieces(span.since, span.until, period.every)} />`}<//>
    <${Shown} of=${lines}>${(/** @type {any} */ data) => html`<${Lines} lines=${data.lines} by=${by} place=${place} />`}<//>`;
}

/** @param {string} name @returns {import("../texts.js").Key} */
const dimension = (name) => /** @type {any} */ (`dimension.${name}`);
/** @param {string} name @returns {import("../texts.js").Key} */
const column = (name) => /** @type {any} */ (`column.${name}`);

/** @param {{total: any}} props */
function Totals({ total }) {
  const cards = [
    ["column.cost_usd", money(total.cost_usd)], ["column.forecast_usd", money(total.forecast_usd)],
    ["column.requests", number(total.requests)], ["column.errors", number(total.errors)],
    ["column.input_tokens", compact(total.input_tokens)], ["column.cached_input_tokens", compact(total.cached_input_tokens)],
    ["column.output_tokens", compact(total.output_tokens)], ["column.reasoning_tokens", compact(total.reasoning_tokens)],
  ];
  return html`<dl class="cards">${cards.map(([key, value]) => html`<div><dt>${t(/** @type {any} */ (key))}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** @param {{lines: any[], by: string, measure: string, times: number[]}} props */
function Chart({ lines, by, measure, times }) {
  const series = useMemo(() => seriesOf(lines, by, measure, times), [lines, by, measure]);
  if (lines.length === 0) return html`<p class="empty">${t("overview.nothing")}</p>`;
  return html`<${Stacked} title=${t(column(measure))} times=${times} series=${series} unit=${measure === "cost_usd" ? money : compact} />`;
}

/** @param {any[]} lines @param {string} by @param {string} measure @param {number[]} times */
function seriesOf(lines, by, measure, times) {
  /** @type {Map<string, number>} */
  const totals = new Map();
  for (const line of lines) totals.set(nameOf(line, by), (totals.get(nameOf(line, by)) ?? 0) + (line[measure] ?? 0));
  const largest = [...totals].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const shown = new Set(largest.slice(0, MOST_SERIES));
  /** @type {Map<string, number[]>} */
  const values = new Map();
  for (const line of lines) {
    const name = shown.has(nameOf(line, by)) ? nameOf(line, by) : t("overview.others");
    if (!values.has(name)) values.set(name, times.map(() => 0));
    const row = /** @type {number[]} */ (values.get(name));
    const piece = times.indexOf(startOf(line.period));
    if (piece >= 0) row[piece] += line[measure] ?? 0;
  }
  return [...values].map(([name, row]) => ({ name, values: row }));
}

/** @param {any} line @param {string} by */
const nameOf = (line, by) => (by === "key" && line.name) || line[by] || t("overview.none");

/** @param {{lines: any[], by: string, place: Record<string, string>}} props */
function Lines({ lines, by, place }) {
  const columns = [
    { head: t(dimension(by)), cell: (/** @type {any} */ line) => (line[by]
      ? html`<a href=${link({ ...place, view: "overview", [by]: line[by] })}>${nameOf(line, by)}</a>` : nameOf(line, by)) },
    ...["requests", "errors", "input_tokens", "cached_input_tokens", "output_tokens"].map((name) => ({
      head: t(column(name)), right: true, cell: (/** @type {any} */ line) => number(line[name]) })),
    ...["p50_ms", "p95_ms", "first_byte_p50_ms", "first_byte_p95_ms"].map((name) => ({
      head: t(column(name)), right: true, cell: (/** @type {any} */ line) => milliseconds(line[name]) })),
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ line) => money(line.cost_usd) },
    { head: t("column.forecast_usd"), right: true, cell: (/** @type {any} */ line) => money(line.forecast_usd) },
  ];
  return html`<${Table} caption=${t("overview.lines")} columns=${columns} rows=${lines} id=${(/** @type {any} */ line) => line[by]} />`;
}
