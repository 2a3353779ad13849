/** Section Cost: what this notebook has used, and what was spent over time. */

import { dollars } from '../record';
import { clean, el, svg } from '../runs/dom';
import { totalOf, totalsOf } from './ledger';
import { emptyNode, errorNode, ISources, IView, Latest, tokens } from './view';

interface IBucket {
  at: number;
  name: string;
  model: string;
  calls: number;
  input: number;
  output: number;
  cost: number | null;
}

interface ICosts {
  since: number;
  until: number;
  width: number;
  buckets: IBucket[];
}

const COLOURS = 6;
const [WIDE, HIGH] = [300, 110];

export class CostView implements IView {
  readonly name = 'Cost';
  readonly node = el('div', 'mnb-View');

  constructor(private readonly _sources: ISources) {
    const days: [string, string][] = [['1', 'Last day'], ['7', 'Last 7 days'], ['30', 'Last 30 days']];
    this._days.append(...days.map(([value, label]) => new Option(label, value)));
    this._days.value = '7';
    this._by.append(new Option('by agent', 'name'), new Option('by model', 'model'));
    this._days.setAttribute('aria-label', 'Time');
    this._by.setAttribute('aria-label', 'Grouped');
    for (const select of [this._days, this._by]) {
      select.addEventListener('change', () => this.refresh());
    }
    const tools = el('div', 'mnb-Tools');
    tools.append(this._days, this._by);
    this._time.append(el('div', 'mnb-Detail-title', 'Over time'), tools, this._chart);
    this.node.append(el('div', 'mnb-Detail-title', 'This notebook'), this._here, this._time);
  }

  refresh(): void {
    this._drawHere();
    this._time.hidden = this._sources.link === null;
    if (this._sources.link !== null) {
      void this._ask();
    }
  }

  reset(): void {
    this._asked.drop();
    this._chart.replaceChildren();
  }

  dispose(): void {
    this._asked.drop();
  }

  private _drawHere(): void {
    const { entries } = this._sources.ledger;
    if (!entries.length) {
      this._here.replaceChildren(
        emptyNode('Nothing was used yet', 'What the runs of this notebook use is added up here.')
      );
      return;
    }
    const rows = totalsOf(entries).map(each => [
      each.model ? `${each.agent} · ${each.model}` : each.agent,
      String(each.runs),
      tokens(each.input + each.output),
      each.cost === null ? 'unknown' : dollars(each.cost)
    ]);
    const sum = totalOf(entries);
    const cost = sum.cost === null ? 'unknown' : dollars(sum.cost);
    const last = ['All', String(sum.runs), tokens(sum.input + sum.output), cost];
    this._here.replaceChildren(
      tableNode('What the runs of this notebook used', ['Agent', 'Runs', 'Tokens', 'Cost'],
        rows, last)
    );
  }

  private async _ask(): Promise<void> {
    try {
      const args = { days: Number(this._days.value), buckets: 24 };
      const costs = await this._asked.of(this._sources.link!.ask<ICosts>('costs', args));
      if (costs !== undefined) {
        this._drawTime(costs);
      }
    } catch (error) {
      this._chart.replaceChildren(errorNode(error, () => this.refresh()));
    }
  }

