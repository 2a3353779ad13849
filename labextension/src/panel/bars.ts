/** The bars of a waterfall: of a workflow's timeline, of a trace, or how long each call took. */

import type { IItem, IRecord, Json } from '../record';

export interface ISpan {
  path: string;
  parent: string | null;
  name: string;
  kind: string;
  status: string;
  /** Seconds since the run began. */
  start: number;
  seconds: number | null;
  depth: number;
  input?: Json;
  output?: Json;
  error?: Json;
  usage?: Json;
}

const MOST = 500;
const DEEPEST = 5;

/** A record without a timeline knows how long its calls took, not when they began. */
export function barsOf(record: IRecord): Json[] {
  return record.timeline ?? [...took(record.items ?? [], 0)].slice(0, MOST);
}

export function isMeasured(record: IRecord): boolean {
  return record.timeline !== undefined;
}

function* took(items: IItem[], depth: number): Iterable<Json> {
  for (const item of items) {
    if (typeof item.seconds === 'number') {
      const name = String(item.name ?? item.type);
      yield { name, start: 0, end: item.seconds, status: String(item.status ?? 'ok'), depth };
    }
    if (Array.isArray(item.items) && depth < DEEPEST) {
      yield* took(item.items, depth + 1);
    }
  }
}

/** `now`: seconds since the run began, for spans that are not over. */
export function barsOfSpans(spans: readonly ISpan[], now: number): Json[] {
  return spans.map(span => ({
    name: span.name,
    start: span.start,
    end: span.seconds === null ? now : span.start + span.seconds,
    status: span.status,
    depth: span.depth
  }));
}
