// How a client's script says what worked: one line of JSON for each case.
import { deepStrictEqual } from 'node:assert';

export const [URL, MODEL] = process.argv.slice(2);
export const QUESTION = [
  { role: 'system', content: 'You are a helpful assistant.' }, { role: 'user', content: 'Hello!' },
];
export const TOOL = {
  type: 'function',
  function: {
    name: 'find', description: 'Find it.',
    parameters: {
      type: 'object', properties: { what: { type: 'string' }, how_many: { type: 'integer' } },
      required: ['what', 'how_many'], additionalProperties: false,
    },
  },
};
export const ARGUMENTS = { what: 'the', how_many: 1 };
export const ENDLESS = 4000;
export const same = deepStrictEqual;

export function assert(value, said = 'not true') {
  if (!value) throw new Error(String(said));
}

export async function run(...cases) {
  for (const one of cases) {
    let said = 'ok';
    try {
      await one();
    } catch (error) {
      said = String(error.stack ?? error);
    }
    console.log(JSON.stringify({ case: one.name, said }));
  }
}
