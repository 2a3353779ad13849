/** The words for a run's parts; mastra_nb/views.py says the same in Markdown. */

import { dollars, IItem, IPending, IRecord, Json, seconds } from '../record';

export function jsonText(value: Json | undefined): string {
  return value === undefined ? '' : JSON.stringify(value);
}

export function short(text: string, limit: number): string {
  return text.length <= limit ? text : text.slice(0, limit - 1) + '…';
}

export function isObject(value: unknown): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Arguments as in a call, short: `city="Oslo", days=3`. */
export function argsText(args: Json | undefined, limit = 100): string {
  if (isObject(args)) {
    const parts = Object.entries(args).map(([name, v]) => `${name}=${short(jsonText(v), 60)}`);
    return short(parts.join(', '), limit);
  }
  if (args === undefined || args === null) {
    return '';
  }
  return short(typeof args === 'string' ? args : jsonText(args), limit);
}

const KINDS: { [kind: string]: string } = {
  handoff: 'handed over to',
  structure: 'made a'
};

export function kindText(kind: string): string {
  return Object.hasOwn(KINDS, kind) ? KINDS[kind] : '';
}

/** What has become of a call, if it is not simply done. */
export function statusText(item: IItem): string {
  switch (item.status) {
    case 'running':
      return 'running';
    case 'streaming':
      return 'writing';
    case 'error':
      return item.error?.code === 'tool.denied' ? '✗ denied' : '✗ failed';
    case 'cancelled':
      return '■ cancelled';
    case 'suspended':
      return 'waits';
    case 'not run':
      return 'not run';
    default:
      return '';
  }
}

/** What a running run is at: agent, step, and the calls that run, or "writing" or "thinking". */
export function doing(record: IRecord): string[] {
  const who = record.agent || 'run';
  if (record.graph) {
    const states = isObject(record.graph.states) ? record.graph.states : {};
    const names = Object.keys(states).filter(
      name => isObject(states[name]) && (states[name] as { status?: Json }).status === 'running'
    );
    const inner = names.filter(name => !names.some(other => other.startsWith(name + '/')));
    const more = inner.length > 5 ? [`${inner.length - 5} more`] : [];
    return [who, [...inner.slice(0, 5), ...more].join(', ') || 'starting'];
  }
  const calls = [...running(record.items ?? [])];
  const writes = record.text !== undefined || record.at !== undefined;
  const what = calls.join(', ') || (writes ? 'writing' : 'thinking');
  return [who, ...(record.step ? [`step ${record.step}`] : []), what];
}

function* running(items: IItem[]): Iterable<string> {
  for (const item of items) {
    if (item.status === 'running' || item.status === 'streaming') {
      const inner = [...running(item.items ?? [])];
      yield* inner.length ? inner : [item.name ?? item.type];
    }
  }
}

/** Calls of a model that was asked by itself: nobody ran them. */
export function hasCalls(record: IRecord): boolean {
  return (record.items ?? []).some(item => item.status === 'not run');
}

export function stopped(record: IRecord): string {
  const tokens = record.usage?.output ?? 0;
  return tokens ? `■ stopped after ${tokens.toLocaleString('en')} tokens` : '■ stopped';
}

export function footer(record: IRecord, showCost: boolean): string[] {
  const out = record.model ? [record.model] : [];
  const usage = record.usage;
  // A call that was cut off never says what it used.
  if (usage && (usage.input || usage.output)) {
    const about = usage.estimated ? '~' : '';
    const cached = usage.cached ? ` (${usage.cached.toLocaleString('en')} cached)` : '';
    const [input, output] = [usage.input, usage.output].map(n => about + n.toLocaleString('en'));
    out.push(`${input} in${cached} / ${output} out tokens`);
    if (showCost) {
      out.push(usage.cost === null ? 'cost unknown' : about + dollars(usage.cost));
    }
  }
  if (record.seconds !== undefined) {
    out.push(seconds(record.seconds));
  }
  if (record.thread) {
    out.push(`thread ${record.thread}`);
  }
  return out;
}

/** `12 steps`, and how many of them failed. */
export function stepsText(record: IRecord): string {
  let n = 0;
  for (const item of record.items ?? []) {
    n += item.type === 'more' ? (item.count ?? 0) : item.status !== undefined ? 1 : 0;
  }
  const states = isObject(record.graph?.states) ? record.graph.states : {};
  let failed = 0;
  for (const [name, state] of Object.entries(states)) {
    if (!name.includes('/') && isObject(state)) {
      failed += Number(state.failed ?? 0) || (state.status === 'error' ? 1 : 0);
    }
  }
  const said = `${n.toLocaleString('en')} step${n === 1 ? '' : 's'}`;
  return failed ? `${said} · ✗ ${failed.toLocaleString('en')} failed` : said;
}

/** How to answer each of what is pending from a cell; where there are several, by its place. */
export function resumes(record: IRecord): string[] {
  const asked = record.pending ?? [];
  const id = record.run ? ` ${record.run}` : '';
  const lasts = asked.map(each => each.path.slice(each.path.lastIndexOf('/') + 1));
  const names = lasts.map(last => last.split('[')[0].split('#')[0]);
  const only = (all: string[], one: string) => all.filter(each => each === one).length === 1;
  return asked.map((each, i) => {
    const place = only(names, names[i]) ? names[i] : only(lasts, lasts[i]) ? lasts[i] : each.path;
    const quoted = /[\s'"\\]/.test(place) ? `'${place.replace(/'/g, `'"'"'`)}'` : place;
    return `%resume${id}${asked.length > 1 ? ` --at ${quoted}` : ''} ${answerForm(each)}`;
  });
}

function answerForm(asked: IPending): string {
  if (asked.reason === 'approval') {
    return 'approve';
  }
  const schema = asked.schema;
  if (!isObject(schema)) {
    return '{…}';
  }
  if (Array.isArray(schema.enum)) {
    return schema.enum.slice(0, 4).map(v => (typeof v === 'string' ? v : jsonText(v))).join('|');
  }
  if (isObject(schema.properties) && Object.keys(schema.properties).length) {
    const names = Object.keys(schema.properties).map(name => `"${name}": …`);
    return `{${names.join(', ')}}`;
  }
  const known: { [type: string]: string } = {
    boolean: 'true|false',
    string: 'TEXT',
    integer: 'NUMBER',
    number: 'NUMBER'
  };
  return known[String(schema.type)] ?? '{…}';
}

/** Exact to what can be told apart in a picture. */
export function duration(value: number): string {
  if (value < 0.001) {
    return '<1 ms';
  }
  if (value < 1) {
    return `${Math.round(value * 1000)} ms`;
  }
  if (value < 60) {
    return `${value.toFixed(1)} s`;
  }
  const minutes = Math.floor(value / 60);
  if (minutes < 60) {
    return `${minutes} min ${Math.floor(value % 60)} s`;
  }
  return minutes < 2880
    ? `${Math.floor(minutes / 60)} h ${minutes % 60} min`
    : `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}
