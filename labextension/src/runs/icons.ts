/** Small pictures, 12 x 12, drawn with a line: which fonts have such signs differs. */

import { svg } from './dom';

const PATHS: { [name: string]: string } = {
  step: 'M6 1l4.6 2.5v5L6 11 1.4 8.5v-5zM1.6 3.6 6 6l4.4-2.4M6 6v5',
  agent: 'M2 4.5h8v6H2zM6 4.5V2M4.5 7v1M7.5 7v1M6 1.2v.6',
  tool: 'M7.8 1.4a3 3 0 0 0-2.9 4L1.4 9l1.6 1.6 3.5-3.5a3 3 0 0 0 4-2.9L8.7 6 6 5.9 6 3.3z',
  map: 'M1.5 4h8.5L7.5 1.5M10.5 8H2l2.5 2.5',
  sleep: 'M6 1a5 5 0 1 0 .01 0zM6 3.2V6l2 1.4',
  event: 'M2 9h8L9 7.5V5a3 3 0 0 0-6 0v2.5zM5 10.8h2',
  ask: 'M1.5 1.8h9v6.4H6.2L3.5 10.8V8.2h-2zM4 4h4M4 6h2.5',
  call: 'M1.5 6h8M6.5 3l3 3-3 3',
  workflow: 'M1 4.5h3v3H1zM8 1.2h3v3H8zM8 7.8h3v3H8zM4 6h2V2.7h2M6 6v3.3h2',
  loop: 'M10 6.5a4 4 0 1 1-1.3-3.4M9.2.6v2.7H6.5',
  foreach: 'M1.5 4.5h6v6h-6zM4.5 4.5v-3h6v6h-3',
  handoff: 'M1.5 8.5c0-4 3-5 8-5M7 1l2.7 2.5L7 6',
  structure:
    'M4.5 1.5C2 1.5 4 6 1.5 6 4 6 2 10.5 4.5 10.5M7.5 1.5C10 1.5 8 6 10.5 6 8 6 10 10.5 7.5 10.5',
  memory: 'M2 3c0-2.2 8-2.2 8 0v6c0 2.2-8 2.2-8 0zM2 3c0 2.2 8 2.2 8 0M2 6c0 2.2 8 2.2 8 0',
  embedding: 'M2 2h2v2H2zM8 3h2v2H8zM5 8h2v2H5zM4 4l1.5 4M8 5L6.5 8M4 3l4 1',
  reasoning: 'M4.5 9h3M5 10.8h2M4.5 9C4.5 7 2.5 6.8 2.5 4.4a3.5 3.5 0 0 1 7 0C9.5 6.8 7.5 7 7.5 9',
  custom: 'M6 1.2 10.8 6 6 10.8 1.2 6z',
  score: 'M6 1.3l1.5 3.1 3.4.4-2.5 2.3.7 3.4L6 8.8l-3.1 1.7.7-3.4L1.1 4.8l3.4-.4z',
  note: 'M6 1a5 5 0 1 0 .01 0zM6 5.3v3.5M6 3.2v.9',
  timeline: 'M1.5 2.5h4M3.5 6h5M6 9.5h4.5',
  resume: 'M3 1.5v9l7-4.5z'
};

const MARKS: { [status: string]: string } = {
  new: 'M6 2a4 4 0 1 0 .01 0z',
  running: 'M3 2l6 4-6 4z',
  streaming: 'M3 2l6 4-6 4z',
  ok: 'M2 6.5l3 3 5-7',
  done: 'M2 6.5l3 3 5-7',
  error: 'M2.5 2.5l7 7m0-7l-7 7',
  failed: 'M2.5 2.5l7 7m0-7l-7 7',
  cancelled: 'M2.8 2.8h6.4v6.4H2.8z',
  suspended: 'M4 2v8M8 2v8',
  skipped: 'M2 6h8'
};
/** Marks that are an area, not a line. */
const FILLED = ['running', 'streaming', 'cancelled'];

function drawn(d: string, className: string): SVGSVGElement {
  const node = svg('svg', { class: className, viewBox: '0 0 12 12', 'aria-hidden': 'true' });
  node.append(svg('path', { d }));
  return node;
}

export function iconPath(kind: string): string {
  return Object.hasOwn(PATHS, kind) ? PATHS[kind] : PATHS.call;
}

export function icon(kind: string): SVGSVGElement {
  return drawn(iconPath(kind), 'mnb-Icon');
}

export function markPath(status: string): string {
  return Object.hasOwn(MARKS, status) ? MARKS[status] : '';
}

export function markClass(status: string): string {
  return FILLED.includes(status) ? 'mnb-Mark mnb-mod-filled' : 'mnb-Mark';
}

/** The sign of a status, in its colour; nothing for one that is not known. */
export function mark(status: string): SVGSVGElement {
  const node = drawn(markPath(status), markClass(status));
  node.dataset.status = Object.hasOwn(MARKS, status) ? status : 'waiting';
  return node;
}
