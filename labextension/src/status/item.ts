/** One line of the status bar: what runs, what waits, what was used. */

import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { isReplay, Ledger, totalOf, waits } from '../panel/ledger';
import { tokens } from '../panel/view';
import { dollars } from '../record';
import { clean, el, setText, show } from '../runs/dom';

export class StatusItem extends Widget {
  constructor(
    private readonly _ledger: Ledger,
    private readonly _open: (section: string) => void
  ) {
    super();
    this.addClass('mnb-StatusItem');
    this._button.type = 'button';
    this._button.append(this._waiting, this._running, this._used, this._replay);
    this._button.addEventListener('click', () => this._open(this._section));
    this.node.append(this._button);
    _ledger.changed.connect(this._draw, this);
    this._draw();
  }

  get isUseful(): boolean {
    return this._useful;
  }

  /** Emitted when it has become of use, or is no longer. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  set showCost(value: boolean) {
    this._showCost = value;
    this._draw();
  }

  dispose(): void {
    this._ledger.changed.disconnect(this._draw, this);
    super.dispose();
  }

  private _draw(): void {
    const { entries } = this._ledger;
    const waiting = entries.filter(({ record }) => waits(record)).length;
    const running = entries.filter(
      ({ record }) => record.status === 'running' && record.run !== undefined && !waits(record)
    ).length;
    const replays = entries.filter(({ record }) => isReplay(record)).length;
    const sum = totalOf(entries);
    const used = sum.input + sum.output;
    const parts = used ? [`${tokens(used)} tokens`] : [];
    if (used && this._showCost && sum.cost !== null) {
      parts.push(dollars(sum.cost));
    }
    setText(this._waiting, waiting ? `${waiting} waiting` : '');
    setText(this._running, running ? `${running} running` : '');
    const runs = `${entries.length} run${entries.length === 1 ? '' : 's'}`;
    setText(this._used, parts.join(' · ') || runs);
    setText(this._replay, replays ? (replays === 1 ? 'replay' : `replay ×${replays}`) : '');
    show(this._waiting, waiting > 0);
    show(this._running, running > 0);
    show(this._replay, replays > 0);
    const said = [this._waiting, this._running, this._used, this._replay]
      .map(node => node.textContent)
      .filter(Boolean);
    this._section = waiting ? 'Waiting' : 'Runs';
    this._button.title = clean(`Mastra in this notebook: ${said.join(', ')}. Opens the panel.`);
    this._button.setAttribute('aria-label', this._button.title);
    const useful = entries.length > 0;
    if (useful !== this._useful) {
      this._useful = useful;
      this._changed.emit();
    }
  }

  private _button = el('button', 'mnb-StatusItem-button');
  private _waiting = el('span', 'mnb-Badge mnb-mod-wait');
  private _running = el('span', 'mnb-Badge mnb-mod-run');
  private _used = el('span');
  private _replay = el('span', 'mnb-Badge');
  private _section = 'Runs';
  private _showCost = true;
  private _useful = false;
  private _changed = new Signal<this, void>(this);
}
