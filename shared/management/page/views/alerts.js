// Alerts: what is firing, what was sent and what became of it, and the receivers, each with a message to try it.
import { ask, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useState } from "../lib.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";

const EVERY = 15_000; // milliseconds

export function AlertsView() {
  const state = useAnswer("/gateway/alerts", EVERY);
  const when = { head: t("audit.at"), cell: (/** @type {any} */ one) => time(one.at) };
  const what = [
    { head: t("alerts.event"), cell: (/** @type {any} */ one) => html`<${State} state=${one.severity} /> ${one.event.replaceAll("_", " ")}` },
    { head: t("alerts.message"), cell: (/** @type {any} */ one) => one.message },
  ];
  const until = { head: t("alerts.until"), cell: (/** @type {any} */ one) => time(one.until) };
  const results = { head: t("alerts.results"), cell: (/** @type {any} */ one) => html`<${Results} results=${one.results} />` };
  const id = (/** @type {any} */ one) => one.at + one.event + one.message;
  return html`<h1>${t("nav.alerts")}</h1><${Shown} of=${state}>${(/** @type {any} */ data) => html`
      ${data.table !== "ok" && html`<p class="problem" role="alert">${t("alerts.table-out")}</p>`}
      <h2>${t("alerts.firing")}</h2><${Table} caption=${t("alerts.firing")} columns=${[...what, when, until]} rows=${data.firing} id=${id} empty=${t("alerts.quiet")} />
      <h2>${t("alerts.receivers")}</h2><${Receivers} receivers=${data.receivers} again=${state.again} />
      <h2>${t("alerts.sent")}</h2><${Table} caption=${t("alerts.sent")} columns=${[when, ...what, results]} rows=${data.sent} id=${id} />`}<//>`;
}

/** @param {{results: any[] | null}} props */
function Results({ results }) {
  if (results === null) return t("alerts.on-its-way");
  if (results.length === 0) return t("alerts.log-only");
  return html`<ul class="changes">${results.map((one) => html`<li><${Result} one=${one} /> ${one.host}</li>`)}</ul>`;
}

/** @param {{one: any}} props */
function Result({ one }) {
  return one.accepted ? html`<span class="good">${t("alerts.accepted")}</span>` : html`<span class="bad">${t("alerts.refused", { problem: one.problem, tries: one.tries })}</span>`;
}

/** @param {{receivers: any[], again: () => void}} props */
function Receivers({ receivers, again }) {
  const [error, setError] = useState(/** @type {any} */ (null));
  const [trying, setTrying] = useState("");
  /** @param {string} receiver */
  const attempt = async (receiver) => {
    setError(null);
    setTrying(receiver);
    try {
      await ask("/gateway/alerts/test", { method: "POST", body: { receiver } });
      again();
    } catch (problem) {
      setError(problem);
    }
    setTrying("");
  };
  const columns = [
    { head: t("alerts.receiver"), cell: (/** @type {any} */ one) => html`<code>${one.receiver}</code>` },
    { head: t("alerts.kind"), cell: (/** @type {any} */ one) => `${one.kind} · ${one.host}` },
    { head: t("alerts.events"), cell: (/** @type {any} */ one) => one.events.join(", ").replaceAll("_", " ") },
    { head: t("alerts.last"), cell: (/** @type {any} */ one) => (one.last ? html`<${Result} one=${one.last} /> ${time(one.last.at)}` : "–") },
    ...(session.isAdmin() ? [{ head: t("actions"), cell: (/** @type {any} */ one) => html`<button type="button" disabled=${trying !== ""}
      onClick=${() => attempt(one.receiver)} aria-label=${t("alerts.try-one", { name: one.receiver })}>${t("alerts.try")}</button>` }] : []),
  ];
  return html`<${Problem} error=${error} /><${Table} caption=${t("alerts.receivers")} columns=${columns} rows=${receivers}
    id=${(/** @type {any} */ one) => one.receiver} empty=${t("alerts.no-receivers")} />`;
}
