// What a caller sees with its own key: use, cost, and what is left of each limit.
import { ask, query, useAnswer } from "../api.js";
import { money, number, time } from "../format.js";
import { html, useMemo, useState } from "../lib.js";
import { Dialog } from "../parts/form.js";
import { Limits } from "../parts/limits.js";
import { Problem, Shown, State } from "../parts/status.js";
import { Table } from "../parts/table.js";
import { bounds } from "../period.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { ShownKey } from "./key.js";

const OVERLAP = 24; // hours

export function Mine() {
  const span = useMemo(() => bounds("month", new Date()), []);
  const usage = useAnswer(`/gateway/usage/me${query({ by: "model", ...span })}`, 30_000);
  const limits = useAnswer("/gateway/limits/me", 10_000);
  const columns = [
    { head: t("dimension.model"), cell: (/** @type {any} */ line) => line.model },
    ...["requests", "input_tokens", "output_tokens"].map((name) => ({
      head: t(/** @type {any} */ (`column.${name}`)), right: true, cell: (/** @type {any} */ line) => number(line[name]) })),
    { head: t("column.cost_usd"), right: true, cell: (/** @type {any} */ line) => money(line.cost_usd) },
  ];
  return html`<h1>${t("nav.mine")}</h1>
    <h2>${t("mine.limits")}</h2><${Shown} of=${limits}>${(/** @type {any} */ data) => html`<${Limits} lines=${data.limits} />`}<//>
    <h2>${t("mine.usage")}</h2><${Shown} of=${usage}>${(/** @type {any} */ data) => html`
      <${Table} caption=${t("mine.usage")} columns=${columns} rows=${data.lines} id=${(/** @type {any} */ line) => line.model} />`}<//>
    <h2>${t("mine.key")}</h2><${OwnKey} />`;
}

/** Go on with a new key as soon as every instance knows it, which takes two seconds. @param {string} credential */
async function adopt(credential) {
  for (let tries = 0; tries < 8; tries += 1) {
    await new Promise((done) => setTimeout(done, 700));
    try {
      await ask("/gateway/keys/me", { credential });
      session.replace(credential);
      return;
    } catch {
      // Not known yet: the old key works for another day.
    }
  }
}

/** The key that one is signed in with, and its rotation: the page goes on with the new one. */
function OwnKey() {
  const state = useAnswer("/gateway/keys/me");
  const [key, setKey] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const rotate = async () => {
    setError(null);
    try {
      const { data } = await ask("/gateway/keys/me/rotate", { method: "POST", body: { overlap_hours: OVERLAP } });
      setKey(data.key);
      await adopt(data.key);
      state.again();
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Shown} of=${state}>${(/** @type {any} */ one) => html`<p><code>${one.id}</code> <${State} state=${one.state} />
      ${one.expires ? t("mine.expires", { time: time(one.expires) }) : ""} <button type="button" onClick=${rotate}>${t("key.rotate")}</button></p>
      <p class="quiet">${t("key.overlap", { hours: OVERLAP })}</p>`}<//><${Problem} error=${error} />
    ${key && html`<${Dialog} title=${t("key.title", { name: session.get()?.name ?? "" })} onClose=${() => setKey("")}><${ShownKey} text=${key} /><//>`}`;
}
