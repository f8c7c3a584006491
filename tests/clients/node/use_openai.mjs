// The official client for Node, against a router.
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { assert, same, MODEL, URL, QUESTION, TOOL, ARGUMENTS, ENDLESS, run } from './reporting.mjs';

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const Find = z.object({ what: z.string(), how_many: z.number().int() });

async function models() {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert(ids.includes(MODEL));
  same((await client.models.retrieve(MODEL)).id, MODEL);
}

async function chat() {
  const answer = await client.chat.completions.create({ model: MODEL, messages: QUESTION, max_tokens: 20 });
  assert(answer.choices[0].message.content);
  same(answer.usage.completion_tokens, 20);
}

async function stream() {
  const pieces = await client.chat.completions.create({
    model: MODEL, messages: QUESTION, max_tokens: 20, stream: true, stream_options: { include_usage: true },
  });
  const seen = [];
  for await (const piece of pieces) seen.push(piece);
  assert(seen.length > 10);
  same(seen.at(-1).usage.completion_tokens, 20);
  same(seen.at(-2).choices[0].finish_reason, 'length');
}

async function tools() {
  const asked = await client.chat.completions.create({ model: MODEL, messages: QUESTION, tools: [TOOL] });
  const { message } = asked.choices[0];
  same(JSON.parse(message.tool_calls[0].function.arguments), ARGUMENTS);
  const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'there' };
  const answer = await client.chat.completions.create({
    model: MODEL, messages: [...QUESTION, message, result], tools: [TOOL], max_tokens: 5,
  });
  assert(answer.choices[0].message.content);
}

async function tools_stream() {
  const runner = client.chat.completions.stream({
    model: MODEL, messages: QUESTION, tools: [zodFunction({ name: 'find', parameters: Find })],
  });
  const call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0];
  same(call.function.parsed_arguments, ARGUMENTS);
}

async function run_tools() {
  const called = [];
  const runner = client.chat.completions.runTools({
    model: MODEL, messages: QUESTION, stream: true,
    tools: [{
      type: 'function',
      function: {
        ...TOOL.function, parse: JSON.parse,
        function: (given) => { called.push(given); return 'there'; },
      },
    }],
  });
  assert(await runner.finalContent());
  same(called, [ARGUMENTS]);
}

async function structured() {
  const answer = await client.chat.completions.parse({
    model: MODEL, messages: QUESTION, response_format: zodResponseFormat(Find, 'find'),
  });
  same(answer.choices[0].message.parsed, ARGUMENTS);
}

async function abort() {
  const asked = { model: MODEL, messages: QUESTION, max_tokens: ENDLESS, stream: true };
  const pieces = await client.chat.completions.create(asked);
  for await (const _ of pieces) break;
  const control = new AbortController();
  const waiting = client.chat.completions.create({ ...asked, stream: false }, { signal: control.signal });
  setTimeout(() => control.abort(), 500);
  try {
    await waiting;
  } catch (error) {
    assert(error instanceof OpenAI.APIUserAbortError, error);
    return;
  }
  throw new Error('not aborted');
}

async function errors() {
  for (const [kind, fields] of [
    [OpenAI.NotFoundError, { model: 'unknown' }], [OpenAI.BadRequestError, { messages: [] }],
  ]) {
    try {
      await client.chat.completions.create({ model: MODEL, messages: QUESTION, ...fields });
    } catch (error) {
      assert(error instanceof kind, error);
      continue;
    }
    throw new Error('no error');
  }
}

await run(models, chat, stream, tools, tools_stream, run_tools, structured, abort, errors);
