// The key that one is signed in with and its rotation, and calls that are ready to be pasted.
import { ask, useAnswer } from "../api.js";
import { time } from "../format.js";
import { html, useState } from "../lib.js";
import { Confirm } from "../parts/confirm.js";
import { Dialog } from "../parts/form.js";
import { Shown, State } from "../parts/status.js";
import { session } from "../session.js";
import { t } from "../texts.js";
import { Calls, ShownKey } from "./key.js";

const OVERLAP = 24; // hours

/** @param {{model?: string}} props that the calls name */
export function OwnKey({ model }) {
  if (session.get()?.tokens) return html`<p>${t("mine.by-token")}</p><${Calls} model=${model} />`;
  return html`<${Rotation} /><p class="quiet">${t("mine.calls")}</p><${Calls} text="YOUR_KEY" model=${model} />`;
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

function Rotation() {
  const state = useAnswer("/gateway/keys/me");
  const [key, setKey] = useState("");
  const [asking, setAsking] = useState(false);
  const rotate = async () => {
    const { data } = await ask("/gateway/keys/me/rotate", { method: "POST", body: { overlap_hours: OVERLAP } });
    setKey(data.key);
    void adopt(data.key).then(state.again);
  };
  return html`<${Shown} of=${state}>${(/** @type {any} */ one) => html`<p><code>${one.id}</code> <${State} state=${one.state} />
      ${one.expires ? t("mine.expires", { time: time(one.expires) }) : ""} <button type="button" onClick=${() => setAsking(true)}>${t("key.rotate")}</button></p>
      <p class="quiet">${t("key.overlap", { hours: OVERLAP })}</p>
      ${asking && html`<${Confirm} title=${t("key.rotate-title", { name: one.id })} text=${t("key.rotate-text", { hours: OVERLAP })} act=${t("key.rotate")}
        work=${rotate} onClose=${() => setAsking(false)} />`}`}<//>
    ${key && html`<${Dialog} title=${t("key.title", { name: session.get()?.name ?? "" })} onClose=${() => setKey("")}><${ShownKey} text=${key} models="/gateway/models/me" /><//>`}`;
}
