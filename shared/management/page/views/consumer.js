// One consumer: what it may do and has used, its keys, and what was changed.
import { ask, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useState } from "../lib.js";
import { link } from "../location.js";
import { AuditTrail } from "../parts/audit.js";
import { Confirm } from "../parts/confirm.js";
import { Dialog, Field, useAttempt } from "../parts/form.js";
import { LimitFields, useDefaults } from "../parts/limit-fields.js";
import { Limits } from "../parts/limits.js";
import { ModelsField, names, TeamChoice } from "../parts/pick.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { ShownKey } from "./key.js";

const AMOUNTS = ["requests_per_minute", "tokens_per_minute", "token_quota", "request_quota", "budget_usd", "max_concurrent"];
const OVERLAP = 24; // hours
const EVERY = 10_000; // milliseconds

/** @param {{place: Record<string, string>}} props */
export function Consumer({ place }) {
  const path = `/gateway/consumers/${encodeURIComponent(place.id ?? "")}`;
  const state = useAnswer(path, EVERY);
  const limits = useAnswer(`/gateway/limits/${encodeURIComponent(place.id ?? "")}`, EVERY);
  const [editing, setEditing] = useState(/** @type {{one: any, etag: string} | null} */ (null)); // as it was when the form was opened
  const [key, setKey] = useState("");
  const [question, setQuestion] = useState(/** @type {import("../parts/confirm.js").Question | null} */ (null));
  const { error, attempt: begin } = useAttempt();
  /** Throws what goes wrong. @param {string} at @param {import("../api.js").Options} options */
  const change = async (at, options) => {
    const { data } = await ask(at, options);
    if (data?.key) setKey(data.key);
    state.again();
  };
  /** @param {string} at @param {import("../api.js").Options} options */
  const attempt = (at, options) => begin(() => change(at, options));
  const become = (/** @type {string} */ wanted) => /** @type {const} */ ([path, { method: "PATCH", body: { state: wanted } }]);
  /** @param {any} one */
  const revoke = (one) => setQuestion({ title: t("consumer.revoke-title", { name: one.name }), text: t("consumer.revoke-text"), act: t("consumer.revoke"),
    work: () => change(...become("revoked")) });
  return html`<p><a href=${link({ view: "consumers" })}>${t("consumer.back")}</a></p>
    <${Shown} of=${state}>${(/** @type {any} */ one) => html`
      <div class="title"><h1>${one.name}</h1><${State} state=${one.state} />
        ${session.mayManage() && html`<button type="button" onClick=${() => setEditing({ one, etag: state.etag })}>${t("consumer.edit")}</button>
          ${one.state === "revoked" ? html`<button type="button" onClick=${() => attempt(...become("active"))}>${t("consumer.restore")}</button>`
            : html`<button type="button" onClick=${() => revoke(one)}>${t("consumer.revoke")}</button>`}`}</div>
      <${Problem} error=${error} />
      <${Facts} one=${one} />
      <p><a href=${link({ view: "overview", key: one.id })}>${t("consumer.usage")}</a> · <a href=${link({ view: "requests", consumer: one.id })}>${t("nav.requests")}</a></p>
      <h2>${t("mine.limits")}</h2><${Shown} of=${limits}>${(/** @type {any} */ data) => html`<${Limits} lines=${data.limits} />`}<//>
      <${Keys} path=${path} keys=${one.keys ?? []} change=${change} attempt=${attempt} onAsk=${setQuestion} name=${one.name} />
      ${question && html`<${Confirm} ...${question} onClose=${() => setQuestion(null)} />`}
      ${editing && html`<${Edit} path=${path} ...${editing} onClose=${() => { setEditing(null); state.again(); limits.again(); }} />`}
      ${key && html`<${Dialog} title=${t("key.title", { name: one.name })} onClose=${() => setKey("")}><${ShownKey} text=${key} model=${one.models?.[0]} /><//>`}`}<//>
    ${session.mayReadAll() && html`<h2>${t("nav.audit")}</h2><${AuditTrail} key=${state.etag} place=${place} object=${place.id} size=${20} />`}`;
}

/** @param {{one: any}} props */
function Facts({ one }) {
  const facts = [
    ["consumer.id", one.id], ["dimension.team", one.team], ["nav.products", one.products?.join(", ")], ["consumers.models", one.models?.join(", ") ?? t("all")],
    ["consumer.addresses", one.addresses?.join(", ") || t("all")], ["consumer.regions", one.regions?.join(", ") ?? t("all")],
    ["consumer.expires", one.expires ? time(one.expires) : t("never")], ["consumers.created", time(one.created)],
  ];
  return html`<dl class="facts">${facts.map(([key, value]) => html`<div><dt>${t(/** @type {any} */ (key))}</dt><dd>${value || "–"}</dd></div>`)}</dl>`;
}

