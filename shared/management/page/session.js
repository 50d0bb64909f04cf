// Who is signed in. The credential is in memory; in sessionStorage only if the user asks; never in a URL.

/** @typedef {{credential: string, role: "operator" | "caller", name: string, roles: string[], teams: string[]}} Session */

const STORED = "tollgate.credential";
/** @type {Session | null} */
let current = null;
/** @type {Set<() => void>} */
const listeners = new Set();

export const session = {
  /** @returns {Session | null} */
  get: () => current,

  /** @param {Session} next @param {boolean} remember for as long as the tab is open */
  begin(next, remember) {
    current = next;
    if (remember) sessionStorage.setItem(STORED, next.credential);
    tell();
  },

  /** Go on with the key that replaces the one in use. @param {string} credential */
  replace(credential) {
    if (!current) return;
    current = { ...current, credential };
    if (sessionStorage.getItem(STORED) !== null) sessionStorage.setItem(STORED, credential);
  },

  end() {
    current = null;
    sessionStorage.removeItem(STORED);
    tell();
  },

  /** The credential that the user asked this tab to remember. */
  remembered: () => sessionStorage.getItem(STORED) ?? "",

  /** @param {() => void} listener @returns {() => void} which ends it */
  onChange(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },

  isAdmin: () => current?.roles.includes("admin") ?? false,
  mayManage: () => current?.roles.some((role) => role === "admin" || role === "team_owner") ?? false,
};

function tell() {
  for (const listener of listeners) listener();
}
