/** Section Waiting: what somebody has to answer before a run goes on. */

import type { IPending } from '../record';
import { ApprovalBox } from '../runs/approval';
import type { AskBox } from '../runs/askbox';
import { button, el } from '../runs/dom';
import { FormBox } from '../runs/formbox';
import { jsonText, resumes } from '../runs/words';
import { goTo } from './goto';
import { waits } from './ledger';
import { emptyNode, errorNode, ISources, IView, Latest } from './view';

interface IWaiting extends IPending {
  run: string;
  name: string;
  /** The cell that shows it, if it is one of this notebook. */
  cell?: string;
  /** What answers it from a cell. */
  how: string;
}

export class WaitingView implements IView {
  readonly name = 'Waiting';
  readonly node = el('div', 'mnb-View mnb-Run');

  constructor(private readonly _sources: ISources) {}

  refresh(): void {
    this._draw(this._here());
    if (this._sources.link !== null) {
      void this._ask();
    }
  }

  reset(): void {
    this._asked.drop();
    this._stored = [];
    this._boxes.clear();
    this.node.replaceChildren();
  }

  dispose(): void {
    this._asked.drop();
  }

  private _here(): IWaiting[] {
    const out: IWaiting[] = [];
    for (const { record, cell } of this._sources.ledger.entries) {
      if (waits(record)) {
        const how = resumes(record);
        record.pending!.forEach((asked, n) =>
          out.push({ ...asked, run: record.run!, name: record.agent, cell, how: how[n] })
        );
      }
    }
    return out;
  }

  private async _ask(): Promise<void> {
    try {
      const found = await this._asked.of(
        this._sources.link!.ask<{ waiting: Omit<IWaiting, 'how'>[] }>('waiting')
      );
      if (found !== undefined) {
        this._stored = found.waiting.map(each => ({ ...each, how: `%resume ${each.run}` }));
        this._draw(this._here());
      }
    } catch (error) {
      this._draw(this._here());
      this.node.append(errorNode(error, () => this.refresh()));
    }
  }

  /** A box stays as it is while somebody writes in it. */
  private _draw(here: IWaiting[]): void {
    const known = new Set(here.map(each => `${each.run} ${each.path}`));
    const all = [...here, ...this._stored.filter(each => !known.has(`${each.run} ${each.path}`))];
    const left = this._boxes;
    this._boxes = new Map();
    for (const each of all) {
      const key = `${each.run} ${each.path} ${jsonText(each.args)} ${jsonText(each.schema)}`;
      const old = left.get(key);
      left.delete(key);
      const made = old ?? this._newBox(each);
      made.box.follow(this._sources.kernel, each.run, each.how);
      this._boxes.set(key, made);
      if (old === undefined) {
        this.node.append(made.node);
      }
    }
    left.forEach(({ node }) => node.remove());
    this.node.querySelectorAll(':scope > .mnb-Empty').forEach(node => node.remove());
    if (!all.length) {
      this.node.append(
        emptyNode('Nothing waits', 'Calls that need an approval and questions of workflows come here.')
      );
    }
  }

  private _newBox(asked: IWaiting): { node: HTMLElement; box: AskBox } {
    const box = asked.reason === 'approval' ? new ApprovalBox(asked) : new FormBox(asked);
    const node = el('div', 'mnb-Waiting');
    const head = el('div', 'mnb-Row-head');
    head.append(el('strong', '', asked.name || 'run'));
    const { cell } = asked;
    if (cell !== undefined) {
      const go = button('Go to cell', 'mnb-mod-quiet', () => void goTo(this._sources.panel, cell));
      go.setAttribute('aria-label', `Go to the cell of ${asked.name || 'this run'}`);
      head.append(go);
    }
    node.append(head, box.node);
    return { node, box };
  }

  private _asked = new Latest();
  private _stored: IWaiting[] = [];
  private _boxes = new Map<string, { node: HTMLElement; box: AskBox }>();
}
