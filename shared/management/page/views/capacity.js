// Provisioned capacity for a forecast: the units that a model needs, and what they cost beside paying by the token.
import { query, useAnswer } from "../api.js";
import { money, number } from "../format.js";
import { html, useMemo } from "../lib.js";
import { go } from "../location.js";
import { Lines } from "../parts/chart.js";
import { Choice, Field } from "../parts/form.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t } from "../texts.js";

/** @type {Record<string, string>} */
const NUMBERS = { requests_per_minute: "120", input: "1500", output: "300", peak: "3", cached: "0" };
const DEPLOYMENTS = ["global", "data_zone", "regional"];

/** @param {{place: Record<string, string>}} props */
export function Capacity({ place }) {
  const numbers = Object.fromEntries(Object.entries(NUMBERS).map(([name, usual]) => [name, place[name] ?? usual]));
  const deployment = DEPLOYMENTS.includes(place.deployment) ? place.deployment : DEPLOYMENTS[0];
  const state = useAnswer(`/gateway/provisioned${query({ ...numbers, deployment })}`);
  /** @param {Record<string, string>} changed */
  const move = (changed) => go({ ...place, view: "capacity", ...changed }, true);
  return html`<h1>${t("nav.capacity")}</h1><p>${t("capacity.text")}</p>
    <div class="bar">${Object.entries(numbers).map(([name, value]) => html`<${Field} label=${t(word(name))} type="number" min="0" step="any"
        value=${value} onInput=${(/** @type {string} */ text) => move({ [name]: text })} />`)}
      <${Choice} label=${t("capacity.deployment")} value=${deployment} options=${DEPLOYMENTS} onChange=${(/** @type {string} */ value) => move({ deployment: value })} />
    </div>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`<${Plans} data=${data} chosen=${place.model} rate=${Number(numbers.requests_per_minute)}
      choose=${(/** @type {string} */ model) => move({ model })} />`}<//>`;
}

/** @param {string} name as the API has it @returns {import("../texts.js").Key} */
const word = (name) => /** @type {any} */ (`capacity.${name.replaceAll(" ", "-")}`);

/** @param {{data: any, chosen: string, rate: number, choose: (model: string) => void}} props */
function Plans({ data, chosen, rate, choose }) {
  const plan = data.plans.find((/** @type {any} */ one) => one.model === chosen) ?? data.plans[0];
  if (!plan) return html`<p class="empty">${t("capacity.nothing")}</p>`;
  const sources = { ...data.sources, [t("capacity.price")]: plan.price_source, [t("capacity.throughput")]: plan.throughput_source };
  return html`<div class="bar"><${Choice} label=${t("dimension.model")} value=${plan.model} options=${data.plans.map((/** @type {any} */ one) => one.model)} onChange=${choose} /></div>
    <p>${t("capacity.units", { peak: number(plan.units_needed_at_peak), average: number(plan.units_needed_on_average), least: plan.minimum_units, step: plan.step_units })}
      ${plan.offered.length > 0 && ` ${t("capacity.offered", { regions: plan.offered.join(", ") })}`}</p>
    <${Costs} plan=${plan} rate=${rate} />
    <${Payments} payments=${plan.payments} />
    <h2>${t("capacity.sources")}</h2>
    <dl class="facts">${Object.entries(sources).map(([about, source]) => html`<div><dt>${about}</dt><dd>${source}</dd></div>`)}</dl>`;
}

/** @param {{plan: any, rate: number}} props */
function Costs({ plan, rate }) {
  const series = useMemo(() => Object.entries(plan.curve.usd_per_month).map(([name, values]) => ({ name: t(word(name)), values: /** @type {number[]} */ (values) })), [plan]);
  return html`<${Lines} title=${t("capacity.chart")} xs=${plan.curve.requests_per_minute} series=${series} unit=${money} label=${t("capacity.requests_per_minute")} mark=${rate} />`;
}

/** @param {{payments: any[]}} props */
function Payments({ payments }) {
  const columns = [
    { head: t("capacity.payment"), cell: (/** @type {any} */ one) => t(word(one.payment)) },
    { head: t("capacity.count"), right: true, cell: (/** @type {any} */ one) => number(one.units) },
    { head: t("capacity.hour"), right: true, cell: (/** @type {any} */ one) => money(one.usd_per_hour) },
    { head: t("capacity.month"), right: true, cell: (/** @type {any} */ one) => money(one.usd_per_month) },
    { head: t("capacity.saved"), right: true, cell: (/** @type {any} */ one) => money(one.usd_saved_per_month) },
    { head: t("capacity.even"), right: true, cell: (/** @type {any} */ one) => number(one.break_even_requests_per_minute) },
  ];
  return html`<${Table} caption=${t("capacity.payments")} columns=${columns} rows=${payments} id=${(/** @type {any} */ one) => one.payment} />`;
}