  private _drawTime(costs: ICosts): void {
    const by = this._by.value === 'model' ? 'model' : 'name';
    const sums = new Map<string, { cost: number; used: number; calls: number }>();
    for (const each of costs.buckets) {
      const sum = sums.get(each[by]) ?? { cost: 0, used: 0, calls: 0 };
      sum.cost += each.cost ?? 0;
      sum.used += each.input + each.output;
      sum.calls += each.calls;
      sums.set(each[by], sum);
    }
    if (!sums.size) {
      this._chart.replaceChildren(emptyNode('Nothing was spent', 'No model was called in this time.'));
      return;
    }
    // Local models cost nothing: then the tokens are what there is to compare.
    const paid = [...sums.values()].some(sum => sum.cost > 0);
    const of = (each: IBucket) => (paid ? (each.cost ?? 0) : each.input + each.output);
    const names = [...sums].sort((a, b) => b[1].cost - a[1].cost || b[1].used - a[1].used);
    const colours = new Map(names.map(([name], n) => [name, Math.min(n, COLOURS - 1)]));
    const rows = names.map(([name, sum]) => [
      name || '—', sum.calls.toLocaleString('en'), tokens(sum.used), dollars(sum.cost)
    ]);
    const table = tableNode('What was spent', [by === 'name' ? 'Agent' : 'Model', 'Calls', 'Tokens',
      'Cost'], rows, null);
    table.querySelectorAll('tbody th').forEach((cell, n) => {
      const key = el('span', 'mnb-Key');
      key.dataset.colour = String(Math.min(n, COLOURS - 1));
      cell.prepend(key);
    });
    const bars = columns(costs, each => colours.get(each[by])!, of);
    bars.setAttribute('aria-label', `${paid ? 'Cost' : 'Tokens'} over time; the table has the sums`);
    const axis = el('div', 'mnb-Axis mnb-Quiet');
    const date = (at: number) => new Date(at * 1000).toLocaleDateString();
    axis.append(el('span', '', date(costs.since)), el('span', '', date(costs.until)));
    this._chart.replaceChildren(bars, axis, table);
  }

  private _here = el('div');
  private _time = el('section');
  private _days = el('select', 'mnb-Input');
  private _by = el('select', 'mnb-Input');
  private _chart = el('div');
  private _asked = new Latest();
}

function columns(
  costs: ICosts,
  colour: (each: IBucket) => number,
  of: (each: IBucket) => number
): SVGSVGElement {
  const n = Math.max(1, Math.round((costs.until - costs.since) / costs.width));
  const heights = new Array<number>(n + 1).fill(0);
  const at = (each: IBucket) =>
    Math.min(n, Math.max(0, Math.round((each.at - costs.since) / costs.width)));
  costs.buckets.forEach(each => (heights[at(each)] += of(each)));
  const most = Math.max(...heights, 1e-12);
  const picture = svg('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, class: 'mnb-Columns', role: 'img' });
  const wide = WIDE / n;
  const base = new Array<number>(n + 1).fill(HIGH);
  for (const each of costs.buckets) {
    const high = (of(each) / most) * (HIGH - 4);
    base[at(each)] -= high;
    const rect = svg('rect', {
      x: at(each) * wide + 1,
      y: base[at(each)],
      width: Math.max(1, wide - 2),
      height: high,
      class: 'mnb-Column',
      'data-colour': colour(each)
    });
    rect.append(svg('title', {}, clean(`${each.name} · ${each.model}`)));
    picture.append(rect);
  }
  picture.append(svg('line', { x1: 0, x2: WIDE, y1: HIGH, y2: HIGH, class: 'mnb-Baseline' }));
  return picture;
}

function tableNode(
  title: string,
  head: string[],
  rows: string[][],
  last: string[] | null
): HTMLTableElement {
  const table = el('table', 'mnb-Table');
  table.setAttribute('aria-label', title);
  const top = table.createTHead().insertRow();
  for (const text of head) {
    const cell = el('th', '', text);
    cell.scope = 'col';
    top.append(cell);
  }
  const fill = (part: HTMLTableSectionElement, texts: string[]) => {
    const row = part.insertRow();
    texts.forEach((text, n) => {
      const cell = el(n ? 'td' : 'th', '', text);
      if (cell instanceof HTMLTableCellElement && !n) {
        cell.scope = 'row';
      }
      cell.title = clean(text);
      row.append(cell);
    });
  };
  const body = table.createTBody();
  rows.forEach(row => fill(body, row));
  if (last && rows.length > 1) {
    fill(table.createTFoot(), last);
  }
  return table;
}
