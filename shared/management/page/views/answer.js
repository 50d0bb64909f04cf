// The answer to a call of the playground: its text, where it came from, what it took and what it costs.
import { html } from "../lib.js";
import { milliseconds, money, number } from "../format.js";
import { link } from "../location.js";
import { session } from "../session.js";
import { t } from "../texts.js";

/** @type {[string, import("../texts.js").Key, ((value: string) => string)?][]} */
const SHOWN = [["x-gateway-backend", "dimension.backend"], ["x-gateway-region", "dimension.region"], ["x-gateway-deployment-type", "playground.type"],
  ["x-gateway-attempts", "requests.tries"], ["x-gateway-overhead-ms", "playground.overhead", (value) => `${number(Number(value))} ms`]];

/** @param {{name: string, reply: import("../stream.js").Reply, cost: number | null | undefined}} props `cost` undefined: not asked for, or not yet */
export function Answer({ name, reply, cost }) {
  const facts = [
    ...SHOWN.filter(([header]) => reply.headers[header]).map(([header, text, shown]) => [t(text), (shown ?? String)(reply.headers[header])]),
    [t("column.input_tokens"), number(reply.usage?.input)], [t("column.output_tokens"), number(reply.usage?.output)],
    [t("column.reasoning_tokens"), number(reply.usage?.reasoning)], [t("playground.first"), milliseconds(reply.first)], [t("requests.took"), milliseconds(reply.took)],
    ...(cost === undefined ? [] : [[t("column.cost_usd"), money(cost)]]),
  ];
  const id = reply.headers["x-gateway-request-id"];
  return html`<section class="card"><h2>${name}</h2>${reply.error && html`<p class="problem" role="alert">${reply.error}</p>`}
    <p class="answer">${reply.text}</p><dl class="facts">${facts.map(([head, value]) => html`<div><dt>${head}</dt><dd>${value}</dd></div>`)}</dl>
    <details><summary>${t("playground.headers")}</summary><dl class="facts">${Object.entries(reply.headers).map(([head, value]) => html`<div><dt>${head}</dt><dd>${value}</dd></div>`)}</dl></details>
    ${id && session.get()?.role === "operator" && html`<p><a href=${link({ view: "requests", id })}>${t("playground.find")}</a></p>`}</section>`;
}
