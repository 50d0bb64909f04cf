// The configured models: where they are served, what they cost, and when they end.
import { useAnswer } from "../api.js";
import { money } from "../format.js";
import { html } from "../lib.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t } from "../texts.js";

const SOON = 90; // days

export function Models() {
  const state = useAnswer("/gateway/models");
  const columns = [
    { head: t("dimension.model"), cell: (/** @type {any} */ one) => html`<b>${one.model}</b>${one.served_by !== one.model && html` → ${one.served_by}`}` },
    { head: t("models.aliases"), cell: (/** @type {any} */ one) => one.aliases.join(", ") },
    { head: t("models.backends"), cell: (/** @type {any} */ one) => one.backends.map((/** @type {any} */ at) => at.backend).join(", ") },
    { head: t("models.price"), cell: (/** @type {any} */ one) => html`<${Prices} one=${one} />` },
    { head: t("models.ends"), cell: (/** @type {any} */ one) => html`<${Ends} one=${one} />` },
    { head: t("models.replacement"), cell: (/** @type {any} */ one) => (one.replaced_by
      ? t("models.switch", { model: one.replaced_by.model, date: one.replaced_by.from }) : one.replacement) },
  ];
  return html`<h1>${t("nav.models")}</h1><p class="quiet">${t("models.text")}</p><${Shown} of=${state}>${(/** @type {any} */ data) => html`
    <${Table} caption=${t("nav.models")} columns=${columns} rows=${data.models} id=${(/** @type {any} */ one) => one.model} />`}<//>`;
}

/** The day on which a model ends, and how far that is. @param {{one: any}} props */
export function Ends({ one }) {
  const left = one.days_left;
  return one.retires && html`<span class=${left <= SOON ? "bad" : ""}>${one.retires}</span>${left > 0 ? ` (${t("models.days", { n: left })})` : ` (${t("models.ended", { n: -left })})`}`;
}

/** @param {{one: any}} props */
function Prices({ one }) {
  if (one.prices.length === 0) return html`<span class="bad">${t("models.unknown")}</span>`;
  return one.prices.map((/** @type {any} */ price) => html`<div title=${price.source}>${Object.entries(price.usd)
    .map(([name, usd]) => `${name.replaceAll("_", " ")} ${money(/** @type {number} */ (usd))}`).join(" · ")}
    ${one.prices.length > 1 && html`<small>(${price.backends.join(", ")})</small>`}</div>`);
}
