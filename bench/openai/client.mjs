// Asks a server what the standard client of its API can ask, and prints what came
// as one JSON object: node client.mjs BASE_URL TOKEN QUERY. Errors that the client
// raises are part of the answer.
import OpenAI from 'openai';

const [baseURL, apiKey, query] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: query }];
const out = {};

const models = await client.models.list();
out.models = models.data.map((m) => m.id);
out.model = (await client.models.retrieve('auto')).id;

for (const model of ['auto', 'local', 'remote']) {
  const { data, response } = await client.chat.completions.create({ model, messages }).withResponse();
  const pieces = [];
  let finish, usage, ids = new Set(), decision;
  const stream = await client.chat.completions.create({ model, messages, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    ids.add(chunk.id);
    const choice = chunk.choices[0];
    if (choice?.delta?.content) pieces.push(choice.delta.content);
    if (choice?.finish_reason) finish = choice.finish_reason;
    if (chunk.usage) usage = chunk.usage;
    if (chunk.slmc) decision = chunk.slmc;
  }
  out[model] = {
    text: data.choices[0].message.content, role: data.choices[0].message.role, finish: data.choices[0].finish_reason,
    tokens: data.usage.total_tokens, outcome: data.slmc.outcome, head: response.headers.get('x-slmc-outcome'),
    streamed: pieces.join(''), streamedFinish: finish, streamedTokens: usage?.total_tokens, ids: ids.size, streamedOutcome: decision?.outcome,
  };
}

// The client's own assembly of a stream.
const run = client.chat.completions.stream({ model: 'local', messages });
out.assembled = (await run.finalChatCompletion()).choices[0].message.content;

const raw = await client.completions.create({ model: 'local', prompt: 'set a timer', max_tokens: 2 });
out.completion = { tokens: raw.usage.completion_tokens, finish: raw.choices[0].finish_reason };
let text = '';
for await (const chunk of await client.completions.create({ model: 'local', prompt: 'set a timer', max_tokens: 2, stream: true })) text += chunk.choices[0].text;
out.completion.same = text === raw.choices[0].text;

const fails = async (f) => {
  try {
    await f();
    return 'no error';
  } catch (e) {
    return `${e.constructor.name} ${e.status} ${e.code}`;
  }
};
out.errors = {
  model: await fails(() => client.chat.completions.create({ model: 'gpt', messages })),
  request: await fails(() => client.chat.completions.create({ model: 'local', messages, n: 2 })),
  token: await fails(() => new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 }).models.list()),
  privacy: await fails(() => client.chat.completions.create({ model: 'remote', messages, slmc: { privacy: 'private' } })),
};
const kept = await client.chat.completions.create({ model: 'auto', messages }, { headers: { 'X-Slmc-Privacy': 'private' } });
out.kept = { text: kept.choices[0].message.content, reason: kept.slmc.reason };

// A reader that stops early.
const early = await client.chat.completions.create({ model: 'local', messages, stream: true });
for await (const _ of early) break;
early.controller.abort();

console.log(JSON.stringify(out));
