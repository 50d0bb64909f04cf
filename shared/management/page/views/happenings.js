// Tries, failovers, ends of calls and refusals as they happen, the newest first.
import { milliseconds } from "../format.js";
import { html, useState } from "../lib.js";
import { link } from "../location.js";
import { t } from "../texts.js";

const MOST = 30;

/** @param {{happenings: import("../live.js").Happening[], dropped: number}} props */
export function Happenings({ happenings, dropped }) {
  const [held, setHeld] = useState(/** @type {import("../live.js").Happening[] | null} */ (null));
  const shown = (held ?? happenings).slice(0, MOST);
  return html`<div class="title"><h2>${t("live.title")}</h2>
      <button type="button" aria-pressed=${held !== null} onClick=${() => setHeld(held ? null : happenings)}>${t(held ? "live.go-on" : "live.hold")}</button></div>
    ${dropped > 0 && html`<p class="quiet">${t("live.dropped", { n: dropped })}</p>`}
    ${shown.length === 0 ? html`<p class="empty">${t("live.none")}</p>`
      : html`<ol class="happenings" tabindex="0" aria-label=${t("live.title")}>${shown.map((one) => html`<${Happening} key=${`${one.kind}${one.data.request ?? one.data.name}${one.data.number ?? ""}${one.at}`} one=${one} />`)}</ol>`}`;
}

/** @param {{one: import("../live.js").Happening}} props */
function Happening({ one }) {
  const { data } = one;
  if (one.kind === "try") {
    const text = data.number > 1 ? t("live.failover", { n: data.number }) : t("live.try");
    return html`<li class=${data.problem ? "bad" : "good"}><span>${text}</span> <b>${data.model}</b> → ${data.backend}
      <span>${data.problem || data.status}</span> <span>${milliseconds(data.ms)}</span></li>`;
  }
  if (one.kind === "state") {
    return html`<li class=${data.state === "usable" ? "good" : "bad"}><span>${t(/** @type {import("../texts.js").Key} */ (`live.${data.state}`))}</span> <b>${data.deployment}</b> ${data.backend}
      <span>${data.state === "usable" ? "" : data.reason}</span></li>`;
  }
  const request = link({ view: "requests", id: data.request });
  if (one.kind === "refused") {
    return html`<li>${data.consumer ? html`<a href=${request}>${t("live.refused")}</a>` : html`<span>${t("live.refused")}</span>`}
      <b>${data.name || data.consumer || t("live.unknown")}</b> ${data.model}
      <span class="bad">${data.status}</span> <span>${data.code}</span> <span>${milliseconds(data.ms)}</span></li>`;
  }
  return html`<li><a href=${request}>${t("live.call")}</a> <b>${data.name || data.consumer}</b> ${data.model}
    <span class=${data.status >= 400 ? "bad" : "good"}>${data.status}</span> <span>${t("live.attempts", { n: data.attempts })}</span> <span>${milliseconds(data.ms)}</span></li>`;
}
