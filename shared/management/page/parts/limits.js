// Limits with what is used of each.
import { money, number, percent, time } from "../format.js";
import { html } from "../lib.js";
import { t } from "../texts.js";

/** @param {{lines: any[]}} props lines of the report of limits */
export function Limits({ lines }) {
  if (lines.length === 0) return html`<p class="empty">${t("limits.none")}</p>`;
  return html`<ul class="limits">${lines.map((line) => html`<${Limit} line=${line} />`)}</ul>`;
}

/** @param {{line: any}} props */
function Limit({ line }) {
  const amount = line.unit === "USD" ? money : number;
  const used = line.used ?? Math.max(0, line.limit - line.available);
  const share = Math.min(1, line.limit ? used / line.limit : 0);
  return html`<li><span>${line.about}: ${t("limits.of", { used: amount(used), limit: amount(line.limit), unit: line.unit === "USD" ? "" : line.unit, per: t(/** @type {any} */ (`per.${line.per.replaceAll(" ", "-")}`)) })}</span>
    <meter min="0" max="1" high="0.8" optimum="0" value=${share}>${percent(share)}</meter>
    ${line.renews && html`<small>${t("limits.renews", { time: time(line.renews) })} ${line.forecast != null ? t("limits.forecast", { amount: amount(line.forecast) }) : ""}${line.exhausted ? ` ${t("limits.exhausted", { time: time(line.exhausted) })}` : ""}</small>`}</li>`;
}
