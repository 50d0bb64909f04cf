// Beside the charts: budgets and how far they are used, refusals by code, throttles by region.
import { query, useAnswer } from "../api.js";
import { money, number } from "../format.js";
import { html } from "../lib.js";
import { link } from "../location.js";
import { Limits } from "../parts/limits.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t } from "../texts.js";

const EVERY = 60_000; // milliseconds

export function Budgets() {
  const state = useAnswer("/gateway/budgets", EVERY);
  return html`<section><h2>${t("budgets.title")}</h2><${Shown} of=${state}>${(/** @type {any} */ data) => html`
    ${data.budgets.length === 0 ? html`<p class="empty">${t("budgets.none")}</p>` : html`<${Limits} lines=${data.budgets} />`}
    ${data.all > data.budgets.length && html`<p class="quiet">${t("budgets.most", { shown: data.budgets.length, all: number(data.all) })}</p>`}
    ${data.budgets.length > 0 && html`<p class="quiet">${t("budgets.forecast", { sum: money(data.budgets.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.used, 0)) })}</p>`}`}<//></section>`;
}

/** @param {{filters: Record<string, string>, span: {since: string, until: string | undefined}}} props */
export function Refusals({ filters, span }) {
  const state = useAnswer(`/gateway/usage${query({ by: "code", ...filters, ...span })}`, EVERY);
  const columns = [
    { head: t("requests.code"), cell: (/** @type {any} */ line) => html`<a href=${link({ view: "requests", code: line.code, model: filters.model, consumer: filters.key, team: filters.team })}>${line.code}</a>` },
    { head: t("column.refused"), right: true, cell: (/** @type {any} */ line) => number(line.refused) },
  ];
  return html`<section><h2>${t("refusals.title")}</h2><${Shown} of=${state}>${(/** @type {any} */ data) => html`<${Table} caption=${t("refusals.title")} columns=${columns}
    rows=${data.lines.filter((/** @type {any} */ line) => line.refused > 0)} id=${(/** @type {any} */ line) => line.code} empty=${t("refusals.none")} />`}<//></section>`;
}

export function Throttles() {
  const state = useAnswer("/gateway/backends", EVERY);
  const columns = [
    { head: t("dimension.region"), cell: (/** @type {any} */ one) => html`<a href=${link({ view: "overview", region: one.region })}>${one.region}</a>` },
    { head: t("dimension.backend"), cell: (/** @type {any} */ one) => one.name },
    { head: t("backends.throttles"), right: true, cell: (/** @type {any} */ one) => number(one.throttles) },
    { head: t("backends.ejections"), right: true, cell: (/** @type {any} */ one) => number(one.ejections) },
  ];
  return html`<section><h2>${t("throttles.title")}</h2><${Shown} of=${state}>${(/** @type {any} */ data) => html`
    <${Table} caption=${t("throttles.title")} columns=${columns} rows=${data.backends} id=${(/** @type {any} */ one) => one.name} />
    <p class="quiet">${t("throttles.since", { name: data.instance })}</p>`}<//></section>`;
}
