// Try calls: one, or two side by side, of two models or to two backends. What is typed goes to the models alone.
import { ask, useAnswer } from "../api.js";
import { html, useRef, useState } from "../lib.js";
import { Choice, Field } from "../parts/form.js";
import { credential } from "../credential.js";
import { apiOf } from "../generation.js";
import { session } from "../session.js";
import { generate } from "../stream.js";
import { t } from "../texts.js";
import { Answer } from "./answer.js";

const EFFORTS = ["", "none", "minimal", "low", "medium", "high"];
const ON_RECORD = 1_500; // milliseconds after a call until its row is there for certain
const ANYWHERE = "";

/** @typedef {{model: string, backend: string}} Aim */

export function Playground() {
  const operator = session.get()?.role === "operator";
  const known = useAnswer(operator ? "/gateway/models" : "/gateway/models/me");
  const [key, setKey] = useState("");
  const [aims, setAims] = useState(/** @type {Aim[]} */ ([{ model: "gpt-5.4-mini", backend: ANYWHERE }]));
  const [given, setGiven] = useState({ system: "", prompt: "", most: "", temperature: "", top_p: "", effort: "" });
  const [stream, setStream] = useState(true);
  const [replies, setReplies] = useState(/** @type {Record<number, import("../stream.js").Reply>} */ ({}));
  const [costs, setCosts] = useState(/** @type {Record<number, number | null>} */ ({}));
  const [asked, setAsked] = useState(/** @type {Aim[]} */ ([]));
  const [busy, setBusy] = useState(false);
  const running = useRef(/** @type {AbortController | null} */ (null));
  const set = (/** @type {string} */ name) => (/** @type {string} */ value) => setGiven({ ...given, [name]: value });
  const aim = (/** @type {number} */ at, /** @type {Partial<Aim>} */ changed) => setAims(aims.map((one, i) => (i === at ? { ...one, ...changed } : one)));

  /** @param {SubmitEvent} event */
  const send = async (event) => {
    event.preventDefault();
    running.current = new AbortController();
    const { signal } = running.current;
    setReplies({});
    setCosts({});
    setAsked(aims);
    setBusy(true);
    await Promise.all(aims.map(async ({ model, backend }, at) => {
      let id = "";
      const api = apiOf(named(known.data, model)?.format);
      await generate({
        api, key: operator ? key.trim() : await credential(), signal, body: api.body(model.trim(), given, stream), headers: backend ? { "x-gateway-backend": backend } : {},
        onChange: (reply) => { id = reply.headers["x-gateway-request-id"] ?? id; setReplies((old) => ({ ...old, [at]: reply })); },
      });
      if (operator && id && !signal.aborted) void costOf(id).then((cost) => setCosts((old) => ({ ...old, [at]: cost })));
    }));
    setBusy(false);
  };
  const models = known.data?.models.map((/** @type {any} */ one) => one.model) ?? [];
  return html`<h1>${t("nav.playground")}</h1><p class="quiet">${t("playground.text")}</p><form onSubmit=${send}>
      ${operator && html`<${Field} label=${t("playground.key")} type="password" value=${key} onInput=${setKey} required autocomplete="off" hint=${t("playground.key-hint")} />`}
      <datalist id="models">${models.map((/** @type {string} */ name) => html`<option value=${name} />`)}</datalist>
      ${aims.map((one, at) => html`<div class="bar"><${Field} label=${t(at ? "playground.second" : "dimension.model")} value=${one.model} list="models" required
          onInput=${(/** @type {string} */ model) => aim(at, { model })} />
        ${operator ? html`<${Choice} label=${t(at ? "playground.second-backend" : "playground.backend")} value=${one.backend} onChange=${(/** @type {string} */ backend) => aim(at, { backend })}
          options=${[[ANYWHERE, t("playground.anywhere")], ...placesOf(known.data, one.model)]} />`
          : html`<${Field} label=${t(at ? "playground.second-backend" : "playground.backend")} value=${one.backend} onInput=${(/** @type {string} */ backend) => aim(at, { backend })} hint=${t("playground.backend-hint")} />`}</div>`)}
      <button type="button" onClick=${() => setAims(aims.length === 1 ? [...aims, { ...aims[0] }] : aims.slice(0, 1))}>${t(aims.length === 1 ? "playground.beside" : "playground.alone")}</button>
      <${Field} label=${t("playground.system")} value=${given.system} onInput=${set("system")} />
      <div class="field"><label for="prompt">${t("playground.prompt")}</label><textarea id="prompt" rows="4" required value=${given.prompt}
        onInput=${(/** @type {InputEvent} */ event) => set("prompt")(/** @type {HTMLTextAreaElement} */ (event.target).value)}></textarea></div>
      <div class="bar"><${Field} label=${t("playground.most")} type="number" min="1" value=${given.most} onInput=${set("most")} />
        <${Field} label=${t("playground.temperature")} type="number" min="0" max="2" step="any" value=${given.temperature} onInput=${set("temperature")} />
        <${Field} label=${t("playground.top_p")} type="number" min="0" max="1" step="any" value=${given.top_p} onInput=${set("top_p")} />
        <${Choice} label=${t("playground.effort")} value=${given.effort} onChange=${set("effort")} options=${EFFORTS.map((one) => [one, one || t("playground.default")])} /></div>
      <label class="check"><input type="checkbox" checked=${stream} onChange=${() => setStream(!stream)} /> ${t("playground.stream")}</label>
      <button type="submit" class="main" disabled=${busy}>${t("playground.send")}</button>
      ${busy && html` <button type="button" onClick=${() => running.current?.abort()}>${t("playground.stop")}</button>`}</form>
    <div class="pool" aria-live="polite">${asked.map((one, at) => replies[at] && html`<${Answer} name=${one.backend ? `${one.model} · ${one.backend}` : one.model} reply=${replies[at]} cost=${costs[at]} />`)}</div>`;
}

/** What is known of a model. @param {any} known @param {string} model */
const named = (known, model) => known?.models.find((/** @type {any} */ one) => one.model === model.trim() || one.aliases.includes(model.trim()));

/** The backends that serve a model. @param {any} known @param {string} model @returns {[string, string][]} */
const placesOf = (known, model) => (named(known, model)?.backends ?? [])
  .map((/** @type {any} */ at) => [at.backend, `${at.backend} (${at.region})`]);

/** The cost of a call as it is on record; null if it is not known. @param {string} id @returns {Promise<number | null>} */
async function costOf(id) {
  await new Promise((done) => setTimeout(done, ON_RECORD));
  try {
    return (await ask(`/gateway/requests/${id}`)).data.cost_usd;
  } catch {
    return null;
  }
}
