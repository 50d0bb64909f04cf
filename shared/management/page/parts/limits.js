// Limits with what is used of each.
import { money, number, percent, time } from "../format.js";
import { html } from "../lib.js";
import { t } from "../texts.js";

/** @param {{lines: any[]}} props lines of the report of limits */
export function Limits({ lines }) {
  if (lines.length === 0) return html`<p class="empty">${t("limits.none")}</p>`;
  return html`<ul class="limits">${lines.map((line) => html`<${Limit} line=${line} />`)}</ul>
    ${lines.some((line) => line.renews) && html`<p class="quiet">${t("limits.since")}</p>`}`;
}

/** @param {{line: any}} props */
function Limit({ line }) {
  const amount = line.unit === "USD" ? money : number;
  const used = line.used ?? Math.max(0, line.limit - line.available);
  const share = Math.min(1, line.limit ? used / line.limit : 0);
  const per = perOf(line.per);
  const left = line.used === undefined ? Math.floor(line.available) : Math.max(0, line.limit - used);
  const values = { left: amount(left), limit: amount(line.limit), unit: line.unit === "USD" ? "" : line.unit, per };
  return html`<li><span>${line.about}: ${t("limits.left", values).replace("  ", " ")}</span>
    <meter min="0" max="1" high="0.8" optimum="0" value=${share} aria-label=${t("limits.share", { about: line.about, share: percent(share) })}>${percent(share)}</meter>
    ${line.renews && line.on_lease > 0 && line.on_lease <= used && html`<small>${t("limits.reserved", { used: amount(used), held: amount(line.on_lease) })}</small>`}
    ${line.per === "per minute" && used > 0 && html`<small>${t("limits.fills", { n: Math.ceil((used / line.limit) * 60) })}</small>`}
    ${line.renews && html`<small>${t("limits.renews", { time: time(line.renews) })} ${line.forecast != null ? t("limits.forecast", { amount: amount(line.forecast) }) : ""}${line.exhausted ? ` ${t("limits.exhausted", { time: time(line.exhausted) })}` : ""}</small>`}</li>`;
}

/** @param {string | number} period as the API names it: "per minute", "day", "3600 s"; or of a limit: "day", 3600 */
export function perOf(period) {
  const seconds = typeof period === "number" ? period : Number.parseInt(period, 10);
  return seconds ? t("per.seconds", { n: number(seconds) }) : t(/** @type {any} */ (`per.${String(period).replaceAll(" ", "-")}`));
}
