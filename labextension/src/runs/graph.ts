/**
 * Where the parts of a workflow's picture are. It flows as text does: from left to right, and on in
 * the next row where a row is full; arms are stacked.
 */

import { svg } from './dom';
import { after, depths, INode } from './outline';

const GAP = 26; // between two nodes of a row
const FAN = 30; // between a fork and its arms
const ROW = 22; // between two rows
const ARM = 10; // between two arms
const PAD = 12;
const HEAD = 22;
export const HIGH = 40;

/** A part: its size, where the flow comes in and goes out, how it is drawn. */
export interface IBox {
  w: number;
  h: number;
  inp: number;
  out: number;
  /** The flow goes on to several nodes in it, each of which gets the head of an arrow. */
  open?: boolean;
  draw(x: number, y: number): void;
}

/** What draws nodes and the titles of groups; the chart places them. */
export interface IPen {
  card(node: INode, names: string[], each: INode | null): IBox;
  /** A title over a group; its width. `names` are those of a nested workflow. */
  title(kind: string, text: string, names: string[] | null, layer: SVGGElement): ITitle;
  pill(text: string, layer: SVGGElement): ITitle;
}

export interface ITitle {
  w: number;
  draw(x: number, y: number): void;
}

interface IPoint {
  x: number;
  y: number;
  /** Whether an arrow ends there. */
  head: boolean;
}

function near(a: number, b: number): boolean {
  return Math.abs(a - b) < 0.5;
}

function fixed(...values: number[]): string {
  return values.map(value => String(+value.toFixed(1))).join(' ');
}

export class Chart {
  readonly back = svg('g');
  readonly over = svg('g');
  readonly nodes = svg('g');

  constructor(
    private readonly _pen: IPen,
    private readonly _width: number
  ) {}

  /** The picture's parts and its size. */
  draw(nodes: INode[]): { w: number; h: number; parts: SVGElement[] } {
    const flow = this._seq(nodes, this._width - 8, [], true);
    flow.draw(4, 4);
    const lines = svg('path', { class: 'mnb-Graph-line', d: this._lines.join('') });
    const heads = svg('path', { class: 'mnb-Graph-head', d: this._heads.join('') });
    const parts = [this.back, lines, heads, this.nodes, this.over];
    return { w: flow.w + 8, h: flow.h + 8, parts };
  }

  private _curve(x: number, y: number, toX: number, toY: number, head = true): void {
    const end = head ? toX - 5 : toX;
    const bend = (x + end) / 2;
    const to = near(y, toY)
      ? `H${fixed(end)}`
      : `C${fixed(bend, y)} ${fixed(bend, toY)} ${fixed(end, toY)}`;
    this._lines.push(`M${fixed(x, y)}${to}`);
    if (head) {
      this._head(toX, toY);
    }
  }

  private _head(x: number, y: number): void {
    this._heads.push(`M${fixed(x, y)}l-7-3.5v7z`);
  }

  /** From the end of one row around to the start of the next. */
  private _wrap(from: [number, number], mid: number, left: number, to: IPoint): void {
    const [x, y] = from;
    const right = x + 14;
    this._lines.push(
      `M${fixed(x, y)}H${fixed(right - 6)}q6 0 6 6V${fixed(mid - 6)}q0 6-6 6H${fixed(left + 6)}` +
        `q-6 0-6 6V${fixed(to.y - 6)}q0 6 6 6H${fixed(to.x - (to.head ? 5 : 0))}`
    );
    if (to.head) {
      this._head(to.x, to.y);
    }
  }

