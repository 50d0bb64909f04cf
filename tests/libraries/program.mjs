// Calls through OpenAI's client, OpenAI's agents and LangChain; `test_libraries.py` runs it. Prints a line of JSON per call.
import { ChatOpenAI } from "@langchain/openai";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { ResponsesWS } from "openai/resources/responses/ws";

const [url, key] = process.argv.slice(2);
const report = (name, tokens) => console.log(JSON.stringify({ name, output_tokens: tokens }));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
const message = { type: "message", role: "user", content: [{ type: "input_text", text: "Hello" }] };

await new Promise((done, fail) => {
  const socket = new OpenAIRealtimeWS({ model: "talk" }, client);
  socket.on("error", fail);
  socket.on("session.created", () => {
    socket.send({ type: "conversation.item.create", item: message });
    socket.send({ type: "response.create", response: { output_modalities: ["text"] } });
  });
  socket.on("response.done", (event) => {
    report("openai realtime", event.response.usage.output_tokens);
    socket.close();
    done();
  });
});

await new Promise((done, fail) => {
  const socket = new ResponsesWS(client);
  socket.on("error", fail);
  socket.on("response.completed", (event) => {
    report("openai responses socket", event.response.usage.output_tokens);
    socket.close();
    done();
  });
  socket.send({ type: "response.create", model: "mini", input: "Hello" });
});

await new Promise((done, fail) => {
  const address = `${url.replace("http", "ws")}/v1/realtime?model=talk`;
  const transport = new OpenAIRealtimeWebSocket({ url: address, useInsecureApiKey: true });
  const session = new RealtimeSession(new RealtimeAgent({ name: "a", instructions: "x" }), { transport, model: "talk" });
  session.on("error", (event) => fail(new Error(JSON.stringify(event))));
  session.on("transport_event", (event) => {
    if (event.type === "response.done") {
      report("agents realtime", event.response.usage.output_tokens);
      session.close();
      done();
    }
  });
  session.connect({ apiKey: key }).then(() => session.sendMessage("Hello"), fail);
});

const chat = new ChatOpenAI({ model: "mini", apiKey: key, configuration: { baseURL: `${url}/v1` } });
report("langchain invoke", (await chat.invoke("Hello")).usage_metadata.output_tokens);
let whole;
for await (const chunk of await chat.stream("Hello")) whole = whole ? whole.concat(chunk) : chunk;
report("langchain stream", whole.usage_metadata.output_tokens);
process.exit(0);
