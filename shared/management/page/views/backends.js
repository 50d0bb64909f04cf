// The pool as it is now: every region with its deployments, why one is left out, and drain and restore.
import { ask, useAnswer } from "../api.js";
import { milliseconds, number, time } from "../format.js";
import { html, useState } from "../lib.js";
import { Dialog, Field } from "../parts/form.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";

const EVERY = 2_000; // milliseconds

export function Backends() {
  const state = useAnswer("/gateway/backends", EVERY);
  return html`<h1>${t("nav.backends")}</h1><p>${t("backends.text")}</p>
    <${Shown} of=${state}>${(/** @type {any} */ data) => html`
      ${data.health_table !== "ok" && html`<p class="problem" role="alert">${t("backends.table-out")}</p>`}
      <div class="pool">${data.backends.map((/** @type {any} */ one) => html`<${Backend} key=${one.name} backend=${one} again=${state.again} />`)}</div>
      <p class="quiet">${t("backends.instance", { name: data.instance })}</p>`}<//>`;
}

/** @param {{backend: any, again: () => void}} props */
function Backend({ backend, again }) {
  const [draining, setDraining] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const path = `/gateway/backends/${encodeURIComponent(backend.name)}/drain`;
  const restore = async () => {
    setError(null);
    try {
      await ask(path, { method: "DELETE" });
      again();
    } catch (problem) {
      setError(problem);
    }
  };
  const drain = backend.drained;
  const columns = [
    { head: t("backends.deployment"), cell: (/** @type {any} */ one) => html`${one.deployment}${one.tier ? ` (${one.tier})` : ""}` },
    { head: t("backends.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} /> ${one.reason}` },
    { head: t("backends.in-flight"), right: true, cell: (/** @type {any} */ one) => number(one.in_flight) },
    { head: t("backends.left"), right: true, cell: (/** @type {any} */ one) => number(one.remaining?.tokens) },
    { head: t("backends.latency"), right: true, cell: (/** @type {any} */ one) => milliseconds((one.first_byte_ms.streams ?? one.first_byte_ms.whole_answers)?.p50) },
  ];
  return html`<section class=${drain ? "card drained" : "card"}>
    <header><h2>${backend.name}</h2><span>${backend.region}${backend.data_zone ? ` · ${backend.data_zone}` : ""} · ${backend.kind} · ${t("backends.priority", { n: backend.priority })}</span>
      ${session.isAdmin() && (drain
        ? html`<button type="button" onClick=${restore}>${t("backends.restore")}</button>`
        : html`<button type="button" onClick=${() => setDraining(true)}>${t("backends.drain")}</button>`)}</header>
    ${drain && html`<p><${State} state="drained" /> ${t("backends.until", { time: time(drain.until) })} ${drain.reason ?? ""}</p>`}
    <${Problem} error=${error} />
    <${Table} caption=${t("backends.of", { name: backend.name })} columns=${columns} rows=${backend.deployments}
      id=${(/** @type {any} */ one) => `${one.deployment}:${one.tier ?? ""}`} />
    ${draining && html`<${Drain} path=${path} name=${backend.name} onDone=${() => { setDraining(false); again(); }} />`}
  </section>`;
}

/** @param {{path: string, name: string, onDone: () => void}} props */
function Drain({ path, name, onDone }) {
  const [time_, setTime] = useState("2h");
  const [reason, setReason] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  /** @param {SubmitEvent} event */
  const send = async (event) => {
    event.preventDefault();
    try {
      await ask(path, { method: "PUT", body: { for: time_, reason } });
      onDone();
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title=${t("backends.drain-title", { name })} onClose=${onDone}><form onSubmit=${send}>
    <p>${t("backends.drain-text")}</p>
    <${Field} label=${t("backends.for")} value=${time_} onInput=${setTime} hint=${t("backends.for-hint")} required />
    <${Field} label=${t("backends.reason")} value=${reason} onInput=${setReason} />
    <${Problem} error=${error} /><button type="submit" class="main">${t("backends.drain")}</button></form><//>`;
}
