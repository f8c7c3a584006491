// Vercel's AI SDK with its provider for servers that speak OpenAI's API, against a router.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';
import { assert, same, MODEL, URL, ARGUMENTS, ENDLESS, run } from './reporting.mjs';

const provider = createOpenAICompatible({
  name: 'warmroute', baseURL: `${URL}/v1`, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true,
});
const schema = z.object({ what: z.string(), how_many: z.number().int() });
const asked = { model: provider(MODEL), system: 'You are a helpful assistant.', prompt: 'Hello!', maxRetries: 0 };

function find(called) {
  return tool({
    description: 'Find it.', inputSchema: schema,
    execute: async (given) => { called.push(given); return 'there'; },
  });
}

async function chat() {
  const { text, usage, finishReason } = await generateText({ ...asked, maxOutputTokens: 20 });
  assert(text);
  same(usage.outputTokens, 20);
  same(finishReason, 'length');
}

async function stream() {
  const result = streamText({ ...asked, maxOutputTokens: 20, onError: ({ error }) => { throw error; } });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  assert(pieces.length > 5);
  same((await result.usage).outputTokens, 20);
}

async function tools() {
  const called = [];
  const result = await generateText({ ...asked, tools: { find: find(called) }, stopWhen: stepCountIs(3) });
  same(called, [ARGUMENTS]);
  same(result.steps.length, 2);
  assert(result.text);
}

async function tools_stream() {
  const called = [];
  const result = streamText({ ...asked, tools: { find: find(called) }, stopWhen: stepCountIs(3) });
  await result.consumeStream();
  same(called, [ARGUMENTS]);
  assert(await result.text);
}

async function structured() {
  same((await generateObject({ ...asked, schema })).object, ARGUMENTS);
  const result = streamObject({ ...asked, schema });
  for await (const _ of result.partialObjectStream);
  same(await result.object, ARGUMENTS);
}

async function abort() {
  const control = new AbortController();
  const result = streamText({ ...asked, maxOutputTokens: ENDLESS, abortSignal: control.signal });
  for await (const _ of result.textStream) control.abort();
  assert(control.signal.aborted);
}

async function errors() {
  try {
    await generateText({ ...asked, model: provider('unknown') });
  } catch (error) {
    same(error.statusCode, 404);
    assert(error.message.includes('unknown'), error.message);
    return;
  }
  throw new Error('no error');
}

await run(chat, stream, tools, tools_stream, structured, abort, errors);