  private _seq(nodes: INode[], most: number, names: string[], ends = false): IBox {
    let boxes = nodes.map(node => this._node(node, most - 32, names));
    if (ends) {
      boxes = [this._dot('start'), ...boxes, this._dot('end')];
    }
    if (!boxes.length) {
      const draw = (x: number, y: number) => this._curve(x, y + 6, x + 20, y + 6, false);
      return { w: 20, h: 12, inp: 6, out: 6, draw };
    }
    const rows: IBox[][] = [[]];
    let used = 0;
    for (const box of boxes) {
      let row = rows[rows.length - 1];
      // The dots stay with what they open and close.
      const stays =
        ends && (box === boxes[boxes.length - 1] || (rows.length === 1 && row.length < 2));
      if (row.length && used + GAP + box.w > most - 32 && !stays) {
        row = [];
        rows.push(row);
        used = 0;
      }
      used += (row.length ? GAP : 0) + box.w;
      row.push(box);
    }
    const side = rows.length > 1 ? 16 : 0;
    const tops: [number, number][] = []; // the line of the flow, and the bottom, of each row
    let y = 0;
    rows.forEach((row, n) => {
      y += Math.max(...row.map(box => box.inp)) + (n ? ROW : 0);
      const below = Math.max(...row.map(box => box.h - box.inp));
      tops.push([y, y + below]);
      y += below;
    });
    const widths = rows.map(row => row.reduce((w, box) => w + box.w, GAP * (row.length - 1)));
    const total = 2 * side + Math.max(...widths);
    const last = rows[rows.length - 1].slice(-1)[0];
    const draw = (x: number, top: number) => {
      let end: [number, number] | null = null;
      rows.forEach((row, n) => {
        const line = top + tops[n][0];
        let atX = x + side;
        row.forEach((box, k) => {
          if (end !== null && k === 0) {
            const mid = top + tops[n - 1][1] + ROW / 2;
            this._wrap(end, mid, x + 2, { x: atX, y: line, head: !box.open });
          } else if (end !== null) {
            this._curve(...end, atX, line, !box.open);
          } else if (side && !ends) {
            this._curve(x, line, atX, line, false);
          }
          box.draw(atX, line - box.inp);
          end = [atX + box.w, line - box.inp + box.out];
          atX += box.w + GAP;
        });
      });
      const [endX, endY] = end as unknown as [number, number];
      if (endX < x + total - 0.5 && !ends) {
        this._curve(endX, endY, x + total, endY, false);
      }
    };
    const out = tops[tops.length - 1][0] - last.inp + last.out;
    return { w: total, h: y, inp: tops[0][0], out, draw };
  }

  private _dot(which: 'start' | 'end'): IBox {
    const draw = (x: number, y: number) =>
      this.nodes.append(
        svg('circle', { class: `mnb-Graph-dot mnb-mod-${which}`, cx: x + 6, cy: y + 6, r: 5 })
      );
    return { w: 12, h: 12, inp: 6, out: 6, draw };
  }

  private _node(node: INode, most: number, names: string[]): IBox {
    switch (node.type) {
      case 'parallel':
      case 'branch':
        return this._fork(node, most, names);
      case 'graph':
        return this._layers(node, most, names);
      case 'loop':
        return this._loop(node, most, names);
      case 'foreach':
        return node.nodes.length === 1 && node.nodes[0].type !== 'workflow'
          ? this._pen.card(node.nodes[0], [...names, node.nodes[0].id], node)
          : this._foreach(node, most, names);
      case 'workflow': {
        const inside = [...names, node.id];
        const flow = this._seq(node.nodes, most - 2 * PAD, inside);
        return this._frame('workflow', node.id, inside, flow);
      }
      default:
        return this._pen.card(node, [...names, node.id], null);
    }
  }

