// Who is signed in. Credentials are in memory; in sessionStorage only if the user asks; never in a URL.

/**
 * @typedef {{access: string, refresh: string, ends: number, tenant: string}} Tokens of Entra ID; `ends` in milliseconds since 1970
 * @typedef {{credential: string, tokens?: Tokens, role: "operator" | "caller", name: string, id?: string, roles: string[], teams: string[]}} Session
 */

const STORED = "tollgate.credential";
/** @type {Session | null} */
let current = null;
/** Why the last session ended by itself. */
let reason = "";
/** @type {Set<() => void>} */
const listeners = new Set();

export const session = {
  /** @returns {Session | null} */
  get: () => current,

  /** @param {Session} next @param {boolean} remember for as long as the tab is open */
  begin(next, remember) {
    current = next;
    reason = "";
    if (remember) store(next);
    tell();
  },

  /** Go on with the credential that replaces the one in use. @param {string} credential @param {Tokens} [tokens] */
  replace(credential, tokens) {
    if (!current) return;
    current = { ...current, credential, tokens };
    if (this.isKept()) store(current);
  },

  /** @param {string} [why] a sentence for the one who has to sign in again */
  end(why = "") {
    current = null;
    reason = why;
    sessionStorage.removeItem(STORED);
    tell();
  },

  reason: () => reason,

  isKept: () => sessionStorage.getItem(STORED) !== null,

  /** @param {boolean} yes stay signed in until the tab is closed; else until the page is loaded again */
  keep(yes) {
    if (yes && current) store(current);
    else sessionStorage.removeItem(STORED);
    tell();
  },

  /** What the user asked this tab to remember. @returns {{credential: string, tokens?: Tokens} | null} */
  remembered() {
    try {
      return JSON.parse(sessionStorage.getItem(STORED) ?? "null");
    } catch {
      return null;
    }
  },

  /** @param {() => void} listener @returns {() => void} which ends it */
  onChange(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },

  isAdmin: () => current?.roles.includes("admin") ?? false,
  mayReadAll: () => current?.roles.some((role) => role === "admin" || role === "reader") ?? false,
  mayManage: () => current?.roles.some((role) => role === "admin" || role === "team_owner") ?? false,
};

/** @param {{credential: string, tokens?: Tokens}} kept */
const store = ({ credential, tokens }) => sessionStorage.setItem(STORED, JSON.stringify({ credential, tokens }));

function tell() {
  for (const listener of listeners) listener();
}
