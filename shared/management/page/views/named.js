// Products and teams: entries of a section of the configuration, each changed alone.
import { ask, query, useAnswer } from "../api.js";
import { compact, money } from "../format.js";
import { html, useState } from "../lib.js";
import { go, link } from "../location.js";
import { Confirm } from "../parts/confirm.js";
import { Dialog, Field, useAttempt } from "../parts/form.js";
import { LimitFields } from "../parts/limit-fields.js";
import { AuditTrail } from "../parts/audit.js";
import { ModelsField, names } from "../parts/pick.js";
import { Problem, Shown } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";

/** @typedef {"products" | "teams"} Section */
/** The name of a list in an entry, as a comma-separated field. @type {Record<Section, [string, import("../texts.js").Key][]>} */
const LISTS = {
  products: [["models", "consumers.models"], ["regions", "consumer.regions"], ["teams", "nav.teams"]],
  teams: [["models", "consumers.models"], ["regions", "consumer.regions"], ["owners", "named.owners"]],
};
/** The limits in an entry. @type {Record<Section, [string, import("../texts.js").Key][]>} */
const LIMITS = {
  products: [["limits", "named.each"], ["shared_limits", "named.together"]],
  teams: [["limits", "named.together"]],
};
const AMOUNTS = ["requests_per_minute", "tokens_per_minute", "token_quota", "budget_usd"];

/** @param {{place: Record<string, string>}} props */
export const Products = ({ place }) => html`<${Named} section="products" place=${place} />`;
/** @param {{place: Record<string, string>}} props */
export const Teams = ({ place }) => html`<${Named} section="teams" place=${place} />`;

/** @param {{section: Section, place: Record<string, string>}} props */
function Named({ section, place }) {
  return place.id ? html`<${One} section=${section} place=${place} />` : html`<${All} section=${section} place=${place} />`;
}

/** @param {{section: Section, place: Record<string, string>}} props */
function All({ section, place }) {
  const state = useAnswer(`/gateway/${section}${query({ after: place.after, limit: 50 })}`);
  const [editing, setEditing] = useState(/** @type {any} */ (null));
  const [removing, setRemoving] = useState("");
  const remove = async (/** @type {string} */ force) => {
    await ask(`/gateway/${section}/${encodeURIComponent(removing)}${force}`, { method: "DELETE" });
    state.again();
  };
  const admin = session.isAdmin();
  const dimension = section === "products" ? "product" : "team";
  const columns = [
    { head: t("consumers.name"), cell: (/** @type {any} */ one) => html`<a href=${link({ view: section, id: one.name })}>${one.name}</a>` },
    ...LISTS[section].map(([field, text]) => ({ head: t(text), cell: (/** @type {any} */ one) => namesOf(one, field) })),
    ...LIMITS[section].map(([field, text]) => ({ head: t(text), cell: (/** @type {any} */ one) => html`<${Amounts} limits=${one[field] ?? {}} />` })),
    { head: t("actions"), cell: (/** @type {any} */ one) => html`<a href=${link({ view: "overview", [dimension]: one.name })}>${t("consumer.usage")}</a>
      ${admin && html` <button type="button" onClick=${() => setEditing(one)}>${t("consumer.edit")}</button>
        <button type="button" onClick=${() => setRemoving(one.name)}>${t("named.delete")}</button>`}` },
  ];
  const title = t(section === "products" ? "nav.products" : "nav.teams");
  return html`<div class="title"><h1>${title}</h1>
      ${admin && html`<button type="button" class="main" onClick=${() => setEditing({})}>${t(`named.create-${section}`)}</button>`}</div>
    <p class="quiet">${t(section === "products" ? "named.products-text" : "named.teams-text")}</p>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${title} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.name} empty=${t(`named.none-${section}`)} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => go({ ...place, after: undefined })} onNext=${(/** @type {string} */ after) => go({ ...place, after })} />`}<//>
    ${removing && html`<${Confirm} title=${t("named.delete-title", { name: removing })} text=${t("named.delete-text")} act=${t("named.delete")} work=${() => remove("")}
      anyway=${{ text: t("named.delete-used"), act: t("named.delete-anyway"), work: () => remove("?force=true") }} onClose=${() => setRemoving("")} />`}
    ${editing && html`<${Edit} section=${section} name=${editing.name} onClose=${() => { setEditing(null); state.again(); }} />`}`;
}

/** One entry: what it has, who uses it, and what was changed. @param {{section: Section, place: Record<string, string>}} props */
function One({ section, place }) {
  const state = useAnswer(`/gateway/${section}/${encodeURIComponent(place.id)}`);
  const [editing, setEditing] = useState(false);
  const title = t(section === "products" ? "nav.products" : "nav.teams");
  const dimension = section === "products" ? "product" : "team";
  return html`<p><a href=${link({ view: section })}>${t("named.back", { title })}</a></p>
    <${Shown} of=${state}>${(/** @type {any} */ one) => html`<div class="title"><h1>${one.name}</h1>
        ${session.isAdmin() && html`<button type="button" onClick=${() => setEditing(true)}>${t("consumer.edit")}</button>`}</div>
      <dl class="facts">${LISTS[section].map(([field, text]) => html`<div><dt>${t(text)}</dt><dd>${namesOf(one, field)}</dd></div>`)}
        ${LIMITS[section].map(([field, text]) => html`<div><dt>${t(text)}</dt><dd><${Amounts} limits=${one[field] ?? {}} /></dd></div>`)}</dl>
      <p><a href=${link({ view: "overview", [dimension]: one.name })}>${t("consumer.usage")}</a> · <a href=${link({ view: "requests", [dimension]: one.name })}>${t("nav.requests")}</a>
        ${section === "teams" && html` · <a href=${link({ view: "consumers", team: one.name })}>${t("nav.consumers")}</a>`}</p>`}<//>
    ${session.mayReadAll() && html`<h2>${t("nav.audit")}</h2><${AuditTrail} key=${state.etag} place=${place} object=${place.id} filters=${{ kind: dimension }} size=${20} />`}
    ${editing && html`<${Edit} section=${section} name=${place.id} onClose=${() => { setEditing(false); state.again(); }} />`}`;
}

/** What stands in a list of an entry; in words if nothing does. @param {any} one @param {string} field */
const namesOf = (one, field) => one[field]?.join(", ") || t(field === "owners" ? "named.administrators" : "all");

/** @param {{limits: any}} props */
function Amounts({ limits }) {
  const given = AMOUNTS.filter((name) => limits[name] != null);
  return given.map((name) => html`<div>${t(/** @type {any} */ (`limit.${name}`))}: ${name === "budget_usd" ? money(limits[name]) : compact(limits[name])}</div>`);
}

/** The form of one entry, which is read again so that its ETag and all its fields are known.
 * @param {{section: Section, name?: string, onClose: () => void}} props */
function Edit({ section, name, onClose }) {
  const state = useAnswer(name ? `/gateway/${section}/${encodeURIComponent(name)}` : null);
  const title = name ? t("consumer.edit-title", { name }) : t(`named.create-${section}`);
  if (name && !state.data) return html`<${Dialog} title=${title} onClose=${onClose}><${Shown} of=${state}>${() => ""}<//><//>`;
  return html`<${Dialog} title=${title} onClose=${onClose}><${Form} section=${section} entry=${state.data ?? {}} etag=${state.etag} onDone=${onClose} /><//>`;
}

