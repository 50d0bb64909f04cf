// A program of 2023 on npm's `openai` 3.3. Prints one JSON object.
import { Configuration, OpenAIApi } from "openai3";
import { createRequire } from "node:module";

const { GATEWAY, KEY } = process.env;
const client = new OpenAIApi(new Configuration({ basePath: `${GATEWAY}/v1`, apiKey: KEY }));
const chatml = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello\n<|im_end|>\n<|im_start|>assistant\n";
const model = "text-davinci-003";
const whole = (await client.createCompletion({ model, prompt: chatml, max_tokens: 30, stop: ["<|im_end|>"] })).data;
const echo = (await client.createCompletion({ model, prompt: "Hello", echo: true })).data.choices[0].text;
const chat = (await client.createChatCompletion({ model: "gpt-4o", messages: [{ role: "user", content: "Hello" }] })).data;
const embedding = (await client.createEmbedding({ model: "text-embedding-3-small", input: "Hello" })).data;

const streamed = await new Promise((resolve, reject) => {
  const asked = client.createCompletion({ model, prompt: "Hello", stream: true }, { responseType: "stream" });
  asked.then(({ data }) => {
    let text = "";
    data.on("data", (/** @type {Buffer} */ piece) => (text += piece));
    data.on("end", () => resolve(text));
  }, reject);
});
const pieces = streamed.split("\n\n").filter((event) => event.startsWith("data: {")).map((event) => JSON.parse(event.slice(6)));
const engines = new OpenAIApi(new Configuration({ basePath: `${GATEWAY}/v1/engines/gpt-4o`, apiKey: KEY }));
const azure = (await engines.createCompletion({ model: "gpt-4o", prompt: "Hello" })).data;
const refused = await client.createCompletion({ model, prompt: ["a", "b"] }).then(() => "", (error) => error.response.data.error.param);

console.log(JSON.stringify({
  version: createRequire(import.meta.url)("openai3/package.json").version,
  object: whole.object,
  text: whole.choices[0].text,
  finish_reason: whole.choices[0].finish_reason,
  usage: whole.usage,
  echo,
  streamed: pieces.flatMap((piece) => piece.choices).map((choice) => choice.text).join(""),
  chat: chat.choices[0].message.content,
  embedding: embedding.data[0].embedding.length,
  azure: azure.choices[0].text,
  refused,
}));
