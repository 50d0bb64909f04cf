// Choices among what is configured: a team, and a consumer by its name.
import { ask, query, useAnswer } from "../api.js";
import { html, useState } from "../lib.js";
import { link } from "../location.js";
import { t } from "../texts.js";
import { Choice, Field } from "./form.js";

const MOST = 200; // teams, a page of them
const FOUND = 20; // consumers that are offered
const ID = /^[0-9a-z][0-9a-z-]{0,79}$/;

/** One of the known teams, or none. @param {{value: string, onChange: (value: string) => void}} props */
export function TeamChoice({ value, onChange }) {
  const { data } = useAnswer(`/gateway/teams${query({ limit: MOST })}`);
  if (data?.after) return html`<${Field} label=${t("dimension.team")} value=${value} onInput=${onChange} />`;
  const names = data?.data.map((/** @type {any} */ one) => one.name) ?? [];
  /** @type {[string, string][]} */
  const options = [["", t("overview.none")], ...[...new Set([...names, ...(value ? [value] : [])])].map((name) => /** @type {[string, string]} */ ([name, name]))];
  const none = data && names.length === 0;
  return html`<${Choice} label=${t("dimension.team")} value=${value} options=${options} onChange=${onChange}
    hint=${none && html`${t("teams.none")} <a href=${link({ view: "teams" })}>${t("nav.teams")}</a>`} />`;
}

/** @param {string} text a part of a name */
const search = (text) => `/gateway/consumers${query({ name: text.slice(0, 128), limit: FOUND })}`;

/** A field that finds a consumer by its name, a part of it that no other has, or its id. @param {{onChoose: (id: string) => void}} props */
export function ConsumerPick({ onChoose }) {
  const [text, setText] = useState("");
  const [hint, setHint] = useState(/** @type {import("../texts.js").Key} */ ("pick.hint"));
  const offered = useAnswer(text.trim() ? search(text.trim()) : null).data?.data ?? [];
  /** @param {Event} event */
  const choose = async (event) => {
    const said = /** @type {HTMLInputElement} */ (event.target).value.trim();
    if (!said) return;
    const found = (await ask(search(said))).data.data;
    const one = found.find((/** @type {any} */ each) => each.name.toLowerCase() === said.toLowerCase());
    if (one || found.length === 1) onChoose((one ?? found[0]).id);
    else if (found.length === 0 && ID.test(said)) onChoose(said);
    else setHint(found.length ? "pick.several" : "pick.unknown");
  };
  return html`<datalist id="consumers">${offered.map((/** @type {any} */ one) => html`<option value=${one.name}>${one.id}</option>`)}</datalist>
    <${Field} label=${t("dimension.key")} value=${text} list="consumers" autocomplete="off" onInput=${setText} hint=${t(hint)}
      onChange=${(/** @type {Event} */ event) => choose(event).catch(() => setHint("pick.failed"))} />`;
}

/** The name of a consumer; its id until that is known. @param {{id: string}} props */
export function ConsumerName({ id }) {
  const { data } = useAnswer(`/gateway/consumers/${encodeURIComponent(id)}`);
  return data?.name ?? id;
}