  private _fork(node: INode, most: number, names: string[]): IBox {
    const branch = node.type === 'branch';
    const room = Math.max(220, most - 2 * FAN - 24);
    const flows = node.arms.map(arm => this._seq(arm.nodes, room, names));
    if (!flows.length) {
      return this._seq([], most, names);
    }
    const said = node.arms.map(({ when }) =>
      when ? this._pen.pill(conditionText(when), this.over) : null
    );
    const wide = Math.max(...flows.map(flow => flow.w), ...said.map(each => each?.w ?? 0));
    const sign = branch ? 18 : 0;
    const tops: number[] = [];
    let high = 0;
    flows.forEach((flow, n) => {
      high += (n ? ARM : 0) + (said[n] ? 20 : 0);
      tops.push(high);
      high += flow.h;
    });
    const mid = (tops[0] + flows[0].inp + tops[tops.length - 1] + flows[flows.length - 1].inp) / 2;
    const draw = (x: number, top: number) => {
      if (branch) {
        this._diamond(x, top + mid, node.exclusive);
      }
      const start = x + sign + FAN;
      flows.forEach((flow, n) => {
        this._curve(x + sign, top + mid, start, top + tops[n] + flow.inp);
        flow.draw(start, top + tops[n]);
        said[n]?.draw(start, top + tops[n] - 18);
        const out = top + tops[n] + flow.out;
        this._curve(start + flow.w, out, start + wide, out, false);
        this._curve(start + wide, out, start + wide + FAN - 6, top + mid, false);
      });
    };
    return { w: sign + 2 * FAN - 6 + wide, h: high, inp: mid, out: mid, open: !branch, draw };
  }

  private _diamond(x: number, y: number, exclusive: boolean): void {
    const sign = svg('g', { class: 'mnb-Graph-fork', transform: `translate(${fixed(x, y - 9)})` });
    sign.append(
      svg('path', { d: 'M9 0l9 9-9 9-9-9z' }),
      svg('path', { d: exclusive ? 'M6.5 6.5l5 5m0-5l-5 5' : 'M9 6a3 3 0 1 0 .01 0z' })
    );
    this.nodes.append(sign);
  }

  /** A rounded group with a title over what is in it. */
  private _frame(kind: string, text: string, names: string[] | null, inner: IBox): IBox {
    const title = this._pen.title(kind, text, names, this.over);
    const w = Math.max(inner.w + 2 * PAD, title.w + 20);
    const h = inner.h + HEAD + PAD;
    const draw = (x: number, y: number) => {
      const place = { x, y: y + 8, width: w, height: h - 8, rx: 8 };
      this.back.append(svg('rect', { class: 'mnb-Graph-frame', ...place }));
      title.draw(x + 10, y);
      inner.draw(x + PAD, y + HEAD);
      this._curve(x, y + HEAD + inner.inp, x + PAD, y + HEAD + inner.inp, false);
      const out = y + HEAD + inner.out;
      this._curve(x + PAD + inner.w, out, x + w, out, false);
    };
    return { w, h, inp: HEAD + inner.inp, out: HEAD + inner.out, draw };
  }

  private _foreach(node: INode, most: number, names: string[]): IBox {
    const flow = this._seq(node.nodes, most - 2 * PAD - 8, names);
    const box = this._frame('foreach', `for each, ${node.concurrency} at a time`, null, flow);
    const draw = (x: number, y: number) => {
      for (const shift of [6, 3]) {
        const place = { x: x + shift, y: y + 8 + shift, width: box.w, height: box.h - 8, rx: 8 };
        this.back.append(svg('rect', { class: 'mnb-Graph-frame', ...place }));
      }
      box.draw(x, y);
      this._curve(x + box.w, y + box.out, x + box.w + 6, y + box.out, false);
    };
    return { ...box, w: box.w + 6, h: box.h + 6, draw };
  }

  private _loop(node: INode, most: number, names: string[]): IBox {
    const flow = this._seq(node.nodes, most - 2 * PAD - 24, names);
    const w = flow.w + 24;
    const low = flow.h + 14;
    const draw = (x: number, y: number) => {
      flow.draw(x + 12, y);
      const [i, o] = [y + flow.inp, y + flow.out];
      this._curve(x, i, x + 12, i);
      this._curve(x + 12 + flow.w, o, x + w, o, false);
      // Back to the start, below.
      this._lines.push(
        `M${fixed(x + flow.w + 14, o)}q6 0 6 6V${fixed(y + low - 12)}q0 6-6 6H${fixed(x + 10)}` +
          `q-6 0-6-6V${fixed(i + 6)}q0-6 4-6`
      );
      this._heads.push(`M${fixed(x + 8 + flow.w / 2, y + low - 6)}l7-3.5v7z`);
    };
    const title = `${node.how || 'loop'} ${node.when}`.trim();
    return this._frame('loop', title, null, { w, h: low, inp: flow.inp, out: flow.out, draw });
  }

