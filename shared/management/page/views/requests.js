// Find a call: by id, consumer, model, status and time; its tries, tokens and cost, and why it was refused. No prompts.
import { query, useAnswer } from "../api.js";
import { milliseconds, money, number, time } from "../format.js";
import { html } from "../lib.js";
import { go, link } from "../location.js";
import { Field } from "../parts/form.js";
import { Shown } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { t } from "../texts.js";

/** @param {{place: Record<string, string>}} props */
export function Requests({ place }) {
  if (place.id) return html`<${One} id=${place.id} place=${place} />`;
  const filters = { consumer: place.consumer, model: place.model, status: place.status, since: place.since, after: place.after, limit: 50 };
  const state = useAnswer(`/gateway/requests${query(filters)}`);
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "requests", after: undefined, ...changed }, true);
  const columns = [
    { head: t("requests.at"), cell: (/** @type {any} */ one) => html`<a href=${link({ ...place, view: "requests", id: one.id })}>${time(one.at)}</a>` },
    { head: t("requests.status"), cell: (/** @type {any} */ one) => html`<span class=${one.status >= 400 ? "bad" : "good"}>${one.status}</span> ${one.code ?? ""}` },
    { head: t("dimension.key"), cell: (/** @type {any} */ one) => one.name || one.consumer },
    { head: t("dimension.model"), cell: (/** @type {any} */ one) => one.model },
    { head: t("dimension.backend"), cell: (/** @type {any} */ one) => one.backend ?? "" },
    { head: t("column.input_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.input_tokens) },
    { head: t("column.output_tokens"), right: true, cell: (/** @type {any} */ one) => number(one.output_tokens) },
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ one) => money(one.cost_usd) },
    { head: t("requests.took"), right: true, cell: (/** @type {any} */ one) => milliseconds(one.ms) },
  ];
  return html`<h1>${t("nav.requests")}</h1><div class="bar">
      <${Field} label=${t("requests.id")} type="search" value="" onInput=${(/** @type {string} */ id) => id.trim().length === 26 && move({ id: id.trim() })} hint=${t("requests.id-hint")} />
      <${Field} label=${t("dimension.key")} value=${place.consumer ?? ""} onInput=${(/** @type {string} */ consumer) => move({ consumer })} />
      <${Field} label=${t("dimension.model")} value=${place.model ?? ""} onInput=${(/** @type {string} */ model) => move({ model })} />
      <${Field} label=${t("requests.status")} value=${place.status ?? ""} onInput=${(/** @type {string} */ status) => move({ status })} />
    </div>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("nav.requests")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.id} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => move({})} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>`;
}

/** @param {{id: string, place: Record<string, string>}} props */
function One({ id, place }) {
  const state = useAnswer(`/gateway/requests/${encodeURIComponent(id)}`);
  return html`<p><a href=${link({ ...place, id: undefined })}>${t("requests.back")}</a></p><h1>${t("requests.one")}</h1>
    <${Shown} of=${state}>${(/** @type {any} */ call) => html`<dl class="facts">${Object.entries(call).filter(([, value]) => value !== null && typeof value !== "object")
      .map(([name, value]) => html`<div><dt>${name.replaceAll("_", " ")}</dt><dd>${String(value)}</dd></div>`)}</dl>
      <${Tries} tries=${call.tries} />`}<//>`;
}

/** The tries one after the other on one axis of time. @param {{tries: any[]}} props */
function Tries({ tries }) {
  if (tries.length === 0) return null;
  const took = (/** @type {any} */ one) => one.ms ?? 0;
  const start = (/** @type {any} */ _, /** @type {number} */ i) => tries.slice(0, i).reduce((sum, old) => sum + took(old), 0);
  const end = Math.max(1, ...tries.map((one, i) => start(one, i) + took(one)));
  return html`<h2>${t("requests.tries")}</h2><ol class="tries">${tries.map((one, i) => html`<li>
    <span>${one.backend} ${one.status || ""} ${one.problem ?? ""} · ${milliseconds(took(one))}</span>
    <svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect x=${(start(one, i) / end) * 100} width=${Math.max(0.5, (took(one) / end) * 100)} height="4"
      class=${one.status >= 200 && one.status < 400 && !one.problem ? "good" : "bad"} /></svg></li>`)}</ol>`;
}
