// Anthropic's and OpenAI's clients for Node, with what agents ask of Messages and Responses.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { assert, same, MODEL, URL, ARGUMENTS, ENDLESS, run } from './reporting.mjs';

const { messages } = new Anthropic({ baseURL: URL, apiKey: 'none', maxRetries: 0 });
const openai = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none', maxRetries: 0 });
const { responses, conversations: talks } = openai;
const system = 'You are a helpful assistant.';
const HELLO = [{ role: 'user', content: 'Hello!' }];
const ASKED = { model: MODEL, max_tokens: 8, system };
const MOST = { model: MODEL, max_output_tokens: 8, instructions: system };
const SHORT = 'Tell me about prefix caching, please. '.repeat(30);
const LONG = SHORT.repeat(5);
const PARAMETERS = {
  type: 'object',
  properties: { what: { type: 'string', enum: ['the'] }, how_many: { type: 'integer', enum: [1] } },
  required: ['what', 'how_many'], additionalProperties: false,
};
const FIND = { name: 'find', description: 'Find it.', input_schema: PARAMETERS };
const FUNCTION = { type: 'function', name: 'find', parameters: PARAMETERS, strict: true };

function total(usage) {
  return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
}

async function fails(kind, attempt) {
  try {
    await attempt();
  } catch (error) {
    assert(error instanceof kind, error);
    return;
  }
  throw new Error('no error');
}

async function message() {
  const thoughts = { type: 'thinking', thinking: 'Simple.', signature: 'x' };
  const said = { role: 'assistant', content: [thoughts, { type: 'text', text: 'Hi!' }] };
  const answer = await messages.create({
    ...ASKED, messages: [...HELLO, said, ...HELLO], thinking: { type: 'adaptive' },
  });
  assert(answer.content.length && answer.usage.output_tokens);
}

async function message_stream() {
  const first = { role: 'user', content: SHORT };
  const stream = messages.stream({ ...ASKED, messages: [first] });
  let text = '';
  stream.on('text', (piece) => { text += piece; });
  const answer = await stream.finalMessage();
  same(answer.content[0].text, text);
  const history = [first, { role: 'assistant', content: text }, ...HELLO];
  const found = (await messages.create({ ...ASKED, messages: history })).usage.cache_read_input_tokens;
  assert(found >= 0.95 * Math.floor(total(answer.usage) / 32) * 32, found);
}

async function message_tools() {
  for (const streamed of [false, true]) {
    const asked = { ...ASKED, max_tokens: 100, tools: [FIND], messages: [{ role: 'user', content: `find ${streamed}` }] };
    const choice = { ...asked, tool_choice: { type: 'tool', name: 'find' } };
    const answer = streamed ? await messages.stream(choice).finalMessage() : await messages.create(choice);
    const [call] = answer.content;
    same([answer.stop_reason, call.name, call.input], ['tool_use', 'find', ARGUMENTS]);
    const result = { type: 'tool_result', tool_use_id: call.id, content: 'there' };
    asked.messages.push({ role: 'assistant', content: [call] }, { role: 'user', content: [result] });
    assert((await messages.create(asked)).stop_reason);
  }
}

async function count_tokens() {
  const prompt = { model: MODEL, system, messages: HELLO, tools: [FIND] };
  const counted = (await messages.countTokens(prompt)).input_tokens;
  same(counted, total((await messages.create({ ...prompt, max_tokens: 8 })).usage));
}

async function cache_control() {
  const marked = { type: 'text', text: `Once more in Node. ${LONG}`, cache_control: { type: 'ephemeral', ttl: '1h' } };
  const asked = { ...ASKED, system: [marked], messages: HELLO };
  const { usage } = await messages.create(asked);
  same(usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_creation_input_tokens);
  assert(usage.cache_creation_input_tokens >= 1000, JSON.stringify(usage));
  const again = (await messages.stream(asked).finalMessage()).usage;
  assert(again.cache_read_input_tokens >= 1000, JSON.stringify(again));
  same(total(again), total(usage));
}

async function message_errors() {
  const marked = { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } };
  for (const [kind, fields] of [
    [Anthropic.NotFoundError, { model: 'unknown' }],
    [Anthropic.BadRequestError, { messages: [{ role: 'user', content: LONG.repeat(20) }] }],
    [Anthropic.BadRequestError, { messages: [{ role: 'user', content: Array(5).fill(marked) }] }],
  ]) await fails(kind, () => messages.create({ ...ASKED, messages: HELLO, ...fields }));
}

