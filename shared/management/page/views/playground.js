// Try calls: one, or two side by side, of two models or to two backends. What is typed goes to the models alone.
import { ask, useAnswer } from "../api.js";
import { html, useEffect, useRef, useState } from "../lib.js";
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

const EMPTY = {
  key: "", aims: /** @type {Aim[]} */ ([{ model: "gpt-5.4-mini", backend: ANYWHERE }]), stream: true,
  given: { system: "", prompt: "", most: "", temperature: "", top_p: "", effort: "" },
};
/** What was typed, in memory for as long as somebody is signed in. */
let draft = EMPTY;
session.onChange(() => { if (!session.get()) draft = EMPTY; });

export function Playground() {
  const operator = session.get()?.role === "operator";
  const [{ key, aims, given, stream }, setTyped] = useState(draft);
  const change = (/** @type {Partial<typeof EMPTY>} */ part) => setTyped(draft = { ...draft, ...part });
  const all = useAnswer(operator ? "/gateway/models" : null);
  const { usable, problem, look } = useUsable(operator, key.trim());
  const known = usable ?? all.data;
  const [replies, setReplies] = useState(/** @type {Record<number, import("../stream.js").Reply>} */ ({}));
  const [costs, setCosts] = useState(/** @type {Record<number, number | null>} */ ({}));
  const [asked, setAsked] = useState(/** @type {Aim[]} */ ([]));
  const [busy, setBusy] = useState(false);
  const running = useRef(/** @type {AbortController | null} */ (null));
  const answers = useRef(/** @type {HTMLElement | null} */ (null));
  const came = Object.keys(replies).length > 0;
  useEffect(() => {
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (came) answers.current?.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  }, [came]);
  const set = (/** @type {string} */ name) => (/** @type {string} */ value) => change({ given: { ...given, [name]: value } });
  const aim = (/** @type {number} */ at, /** @type {Partial<Aim>} */ changed) => change({ aims: aims.map((one, i) => (i === at ? { ...one, ...changed } : one)) });

  /** @param {SubmitEvent} event */
  const send = async (event) => {
    event.preventDefault();
    running.current = new AbortController();
    const { signal } = running.current;
    setReplies({});
    setCosts({});
    const chosen = aims.map((one) => ({ ...one, backend: placesOf(usable, one.model).some(([name]) => name === one.backend) ? one.backend : ANYWHERE }));
    setAsked(chosen);
    setBusy(true);
    await Promise.all(chosen.map(async ({ model, backend }, at) => {
      let id = "";
      const api = apiOf((named(known, model) ?? named(all.data, model))?.format);
      await generate({
        api, key: operator ? key.trim() : await credential(), signal, body: api.body(model.trim(), given, stream), headers: backend ? { "x-gateway-backend": backend } : {},
        onChange: (reply) => { id = reply.headers["x-gateway-request-id"] ?? id; setReplies((old) => ({ ...old, [at]: reply })); },
      });
      if (operator && id && !signal.aborted) void costOf(id).then((cost) => setCosts((old) => ({ ...old, [at]: cost })));
    }));
    setBusy(false);
  };
  const models = known?.models.map((/** @type {any} */ one) => one.model) ?? [];
  const pins = usable?.models.some((/** @type {any} */ one) => one.backends.length > 0);
  const hint = pins ? undefined : t(usable ? "playground.no-pin" : "playground.key-first");
  return html`<h1>${t("nav.playground")}</h1><p class="quiet">${t("playground.text")}</p><form onSubmit=${send}>
      ${operator && html`<${Field} label=${t("playground.key")} type="password" value=${key} required autocomplete="off"
        onInput=${(/** @type {string} */ typed) => change({ key: typed })} onChange=${look} hint=${problem || t("playground.key-hint")} />`}
      <datalist id="models">${models.map((/** @type {string} */ name) => html`<option value=${name} />`)}</datalist>
      ${aims.map((one, at) => html`<div class="bar"><${Field} label=${t(at ? "playground.second" : "dimension.model")} value=${one.model} list="models" required
          hint=${usable && !named(usable, one.model) ? t("playground.not-usable") : undefined} onInput=${(/** @type {string} */ model) => aim(at, { model })} />
        <${Choice} label=${t(at ? "playground.second-backend" : "playground.backend")} value=${one.backend} hint=${hint} onChange=${(/** @type {string} */ backend) => aim(at, { backend })}
          options=${[[ANYWHERE, t("playground.anywhere")], ...placesOf(usable, one.model)]} /></div>`)}
      <button type="button" onClick=${() => change({ aims: aims.length === 1 ? [...aims, { ...aims[0] }] : aims.slice(0, 1) })}>${t(aims.length === 1 ? "playground.beside" : "playground.alone")}</button>
      <${Field} label=${t("playground.system")} value=${given.system} onInput=${set("system")} />
      <div class="field"><label for="prompt">${t("playground.prompt")}</label><textarea id="prompt" rows="4" required value=${given.prompt}
        onInput=${(/** @type {InputEvent} */ event) => set("prompt")(/** @type {HTMLTextAreaElement} */ (event.target).value)}></textarea></div>
      <div class="bar"><${Field} label=${t("playground.most")} type="number" min="1" value=${given.most} onInput=${set("most")} />
        <${Field} label=${t("playground.temperature")} type="number" min="0" max="2" step="any" value=${given.temperature} onInput=${set("temperature")} />
        <${Field} label=${t("playground.top_p")} type="number" min="0" max="1" step="any" value=${given.top_p} onInput=${set("top_p")} />
        <${Choice} label=${t("playground.effort")} value=${given.effort} onChange=${set("effort")} options=${EFFORTS.map((one) => [one, one || t("playground.default")])} /></div>
      <label class="check"><input type="checkbox" checked=${stream} onChange=${() => change({ stream: !stream })} /> ${t("playground.stream")}</label>
      <button type="submit" class="main" disabled=${busy}>${t("playground.send")}</button>
      ${busy && html` <button type="button" onClick=${() => running.current?.abort()}>${t("playground.stop")}</button>`}</form>
    <div class="pool answers" ref=${answers} aria-live="polite">${asked.map((one, at) => replies[at] && html`<${Answer} name=${one.backend ? `${one.model} · ${one.backend}` : one.model} reply=${replies[at]} cost=${costs[at]} />`)}</div>`;
}

/** The models, and the backends of each, that the key may choose; null: not known yet. An operator's key is looked up when it is complete.
 * @param {boolean} operator @param {string} key */
function useUsable(operator, key) {
  const own = useAnswer(operator ? null : "/gateway/models/me");
  const [found, setFound] = useState(/** @type {{usable: any, problem: string}} */ ({ usable: null, problem: "" }));
  const look = async () => {
    setFound({ usable: null, problem: "" });
    if (!operator || !key) return;
    const answer = await ask("/gateway/models/me", { credential: key }).then(({ data }) => ({ usable: data, problem: "" }),
      (error) => ({ usable: null, problem: error.message }));
    if (draft.key.trim() === key) setFound(answer); // else another one is looked up
  };
  useEffect(() => void look(), []);
  return { usable: operator ? found.usable : own.data, problem: found.problem, look };
}

/** What is known of a model. @param {any} known @param {string} model */
const named = (known, model) => known?.models.find((/** @type {any} */ one) => one.model === model.trim() || one.aliases.includes(model.trim()));

/** The backends of a model. @param {any} known @param {string} model @returns {[string, string][]} */
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
