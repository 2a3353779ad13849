/** A question to somebody, with its buttons; it answers through the line to the kernel. */

import type { JSONObject } from '@lumino/coreutils';

import { Link, LinkError } from '../link';
import type { IPending, Json } from '../record';
import { clean, el, newId, setText, show } from './dom';
import { mark } from './icons';
import { short } from './words';

/** A key that was meant for what had the focus before is no answer. */
const GUARD_MS = 600;

export abstract class AskBox {
  readonly node = el('section', 'mnb-Ask');
  abstract readonly title: string;
  protected readonly body = el('div', 'mnb-Ask-body');
  protected readonly buttons = el('div', 'mnb-Ask-buttons');

  constructor(protected readonly asked: IPending) {
    const [title, about] = [newId(), newId()];
    this._title.id = title;
    this.body.id = about;
    this._error.setAttribute('role', 'alert');
    this._error.hidden = true;
    this.node.tabIndex = -1;
    this.node.dataset.lmSuppressShortcuts = 'true';
    this.node.setAttribute('aria-labelledby', title);
    this.node.setAttribute('aria-describedby', about);
    const head = el('div', 'mnb-Ask-head');
    head.append(mark('suspended'), this._title);
    this.node.append(head, this.body, this._error, this.buttons, this._how);
    this.node.addEventListener('keydown', event => this._onKey(event));
  }

  /** Follows the kernel; true if the question can be answered from now on. */
  follow(link: Link | null, run: string, how: string): boolean {
    setText(this._title, this.title);
    const began = link !== null && this._link === null;
    if (link !== this._link || !this._followed) {
      this._followed = true;
      this._link = link;
      // What was asked of a kernel that is gone has not been answered.
      this._setBusy(false);
      this.node.setAttribute('role', link ? 'alertdialog' : 'group');
      show(this.buttons, link !== null);
      show(this._how, link === null);
      this.setActive(link !== null);
      this._how.replaceChildren(
        el('span', '', 'To answer, start the kernel, load mastra_nb and run '),
        el('code', '', how)
      );
    }
    this._run = run;
    return began;
  }

  focus(): void {
    this._since = performance.now();
    this.first().focus({ preventScroll: true });
    this.node.scrollIntoView({ block: 'nearest' });
  }

  /** What gets the focus. */
  protected abstract first(): HTMLElement;
  /** Whether anything in the box can be changed. */
  protected abstract setActive(active: boolean): void;
  /** Enter on the box itself. */
  protected abstract accept(): void;
  protected abstract escape(): void;

  protected async send(answer: Json): Promise<void> {
    const link = this._link;
    if (link === null || this._busy) {
      return;
    }
    this._setBusy(true);
    this.fail(null);
    try {
      const args = { run: this._run, path: this.asked.path, answer } as JSONObject;
      await link.ask('answer', args);
    } catch (error) {
      if (link === this._link) {
        this._setBusy(false);
        this.fail(error);
      }
    }
  }

  protected async later(): Promise<void> {
    const link = this._link;
    if (link === null || this._busy) {
      return;
    }
    this._setBusy(true);
    this.fail(null);
    try {
      await link.ask('later', { run: this._run });
      this._setBusy(false);
    } catch (error) {
      this._setBusy(false);
      this.fail(error);
    }
  }

  /** Shows why an answer was not taken; null: nothing is wrong. */
  protected fail(error: unknown): void {
    this._error.hidden = error === null;
    const message = error instanceof Error ? error.message : String(error ?? '');
    const hint = error instanceof LinkError ? error.hint : '';
    this._error.replaceChildren(
      ...(error === null ? [] : [mark('error'), el('span', '', message)]),
      ...(hint ? [el('span', 'mnb-Error-hint', `→ ${hint}`)] : [])
    );
  }

  private _setBusy(busy: boolean): void {
    this._busy = busy;
    this.node.setAttribute('aria-busy', String(busy));
    for (const node of this.node.querySelectorAll<HTMLButtonElement>('button, input, select')) {
      node.disabled = busy;
    }
    for (const node of this.node.querySelectorAll('textarea')) {
      node.readOnly = busy;
    }
  }

  private _onKey(event: KeyboardEvent): void {
    const isOurs = event.target === this.node || event.ctrlKey || event.metaKey;
    if (event.key === 'Enter' && performance.now() - this._since < GUARD_MS) {
      event.preventDefault();
      event.stopPropagation();
    } else if (event.key === 'Enter' && isOurs) {
      event.preventDefault();
      event.stopPropagation();
      this.accept();
    } else if (event.key === 'Escape') {
      event.preventDefault();
      event.stopPropagation();
      this.escape();
    }
  }

  private _title = el('div', 'mnb-Ask-title');
  private _error = el('div', 'mnb-Error mnb-Ask-error');
  private _how = el('div', 'mnb-Ask-how');
  private _link: Link | null = null;
  private _followed = false;
  private _run = '';
  private _busy = false;
  private _since = -Infinity;
}

export function nameText(name: string | undefined): string {
  return short(clean(name ?? '').replace(/\s+/g, ' '), 80);
}
