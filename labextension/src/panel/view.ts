/** What the panel's sections share. */

import type { NotebookPanel } from '@jupyterlab/notebook';

import { Link, LinkError } from '../link';
import { button, el } from '../runs/dom';
import type { IAsker } from '../store';
import type { Ledger } from './ledger';

/** The sources of the panel: a notebook's outputs, and its kernel or, without one, its store. */
export interface ISources {
  readonly ledger: Ledger;
  readonly panel: NotebookPanel | null;
  /** Null where there is neither a kernel with mastra_nb nor a store that the server can read. */
  readonly link: IAsker | null;
  /** Who can act on an answer: a kernel alone. */
  readonly kernel: Link | null;
  readonly showCost: boolean;
  /** What the details and the trace are of. */
  readonly chosen: IChosen | null;
  choose(chosen: IChosen | null): void;
  /** Shows the section of this name. */
  turn(section: string): void;
}

/** A run of the notebook by its output, or a stored one by its id. */
export type IChosen = { key: string } | { run: string };

export interface IView {
  readonly name: string;
  readonly node: HTMLElement;
  /** Draws what is so now; called for the section in view alone. */
  refresh(): void;
  /** The notebook or its kernel is another one: what was asked of the old one is void. */
  reset(): void;
  dispose(): void;
}

/** What there is to do where there is nothing to show. */
export function emptyNode(title: string, what: string, code = ''): HTMLElement {
  const node = el('div', 'mnb-Empty');
  node.append(el('div', 'mnb-Empty-title', title), el('div', 'mnb-Quiet', what));
  if (code) {
    node.append(el('pre', 'mnb-Value', code));
  }
  return node;
}

export function noKernel(what: string): HTMLElement {
  return emptyNode(
    'No connection to mastra_nb',
    `${what} are kept where the kernel runs. Start a kernel and load mastra_nb in it:`,
    '%load_ext mastra_nb'
  );
}

export function errorNode(error: unknown, again: (() => void) | null): HTMLElement {
  const node = el('div', 'mnb-Empty mnb-mod-error');
  node.setAttribute('role', 'alert');
  node.append(el('div', '', error instanceof Error ? error.message : String(error)));
  if (error instanceof LinkError && error.hint) {
    node.append(el('div', 'mnb-Quiet', `→ ${error.hint}`));
  }
  if (again) {
    node.append(button('Try again', '', again));
  }
  return node;
}

/** Of questions that follow each other only the last one's answer counts. */
export class Latest {
  /** Undefined if something else was asked meanwhile. */
  async of<T>(asked: Promise<T>): Promise<T | undefined> {
    const mine = ++this._count;
    try {
      const value = await asked;
      return mine === this._count ? value : undefined;
    } catch (error) {
      if (mine === this._count) {
        throw error;
      }
      return undefined;
    }
  }

  drop(): void {
    this._count += 1;
  }

  private _count = 0;
}

export function tokens(n: number): string {
  return n < 10_000
    ? n.toLocaleString('en')
    : n < 1_000_000
      ? `${(n / 1000).toFixed(1)}k`
      : `${(n / 1_000_000).toFixed(1)}M`;
}
