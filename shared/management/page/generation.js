// Calls to a model as it is called: by OpenAI's chat completions, or by Anthropic's messages.

const MOST = 4096; // tokens of an answer, where Anthropic's API wants a number and none is given

/**
 * @typedef {{system: string, prompt: string, most: string, temperature: string, top_p: string, effort: string}} Given
 * @typedef {{input: number, output: number, reasoning: number | null}} Usage
 * @typedef {{path: string, body: (model: string, given: Given, stream: boolean) => any, text: (answer: any) => string,
 *   piece: (event: any) => string, usage: (data: any, before: any) => any, tokens: (usage: any) => Usage}} Api
 * `usage`: what an answer or an event reports, with what was reported before.
 */

/** @type {Api} */
const CHAT = {
  path: "/v1/chat/completions",
  body: (model, given, stream) => ({
    model, stream, messages: [...(given.system ? [{ role: "system", content: given.system }] : []), { role: "user", content: given.prompt }],
    ...(stream && { stream_options: { include_usage: true } }), ...(given.most && { max_completion_tokens: Number(given.most) }),
    ...sampling(given), ...(given.effort && { reasoning_effort: given.effort }),
  }),
  text: (answer) => answer.choices?.[0]?.message?.content ?? "",
  piece: (event) => event.choices?.[0]?.delta?.content ?? "",
  usage: (data, before) => data.usage ?? before,
  tokens: (usage) => ({ input: usage.prompt_tokens, output: usage.completion_tokens, reasoning: usage.completion_tokens_details?.reasoning_tokens ?? null }),
};

/** @type {Api} */
const MESSAGES = {
  path: "/v1/messages",
  body: (model, given, stream) => ({
    model, stream, max_tokens: Number(given.most || MOST), ...(given.system && { system: given.system }), messages: [{ role: "user", content: given.prompt }],
    ...sampling(given), ...(given.effort && { output_config: { effort: given.effort } }),
  }),
  text: (answer) => (answer.content ?? []).map((/** @type {any} */ block) => block.text ?? "").join(""),
  piece: (event) => event.delta?.text ?? "",
  usage: (data, before) => (data.message || data.usage ? { ...before, ...(data.message?.usage ?? data.usage) } : before),
  tokens: (usage) => ({
    input: (usage.input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0) + (usage.cache_read_input_tokens ?? 0), output: usage.output_tokens,
    reasoning: usage.output_tokens_details?.thinking_tokens ?? null,
  }),
};

/** The API of a model. @param {string | undefined} format as `/gateway/models` reports it @returns {Api} */
export const apiOf = (format) => (format === "anthropic" ? MESSAGES : CHAT);

/** @param {Given} given */
const sampling = (given) => ({
  ...(given.temperature && { temperature: Number(given.temperature) }), ...(given.top_p && { top_p: Number(given.top_p) }),
});
