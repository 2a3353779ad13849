/** A workflow's picture: each node's state by its class, each node a link to its calls. */

import type { IItem } from '../record';
import { clean, el, setData, setText, svg } from './dom';
import { Chart, HIGH, IBox, IPen, ITitle } from './graph';
import { iconPath, markClass, markPath } from './icons';
import { Graph, INode, IState, nodesOf, statesOf } from './outline';
import { duration, jsonText } from './words';

const WIDTH = 880;
const LEAST = 112;
const MOST = 190;
const ROUND: { [kind: string]: number } = {
  agent: 14,
  tool: 3,
  map: 3,
  sleep: 20,
  event: 20,
  ask: 20
};
const WAITING: IState = {
  status: 'waiting',
  attempts: 1,
  done: 0,
  running: 0,
  failed: 0,
  total: 0,
  error: ''
};

let pen: CanvasRenderingContext2D | null = null;

/** How wide a text is, in pixels. */
function widthOf(text: string, size: number): number {
  pen ??= document.createElement('canvas').getContext('2d');
  if (!pen) {
    return text.length * size * 0.62;
  }
  pen.font = `${size}px system-ui, -apple-system, "Segoe UI", helvetica, arial, sans-serif`;
  return pen.measureText(text).width * 1.04 + 1;
}

function clip(text: string, most: number, size = 12): string {
  let line = clean(text.slice(0, 400)).replace(/\s+/g, ' ').trim();
  if (widthOf(line, size) <= most) {
    return line;
  }
  while (line && widthOf(line + '…', size) > most) {
    line = line.slice(0, -1);
  }
  return line.trimEnd() + '…';
}

function said(state: IState): string {
  const parts: string[] = [];
  if (state.total > 0) {
    const ended = state.done + state.failed;
    parts.push(`${ended.toLocaleString('en')}/${state.total.toLocaleString('en')}`);
    if (state.failed) {
      parts.push(`✗ ${state.failed.toLocaleString('en')}`);
    }
  }
  if (state.seconds !== undefined && state.status !== 'skipped') {
    parts.push(duration(state.seconds));
  }
  if (state.attempts > 1) {
    parts.push(`×${state.attempts}`);
  }
  if (parts.length || state.status === 'waiting') {
    return parts.join(' · ');
  }
  return state.status === 'suspended' ? 'waits' : state.status;
}

/** A node or the title of a nested workflow that shows a state. */
interface IPart {
  set(state: IState, linked: boolean): void;
}

export class GraphView {
  readonly node = el('div', 'mnb-Graph');

  constructor(private readonly _reveal: (names: readonly string[]) => boolean) {}

  update(graph: Graph, items: IItem[] | null): void {
    const { states: _, ...outline } = graph;
    const text = jsonText(outline);
    if (text !== this._outline) {
      this._outline = text;
      this._build(graph);
    }
    const states = statesOf(graph);
    for (const [key, part] of this._parts) {
      const state = states.get(key) ?? WAITING;
      part.set(state, items !== null && state.status !== 'waiting' && state.status !== 'skipped');
    }
    setData(this.node, 'states', String(graph.states !== undefined));
  }

  private _build(graph: Graph): void {
    this._parts.clear();
    const drawer = new Pen(this._parts, this._reveal);
    const chart = new Chart(drawer, WIDTH);
    drawer.layer = chart.nodes;
    const { w, h, parts } = chart.draw(nodesOf(graph.nodes));
    const name = String(graph.name ?? 'workflow');
    const picture = svg('svg', {
      viewBox: `0 0 ${Math.ceil(w)} ${Math.ceil(h)}`,
      width: Math.ceil(w),
      height: Math.ceil(h),
      role: 'group',
      'aria-label': clean(`workflow ${name.slice(0, 200)}`),
      'data-lm-suppress-shortcuts': 'true'
    });
    picture.append(...parts);
    this.node.replaceChildren(picture);
    setData(this.node, 'dashed', String(graph.dashed === true));
  }

  private _outline = '';
  private _parts = new Map<string, IPart>();
}

class Pen implements IPen {
  layer: SVGGElement = svg('g');

  constructor(
    private readonly _parts: Map<string, IPart>,
    private readonly _reveal: (names: readonly string[]) => boolean
  ) {}

