// What the routing does, as it happens: a stream from the instance that answers, for as long as the tab is looked at.
import { ApiError, refusal } from "./api.js";
import { credential } from "./credential.js";
import { useEffect, useState } from "./lib.js";
import { session } from "./session.js";
import { events } from "./stream.js";
import { t } from "./texts.js";

const PATH = "/gateway/backends/events";
const PAUSES = [500, 2_000, 5_000]; // milliseconds before the stream is asked for again
const MOST = 300; // tries that are kept, and as many other events: a flood of refusals takes no try away
const MINUTE = 60_000;

const EMPTY = /** @type {Live} */ ({ pool: null, happenings: [], dropped: 0, error: null });
/** What was seen last, for as long as somebody is signed in: a view that is opened again goes on from it. */
let seen = EMPTY;
session.onChange(() => { if (!session.get()) seen = EMPTY; });

/**
 * @typedef {{at: number, kind: "try" | "call" | "refused" | "state", data: any}} Happening
 * @typedef {{share: number, failed: number}} Share `failed`: a number of tries
 * @typedef {{pool: any, happenings: Happening[], dropped: number, error: ApiError | null}} Live
 * @returns {Live & {again: () => void}} `happenings`: the newest first; `again` asks for a new stream
 */
export function useLive() {
  const [live, setLive] = useState(/** @type {Live} */ ({ ...seen, error: null }));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let watching = /** @type {AbortController | null} */ (null);
    const look = () => {
      if (document.visibilityState === "visible") {
        watching ??= new AbortController();
        void watch(watching.signal, (change) => setLive((old) => (seen = change(old))));
      } else {
        watching?.abort();
        watching = null;
      }
    };
    const changed = () => (document.visibilityState === "visible") === (watching === null) && look();
    look();
    document.addEventListener("visibilitychange", changed);
    return () => {
      document.removeEventListener("visibilitychange", changed);
      watching?.abort();
    };
  }, [turn]);
  return { ...live, again: () => setTurn((n) => n + 1) };
}

/** Read streams one after the other until the signal. @param {AbortSignal} signal @param {(change: (old: Live) => Live) => void} set */
async function watch(signal, set) {
  for (let failures = 0; !signal.aborted; ) {
    try {
      const held = await credential();
      const response = await fetch(PATH, { headers: { authorization: `Bearer ${held}` }, signal, cache: "no-store" });
      if (!response.ok || !response.body) throw await refusal(response, held);
      for await (const { name, data } of events(response.body)) {
        failures = 0;
        set((old) => after(old, name, data));
      }
    } catch (error) {
      if (signal.aborted) return;
      const shown = error instanceof ApiError ? error : new ApiError(0, "unreachable", t("error.unreachable"));
      set((old) => ({ ...old, error: shown }));
      if (shown.status === 401) return;
      failures += 1;
    }
    await new Promise((done) => setTimeout(done, PAUSES[Math.min(failures, PAUSES.length - 1)]));
  }
}

/** @param {Live} old @param {string} name @param {any} data @returns {Live} */
function after(old, name, data) {
  if (name === "pool") return { ...old, pool: data, error: null, happenings: newest([...changes(old.pool, data), ...old.happenings]) };
  if (name === "dropped") return { ...old, dropped: old.dropped + data.events };
  if (name !== "try" && name !== "call" && name !== "refused") return old;
  return { ...old, happenings: newest([/** @type {Happening} */ ({ at: Date.now(), kind: name, data }), ...old.happenings]) };
}

/** @param {Happening[]} all the newest first */
function newest(all) {
  const kept = { try: 0, other: 0 };
  return all.filter(({ kind }) => (kept[kind === "try" ? kind : "other"] += 1) <= MOST);
}

/** The deployments that were left out, are on trial, or have recovered since the pool was looked at before. @param {any} before @param {any} pool @returns {Happening[]} */
function changes(before, pool) {
  const states = new Map(deployments(before).map((one) => [one.name, one.state]));
  const out = (/** @type {string | undefined} */ state) => state === "ejected" || state === "half_open";
  return deployments(pool).filter(({ name, state }) => states.has(name) && state !== states.get(name) && (out(state) || (state === "usable" && out(states.get(name)))))
    .map((one) => ({ at: Date.now(), kind: "state", data: one }));
}

/** @param {any} pool @returns {{name: string, backend: string, deployment: string, state: string, reason: string}[]} */
function deployments(pool) {
  return (pool?.backends ?? []).flatMap((/** @type {any} */ at) => at.deployments.map((/** @type {any} */ one) => ({
    name: `${at.name}/${one.deployment}/${one.tier}`, backend: at.name, deployment: one.deployment, state: one.state, reason: one.reason })));
}

/** The share of the tries of the last minute that each backend had; null without any. @param {Happening[]} happenings @returns {Map<string, Share> | null} */
export function shares(happenings) {
  const recent = happenings.filter((one) => one.kind === "try" && one.at > Date.now() - MINUTE);
  if (recent.length === 0) return null;
  /** @type {Map<string, Share>} */
  const found = new Map();
  for (const { data } of recent) {
    const { share, failed } = found.get(data.backend) ?? { share: 0, failed: 0 };
    found.set(data.backend, { share: share + 1 / recent.length, failed: failed + (data.problem ? 1 : 0) });
  }
  return found;
}