/** @param {{section: Section, entry: any, etag: string, onDone: () => void}} props */
function Form({ section, entry, etag, onDone }) {
  const [name, setName] = useState(entry.name ?? "");
  const [lists, setLists] = useState(/** @type {Record<string, string>} */ (Object.fromEntries(LISTS[section].map(([field]) => [field, entry[field]?.join(", ") ?? ""]))));
  const [amounts, setAmounts] = useState(/** @type {Record<string, Record<string, string>>} */ (Object.fromEntries(LIMITS[section].map(([field]) =>
    [field, Object.fromEntries(AMOUNTS.map((one) => [one, entry[field]?.[one] == null ? "" : String(entry[field][one])]))]))));
  const { error, attempt } = useAttempt();
  /** @param {SubmitEvent} event */
  const send = (event) => {
    event.preventDefault();
    const body = { ...entry };
    for (const [field] of LISTS[section]) {
      const values = names(lists[field]);
      if (values.length) body[field] = values;
      else delete body[field];
    }
    for (const [field] of LIMITS[section]) {
      body[field] = { ...entry[field] };
      for (const one of AMOUNTS) {
        const value = amounts[field][one];
        if (value === "") delete body[field][one];
        else body[field][one] = Number(value);
      }
    }
    return attempt(async () => {
      await ask(`/gateway/${section}/${encodeURIComponent(name.trim())}`, { method: "PUT", etag, body: { ...body, name: name.trim() } });
      onDone();
    });
  };
  return html`<form onSubmit=${send}>
    ${!entry.name && html`<${Field} label=${t("consumers.name")} value=${name} onInput=${setName} required autofocus />`}
    ${LISTS[section].map(([field, text]) => {
      const onInput = (/** @type {string} */ value) => setLists({ ...lists, [field]: value });
      return field === "models" ? html`<${ModelsField} value=${lists[field]} onInput=${onInput} />`
        : html`<${Field} label=${t(text)} value=${lists[field]} onInput=${onInput} hint=${t(field === "owners" ? "named.owners-hint" : "named.list-hint")} />`;
    })}
    ${LIMITS[section].map(([field, text]) => html`<fieldset><legend>${t(text)}</legend><${LimitFields} names=${AMOUNTS} values=${amounts[field]} own=${entry[field]}
      onChange=${(/** @type {string} */ one, /** @type {string} */ value) => setAmounts({ ...amounts, [field]: { ...amounts[field], [one]: value } })} /></fieldset>`)}
    <${Problem} error=${error} /><button type="submit" class="main" disabled=${!name.trim()}>${t("save")}</button></form>`;
}
