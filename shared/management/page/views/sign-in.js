// Sign in with the management key, a caller's own key, or Entra ID.
import { ApiError, ask, useAnswer } from "../api.js";
import { arrive, fresh, isOld, leave } from "../entra.js";
import { html, useEffect, useState } from "../lib.js";
import { moveTo } from "../location.js";
import { Field, useAttempt } from "../parts/form.js";
import { Busy, Problem } from "../parts/status.js";
import { session } from "../session.js";
import { t } from "../texts.js";

const LOCAL = ["127.0.0.1", "localhost", "[::1]"]; // hosts at which `make run` serves
const OPERATOR = /^Gateway\.(Admin|Reader|TeamOwner)$/;

/** @typedef {import("../session.js").Tokens} Tokens */

export function SignIn() {
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(false);
  const { error, busy, attempt } = useAttempt();
  const ways = useAnswer("/gateway/sign-in");
  const entra = ways.data?.entra;

  /** @param {{credential: string, tokens?: Tokens}} held @param {boolean} keep */
  const enter = async (held, keep) => session.begin({ ...(await whoHas(held.credential)), ...held }, keep);
  useEffect(() => {
    const came = takeFragment();
    const kept = session.remembered();
    if (came.has("sign-in")) void attempt(async () => enter(await exchanged(came.get("sign-in") ?? ""), false));
    else if (came.has("state")) void attempt(() => returned(came, enter));
    else if (kept) void attempt(() => resumed(kept, enter));
  }, []);
  return html`<section class="narrow"><h1>${t("sign-in.title")}</h1>
    ${session.reason() && html`<p class="problem" role="status">${session.reason()}</p>`}
    <label class="check"><input type="checkbox" checked=${remember} onChange=${() => setRemember(!remember)} /> ${t("sign-in.remember")}</label>
    <p class="quiet">${t("sign-in.forgotten")}</p>
    ${entra && html`<p>${t("sign-in.entra-text")}</p>${entra.tenants.map((/** @type {string} */ tenant) => html`<p><button type="button" class="main" disabled=${busy}
        onClick=${() => attempt(() => leave(entra, tenant, remember))}>${t("sign-in.entra")}${entra.tenants.length > 1 ? ` (${tenant})` : ""}</button></p>`)}`}
    <p>${t("sign-in.text")}</p>
    <form onSubmit=${(/** @type {SubmitEvent} */ event) => { event.preventDefault(); void attempt(() => enter({ credential: key.trim() }, remember).catch(inWords)); }}>
      <${Field} label=${t("sign-in.key")} type="password" value=${key} onInput=${setKey} required autocomplete="off" autofocus />
      <button type="submit" class=${entra ? "" : "main"} disabled=${busy || !key.trim()}>${t("sign-in")}</button>
    </form><${Busy} busy=${busy} /><${Problem} error=${error && inShape(error)} />
    ${LOCAL.includes(window.location.hostname) && html`<p class="quiet">${t("sign-in.local")} <code>make link</code></p>`}</section>`;
}

/** What may go wrong before the gateway is asked, as one of its errors. @param {Error} problem */
const inShape = (problem) => (problem instanceof ApiError ? problem : new ApiError(400, "sign_in", problem.message));

/** Say of a key that was typed that it is not known. @param {unknown} problem @returns {never} */
function inWords(problem) {
  throw problem instanceof ApiError && problem.status === 401 ? new ApiError(401, problem.code, t("sign-in.unknown")) : problem;
}

/** What stands behind the # of the address, which goes from the address bar and from the history. */
function takeFragment() {
  const found = new URLSearchParams(window.location.hash.slice(1));
  if (window.location.hash) window.history.replaceState(null, "", window.location.pathname + window.location.search);
  return found;
}

const settings = async () => (await ask("/gateway/sign-in", { credential: "" })).data.entra;

/** @param {URLSearchParams} came @param {(held: {credential: string, tokens: Tokens}, keep: boolean) => Promise<void>} enter */
async function returned(came, enter) {
  const { tokens, pending } = await arrive(await settings(), came);
  await enter({ credential: tokens.access, tokens }, pending.remember);
  moveTo(pending.search);
}

/** @param {{credential: string, tokens?: Tokens}} kept @param {(held: {credential: string, tokens?: Tokens}, keep: boolean) => Promise<void>} enter */
async function resumed(kept, enter) {
  try {
    const tokens = kept.tokens && isOld(kept.tokens) ? await fresh(await settings(), kept.tokens) : kept.tokens;
    await enter({ credential: tokens?.access ?? kept.credential, tokens }, true);
  } catch (problem) {
    if (!(problem instanceof ApiError) || problem.status === 401) session.end();
    throw problem;
  }
}

/** The key for the code in the link of a local run. No other gateway has this path. @param {string} code */
async function exchanged(code) {
  try {
    const { data } = await ask("/gateway/sign-in/code", { method: "POST", body: { code }, credential: "" });
    return { credential: data.key };
  } catch {
    throw new ApiError(400, "sign_in", t("sign-in.link"));
  }
}

/** @param {string} credential @returns {Promise<import("../session.js").Session>} */
async function whoHas(credential) {
  if (credential.startsWith("tg_") || (credential.startsWith("eyJ") && !namesOperator(credential))) {
    const { data } = await ask("/gateway/limits/me", { credential });
    return { credential, role: "caller", name: data.name, id: data.id, roles: [], teams: [] };
  }
  const { data } = await ask("/gateway/operators/me", { credential });
  return { credential, role: "operator", name: data.name, roles: data.roles, teams: data.teams };
}

/** Which of the two to ask as. What the token admits to is for the gateway to decide. @param {string} token */
function namesOperator(token) {
  try {
    const claims = JSON.parse(window.atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return claims.roles.some((/** @type {string} */ role) => OPERATOR.test(role));
  } catch {
    return false;
  }
}