/** @typedef {(at: string, options: import("../api.js").Options) => Promise<void>} Change */

/** @param {{path: string, keys: any[], name: string, change: Change, attempt: Change, onAsk: (question: import("../parts/confirm.js").Question) => void}} props */
function Keys({ path, keys, change, attempt, onAsk, name }) {
  const rotate = (/** @type {any} */ one) => onAsk({ title: t("key.rotate-title", { name: one.id }), text: t("key.rotate-text", { hours: OVERLAP }), act: t("key.rotate"),
    work: () => change(`${path}/keys/${one.id}/rotate`, { method: "POST", body: { overlap_hours: OVERLAP } }) });
  const revoke = (/** @type {any} */ one) => onAsk({ title: t("key.revoke-title", { name: one.id }), text: t("key.revoke-text"), act: t("consumer.revoke"),
    work: () => change(`${path}/keys/${one.id}`, { method: "DELETE" }) });
  const manages = session.mayManage();
  const columns = [
    { head: t("key.id"), cell: (/** @type {any} */ one) => html`<code>${one.id}</code>` },
    { head: t("consumers.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />` },
    { head: t("consumers.created"), cell: (/** @type {any} */ one) => time(one.created) },
    { head: t("consumer.expires"), cell: (/** @type {any} */ one) => (one.state === "revoked" ? "–" : one.expires ? time(one.expires) : t("never")) },
    ...(manages ? [{ head: t("actions"), cell: (/** @type {any} */ one) => one.state !== "revoked" && html`
      ${one.state === "active" && html`<button type="button" onClick=${() => rotate(one)}>${t("key.rotate")}</button>`}
      <button type="button" onClick=${() => revoke(one)}>${t("consumer.revoke")}</button>` }] : []),
  ];
  return html`<h2>${t("consumer.keys")}</h2><${Table} caption=${t("consumer.keys")} columns=${columns} rows=${keys} id=${(/** @type {any} */ one) => one.id} />
    ${manages && html`<p><button type="button" onClick=${() => attempt(`${path}/keys`, { method: "POST", body: {} })} aria-label=${t("key.create-for", { name })}>${t("key.create")}</button></p>
      <p class="quiet">${t("key.overlap", { hours: OVERLAP })}</p>`}`;
}

/** @param {{path: string, one: any, etag: string, onClose: () => void}} props */
function Edit({ path, one, etag, onClose }) {
  const [values, setValues] = useState(/** @type {Record<string, string>} */ (Object.fromEntries(
    AMOUNTS.map((name) => [name, one.limits?.[name] == null ? "" : String(one.limits[name])]))));
  const [models, setModels] = useState(one.models?.join(", ") ?? "");
  const [team, setTeam] = useState(one.team ?? "");
  const [products, setProducts] = useState(one.products?.join(", ") ?? "");
  const { error, attempt } = useAttempt();
  const defaults = useDefaults();
  /** @param {SubmitEvent} event */
  const send = (event) => {
    event.preventDefault();
    const list = names(models);
    const limits = Object.fromEntries(AMOUNTS.map((name) => [name, values[name] === "" ? null : Number(values[name])]));
    return attempt(async () => {
      await ask(path, { method: "PATCH", etag, body: { limits, models: list.length ? list : null, products: names(products), ...(team !== (one.team ?? "") && { team }) } });
      onClose();
    });
  };
  return html`<${Dialog} title=${t("consumer.edit-title", { name: one.name })} onClose=${onClose}><form onSubmit=${send}>
    <${LimitFields} names=${AMOUNTS} values=${values} own=${one.limits} defaults=${defaults}
      onChange=${(/** @type {string} */ name, /** @type {string} */ value) => setValues({ ...values, [name]: value })} />
    <p class="quiet">${t("limits.raised")}</p>
    <${ModelsField} value=${models} onInput=${setModels} had=${one.models ?? []} />
    <${TeamChoice} value=${team} onChange=${setTeam} />
    <${Field} label=${t("nav.products")} value=${products} onInput=${setProducts} hint=${t("consumers.products-hint")} />
    <${Problem} error=${error} /><button type="submit" class="main">${t("save")}</button></form><//>`;
}
