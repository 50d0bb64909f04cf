// A program on npm's `openai` 6. Prints one JSON object.
import OpenAI, { AzureOpenAI } from "openai6";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";

const { GATEWAY, KEY } = process.env;
const client = new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0 });
const dated = new AzureOpenAI({ endpoint: GATEWAY, apiKey: KEY, apiVersion: "2024-02-01", maxRetries: 0 });
const chatml = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello\n<|im_end|>\n<|im_start|>assistant\n";
const model = "text-davinci-003";
const whole = await client.completions.create({ model, prompt: chatml, max_tokens: 30, stop: ["<|im_end|>"] });
const echo = (await client.completions.create({ model, prompt: "Hello", echo: true })).choices[0].text;
let streamed = "";
for await (const chunk of await client.completions.create({ model, prompt: "Hello", stream: true })) {
  streamed += chunk.choices[0]?.text ?? "";
}
const engines = new OpenAI({ baseURL: `${GATEWAY}/v1/engines/gpt-4o`, apiKey: KEY });
const chat = await engines.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "Hello" }] });
const embedding = await client.embeddings.create({ model: "text-embedding-3-small", input: "Hello" });
const azure = await dated.completions.create({ model: "gpt-4o", prompt: "Hello" });
const refused = await client.completions.create({ model, prompt: ["a", "b"] }).then(() => "", (error) => error.param);
const main = createRequire(import.meta.url).resolve("openai6");

console.log(JSON.stringify({
  version: JSON.parse(readFileSync(join(dirname(main), "package.json"), "utf8")).version,
  object: whole.object,
  text: whole.choices[0].text,
  finish_reason: whole.choices[0].finish_reason,
  usage: whole.usage,
  echo,
  streamed,
  chat: chat.choices[0].message.content,
  embedding: embedding.data[0].embedding.length,
  azure: azure.choices[0].text,
  refused,
}));
