/** The runs that the outputs of the current notebook hold: also of one that has no kernel. */

import type { ICellModel, ICodeCellModel } from '@jupyterlab/cells';
import type { INotebookModel, INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IOutputAreaModel } from '@jupyterlab/outputarea';
import { ISignal, Signal } from '@lumino/signaling';

import { IItem, IRecord, isLive, RUN_MIME, textOf } from '../record';
import { isObject, jsonText, short } from '../runs/words';

/** So long updates are gathered: a streaming answer changes its output many times a second. */
const CALM_MS = 150;
const LINE = 200;
const STATUSES = ['new', 'running', 'suspended', 'done', 'failed', 'cancelled'];
const MAGIC = /^\s*(?:[\w.,[\] ]+=\s*)?%%?(?:ask|resume)\b/;

/** A run and where it is shown. */
export interface IEntry {
  /** The same as long as the output is in its place. */
  key: string;
  record: IRecord;
  markdown: string;
  cell: string;
  /** The place of the cell in the notebook, from 1. */
  place: number;
  question: string;
  answer: string;
}

export interface ITotal {
  agent: string;
  model: string;
  runs: number;
  input: number;
  output: number;
  /** Null as soon as the cost of one of the runs is not known. */
  cost: number | null;
}

export class Ledger {
  constructor(readonly notebooks: INotebookTracker) {
    notebooks.currentChanged.connect((_, panel) => this._follow(panel));
    this._follow(notebooks.currentWidget);
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get panel(): NotebookPanel | null {
    return this._panel;
  }

  /** In the order of the notebook. */
  get entries(): readonly IEntry[] {
    this._entries ??= this._collect();
    return this._entries;
  }

  find(key: string): IEntry | undefined {
    return this.entries.find(entry => entry.key === key);
  }

  of(cell: ICellModel | undefined): IEntry[] {
    return cell ? this.entries.filter(entry => entry.cell === cell.id) : [];
  }

  private _follow(panel: NotebookPanel | null): void {
    if (panel === this._panel && panel !== null) {
      return;
    }
    this._release();
    this._panel = panel;
    this._tell();
    // A notebook that is still being opened has no cells yet.
    void panel?.context.ready
      .then(() => {
        if (panel === this._panel && !panel.isDisposed) {
          this._watch(panel.content.model);
        }
      })
      .catch(() => undefined); // JupyterLab says why it cannot be opened
    panel?.disposed.connect(this._onDisposed, this);
  }

  private _onDisposed(): void {
    this._release();
    this._panel = null;
    this._tell();
  }

  private _release(): void {
    this._panel?.disposed.disconnect(this._onDisposed, this);
    if (this._model && !this._model.isDisposed) {
      this._model.cells.changed.disconnect(this._onCells, this);
    }
    for (const outputs of this._watched) {
      outputs.changed.disconnect(this._onOutputs, this);
      outputs.stateChanged.disconnect(this._onOutputs, this);
    }
    this._watched.clear();
    this._known = new WeakMap();
    this._model = null;
    this._entries = null;
  }

  private _watch(model: INotebookModel | null): void {
    this._model = model;
    model?.cells.changed.connect(this._onCells, this);
    this._onCells();
  }

  private _onCells(): void {
    const left = new Set(this._watched);
    for (const cell of this._model?.cells ?? []) {
      const outputs = outputsOf(cell);
      if (outputs !== null && !left.delete(outputs)) {
        this._watched.add(outputs);
        outputs.changed.connect(this._onOutputs, this);
        outputs.stateChanged.connect(this._onOutputs, this);
      }
    }
    for (const outputs of left) {
      outputs.changed.disconnect(this._onOutputs, this);
      outputs.stateChanged.disconnect(this._onOutputs, this);
      this._watched.delete(outputs);
    }
    this._later();
  }

  private _onOutputs(outputs: IOutputAreaModel): void {
    this._known.delete(outputs);
    this._later();
  }

  private _later(): void {
    this._timer ??= window.setTimeout(() => this._tell(), CALM_MS);
  }

  private _tell(): void {
    window.clearTimeout(this._timer);
    this._timer = undefined;
    this._entries = null;
    this._changed.emit();
  }

  private _collect(): IEntry[] {
    const out: IEntry[] = [];
    let place = 0;
    for (const cell of this._model?.cells ?? []) {
      place += 1;
      const outputs = outputsOf(cell);
      if (outputs === null || outputs.length === 0) {
        continue;
      }
      let found = this._known.get(outputs);
      if (found === undefined) {
        found = read(cell, outputs);
        this._known.set(outputs, found);
      }
      for (const entry of found) {
        entry.place = place;
        out.push(entry);
      }
    }
    return out;
  }

  private _panel: NotebookPanel | null = null;
  private _model: INotebookModel | null = null;
  private _watched = new Set<IOutputAreaModel>();
  private _known = new WeakMap<IOutputAreaModel, IEntry[]>();
  private _entries: IEntry[] | null = null;
  private _timer: number | undefined;
  private _changed = new Signal<this, void>(this);
}

const ledgers = new WeakMap<INotebookTracker, Ledger>();

/** One for all plugins: each of them may be there without the others. */
export function ledgerOf(notebooks: INotebookTracker): Ledger {
  let ledger = ledgers.get(notebooks);
  if (ledger === undefined) {
    ledger = new Ledger(notebooks);
    ledgers.set(notebooks, ledger);
  }
  return ledger;
}

function outputsOf(cell: ICellModel): IOutputAreaModel | null {
  return cell.type === 'code' ? (cell as ICodeCellModel).outputs : null;
}

function read(cell: ICellModel, outputs: IOutputAreaModel): IEntry[] {
  const out: IEntry[] = [];
  for (let n = 0; n < outputs.length; n++) {
    const { data } = outputs.get(n);
    const record = recordOf(data[RUN_MIME]);
    if (record !== null) {
      const markdown = data['text/markdown'];
      const text = Array.isArray(markdown) ? markdown.join('') : String(markdown ?? '');
      out.push({
        key: `${cell.id} ${n}`,
        record,
        markdown: text,
        cell: cell.id,
        place: 0,
        question: questionOf(cell.sharedModel.getSource(), record.agent),
        answer: firstLine(answerOf(record, text))
      });
    }
  }
  return out;
}

/** A record of a file that may come from anywhere; null for what is none. */
export function recordOf(value: unknown): IRecord | null {
  if (!isObject(value) || !STATUSES.includes(String(value.status))) {
    return null;
  }
  const { usage, items, pending } = value;
  const record = { ...value, agent: String(value.agent ?? '') } as unknown as IRecord;
  record.model = value.model === undefined ? undefined : String(value.model);
  record.items = Array.isArray(items) ? (items.filter(isObject) as unknown as IItem[]) : undefined;
  record.pending = Array.isArray(pending)
    ? (pending.filter(isObject) as unknown as IRecord['pending'])
    : undefined;
  const number = (n: unknown) => (typeof n === 'number' && Number.isFinite(n) ? n : 0);
  record.usage = isObject(usage)
    ? {
        input: number(usage.input),
        output: number(usage.output),
        cached: number(usage.cached),
        reasoning: number(usage.reasoning),
        cost: typeof usage.cost === 'number' ? usage.cost : null,
        estimated: usage.estimated === true
      }
    : undefined;
  return record;
}

/** What a run gave, in full. */
export function answerOf(record: IRecord, markdown: string): string {
  const text = textOf(record, markdown);
  if (text) {
    return text;
  }
  const { output } = record;
  if (output !== undefined) {
    return typeof output === 'string' ? output : jsonText(output);
  }
  return record.error ? String(record.error.message ?? '') : '';
}

/** The first line of what a cell of ours asks; nothing for other cells. */
function questionOf(source: string, agent: string): string {
  const [head, ...body] = source.replace(/^\s+/, '').split('\n');
  if (!MAGIC.test(head)) {
    return '';
  }
  if (head.startsWith('%%')) {
    return firstLine(body.join('\n'));
  }
  const rest = head.replace(MAGIC, '').trim();
  return firstLine(rest.startsWith(`${agent} `) ? rest.slice(agent.length) : rest);
}

function firstLine(text: string): string {
  const line = (/\S.*/.exec(text)?.[0] ?? '').trim();
  // The signs of Markdown that say nothing in one line.
  return short(line.replace(/^(?:#+|>)\s+/, '').replace(/\*\*/g, ''), LINE);
}

export function isReplay(record: IRecord): boolean {
  return record.model?.endsWith('(replay)') ?? false;
}

export function waits(record: IRecord): boolean {
  return isLive(record) && (record.pending?.length ?? 0) > 0;
}

/** By agent and model, the dearest first. */
export function totalsOf(entries: readonly IEntry[]): ITotal[] {
  const all = new Map<string, ITotal>();
  for (const { record } of entries) {
    const [agent, model] = [record.agent || 'run', record.model ?? ''];
    const key = JSON.stringify([agent, model]);
    let total = all.get(key);
    if (total === undefined) {
      total = { agent, model, runs: 0, input: 0, output: 0, cost: 0 };
      all.set(key, total);
    }
    add(total, record);
  }
  return [...all.values()].sort((a, b) => (b.cost ?? 0) - (a.cost ?? 0) || b.input - a.input);
}

export function totalOf(entries: readonly IEntry[]): ITotal {
  const total: ITotal = { agent: '', model: '', runs: 0, input: 0, output: 0, cost: 0 };
  entries.forEach(({ record }) => add(total, record));
  return total;
}

function add(total: ITotal, { usage }: IRecord): void {
  total.runs += 1;
  if (usage && (usage.input || usage.output)) {
    total.input += usage.input;
    total.output += usage.output;
    total.cost = total.cost === null || usage.cost === null ? null : total.cost + usage.cost;
  }
}
