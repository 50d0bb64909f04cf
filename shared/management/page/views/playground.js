// Try calls: one model, or two side by side. What is typed goes to the models alone and is not stored.
import { html, useRef, useState } from "../lib.js";
import { milliseconds, number } from "../format.js";
import { link } from "../location.js";
import { Field } from "../parts/form.js";
import { session } from "../session.js";
import { chat } from "../stream.js";
import { t } from "../texts.js";

const SHOWN = ["x-gateway-backend", "x-gateway-region", "x-gateway-attempts", "x-gateway-overhead-ms", "x-ratelimit-remaining-tokens"];

export function Playground() {
  const own = session.get()?.role === "caller" ? session.get()?.credential ?? "" : "";
  const [key, setKey] = useState(own);
  const [models, setModels] = useState("gpt-5.4-mini");
  const [system, setSystem] = useState("");
  const [prompt, setPrompt] = useState("");
  const [most, setMost] = useState("");
  const [stream, setStream] = useState(true);
  const [replies, setReplies] = useState(/** @type {Record<string, import("../stream.js").Reply>} */ ({}));
  const [busy, setBusy] = useState(false);
  const running = useRef(/** @type {AbortController | null} */ (null));
  /** @param {SubmitEvent} event */
  const send = async (event) => {
    event.preventDefault();
    running.current = new AbortController();
    const { signal } = running.current;
    const names = [...new Set(models.split(",").map((one) => one.trim()).filter(Boolean))].slice(0, 2);
    const messages = [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: prompt }];
    setReplies({});
    setBusy(true);
    await Promise.all(names.map((model) => chat({
      key: key.trim(), signal, onChange: (reply) => setReplies((old) => ({ ...old, [model]: reply })),
      body: { model, messages, stream, ...(stream && { stream_options: { include_usage: true } }), ...(most && { max_completion_tokens: Number(most) }) },
    })));
    setBusy(false);
  };
  return html`<h1>${t("nav.playground")}</h1><p class="quiet">${t("playground.text")}</p><form onSubmit=${send}>
      ${!own && html`<${Field} label=${t("playground.key")} type="password" value=${key} onInput=${setKey} required autocomplete="off" hint=${t("playground.key-hint")} />`}
      <${Field} label=${t("dimension.model")} value=${models} onInput=${setModels} required hint=${t("playground.models-hint")} />
      <${Field} label=${t("playground.system")} value=${system} onInput=${setSystem} />
      <div class="field"><label for="prompt">${t("playground.prompt")}</label><textarea id="prompt" rows="4" required value=${prompt}
        onInput=${(/** @type {InputEvent} */ event) => setPrompt(/** @type {HTMLTextAreaElement} */ (event.target).value)}></textarea></div>
      <${Field} label=${t("playground.most")} type="number" min="1" value=${most} onInput=${setMost} />
      <label class="check"><input type="checkbox" checked=${stream} onChange=${() => setStream(!stream)} /> ${t("playground.stream")}</label>
      <button type="submit" class="main" disabled=${busy}>${t("playground.send")}</button>
      ${busy && html` <button type="button" onClick=${() => running.current?.abort()}>${t("playground.stop")}</button>`}</form>
    <div class="pool" aria-live="polite">${Object.entries(replies).map(([model, reply]) => html`<${Answer} model=${model} reply=${reply} />`)}</div>`;
}

/** @param {{model: string, reply: import("../stream.js").Reply}} props */
function Answer({ model, reply }) {
  const facts = [
    ...SHOWN.filter((name) => reply.headers[name]).map((name) => [name.replace(/^x-(gateway-)?/, ""), reply.headers[name]]),
    [t("column.input_tokens"), number(reply.usage?.prompt_tokens)], [t("column.output_tokens"), number(reply.usage?.completion_tokens)],
    [t("column.reasoning_tokens"), number(reply.reasoning)], [t("playground.first"), milliseconds(reply.first)], [t("requests.took"), milliseconds(reply.took)],
  ];
  const id = reply.headers["x-request-id"];
  return html`<section class="card"><h2>${model}</h2>${reply.error && html`<p class="problem" role="alert">${reply.error}</p>`}
    <p class="answer">${reply.text}</p><dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${id && session.get()?.role === "operator" && html`<p><a href=${link({ view: "requests", id })}>${t("playground.find")}</a></p>`}</section>`;
}
