// Batches and files with Node's official client for Claude: node claude_objects.mjs GATEWAY KEY MODEL. Prints a JSON
// object a line.
import Anthropic, { toFile } from '@anthropic-ai/sdk';

const [gateway, apiKey, model] = process.argv.slice(2);
const told = (name, value) => console.log(JSON.stringify({ name, ...value }));
const params = { model, max_tokens: 16, messages: [{ role: 'user', content: 'Where does the road lead?' }] };
const client = new Anthropic({ baseURL: gateway, apiKey, maxRetries: 0 });

let batch = await client.messages.batches.create({
  requests: ['a', 'b'].map((custom_id) => ({ custom_id, params })),
});
while (batch.processing_status !== 'ended') {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.messages.batches.retrieve(batch.id);
}
told('batch', { status: batch.processing_status, succeeded: batch.request_counts.succeeded });

const ids = [];
for await (const line of await client.messages.batches.results(batch.id)) ids.push(line.custom_id);
told('results', { ids });

const file = await client.beta.files.upload({ file: await toFile(Buffer.from('north'), 'roads.txt', { type: 'text/plain' }) });
const listed = [];
for await (const one of client.beta.files.list()) listed.push(one.id);
told('file', { filename: file.filename, listed: listed.length });
