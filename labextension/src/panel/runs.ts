/** Section Runs: those of the notebook, or those that are stored. */

import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';

import { dollars, IRecord, RUN_MIME } from '../record';
import { button, el, setText, show } from '../runs/dom';
import { mark } from '../runs/icons';
import { isObject } from '../runs/words';
import { DetailView, statusWord } from './detail';
import { goTo } from './goto';
import { IEntry, isReplay, recordOf, totalOf } from './ledger';
import { drawRow, IRow, PAGE, PagedList } from './list';
import { emptyNode, errorNode, ISources, IView, Latest, tokens } from './view';

interface IStored {
  id: string;
  name: string;
  status: string;
  input: string;
  model?: string;
  input_tokens: number;
  output_tokens: number;
  cost: number | null;
  created: number;
}

interface IPage {
  runs: IStored[];
  next: string | null;
  total: number;
}

const TYPING_MS = 250;

export class RunsView implements IView {
  readonly name = 'Runs';
  readonly node = el('div', 'mnb-View');

  constructor(
    private readonly _sources: ISources,
    private readonly _rendermime: IRenderMimeRegistry
  ) {
    this._from.append(new Option('Notebook', 'here'), new Option('Stored', 'stored'));
    this._from.setAttribute('aria-label', 'Which runs');
    this._status.setAttribute('aria-label', 'Status');
    this._status.append(
      new Option('Any status', ''),
      ...['running', 'suspended', 'done', 'failed', 'cancelled'].map(
        each => new Option(statusWord(each), each)
      )
    );
    this._text.type = 'search';
    this._text.placeholder = 'Filter';
    this._text.setAttribute('aria-label', 'Filter runs by agent and text');
    this._text.addEventListener('input', () => this._later());
    for (const select of [this._from, this._status]) {
      select.addEventListener('change', () => this._turn(0));
    }
    const tools = el('div', 'mnb-Tools');
    tools.append(this._from, this._status, this._text);
    this._trace.setAttribute('aria-label', 'Show the trace of this run');
    this._bar.append(this._trace);
    this.node.append(tools, this._sum, this._list.node, this._empty, this._bar, this._details);
  }

  refresh(): void {
    const stored = this._sources.link !== null;
    this._from.disabled = !stored;
    if (!stored && this._from.value !== 'here') {
      this._from.value = 'here';
      this._page = 0;
    }
    if (this._from.value === 'here') {
      this._drawHere();
    } else {
      void this._drawStored();
    }
    void this._drawDetails();
  }

  reset(): void {
    this._asked.drop();
    this._page = 0;
    this._drawn = '';
  }

  dispose(): void {
    window.clearTimeout(this._timer);
    this._detail?.dispose();
  }

