// Streams of events: the answer of a model as it comes, and the events of any body.

/**
 * @typedef {{text: string, usage: import("./generation.js").Usage | null, headers: Record<string, string>, first: number | null, took: number, error: string}} Reply
 * @param {{api: import("./generation.js").Api, key: string, body: any, signal: AbortSignal, onChange: (reply: Reply) => void, headers?: Record<string, string>}} call
 */
export async function generate({ api, key, body, signal, onChange, headers = {} }) {
  const began = performance.now();
  /** @type {Reply} */
  const reply = { text: "", usage: null, headers: {}, first: null, took: 0, error: "" };
  let usage = null;
  const tell = () => onChange({ ...reply, took: performance.now() - began });
  try {
    const response = await fetch(api.path, {
      method: "POST", signal, cache: "no-store", body: JSON.stringify(body),
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...headers },
    });
    reply.headers = Object.fromEntries([...response.headers].filter(([name]) => /^(x-gateway-|x-ratelimit-|anthropic-ratelimit-|x-ms-region|x-request-id|retry-after)/.test(name)));
    if (!response.ok || !response.body) {
      reply.error = message(await response.text(), response.status);
    } else if (body.stream) {
      for await (const { data } of events(response.body)) {
        if (data.error) reply.error = data.error.message;
        const piece = api.piece(data);
        if (piece) {
          reply.first ??= performance.now() - began;
          reply.text += piece;
        }
        usage = api.usage(data, usage);
        tell();
      }
    } else {
      const answer = await response.json();
      reply.text = api.text(answer);
      usage = api.usage(answer, null);
    }
  } catch (error) {
    if (!signal.aborted) reply.error = String(error);
  }
  reply.usage = usage && api.tokens(usage);
  tell();
}

/** @param {string} text @param {number} status */
function message(text, status) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `${status} ${text.slice(0, 300)}`;
  }
}

/** The events of a stream, with their JSON. @param {ReadableStream<Uint8Array>} body @returns {AsyncGenerator<{name: string, data: any}>} */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const whole = rest.split(/\r?\n\r?\n/);
    rest = whole.pop() ?? "";
    for (const event of whole) {
      const lines = event.split(/\r?\n/);
      const of = (/** @type {string} */ field) => lines.filter((line) => line.startsWith(field)).map((line) => line.slice(field.length).trimStart()).join("\n");
      const data = of("data:");
      if (data && data !== "[DONE]") yield { name: of("event:"), data: JSON.parse(data) };
    }
  }
}