async function abort() {
  const stream = messages.stream({ ...ASKED, max_tokens: ENDLESS, messages: HELLO });
  stream.once('text', () => stream.abort());
  await fails(Anthropic.APIUserAbortError, () => stream.finalMessage());
}

async function response() {
  const answer = await responses.create({ ...MOST, input: 'Hello!' });
  assert(answer.output_text);
  same((await responses.retrieve(answer.id)).output_text, answer.output_text);
  same((await responses.inputItems.list(answer.id)).data[0].content[0].text, 'Hello!');
  await responses.delete(answer.id);
  await fails(OpenAI.NotFoundError, () => responses.retrieve(answer.id));
}

async function turns() {
  let answer = await responses.create({ ...MOST, input: `Some turns. ${SHORT}` });
  for (const number of [0, 1, 2]) {
    const before = answer;
    const asked = { ...MOST, input: `Go on ${number}.`, previous_response_id: before.id };
    answer = number === 1 ? await responses.stream(asked).finalResponse() : await responses.create(asked);
    same(answer.previous_response_id, before.id);
    const found = answer.usage.input_tokens_details.cached_tokens;
    assert(found >= 0.95 * Math.floor(before.usage.input_tokens / 32) * 32, found);
  }
}

async function response_tools() {
  for (const streamed of [false, true]) {
    const asked = { ...MOST, max_output_tokens: 100, tools: [FUNCTION] };
    const choice = { ...asked, input: `find ${streamed}`, tool_choice: { type: 'function', name: 'find' } };
    const answer = streamed ? await responses.stream(choice).finalResponse() : await responses.create(choice);
    const call = answer.output.find((item) => item.type === 'function_call');
    same([call.name, JSON.parse(call.arguments)], ['find', ARGUMENTS]);
    const input = [{ type: 'function_call_output', call_id: call.call_id, output: 'there' }];
    assert((await responses.create({ ...asked, input, previous_response_id: answer.id })).output.length);
  }
}

async function conversations() {
  const made = await talks.create({ metadata: { a: 'b' } });
  for (const input of ['One.', 'Two.']) {
    same((await responses.create({ ...MOST, input, conversation: made.id })).conversation.id, made.id);
  }
  const roles = [];
  for await (const item of talks.items.list(made.id, { order: 'asc' })) roles.push(item.role);
  same(roles, ['user', 'assistant', 'user', 'assistant']);
  await talks.update(made.id, { metadata: { c: 'd' } });
  same((await talks.retrieve(made.id)).metadata, { c: 'd' });
  await talks.delete(made.id);
  await fails(OpenAI.NotFoundError, () => talks.retrieve(made.id));
}

async function background() {
  const seen = [];
  const asked = { ...MOST, input: 'Hello!', background: true };
  for await (const event of await responses.create({ ...asked, stream: true })) {
    seen.push(event);
    if (seen.length === 5) break;
  }
  const rest = { stream: true, starting_after: seen.at(-1).sequence_number };
  for await (const event of await responses.retrieve(seen[0].response.id, rest)) seen.push(event);
  same(seen.map((event) => event.sequence_number), seen.map((_, number) => number));
  assert(['response.completed', 'response.incomplete'].includes(seen.at(-1).type), seen.at(-1).type);
  const going = await responses.create({ ...asked, max_output_tokens: 2000 });
  same(going.status, 'queued');
  same((await responses.cancel(going.id)).status, 'cancelled');
  same((await responses.retrieve(going.id)).status, 'cancelled');
}

async function response_errors() {
  for (const [kind, fields] of [
    [OpenAI.NotFoundError, { model: 'unknown' }],
    [OpenAI.BadRequestError, { input: 5 }],
    [OpenAI.NotFoundError, { previous_response_id: 'resp_unknown' }],
  ]) await fails(kind, () => responses.create({ ...MOST, input: 'Hello!', ...fields }));
}

await run(
  message, message_stream, message_tools, count_tokens, cache_control, message_errors, abort, response, turns,
  response_tools, conversations, background, response_errors,
);
