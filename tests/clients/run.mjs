// Runs the scenarios of a module against a server: node run.mjs URL MODULE [NAME...]
// Says what each gave, or what it threw, as one line of JSON.
import { MastraClient } from '@mastra/client-js';

const [url, module, ...names] = process.argv.slice(2);
const scenarios = await import(new URL(module, import.meta.url));
const client = new MastraClient({ baseUrl: url, retries: 0 });
const told = {};
// What the client says beside its answers.
const noise = [];
for (const way of ['log', 'warn', 'error', 'info', 'debug'])
  console[way] = (...words) => noise.push(words.map(String).join(' '));

for (const name of names.length ? names : Object.keys(scenarios)) {
  noise.length = 0;
  try {
    told[name] = { gave: await scenarios[name](client, { url }), noise: [...noise] };
  } catch (error) {
    const { status, body, message, stack } = error;
    told[name] = { threw: { status, body, message, stack }, noise: [...noise] };
  }
}
process.stdout.write(JSON.stringify(told), () => process.exit(0));
