// Requests to the management API: errors in words, progress, and repetition only where it is safe.
import { credential as current } from "./credential.js";
import { useCallback, useEffect, useRef, useState } from "./lib.js";
import { session } from "./session.js";
import { t } from "./texts.js";

/** An answer of the gateway that is an error, or none at all (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} message @param {any} [body] */
  constructor(status, code, message, body) {
    super(message);
    this.status = status;
    this.code = code;
    this.body = body;
  }
}

const PAUSES = [300, 1200]; // milliseconds before a GET is sent again

/**
 * @typedef {{method?: string, body?: any, etag?: string, credential?: string, signal?: AbortSignal, type?: string}} Options
 * @typedef {{data: any, etag: string, headers: Headers}} Answer
 * @param {string} path @param {Options} [options] @returns {Promise<Answer>}
 */
export async function ask(path, options = {}) {
  const method = options.method ?? "GET";
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await send(path, method, options);
    } catch (error) {
      const again = error instanceof ApiError && (error.status === 0 || error.status >= 502);
      if (!again || method !== "GET" || attempt >= PAUSES.length || options.signal?.aborted) throw error;
      await new Promise((done) => setTimeout(done, PAUSES[attempt]));
    }
  }
}

/** @param {string} path @param {string} method @param {Options} options @returns {Promise<Answer>} */
async function send(path, method, options) {
  const credential = options.credential ?? (await current());
  /** @type {Record<string, string>} */
  const headers = credential ? { authorization: `Bearer ${credential}` } : {};
  let body;
  if (options.body !== undefined) {
    headers["content-type"] = options.type ?? "application/json";
    body = typeof options.body === "string" ? options.body : JSON.stringify(options.body);
  }
  if (options.etag) headers["if-match"] = options.etag;
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal: options.signal, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", t("error.unreachable"));
  }
  if (!response.ok) throw await refusal(response, credential);
  return { data: parsed(await response.text()), etag: response.headers.get("etag") ?? "", headers: response.headers };
}

/** The error that an answer is. A 401 ends the session. @param {Response} response @param {string} credential that it was asked with */
export async function refusal(response, credential) {
  const data = parsed(await response.text());
  if (response.status === 401 && session.get()?.credential === credential) session.end(t("session.ended"));
  const error = data?.error ?? {};
  return new ApiError(response.status, error.code ?? "", error.message ?? `${response.status}`, data);
}

/** @param {string} text */
function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return text;
  }
}

/**
 * What a path answers, kept up to date. The last answer stays while the next one is on its way or has failed.
 * @param {string | null} path null: ask nothing
 * @param {number} [every] milliseconds between two looks; 0: one look. A hidden tab does not look.
 */
export function useAnswer(path, every = 0) {
  const [state, setState] = useState(/** @type {{data: any, etag: string, error: ApiError | null, busy: boolean}} */ ({
    data: null, etag: "", error: null, busy: path !== null,
  }));
  const asked = useRef(path);
  const look = useCallback(async (/** @type {AbortSignal | undefined} */ signal) => {
    if (path === null) return;
    setState((old) => ({ ...old, data: asked.current === path ? old.data : null, busy: true }));
    asked.current = path;
    try {
      const { data, etag } = await ask(path, { signal });
      setState({ data, etag, error: null, busy: false });
    } catch (error) {
      if (!signal?.aborted) setState((old) => ({ ...old, error: /** @type {ApiError} */ (error), busy: false }));
    }
  }, [path]);
  useEffect(() => {
    const controller = new AbortController();
    let last = Date.now();
    const due = () => {
      if (document.visibilityState !== "visible" || Date.now() - last < every) return;
      last = Date.now();
      void look(controller.signal);
    };
    void look(controller.signal);
    const timer = every && setInterval(due, every);
    if (every) document.addEventListener("visibilitychange", due);
    return () => {
      controller.abort();
      if (timer) clearInterval(timer);
      document.removeEventListener("visibilitychange", due);
    };
  }, [look, every]);
  return { ...state, again: () => look(undefined) };
}

/** The query of a path, without what is empty. @param {Record<string, string | number | undefined | null>} values */
export function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length ? `?${new URLSearchParams(pairs.map(([k, v]) => [k, String(v)]))}` : "";
}
