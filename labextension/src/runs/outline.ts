/** A workflow's outline, as mastra_nb/graphs.py describes it. It may come from anywhere. */

import type { IItem, Json } from '../record';
import { isObject } from './words';

export interface INode {
  type: string;
  id: string;
  label: string;
  about: string;
  when: string;
  how: string;
  exclusive: boolean;
  concurrency: number;
  nodes: INode[];
  arms: { when: string; nodes: INode[] }[];
  edges: [string, string][];
}

/** How far a node is; the counts are there for one that is called more than once. */
export interface IState {
  status: string;
  seconds?: number;
  attempts: number;
  done: number;
  running: number;
  failed: number;
  total: number;
  error: string;
}

export type Graph = NonNullable<IItem['graph']>;

const MAX_DEPTH = 12;

function text(value: Json | undefined): string {
  return value === undefined || value === null ? '' : String(value).slice(0, 300);
}

export function nodesOf(value: Json | undefined, depth = 0): INode[] {
  if (!Array.isArray(value) || depth > MAX_DEPTH) {
    return [];
  }
  return value.filter(isObject).map(node => ({
    type: text(node.type) || 'step',
    id: text(node.id),
    label: text(node.label),
    about: text(node.about),
    when: text(node.when),
    how: text(node.how),
    exclusive: node.exclusive === true,
    concurrency: typeof node.concurrency === 'number' ? node.concurrency : 1,
    nodes: nodesOf(node.nodes, depth + 1),
    arms: (Array.isArray(node.arms) ? node.arms : []).map(arm =>
      isObject(arm)
        ? { when: text(arm.when), nodes: nodesOf(arm.nodes, depth + 1) }
        : { when: '', nodes: nodesOf(arm, depth + 1) }
    ),
    edges: (Array.isArray(node.edges) ? node.edges : [])
      .filter((edge): edge is Json[] => Array.isArray(edge) && edge.length === 2)
      .map(([a, b]) => [text(a), text(b)])
  }));
}

export function statesOf(graph: Graph): Map<string, IState> {
  const out = new Map<string, IState>();
  const number = (value: Json | undefined, none = 0) => (typeof value === 'number' ? value : none);
  for (const [name, state] of isObject(graph.states) ? Object.entries(graph.states) : []) {
    if (isObject(state)) {
      out.set(name, {
        status: text(state.status) || 'waiting',
        seconds: typeof state.seconds === 'number' ? state.seconds : undefined,
        attempts: number(state.attempts, 1),
        done: number(state.done),
        running: number(state.running),
        failed: number(state.failed),
        total: number(state.total),
        error: text(state.error)
      });
    }
  }
  return out;
}

/** Of every node of a dependency graph what it comes after. */
export function after(node: INode): Map<string, string[]> {
  const out = new Map<string, string[]>(node.nodes.map(each => [each.id, []]));
  for (const [first, then] of node.edges) {
    const known = out.get(then);
    if (known && out.has(first) && !known.includes(first)) {
      known.push(first);
    }
  }
  return out;
}

/** The layer of each node: one more than the deepest of what it comes after. */
export function depths(before: Map<string, string[]>): Map<string, number> {
  const out = new Map<string, number>();
  const left = new Map(before);
  while (left.size) {
    let ready = [...left.keys()].filter(name => left.get(name)!.every(a => !left.has(a)));
    if (!ready.length) {
      ready = [left.keys().next().value as string]; // a circle is cut somewhere
    }
    for (const name of ready) {
      out.set(name, Math.max(0, ...left.get(name)!.map(a => (out.get(a) ?? -1) + 1)));
    }
    ready.forEach(name => left.delete(name));
  }
  return out;
}
