// The pool as it is now: every backend with its deployments and why one is left out; tries and failovers as they happen.
import { ask, useAnswer } from "../api.js";
import { milliseconds, number, percent, time } from "../format.js";
import { html, useState } from "../lib.js";
import { shares, useLive } from "../live.js";
import { Choice, Dialog, Field, useAttempt } from "../parts/form.js";
import { Busy, Problem, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { Happenings } from "./happenings.js";

const EVERY = 2_000; // milliseconds between two looks while there is no stream
const FAULTS_EVERY = 5_000; // milliseconds
const BAD = { low: 0.001, high: 0.002, optimum: 0 }; // any value of a meter is bad
const NO_TRIES = { share: 0, failed: 0 };
const STILL_NEEDED = 409; // of a drain that would leave a model without a backend
const MOST = 8; // deployments that are shown at first
/** From the worst to the best. */
const STATES = ["ejected", "half_open", "cooling", "usable"];
/** @type {Record<string, import("../texts.js").Key>} */
const FAULTS = { "": "fault.none", throttle: "fault.throttle", fail: "fault.fail", hang: "fault.hang", slow: "fault.slow" };

export function Backends() {
  const live = useLive();
  const asked = useAnswer(live.error && live.error.status !== 401 ? "/gateway/backends" : null, EVERY);
  const data = live.error && asked.data ? asked.data : live.pool;
  const simulation = useAnswer(data?.simulated ? "/gateway/simulation" : null, FAULTS_EVERY);
  const share = shares(live.happenings);
  const faults = new Map(simulation.data?.backends.map((/** @type {any} */ one) => [one.name, one.fault]));
  return html`<h1>${t("nav.backends")}</h1><p>${t("backends.text")}</p>
    <${Busy} busy=${data === null} /><${Problem} error=${live.error} again=${live.again} />
    ${data !== null && html`
      ${data.health_table !== "ok" && html`<p class="problem" role="alert">${t("backends.table-out")}</p>`}
      <div class="live"><section><${Happenings} happenings=${live.happenings} dropped=${live.dropped} /></section>
      <div class="pool">${data.backends.map((/** @type {any} */ one) => html`<${Backend} key=${one.name} backend=${one} tries=${share && (share.get(one.name) ?? NO_TRIES)}
        simulated=${data.simulated && faults.has(one.name)} fault=${faults.get(one.name) ?? ""} again=${() => { asked.again(); simulation.again(); }} />`)}</div></div>
      <p class="quiet">${t("backends.instance", { name: data.instance })}</p>`}`;
}

/** The state of a backend as a whole: drained, or that of its worst deployment, with the reason. @param {any} backend */
function stateOf(backend) {
  if (backend.drained) return { state: "drained", reason: backend.drained.reason };
  const worst = STATES.find((state) => backend.deployments.some((/** @type {any} */ one) => one.state === state)) ?? "usable";
  const one = backend.deployments.find((/** @type {any} */ each) => each.state === worst);
  if (worst === "ejected") return { state: worst, reason: `${one.reason}. ${t("backends.out-for", { n: Math.ceil(one.ejected_for) })}` };
  return { state: worst, reason: worst === "usable" ? "" : one.reason };
}

/** The reason of a state in words. @param {string} state @param {string} reason */
const why = (state, reason) => (state === "half_open" ? `${t("backends.on-trial")} ${reason}` : reason);

/** @param {{backend: any, tries: import("../live.js").Share | null, simulated: boolean, fault: string, again: () => void}} props */
function Backend({ backend, tries, simulated, fault, again }) {
  const [draining, setDraining] = useState(false);
  const { error, attempt } = useAttempt();
  /** @param {string} path @param {import("../api.js").Options} options */
  const change = (path, options) => attempt(async () => {
    await ask(path, options);
    again();
  });
  const drain = backend.drained;
  const name = encodeURIComponent(backend.name);
  const { state, reason } = stateOf(backend);
  const total = (/** @type {(one: any) => number} */ of) => backend.deployments.reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + of(one), 0);
  const facts = [
    [t("backends.share"), tries === null ? t("backends.no-calls")
      : html`${percent(tries.share)} ${tries.failed > 0 && html`<small class="bad">${t("backends.failed-tries", { n: tries.failed })}</small>`}
        <meter min="0" max="1" ...${tries.failed > 0 && BAD} value=${tries.share} aria-label=${t("backends.share")}></meter>`],
    [t("backends.in-flight"), number(total((one) => one.in_flight))],
    [t("backends.throttles"), number(backend.throttles)], [t("backends.ejections"), number(backend.ejections)],
  ];
  return html`<section class=${`card ${state}`}>
    <header><h2>${backend.name}</h2><span>${backend.region}${backend.data_zone ? ` · ${backend.data_zone}` : ""} · ${backend.kind} · ${t("backends.priority", { n: backend.priority })}</span>
      ${session.isAdmin() && (drain
        ? html`<button type="button" onClick=${() => change(`/gateway/backends/${name}/drain`, { method: "DELETE" })}>${t("backends.restore")}</button>`
        : html`<button type="button" onClick=${() => setDraining(true)}>${t("backends.drain")}</button>`)}</header>
    ${fault && html`<p class="why"><${State} state="broken" /> ${t(FAULTS[fault] ?? "fault.other")}. ${state === "usable" ? t("backends.not-yet") : ""}</p>`}
    <p class="why"><${State} state=${state} /> ${drain ? `${t("backends.until", { time: time(drain.until) })} ${drain.reason ?? ""}` : why(state, reason)}</p>
    <dl class="facts">${facts.map(([head, value]) => html`<div><dt>${head}</dt><dd>${value}</dd></div>`)}</dl>
    ${simulated && session.isAdmin() && html`<${Choice} label=${t("backends.break", { name: backend.region })} value=${fault} options=${Object.entries(FAULTS).map(([one, text]) =>
      [one, t(text)])} onChange=${(/** @type {string} */ value) => (value
        ? change(`/gateway/simulation/${name}`, { method: "PUT", body: { fault: value } }) : change(`/gateway/simulation/${name}`, { method: "DELETE" }))} />`}
    <${Problem} error=${error} /><${Deployments} backend=${backend} />
    ${draining && html`<${Drain} path=${`/gateway/backends/${name}/drain`} name=${backend.name} onDone=${() => { setDraining(false); again(); }} />`}
  </section>`;
}

