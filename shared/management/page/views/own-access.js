// Asking for a product or a higher limit, and what became of it.
import { ask, useAnswer } from "../api.js";
import { money, number, time } from "../format.js";
import { html, useState } from "../lib.js";
import { Choice, Field, useAttempt } from "../parts/form.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t } from "../texts.js";

const AT = "/gateway/requests-for-access";
const PRODUCT = "product:";

export function OwnAccess() {
  const state = useAnswer(`${AT}/me`, 30_000);
  const columns = [
    { head: t("access.asked"), cell: (/** @type {any} */ one) => time(one.asked) },
    { head: t("access.wish"), cell: (/** @type {any} */ one) => html`<${Wish} one=${one} />` },
    { head: t("access.reason"), cell: (/** @type {any} */ one) => one.reason },
    { head: t("consumers.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} />` },
    { head: t("access.answer"), cell: (/** @type {any} */ one) => one.answer },
  ];
  return html`<h1>${t("nav.own-access")}</h1><p class="quiet">${t("own-access.text")}</p>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`<${Form} may=${data} onDone=${state.again} /><h2>${t("own-access.before")}</h2>
      <${Table} caption=${t("own-access.before")} columns=${columns} rows=${data.data} id=${(/** @type {any} */ one) => one.id} empty=${t("own-access.none")} />`}<//>`;
}

/** The product or the limits of a request. @param {{one: any}} props */
export function Wish({ one }) {
  if (one.product) return html`${t("dimension.product")}: <b>${one.product}</b>`;
  return Object.entries(one.limits).map(([name, value]) => html`<div>${t(/** @type {any} */ (`limit.${name}`))}: <b>${amount(name, value)}</b></div>`);
}

/** @param {string} name @param {number} value */
const amount = (name, value) => (name === "budget_usd" ? money : number)(value);

/** @param {{may: {products: string[], limits: Record<string, number>}, onDone: () => void}} props */
function Form({ may, onDone }) {
  /** @type {[string, string][]} */
  const options = [
    ...may.products.map((name) => /** @type {[string, string]} */ ([PRODUCT + name, `${t("dimension.product")}: ${name}`])),
    ...Object.entries(may.limits).map(([name, now]) => /** @type {[string, string]} */ (
      [name, t("own-access.limit", { limit: t(/** @type {any} */ (`limit.${name}`)), now: amount(name, now) })])),
  ];
  const [wish, setWish] = useState(options[0]?.[0] ?? "");
  const [wanted, setWanted] = useState("");
  const [reason, setReason] = useState("");
  const { error, busy, attempt } = useAttempt();
  const forProduct = wish.startsWith(PRODUCT);
  /** @param {SubmitEvent} event */
  const send = (event) => {
    event.preventDefault();
    const what = forProduct ? { product: wish.slice(PRODUCT.length) } : { limits: { [wish]: Number(wanted) } };
    return attempt(async () => {
      await ask(AT, { method: "POST", body: { ...what, reason: reason.trim() } });
      setReason("");
      setWanted("");
      onDone();
    });
  };
  if (options.length === 0) return html`<p class="empty">${t("own-access.nothing")}</p>`;
  return html`<form class="ask" onSubmit=${send}>
    <${Choice} label=${t("access.wish")} value=${wish} options=${options} onChange=${setWish} />
    ${!forProduct && html`<${Field} label=${t("own-access.wanted")} type="number" min="0" step="any" required value=${wanted} onInput=${setWanted} />`}
    <${Field} label=${t("access.reason")} required maxlength="300" value=${reason} onInput=${setReason} hint=${t("own-access.reason-hint")} />
    <${Problem} error=${error} /><button type="submit" class="main" disabled=${busy || !reason.trim()}>${t("own-access.ask")}</button></form>`;
}
