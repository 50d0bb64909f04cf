// What a caller does with Node's official clients for Claude: node claude.mjs GATEWAY KEY MODEL. Prints a JSON object a line.
import Anthropic from '@anthropic-ai/sdk';
import { AnthropicFoundry } from '@anthropic-ai/foundry-sdk';

const [gateway, apiKey, model] = process.argv.slice(2);
const told = (name, value) => console.log(JSON.stringify({ name, ...value }));
const asked = { model, max_tokens: 64, messages: [{ role: 'user', content: 'Where does the road lead?' }] };
const text = (message) => message.content.map((block) => block.text ?? '').join('');

const client = new Anthropic({ baseURL: gateway, apiKey, maxRetries: 0 });
const whole = await client.messages.create(asked);
told('whole', { text: text(whole), usage: whole.usage });

const streamed = await client.messages.stream(asked).finalMessage();
told('streamed', { text: text(streamed), usage: streamed.usage, stop: streamed.stop_reason });

const counted = await client.messages.countTokens({ model, messages: asked.messages });
told('counted', { tokens: counted.input_tokens });

const models = [];
for await (const one of client.models.list()) models.push(one.id);
told('models', { models });

const foundry = new AnthropicFoundry({ baseURL: `${gateway}/anthropic`, apiKey, maxRetries: 0 });
const beta = await foundry.beta.messages.create({ ...asked, betas: ['context-1m-2025-08-07'] });
told('foundry', { text: text(beta) });

try {
  await client.messages.create({ ...asked, model: 'claude-unknown' });
} catch (error) {
  told('refused', { status: error.status, type: error.type ?? error.error?.error?.type, id: error.requestID });
}