/** Those in trouble first, then the busy ones. @param {{backend: any}} props */
function Deployments({ backend }) {
  const [all, setAll] = useState(false);
  const rank = (/** @type {any} */ one) => STATES.indexOf(one.state) * 1_000 - one.in_flight * 2 - Number(one.first_byte_ms.streams || one.first_byte_ms.whole_answers ? 1 : 0);
  const sorted = [...backend.deployments].sort((a, b) => rank(a) - rank(b));
  const columns = [
    { head: t("backends.deployment"), cell: (/** @type {any} */ one) => html`${one.deployment}${one.tier ? ` (${one.tier})` : ""}${one.type ? ` · ${one.type}` : ""}` },
    { head: t("backends.state"), cell: (/** @type {any} */ one) => html`<${State} state=${one.state} /> ${why(one.state, one.reason)}` },
    { head: t("backends.in-flight"), right: true, cell: (/** @type {any} */ one) => number(one.in_flight) },
    { head: t("backends.left"), right: true, cell: (/** @type {any} */ one) => number(one.remaining?.tokens) },
    { head: t("backends.latency"), right: true, cell: (/** @type {any} */ one) => milliseconds((one.first_byte_ms.streams ?? one.first_byte_ms.whole_answers)?.p50) },
  ];
  return html`<${Table} caption=${t("backends.of", { name: backend.name })} columns=${columns} rows=${all ? sorted : sorted.slice(0, MOST)}
      id=${(/** @type {any} */ one) => `${one.deployment}:${one.tier ?? ""}`} />
    ${sorted.length > MOST && html`<button type="button" class="plain" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? t("backends.fewer") : t("backends.all", { n: sorted.length })}</button>`}`;
}

/** @param {{path: string, name: string, onDone: () => void}} props */
function Drain({ path, name, onDone }) {
  const [time_, setTime] = useState("2h");
  const [reason, setReason] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const needed = error?.status === STILL_NEEDED;
  /** @param {SubmitEvent} event */
  const send = async (event) => {
    event.preventDefault();
    try {
      await ask(`${path}${needed ? "?force=true" : ""}`, { method: "PUT", body: { for: time_, reason } });
      onDone();
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title=${t("backends.drain-title", { name })} onClose=${onDone}><form onSubmit=${send}>
    <p>${t("backends.drain-text")}</p>
    <${Field} label=${t("backends.for")} value=${time_} onInput=${setTime} hint=${t("backends.for-hint")} required />
    <${Field} label=${t("backends.reason")} value=${reason} onInput=${setReason} />
    ${needed ? html`<p class="problem" role="alert">${t("backends.drain-needed")}</p>` : html`<${Problem} error=${error} />`}
    <button type="submit" class="main">${t(needed ? "backends.drain-anyway" : "backends.drain")}</button></form><//>`;
}