  /** Nodes with edges: in layers from left to right, each node next to what it comes after. */
  private _layers(node: INode, most: number, names: string[]): IBox {
    const known = after(node);
    const depth = depths(known);
    const layer = (id: string) => depth.get(id) ?? 0;
    const before = (id: string) => known.get(id)!.filter(a => layer(a) < layer(id));
    const boxes = new Map(node.nodes.map(each => [each.id, this._node(each, most, names)]));
    const columns: string[][] = [];
    const sources = new Map<string, string[]>();
    const place = (id: string, column: number, from: string[]) => {
      (columns[column] ??= []).push(id);
      sources.set(id, from);
    };
    const hops: string[] = [];
    const nothing: IBox = { w: 0, h: 10, inp: 5, out: 5, draw: () => undefined };
    for (const id of boxes.keys()) {
      // An edge over several layers has a place of its own in each of them.
      const from = before(id).map(a => {
        let previous = a;
        for (let n = layer(a) + 1; n < layer(id); n++) {
          const hop = `${a}\0${id}\0${n}`;
          place(hop, n, [previous]);
          hops.push(hop);
          previous = hop;
        }
        return previous;
      });
      place(id, layer(id), from);
    }
    hops.forEach(hop => boxes.set(hop, nothing));
    const rank = new Map<string, number>();
    for (const column of columns) {
      const mean = (id: string) => {
        const from = sources.get(id)!.map(a => rank.get(a) ?? 0);
        return from.length ? from.reduce((a, b) => a + b, 0) / from.length : rank.size;
      };
      const means = new Map(column.map(id => [id, mean(id)]));
      column.sort((a, b) => means.get(a)! - means.get(b)!);
      column.forEach((id, k) => rank.set(id, k));
    }
    const box = (id: string) => boxes.get(id)!;
    const heights = columns.map(c => c.reduce((h, id) => h + box(id).h, 14 * (c.length - 1)));
    const high = Math.max(12, ...heights);
    const where = new Map<string, [number, number]>();
    const rights: number[] = [];
    let x0 = FAN - 8;
    columns.forEach((column, k) => {
      let y = (high - heights[k]) / 2;
      for (const id of column) {
        where.set(id, [x0, y]);
        y += box(id).h + 14;
      }
      rights.push(x0 + Math.max(...column.map(id => box(id).w)));
      x0 = rights[k] + FAN + 6;
    });
    const wide = x0 - 14;
    const mid = high / 2;
    const used = new Set([...sources.values()].flat());
    const draw = (x: number, top: number) => {
      columns.forEach((column, k) => {
        for (const id of column) {
          const [left, y] = where.get(id)!;
          const [inX, inY] = [x + left, top + y + box(id).inp];
          const isHop = hops.includes(id);
          box(id).draw(inX, top + y);
          for (const a of sources.get(id)!) {
            const [fromX, fromY] = where.get(a)!;
            const start = hops.includes(a) ? x + rights[k - 1] : x + fromX + box(a).w;
            this._curve(start, top + fromY + box(a).out, inX, inY, !isHop);
          }
          if (!sources.get(id)!.length) {
            this._curve(x, top + mid, inX, inY);
          }
          if (isHop) {
            this._curve(inX, inY, x + rights[k], inY, false);
          } else if (!used.has(id)) {
            const edge = x + rights[rights.length - 1];
            const out = top + y + box(id).out;
            this._curve(inX + box(id).w, out, edge, out, false);
            this._curve(edge, out, x + wide, top + mid, false);
          }
        }
      });
    };
    return { w: wide, h: high, inp: mid, out: mid, open: true, draw };
  }

  private _lines: string[] = [];
  private _heads: string[] = [];
}

function conditionText(when: string): string {
  return ['otherwise', 'else'].includes(when) ? when : `if ${when}`;
}
