/** When each call of a workflow ran: a waterfall whose bars lead to the calls. */

import type { Json } from '../record';
import { clean, el, setData } from './dom';
import { icon, mark } from './icons';
import { duration, isObject, jsonText } from './words';

interface IBar {
  name: string;
  start: number;
  end: number;
  status: string;
  depth: number;
  attempt: number;
  count: number;
  failed: number;
}

/** Percent of the plot that a pause which is cut out takes. */
const PAUSE = 8;
const STEPS = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600,
  900, 1800, 3600, 7200, 14400, 43200, 86400, 604800
];

function barsOf(timeline: Json[]): IBar[] {
  const number = (value: Json | undefined) =>
    typeof value === 'number' && Number.isFinite(value) ? Math.max(0, value) : 0;
  return timeline.filter(isObject).map(bar => ({
    name: String(bar.name ?? ''),
    start: number(bar.start),
    end: Math.max(number(bar.start), number(bar.end)),
    status: String(bar.status ?? 'waiting'),
    depth: Math.min(5, number(bar.depth)),
    attempt: number(bar.attempt),
    count: number(bar.count),
    failed: number(bar.failed)
  }));
}

/** From seconds to percent; what nobody worked in is cut out. */
class Scale {
  readonly pauses: [number, number][];
  private readonly _awake: number;

  constructor(bars: IBar[]) {
    const gaps: [number, number][] = [];
    let worked = 0;
    let newest = 0;
    for (const { start, end } of [...bars].sort((a, b) => a.start - b.start || a.end - b.end)) {
      if (start > newest) {
        gaps.push([newest, start]);
        newest = start;
      }
      worked += Math.max(0, end - newest);
      newest = Math.max(newest, end);
    }
    // So long that what was done would not be seen beside it.
    this.pauses = gaps.filter(([a, b]) => b - a > Math.max(1, worked)).slice(0, 8);
    const asleep = this.pauses.reduce((sum, [a, b]) => sum + b - a, 0);
    this._awake = Math.max(newest - asleep, 1e-3);
  }

  at(t: number): number {
    const percent = (100 - PAUSE * this.pauses.length) / this._awake;
    let x = t * percent;
    for (const [start, end] of this.pauses) {
      x += t >= end ? PAUSE - (end - start) * percent : 0;
    }
    return Math.min(100, Math.max(0, x));
  }

  ticks(): [number, string][] {
    const step = STEPS.find(each => this._awake / each <= 6) ?? this._awake / 6;
    const out: [number, string][] = [];
    for (let n = 0; n <= Math.floor(this._awake / step + 1e-9); n++) {
      let t = n * step;
      for (const [start, end] of this.pauses) {
        t += t > start ? end - start : 0;
      }
      out.push([this.at(t), n === 0 ? '0' : tick(n * step)]);
    }
    return out;
  }
}

function tick(value: number): string {
  const number = (n: number) => String(+n.toPrecision(4));
  if (value < 1) {
    return `${Math.round(value * 1000)} ms`;
  }
  return value < 60
    ? `${number(value)} s`
    : value < 3600
      ? `${number(value / 60)} min`
      : `${number(value / 3600)} h`;
}

export class TimelineView {
  readonly node = el('details', 'mnb-Fold mnb-Timeline');

  constructor(private readonly _reveal: (names: readonly string[]) => boolean) {
    const line = el('summary', 'mnb-Fold-line');
    line.append(icon('timeline'), el('span', 'mnb-Fold-word', 'timeline'));
    this.node.append(line, this._body);
    this.node.addEventListener('toggle', () => this._fill());
  }

  update(timeline: Json[]): void {
    const text = jsonText(timeline);
    if (text !== this._text) {
      this._text = text;
      this._bars = barsOf(timeline);
      this._body.replaceChildren();
      this._fill();
    }
  }

  private _fill(): void {
    if (!this.node.open || this._body.firstChild) {
      return;
    }
    const scale = new Scale(this._bars);
    const list = el('ol', 'mnb-Timeline-bars');
    list.setAttribute('aria-label', 'timeline');
    const above: string[] = [];
    for (const bar of this._bars) {
      above.length = Math.min(above.length, bar.depth);
      list.append(this._row(bar, [...above, bar.name], scale));
      above.push(bar.name);
    }
    this._body.append(list, axis(scale));
  }

  private _row(bar: IBar, names: string[], scale: Scale): HTMLElement {
    const row = el('li');
    const link = el('button', 'mnb-Timeline-bar');
    link.type = 'button';
    const full = bar.name + (bar.count ? ` ×${bar.count.toLocaleString('en')}` : '');
    const name = el('span', 'mnb-Timeline-name', full);
    name.style.paddingLeft = `${bar.depth}em`;
    const took = [duration(bar.end - bar.start)];
    if (bar.failed) {
      took.push(`${bar.failed.toLocaleString('en')} failed`);
    }
    if (bar.attempt) {
      took.push(`×${bar.attempt}`);
    }
    const plot = el('span', 'mnb-Timeline-plot');
    const [left, right] = [scale.at(bar.start), scale.at(bar.end)];
    const body = el('span', 'mnb-Timeline-body');
    setData(body, 'status', bar.status);
    body.style.left = `${left.toFixed(2)}%`;
    body.style.width = `${(right - left).toFixed(2)}%`;
    plot.append(body);
    link.append(name, mark(bar.status), plot, el('span', 'mnb-Timeline-took', took.join(' · ')));
    link.title = clean(full);
    const from = duration(bar.start);
    const label = `${full.slice(0, 200)}, ${bar.status}, ${took.join(', ')}, from ${from}`;
    link.setAttribute('aria-label', clean(label));
    link.addEventListener('click', () => this._reveal(names));
    row.append(link);
    return row;
  }

  private _body = el('div', 'mnb-Fold-body');
  private _text = '';
  private _bars: IBar[] = [];
}

function axis(scale: Scale): HTMLElement {
  const node = el('div', 'mnb-Timeline-axis');
  node.setAttribute('aria-hidden', 'true');
  const plot = el('span', 'mnb-Timeline-plot');
  const label = (x: number, text: string, className: string) => {
    const tick = el('span', className, text);
    tick.style.left = `${x.toFixed(2)}%`;
    plot.append(tick);
  };
  const pauses = scale.pauses.map(([a, b]) => (scale.at(a) + scale.at(b)) / 2);
  for (const [x, text] of scale.ticks()) {
    if (pauses.every(pause => Math.abs(pause - x) > PAUSE)) {
      label(x, text, 'mnb-Timeline-tick');
    }
  }
  scale.pauses.forEach(([a, b], n) =>
    label(pauses[n], `… ${duration(b - a)} …`, 'mnb-Timeline-pause')
  );
  node.append(plot);
  return node;
}