  card(node: INode, names: string[], each: INode | null): IBox {
    const first = clip(node.id, MOST - 34) || '?';
    const idle = each
      ? `for each, ${each.concurrency} at a time`
      : node.when
        ? `when ${node.when}`
        : node.label;
    const second = clip(idle, MOST - 34, 11);
    // Wide enough for any state, so that nothing moves while it runs.
    const w = Math.max(each ? 164 : LEAST, widthOf(first, 12) + 36, widthOf(second, 11) + 36);
    const stack = each ? 6 : 0;
    const radius = ROUND[node.type] ?? 8;
    const group = svg('g', { class: 'mnb-Graph-node' });
    const title = svg('title');
    group.append(title);
    for (const shift of each ? [6, 3, 0] : [0]) {
      group.append(svg('rect', { x: shift, y: shift, width: w, height: HIGH, rx: radius }));
    }
    const sign = svg('path', { class: 'mnb-Graph-icon', d: iconPath(node.type) });
    const name = svg('text', { class: 'mnb-Graph-name', x: 26 }, first);
    const line = svg('text', { class: 'mnb-Graph-under', y: 32.5 });
    const mark = svg('path', { transform: 'translate(9 22)' });
    const bar = svg('g', { class: 'mnb-Graph-bar' });
    group.append(sign, name, line, mark, bar);
    const about = [node.id, node.label, node.about, idle !== node.label ? idle : ''];
    this._part(group, names, `${node.type} ${node.id}`, state => {
      const under = state.status === 'waiting' ? second : clip(said(state), w - 34, 11);
      setText(line, under);
      const drawn = markPath(state.status);
      line.setAttribute('x', drawn || widthOf(under, 11) <= w - 36 ? '26' : '10');
      name.setAttribute('y', under ? '17' : '24.5');
      sign.setAttribute('transform', `translate(9 ${under ? 6.5 : 14})`);
      mark.setAttribute('d', drawn);
      mark.setAttribute('class', markClass(state.status));
      mark.dataset.status = state.status;
      setText(title, [...about, said(state), state.error].filter(Boolean).join('\n'));
      this._fill(bar, each ? state : WAITING, w, Math.max(8, radius));
    });
    const draw = (x: number, y: number) => {
      group.setAttribute('transform', `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      this.layer.append(group);
    };
    return { w: w + stack, h: HIGH + stack, inp: HIGH / 2, out: HIGH / 2, draw };
  }

  title(kind: string, text: string, names: string[] | null, layer: SVGGElement): ITitle {
    const label = clip(text, 260, 11);
    const group = svg('g', { class: 'mnb-Graph-title' });
    const wide = widthOf(label, 11);
    const state = names ? 110 : 0;
    const w = 28 + wide;
    const box = svg('rect', { width: w, height: 17, rx: 8 });
    const place = 'translate(5 2.5)';
    const sign = svg('path', { class: 'mnb-Graph-icon', d: iconPath(kind), transform: place });
    const line = svg('text', { class: 'mnb-Graph-under', x: 36 + wide, y: 12.5 });
    const mark = svg('path', { transform: `translate(${(23 + wide).toFixed(1)} 2.5)` });
    const title = svg('title');
    group.append(title, box, sign, svg('text', { x: 20, y: 12.5 }, label), mark, line);
    if (names) {
      this._part(group, names, `workflow ${text}`, found => {
        const under = clip(said(found), state - 24, 11);
        setText(line, under);
        mark.setAttribute('d', markPath(found.status));
        mark.setAttribute('class', markClass(found.status));
        mark.dataset.status = found.status;
        box.setAttribute('width', (w + (under ? widthOf(under, 11) + 16 : 0)).toFixed(1));
        setText(title, [text, said(found), found.error].filter(Boolean).join('\n'));
      });
    } else {
      setText(title, text);
    }
    return { w: w + state, draw: (x, y) => this._place(group, layer, x, y) };
  }

  pill(text: string, layer: SVGGElement): ITitle {
    const label = clip(text, 240, 11);
    const w = widthOf(label, 11) + 12;
    const group = svg('g', { class: 'mnb-Graph-title' });
    group.append(
      svg('title', {}, text),
      svg('rect', { width: w, height: 16, rx: 8 }),
      svg('text', { x: 6, y: 12 }, label)
    );
    return { w, draw: (x, y) => this._place(group, layer, x, y) };
  }

  private _place(group: SVGGElement, layer: SVGGElement, x: number, y: number): void {
    group.setAttribute('transform', `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    layer.append(group);
  }

  /** Makes `group` show its state, and lead to its calls once there are some. */
  private _part(
    group: SVGGElement,
    names: string[],
    label: string,
    drawn: (state: IState) => void
  ): void {
    let shown = '';
    const go = () => {
      if (group.getAttribute('role') === 'link') {
        this._reveal(names);
      }
    };
    group.addEventListener('click', go);
    group.addEventListener('keydown', event => {
      if (event.key === 'Enter') {
        event.preventDefault();
        event.stopPropagation();
        go();
      }
    });
    this._parts.set(names.join('/'), {
      set: (state, linked) => {
        const text = jsonText({ ...state, linked });
        if (text === shown) {
          return;
        }
        shown = text;
        setData(group, 'status', state.status);
        drawn(state);
        if (linked) {
          group.setAttribute('role', 'link');
          group.setAttribute('tabindex', '0');
          group.setAttribute('aria-label', clean(`${label}, ${state.status}, ${said(state)}`));
        } else {
          ['role', 'tabindex', 'aria-label'].forEach(name => group.removeAttribute(name));
        }
      }
    });
  }

  private _fill(bar: SVGGElement, state: IState, w: number, left: number): void {
    bar.replaceChildren();
    if (state.total <= 0) {
      return;
    }
    const whole = w - 2 * left;
    const done = (whole * state.done) / state.total;
    const failed = (whole * state.failed) / state.total;
    const part = (status: string, x: number, width: number) =>
      svg('rect', { class: `mnb-mod-${status}`, x, y: HIGH - 4.5, width, height: 2.5, rx: 1.2 });
    bar.append(part('all', left, whole), part('ok', left, done));
    bar.append(part('error', left + done, failed));
  }
}
