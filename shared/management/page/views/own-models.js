// The models that a caller may use: what they cost, and when they end.
import { useAnswer } from "../api.js";
import { money } from "../format.js";
import { html } from "../lib.js";
import { Shown } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { t } from "../texts.js";
import { Ends } from "./models.js";

const CLASSES = ["input", "cached_input", "output"];

export function OwnModels() {
  const state = useAnswer("/gateway/models/me");
  const columns = [
    { head: t("dimension.model"), cell: (/** @type {any} */ one) => html`<b>${one.model}</b>${one.served_by !== one.model && html` → ${one.served_by}`}` },
    { head: t("models.aliases"), cell: (/** @type {any} */ one) => one.aliases.join(", ") },
    ...CLASSES.map((name) => ({ head: t(/** @type {any} */ (`price.${name}`)), right: true,
      cell: (/** @type {any} */ one) => money(one.usd_per_million?.[name]) })),
    { head: t("models.ends"), cell: (/** @type {any} */ one) => html`<${Ends} one=${one} />` },
    { head: t("models.replacement"), cell: (/** @type {any} */ one) => (one.replaced_by
      ? t("models.switch", { model: one.replaced_by.model, date: one.replaced_by.from }) : one.replacement) },
  ];
  return html`<h1>${t("nav.own-models")}</h1><p class="quiet">${t("own-models.text")}</p><${Shown} of=${state}>${(/** @type {any} */ data) => html`
    <${Table} caption=${t("nav.own-models")} columns=${columns} rows=${data.models} id=${(/** @type {any} */ one) => one.model} />`}<//>`;
}
