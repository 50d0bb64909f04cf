// All consumers: search, create.
import { ask, query, useAnswer } from "../api.js";
import { compact, money, time } from "../format.js";
import { html, useState } from "../lib.js";
import { go, link } from "../location.js";
import { Choice, Dialog, Field, useAttempt } from "../parts/form.js";
import { given, LimitFields, useDefaults } from "../parts/limit-fields.js";
import { ModelsField, names, TeamChoice } from "../parts/pick.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { ShownKey } from "./key.js";

const STATES = ["", "active", "revoked", "expired"];
const FIRST_LIMITS = ["requests_per_minute", "tokens_per_minute", "budget_usd"]; // the page of the consumer has the others

/** @param {{place: Record<string, string>}} props */
export function Consumers({ place }) {
  const [creating, setCreating] = useState(false);
  const path = `/gateway/consumers${query({ name: place.name, team: place.team, state: place.state, after: place.after, limit: 50 })}`;
  const state = useAnswer(path, 30_000);
  /** @param {Record<string, string | undefined>} changed */
  const move = (changed) => go({ ...place, view: "consumers", after: undefined, ...changed }, true);
  const columns = [
    { head: t("consumers.name"), cell: (/** @type {any} */ one) => html`<a href=${link({ view: "consumer", id: one.id })}>${one.name}</a>` },
    { head: t("dimension.team"), cell: (/** @type {any} */ one) => one.team || "" },
    { head: t("consumers.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />` },
    { head: t("consumers.models"), cell: (/** @type {any} */ one) => one.models?.join(", ") ?? t("all") },
    { head: t("limit.tokens_per_minute"), right: true, cell: (/** @type {any} */ one) => compact(one.limits?.tokens_per_minute) },
    { head: t("limit.budget_usd"), right: true, cell: (/** @type {any} */ one) => money(one.limits?.budget_usd) },
    { head: t("consumers.created"), cell: (/** @type {any} */ one) => time(one.created) },
  ];
  return html`<div class="title"><h1>${t("nav.consumers")}</h1>
      ${session.mayManage() && html`<button type="button" class="main" onClick=${() => setCreating(true)}>${t("consumers.create")}</button>`}</div>
    <div class="bar">
      <${Field} label=${t("consumers.search")} type="search" value=${place.name ?? ""} onInput=${(/** @type {string} */ name) => move({ name })} />
      <${Field} label=${t("dimension.team")} value=${place.team ?? ""} onInput=${(/** @type {string} */ team) => move({ team })} />
      <${Choice} label=${t("consumers.state")} value=${place.state ?? ""} onChange=${(/** @type {string} */ value) => move({ state: value })}
        options=${STATES.map((one) => [one, one || t("all")])} />
    </div>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("nav.consumers")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.id} empty=${t("consumers.none")} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => move({})} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>
    ${creating && html`<${Create} onClose=${() => { setCreating(false); state.again(); }} />`}`;
}

/** @param {{onClose: () => void}} props */
function Create({ onClose }) {
  const [name, setName] = useState("");
  const [team, setTeam] = useState("");
  const [models, setModels] = useState("");
  const [products, setProducts] = useState("");
  const [limits, setLimits] = useState(/** @type {Record<string, string>} */ ({}));
  const defaults = useDefaults();
  const [made, setMade] = useState(/** @type {any} */ (null));
  const { error, busy, attempt } = useAttempt();
  /** @param {SubmitEvent} event */
  const send = (event) => {
    event.preventDefault();
    const list = names(models);
    const subscribed = names(products);
    return attempt(async () => {
      const { data } = await ask("/gateway/consumers", {
        method: "POST", body: { name: name.trim(), ...(team && { team }), ...(list.length > 0 && { models: list }), ...(subscribed.length > 0 && { products: subscribed }), limits: given(FIRST_LIMITS, limits) },
      });
      setMade(data);
    });
  };
  if (made) return html`<${Dialog} key="made" title=${t("key.title", { name: made.name })} onClose=${onClose}><${ShownKey} text=${made.key} model=${made.models?.[0]} /><//>`;
  return html`<${Dialog} key="form" title=${t("consumers.create")} onClose=${onClose}><form onSubmit=${send}>
    <${Field} label=${t("consumers.name")} value=${name} onInput=${setName} required autofocus />
    <${TeamChoice} value=${team} onChange=${setTeam} />
    <${Field} label=${t("nav.products")} value=${products} onInput=${setProducts} hint=${t("consumers.products-hint")} />
    <${ModelsField} value=${models} onInput=${setModels} />
    <${LimitFields} names=${FIRST_LIMITS} values=${limits} defaults=${defaults}
      onChange=${(/** @type {string} */ limit, /** @type {string} */ value) => setLimits({ ...limits, [limit]: value })} />
    <p class="quiet">${t("consumers.more-limits")}</p>
    <${Problem} error=${error} /><button type="submit" class="main" disabled=${busy || !name.trim()}>${t("consumers.create")}</button></form><//>`;
}
