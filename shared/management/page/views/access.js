// What callers ask for, and the decisions of operators.
import { ask, query, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useState } from "../lib.js";
import { go, link } from "../location.js";
import { Choice, Dialog, Field, useAttempt } from "../parts/form.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Pages, Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { Wish } from "./own-access.js";

const AT = "/gateway/requests-for-access";
const STATES = ["open", "approving", "approved", "declined"];
const ALL = "all";

/** @typedef {"approve" | "decline"} Verb */

/** @param {{place: Record<string, string>}} props */
export function Access({ place }) {
  const wanted = place.state ?? "open";
  const state = useAnswer(`${AT}${query({ state: wanted === ALL ? "" : wanted, after: place.after, limit: 50 })}`, 30_000);
  const [deciding, setDeciding] = useState(/** @type {{one: any, verb: Verb} | null} */ (null));
  const manages = session.mayManage();
  const columns = [
    { head: t("access.asked"), cell: (/** @type {any} */ one) => time(one.asked) },
    { head: t("dimension.key"), cell: (/** @type {any} */ one) => html`<a href=${link({ view: "consumer", id: one.consumer })}>${one.name}</a>${one.team && html` (${one.team})`}` },
    { head: t("access.wish"), cell: (/** @type {any} */ one) => html`<${Wish} one=${one} />` },
    { head: t("access.reason"), cell: (/** @type {any} */ one) => one.reason },
    ...(wanted === "open" ? [] : [{ head: t("consumers.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />${one.by && html`<div class="quiet">${one.by}, ${time(one.decided)}</div>`}` },
    { head: t("access.answer"), cell: (/** @type {any} */ one) => one.answer }]),
    ...(manages && [ALL, "open", "approving"].includes(wanted) ? [{ head: t("actions"), cell: (/** @type {any} */ one) => html`<${Actions} one=${one} onDecide=${(/** @type {Verb} */ verb) => setDeciding({ one, verb })} />` }] : []),
  ];
  const move = (/** @type {Record<string, string | undefined>} */ changed) => go({ ...place, after: undefined, ...changed });
  return html`<h1>${t("nav.access")}</h1>
    <div class="bar"><${Choice} label=${t("consumers.state")} value=${wanted} options=${[...STATES, ALL].map((one) => [one, one === ALL ? t("all") : t(/** @type {any} */ (`state.${one}`))])}
      onChange=${(/** @type {string} */ value) => move({ state: value })} /></div>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("nav.access")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.id} empty=${t("access.none")} />
      <${Pages} first=${!place.after} next=${data.after} onFirst=${() => move({})} onNext=${(/** @type {string} */ after) => move({ after })} />`}<//>
    ${deciding && html`<${Decide} ...${deciding} onClose=${() => { setDeciding(null); state.again(); }} />`}`;
}

/** @param {{one: any, onDecide: (verb: Verb) => void}} props */
function Actions({ one, onDecide }) {
  if (one.state !== "open" && one.state !== "approving") return null;
  return html`<button type="button" aria-label=${t("access.approve-of", { name: one.name })} onClick=${() => onDecide("approve")}>${t("access.approve")}</button>
    ${one.state === "open" && html` <button type="button" aria-label=${t("access.decline-of", { name: one.name })} onClick=${() => onDecide("decline")}>${t("access.decline")}</button>`}`;
}

/** Decide on what is shown: if it was decided meanwhile, that is said. @param {{one: any, verb: Verb, onClose: () => void}} props */
function Decide({ one, verb, onClose }) {
  const [reason, setReason] = useState("");
  const { error, busy, attempt } = useAttempt();
  /** @param {SubmitEvent} event */
  const send = (event) => {
    event.preventDefault();
    return attempt(async () => {
      await ask(`${AT}/${encodeURIComponent(one.id)}/${verb}`, { method: "POST", body: { reason: reason.trim() } });
      onClose();
    });
  };
  return html`<${Dialog} title=${t(`access.${verb}-of`, { name: one.name })} onClose=${onClose}><form onSubmit=${send}>
    <p><${Wish} one=${one} /></p><blockquote>${one.reason}</blockquote>
    <${Field} label=${t("access.answer")} maxlength="300" value=${reason} onInput=${setReason} required=${verb === "decline"} hint=${t("access.answer-hint")} autofocus />
    <${Problem} error=${error} /><button type="submit" class="main" disabled=${busy}>${t(`access.${verb}`)}</button></form><//>`;
}
