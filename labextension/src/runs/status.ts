/** The first line of a run that is not over, with what stops it. */

import { LinkError } from '../link';
import type { IRecord } from '../record';
import { button, el, setData, setText, show } from './dom';
import { mark } from './icons';
import type { Wire } from './wire';
import { doing, stopped } from './words';

export class StatusView {
  readonly node = el('div', 'mnb-Status');

  constructor(private readonly _wire: Wire) {
    this._stop = button('Stop', 'mnb-mod-stop', () => void this._ask());
    this._stop.prepend(mark('cancelled'));
    this._error.setAttribute('role', 'alert');
    this.node.append(this._sign, this._who, this._what, this._error, this._stop);
  }

  update(record: IRecord, live: boolean): void {
    const [who, ...what] = this._words(record, live);
    const moving = live && record.status === 'running';
    setText(this._who, who);
    setText(this._what, what.join(' · '));
    const over = ['cancelled', 'done'].includes(record.status);
    const sign = moving ? 'spinner' : over ? '' : live ? record.status : 'new';
    if (sign !== this._shown) {
      this._shown = sign;
      this._sign.replaceChildren(moving ? el('span', 'mnb-Spinner') : mark(sign));
    }
    setData(this.node, 'status', record.status);
    const canStop = record.run !== undefined && this._wire.link !== null;
    show(this._stop, moving && canStop);
    if (record.run !== this._run) {
      this._run = record.run;
      this._stop.disabled = false;
      setText(this._error, '');
    }
    this._stop.setAttribute('aria-label', `Stop ${record.agent || 'this run'}`);
    show(this._sign, sign !== '');
    show(this.node, what.length > 0);
  }

  private _words(record: IRecord, live: boolean): string[] {
    const who = record.agent || 'run';
    switch (record.status) {
      case 'new':
        return [who, 'not started', 'await it, iterate it, or call .result()'];
      case 'running':
        return live ? doing(record) : [who, 'was running when this was saved'];
      case 'suspended': {
        const n = record.pending?.length ?? 0;
        const all = record.pending?.every(asked => asked.reason === 'approval');
        const what = all ? (n > 1 ? `${n} approvals` : 'approval') : n > 1 ? `${n} answers` : '';
        const reason = record.pending?.[0]?.reason ?? 'input';
        const one = reason === 'input' ? 'an answer' : reason;
        return [who, `suspended, waits for ${what || one}`];
      }
      case 'cancelled':
        return record.told ? [who] : [who, stopped(record)];
      default:
        return [who];
    }
  }

  private async _ask(): Promise<void> {
    this._stop.disabled = true;
    setText(this._error, '');
    try {
      await this._wire.link?.ask('stop', { run: this._run ?? '' });
    } catch (error) {
      const hint = error instanceof LinkError && error.hint ? ` → ${error.hint}` : '';
      setText(this._error, (error instanceof Error ? error.message : String(error)) + hint);
      this._stop.disabled = false;
    }
  }

  private _stop: HTMLButtonElement;
  private _sign = el('span', 'mnb-Status-sign');
  private _who = el('span', 'mnb-Status-who');
  private _what = el('span', 'mnb-Status-what');
  private _error = el('span', 'mnb-Status-error');
  private _shown = '';
  private _run: string | undefined;
}
