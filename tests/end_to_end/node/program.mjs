// What a caller does with Node's official client: node program.mjs BASE_URL KEY MODELS. MODELS is a JSON object of what this
// side calls the models. Prints the exchanges as JSON, one a line: method, path, status, headers, body in base64.
import OpenAI, { toFile } from 'openai';

const [baseURL, apiKey, names] = process.argv.slice(2);
const model = (name) => JSON.parse(names)[name] ?? name;
let recorded = true;

async function recording(url, init) {
  const answer = await fetch(url, init);
  const body = Buffer.from(await answer.arrayBuffer());
  if (recorded) {
    const headers = Object.fromEntries(answer.headers);
    const told = { method: init.method, path: new URL(url).pathname, status: answer.status, headers };
    console.log(JSON.stringify({ ...told, body: body.toString('base64') }));
  }
  const empty = answer.status === 204 || answer.status === 304;
  return new Response(empty ? null : body, { status: answer.status, headers: answer.headers });
}

const client = new OpenAI({
  baseURL,
  apiKey,
  maxRetries: 0,
  fetch: recording,
  defaultHeaders: { 'x-ms-client-request-id': 'mine' },
});

async function all(list) {
  const found = [];
  for await (const one of await list) found.push(one);
  return found;
}

async function wait(read, ...statuses) {
  recorded = false;
  for (let left = 200; left > 0 && !statuses.includes((await read()).status); left -= 1) {
    await new Promise((done) => setTimeout(done, 50));
  }
  recorded = true;
}

async function refused(call) {
  try {
    await call();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
  }
}

const hello = [{ role: 'user', content: 'Grüße, 東京! 🚢' }];
await client.chat.completions.create({ model: model('gpt-4o'), messages: hello, n: 2, max_tokens: 5 });
await all(client.chat.completions.create({ model: model('gpt-4o'), messages: hello, stream: true }));
await refused(() => client.chat.completions.create({ model: model('gpt-4o'), messages: [] }));
await client.embeddings.create({ model: model('text-embedding-3-small'), input: ['a', 'b'], dimensions: 8 });

const first = await client.responses.create({ model: model('gpt-4o'), input: 'hello' });
const chained = { model: model('gpt-4o'), input: 'and on', previous_response_id: first.id };
await all(client.responses.create({ ...chained, stream: true }));
await all(client.responses.inputItems.list(first.id));
const begun = await client.responses.create({ ...chained, background: true });
await wait(() => client.responses.retrieve(begun.id), 'completed');
await all(client.responses.retrieve(begun.id, { stream: true, starting_after: 2 }));
await client.responses.delete(first.id);

const conversation = await client.conversations.create({ items: [{ type: 'message', role: 'user', content: 'hi' }] });
await client.responses.create({ model: model('gpt-4o'), input: 'simulate_recall', conversation: conversation.id });
await all(client.conversations.items.list(conversation.id, { order: 'asc', limit: 1 }));

const text = await toFile(Buffer.from('The tide is high at noon.'), 'tide é.txt');
const file = await client.files.create({ file: text, purpose: 'assistants' });
await (await client.files.content(file.id)).arrayBuffer();
const store = await client.vectorStores.create({ file_ids: [file.id] });
await wait(() => client.vectorStores.retrieve(store.id), 'completed');
await all(client.vectorStores.search(store.id, { query: 'tide' }));
const upload = await client.uploads.create({ filename: 'b', purpose: 'user_data', bytes: 3, mime_type: 'text/plain' });
const part = await client.uploads.parts.create(upload.id, { data: await toFile(Buffer.from('one'), 'part') });
await client.uploads.complete(upload.id, { part_ids: [part.id] });

const painted = { model: model('gpt-image-1'), prompt: 'simulate_bytes=100000', stream: true, partial_images: 1 };
await all(client.images.generate(painted));
await client.images.edit({ model: model('gpt-image-1'), prompt: 'a', image: await toFile(Buffer.from('x'), 'a.png') });
const speech = await client.audio.speech.create({ model: model('tts'), voice: 'alloy', input: 'The toll is paid.' });
const sound = await toFile(Buffer.from(await speech.arrayBuffer()), 'a.mp3');
await all(client.audio.transcriptions.create({ model: model('gpt-4o-mini-transcribe'), file: sound, stream: true }));

const tools = [{ type: 'function', function: { name: 'tide', parameters: { type: 'object' } } }];
const assistant = await client.beta.assistants.create({ model: model('gpt-4o'), tools });
const thread = { messages: [{ role: 'user', content: 'When can we sail?' }] };
const events = await all(client.beta.threads.createAndRun({ assistant_id: assistant.id, thread, stream: true }));
const run = events.findLast((event) => event.event === 'thread.run.requires_action').data;
const [call] = run.required_action.submit_tool_outputs.tool_calls;
const outputs = { thread_id: run.thread_id, tool_outputs: [{ tool_call_id: call.id, output: 'at noon' }], stream: true };
await all(client.beta.threads.runs.submitToolOutputs(run.id, outputs));
await all(client.beta.threads.messages.list(run.thread_id));
await client.beta.threads.delete(run.thread_id);
await client.files.delete(file.id);
