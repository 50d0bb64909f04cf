// Signing in with Entra ID: authorization code with PKCE. The library is fetched when somebody does.
import { t } from "./texts.js";

/**
 * @typedef {{authority: string, tenants: string[], client_id: string, scope: string}} Settings
 * @typedef {import("./session.js").Tokens} Tokens
 * @typedef {{tenant: string, state: string, verifier: string, remember: boolean, search: string}} Pending
 */

const PENDING = "tollgate.entra"; // what this tab waits for: no token, and of no use without the code
const EARLY = 120_000; // milliseconds before its end at which a token is renewed

/** A sign-in that did not work, in words. */
export class SignInError extends Error {
  /** @param {string} message @param {boolean} [final] false: it may work a moment later */
  constructor(message, final = true) {
    super(message);
    this.final = final;
  }
}

/** Leave for Entra ID, which comes back with a code. @param {Settings} settings @param {string} tenant @param {boolean} remember */
export async function leave(settings, tenant, remember) {
  if (!window.isSecureContext) throw new SignInError(t("entra.insecure")); // no digest for PKCE there
  const { oauth, server } = await library(settings, tenant);
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  /** @type {Pending} */
  const pending = { tenant, state, verifier, remember, search: window.location.search };
  sessionStorage.setItem(PENDING, JSON.stringify(pending));
  const url = new URL(server.authorization_endpoint ?? "");
  url.search = new URLSearchParams({
    client_id: settings.client_id, response_type: "code", response_mode: "fragment", redirect_uri: redirect(), state,
    scope: scope(settings), code_challenge: await oauth.calculatePKCECodeChallenge(verifier), code_challenge_method: "S256",
    prompt: "select_account",
  }).toString();
  window.location.assign(url);
}

/**
 * The tokens for the answer that Entra ID came back with.
 * @param {Settings} settings @param {URLSearchParams} answer @returns {Promise<{tokens: Tokens, pending: Pending}>}
 */
export async function arrive(settings, answer) {
  /** @type {Pending | null} */
  const pending = JSON.parse(sessionStorage.getItem(PENDING) ?? "null");
  sessionStorage.removeItem(PENDING); // an answer counts once
  if (!pending) throw new SignInError(t("entra.unknown"));
  const { oauth, server, client, options } = await library(settings, pending.tenant);
  try {
    const checked = oauth.validateAuthResponse(server, client, answer, pending.state);
    const response = await oauth.authorizationCodeGrantRequest(
      server, client, oauth.None(), checked, redirect(), pending.verifier, options);
    const found = await oauth.processAuthorizationCodeResponse(server, client, response);
    return { tokens: tokens(found, pending.tenant, ""), pending };
  } catch (error) {
    throw inWords(oauth, error);
  }
}

/** The same tokens while they last, else new ones. @param {Settings} settings @param {Tokens} old @returns {Promise<Tokens>} */
export async function fresh(settings, old) {
  const { oauth, server, client, options } = await library(settings, old.tenant);
  if (!old.refresh) throw new SignInError(t("entra.ended"));
  try {
    const response = await oauth.refreshTokenGrantRequest(
      server, client, oauth.None(), old.refresh, { ...options, additionalParameters: { scope: scope(settings) } });
    return tokens(await oauth.processRefreshTokenResponse(server, client, response), old.tenant, old.refresh);
  } catch (error) {
    throw error instanceof oauth.ResponseBodyError ? new SignInError(t("entra.ended")) : inWords(oauth, error);
  }
}

/** @param {Tokens} held */
export const isOld = (held) => Date.now() > held.ends - EARLY;
/** @param {Tokens} held */
export const isOver = (held) => Date.now() > held.ends;

/** @param {Settings} settings @param {string} tenant */
async function library(settings, tenant) {
  const oauth = await import("oauth4webapi");
  const issuer = new URL(`${settings.authority}/${tenant}/v2.0`);
  const options = { [oauth.allowInsecureRequests]: issuer.protocol === "http:" }; // this machine only: the gateway sees to it
  try {
    const response = await oauth.discoveryRequest(issuer, options);
    const server = await oauth.processDiscoveryResponse(issuer, response);
    return { oauth, server, options, client: { client_id: settings.client_id } };
  } catch (error) {
    throw inWords(oauth, error);
  }
}

/** @param {import("oauth4webapi").TokenEndpointResponse} found @param {string} tenant @param {string} refresh of before @returns {Tokens} */
const tokens = (found, tenant, refresh) => ({
  access: found.access_token, refresh: found.refresh_token ?? refresh, ends: Date.now() + (found.expires_in ?? 0) * 1000, tenant,
});

/** @param {typeof import("oauth4webapi")} oauth @param {unknown} error */
function inWords(oauth, error) {
  if (error instanceof oauth.AuthorizationResponseError || error instanceof oauth.ResponseBodyError) {
    const said = (error.error_description ?? error.error).split(/\r?\n/)[0];
    return new SignInError(t(error.error === "access_denied" ? "entra.refused" : "entra.failed", { said }));
  }
  if (error instanceof TypeError) return new SignInError(t("entra.unreachable"), false);
  if (error instanceof oauth.OperationProcessingError && /state/.test(error.message)) return new SignInError(t("entra.unknown"));
  return new SignInError(t("entra.failed", { said: error instanceof Error ? error.message : "" }));
}

const redirect = () => `${window.location.origin}/gateway/`;
/** @param {Settings} settings */
const scope = (settings) => `${settings.scope} offline_access`;