  private _later(): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => this._turn(0), TYPING_MS);
  }

  private _turn(page: number): void {
    this._page = page;
    this.refresh();
  }

  private _drawHere(): void {
    this._asked.drop();
    const { entries } = this._sources.ledger;
    const text = this._text.value.trim().toLowerCase();
    const status = this._status.value;
    const found = entries.filter(
      ({ record, question, answer }) =>
        (!status || record.status === status) &&
        (!text || `${record.agent}\n${question}\n${answer}`.toLowerCase().includes(text))
    );
    this._page = Math.min(this._page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    const shown = found.slice(this._page * PAGE, (this._page + 1) * PAGE);
    const rows = shown.map(entry => this._row(entry));
    const { chosen } = this._sources;
    this._list.select(chosen && 'key' in chosen ? chosen.key : '', false);
    this._list.update(rows, this._page, found.length, found.length > (this._page + 1) * PAGE);
    const sum = totalOf(found);
    const used = sum.input + sum.output;
    const said = [`${found.length.toLocaleString('en')} run${found.length === 1 ? '' : 's'}`];
    said.push(...(used ? [`${tokens(used)} tokens`] : []), ...this._cost(sum.cost, used > 0));
    setText(this._sum, said.join(' · '));
    show(this._sum, found.length > 0);
    if (found.length) {
      this._empty.replaceChildren();
    } else if (entries.length) {
      this._empty.replaceChildren(emptyNode('No run matches', 'Change the filter or the status.'));
    } else if (this._sources.panel === null) {
      this._empty.replaceChildren(emptyNode('No notebook', 'Open a notebook to see its runs here.'));
    } else {
      this._empty.replaceChildren(
        emptyNode('No runs yet', 'Ask an agent in a cell; what it does is listed here:',
          '%load_ext mastra_nb\n%ask What can you do?')
      );
    }
  }

  private _row(entry: IEntry): IRow {
    const { record, question, answer } = entry;
    return {
      key: entry.key,
      draw: node => {
        const used = (record.usage?.input ?? 0) + (record.usage?.output ?? 0);
        const foot = [
          statusWord(record.status),
          ...(used ? [`${tokens(used)} tokens`] : []),
          ...this._cost(record.usage?.cost ?? null, used > 0),
          ...(isReplay(record) ? ['replay'] : [])
        ];
        const head = [mark(record.status), el('strong', '', record.agent || 'run')];
        head.push(el('span', 'mnb-Row-place', `cell ${entry.place}`));
        drawRow(node, head, [question || answer, question && answer, foot.join(' · ')]);
      }
    };
  }

  private async _drawStored(): Promise<void> {
    const { link } = this._sources;
    const args: { [name: string]: string | number } = { limit: PAGE };
    if (this._page > 0) {
      args.cursor = this._cursors[this._page] ?? '';
    }
    if (this._status.value) {
      args.status = this._status.value;
    }
    if (this._text.value.trim()) {
      args.text = this._text.value.trim();
    }
    try {
      const page = await this._asked.of(link!.ask<IPage>('runs', args));
      if (page === undefined) {
        return;
      }
      this._cursors[this._page + 1] = page.next ?? '';
      const { chosen } = this._sources;
      this._list.select(chosen && 'run' in chosen ? chosen.run : '', false);
      const rows = page.runs.map(run => this._storedRow(run));
      this._list.update(rows, this._page, page.total, page.next !== null);
      show(this._sum, false);
      this._empty.replaceChildren(
        ...(rows.length ? [] : [emptyNode('No stored run matches', 'Change the filter or ask one.')])
      );
    } catch (error) {
      this._list.update([], 0, 0, false);
      this._empty.replaceChildren(errorNode(error, () => this.refresh()));
    }
  }

  private _storedRow(run: IStored): IRow {
    return {
      key: run.id,
      draw: node => {
        const used = run.input_tokens + run.output_tokens;
        const foot = [statusWord(run.status), ...(used ? [`${tokens(used)} tokens`] : [])];
        foot.push(...this._cost(run.cost, used > 0));
        const when = new Date(run.created * 1000).toLocaleString();
        const head = [mark(run.status), el('strong', '', run.name)];
        head.push(el('span', 'mnb-Row-place', when));
        drawRow(node, head, [run.input, foot.join(' · ')]);
      }
    };
  }

  private _cost(cost: number | null, used: boolean): string[] {
    return this._sources.showCost && used && cost !== null ? [dollars(cost)] : [];
  }

  private _choose(key: string): void {
    if (this._from.value === 'here') {
      this._sources.choose({ key });
      const entry = this._sources.ledger.find(key);
      if (entry) {
        void goTo(this._sources.panel, entry.cell);
      }
    } else {
      this._sources.choose({ run: key });
    }
  }

  private async _drawDetails(): Promise<void> {
    const { chosen, ledger } = this._sources;
    let found: { record: IRecord; markdown: string } | null = null;
    if (chosen && 'key' in chosen) {
      found = ledger.find(chosen.key) ?? null;
      this._drawn = '';
    } else if (chosen && this._sources.link) {
      if (this._drawn === chosen.run) {
        return;
      }
      this._drawn = chosen.run;
      try {
        found = await this._read(chosen.run);
      } catch (error) {
        this._clear();
        this._details.replaceChildren(errorNode(error, null));
        return;
      }
    }
    show(this._bar, found !== null);
    if (found === null) {
      this._clear();
      return;
    }
    const key = JSON.stringify(chosen);
    if (this._detail === null || key !== this._detailOf) {
      this._clear();
      this._detail = new DetailView(this._rendermime);
      this._detailOf = key;
      this._details.replaceChildren(this._detail.node);
    }
    this._detail.update(found.record, found.markdown, this._sources.showCost);
  }

  private async _read(id: string): Promise<{ record: IRecord; markdown: string } | null> {
    const bundle = await this._run.of(this._sources.link!.ask('run', { id }));
    const record = isObject(bundle) ? recordOf(bundle[RUN_MIME]) : null;
    return record && isObject(bundle)
      ? { record, markdown: String(bundle['text/markdown'] ?? '') }
      : null;
  }

  private _clear(): void {
    this._detail?.dispose();
    this._detail = null;
    this._details.replaceChildren();
  }

  private _from = el('select', 'mnb-Input');
  private _status = el('select', 'mnb-Input');
  private _text = el('input', 'mnb-Input');
  private _sum = el('div', 'mnb-Sum');
  private _list = new PagedList('runs', key => this._choose(key), page => this._turn(page));
  private _empty = el('div');
  private _bar = el('div', 'mnb-Tools');
  private _trace = button('Trace', '', () => this._sources.turn('Trace'));
  private _details = el('div');
  private _detail: DetailView | null = null;
  private _detailOf = '';
  private _drawn = '';
  private _page = 0;
  private _cursors: string[] = [];
  private _asked = new Latest();
  private _run = new Latest();
  private _timer: number | undefined;
}
