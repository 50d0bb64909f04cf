// Choices among what is configured: a team, models, and a consumer by its name.
import { ask, query, useAnswer } from "../api.js";
import { html, useState } from "../lib.js";
import { link } from "../location.js";
import { session } from "../session.js";
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

/** The names in a field. @param {string} text */
export const names = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);

/** The models and aliases that callers may name, each with the model that serves it if that is another; null until they are known. @returns {Map<string, string> | null} */
function useModels() {
  const { data } = useAnswer(session.mayReadAll() ? "/gateway/models" : null);
  return data && new Map(data.models.flatMap((/** @type {any} */ one) => [
    [one.model, one.served_by === one.model ? "" : one.served_by], ...one.aliases.map((/** @type {string} */ alias) => [alias, one.model])]));
}

/** Names of models, typed or ticked. Those that the configuration does not have are pointed out.
 * @param {{value: string, onInput: (value: string) => void, had?: string[]}} props `had`: the names before, which may stay */
export function ModelsField({ value, onInput, had = [] }) {
  const known = useModels();
  const [typing, setTyping] = useState(false);
  const given = names(value);
  const begun = typing ? given.at(-1) : undefined;
  const unknown = known === null ? [] : given.filter((name) => !known.has(name) && !(name === begun && [...known.keys()].some((one) => one.startsWith(name))));
  const [gone, refused] = [unknown.filter((name) => had.includes(name)), unknown.filter((name) => !had.includes(name))];
  /** @param {string} name */
  const tick = (name) => onInput((given.includes(name) ? given.filter((one) => one !== name) : [...given, name]).join(", "));
  return html`<${Field} label=${t("consumers.models")} value=${value} hint=${t("consumers.models-hint")} onChange=${() => setTyping(false)}
      onInput=${(/** @type {string} */ text) => { setTyping(true); onInput(text); }} />
    <div role="status" class="warning">${gone.length > 0 && html`<p>${t("pick.gone", { names: gone.join(", ") })}</p>`}
      ${refused.length > 0 && html`<p>${t("pick.refused", { names: refused.join(", ") })}</p>`}</div>
    ${known !== null && known.size > 0 && html`<details><summary>${t("pick.configured", { n: known.size })}</summary>
      <div role="group" aria-label=${t("pick.configured", { n: known.size })} class="picks">${[...known].map(([name, of]) => html`<label key=${name} class="check">
        <input type="checkbox" checked=${given.includes(name)} onChange=${() => tick(name)} /> ${name}${of && html` <small class="quiet">→ ${of}</small>`}</label>`)}</div></details>`}`;
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
