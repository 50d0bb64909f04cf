// Sign in with the management key, or with a caller's own key.
import { ask } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { Field } from "../parts/form.js";
import { Busy, Problem } from "../parts/status.js";
import { session } from "../session.js";
import { t } from "../texts.js";

export function SignIn() {
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);

  /** @param {string} credential @param {boolean} keep */
  const enter = async (credential, keep) => {
    setBusy(true);
    setError(null);
    try {
      session.begin(await whoHas(credential), keep);
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  useEffect(() => {
    if (session.remembered()) void enter(session.remembered(), true);
  }, []);
  return html`<section class="narrow"><h1>${t("sign-in.title")}</h1><p>${t("sign-in.text")}</p>
    <form onSubmit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); void enter(key.trim(), remember); }}>
      <${Field} label=${t("sign-in.key")} type="password" value=${key} onInput=${setKey} required autocomplete="off" autofocus />
      <label class="check"><input type="checkbox" checked=${remember} onChange=${() => setRemember(!remember)} /> ${t("sign-in.remember")}</label>
      <button type="submit" class="main" disabled=${busy || !key.trim()}>${t("sign-in")}</button>
    </form><${Busy} busy=${busy} /><${Problem} error=${error} /></section>`;
}

/** @param {string} credential @returns {Promise<import("../session.js").Session>} */
async function whoHas(credential) {
  if (credential.startsWith("tg_")) {
    const { data } = await ask("/gateway/limits/me", { credential });
    return { credential, role: "caller", name: data.name, roles: [], teams: [] };
  }
  const { data } = await ask("/gateway/operators/me", { credential });
  return { credential, role: "operator", name: data.name, roles: data.roles, teams: data.teams };
}
