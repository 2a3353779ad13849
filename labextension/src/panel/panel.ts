/** The panel at the right: sections of which one is in view; it follows the current notebook. */

import type { NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';

import type { IKernelEvent, Link } from '../link';
import { el, newId, setText, show } from '../runs/dom';
import { Wire } from '../runs/wire';
import { IAsker, StoreLink } from '../store';
import type { IMastra } from '../tokens';
import { CostView } from './cost';
import { Ledger, waits } from './ledger';
import { RunsView } from './runs';
import { MemoryView, ThreadsView } from './threads';
import { TraceView } from './trace';
import { IChosen, ISources, IView } from './view';
import { WaitingView } from './waiting';

const CALM_MS = 300;

export class MastraPanel extends Widget implements ISources {
  constructor(mastra: IMastra, readonly ledger: Ledger, rendermime: IRenderMimeRegistry) {
    super();
    this.addClass('mnb-Panel');
    this.node.dataset.lmSuppressShortcuts = 'true';
    this._wire = new Wire(mastra, () => this._onLink());
    this._views = [
      new RunsView(this, rendermime), new WaitingView(this), new TraceView(this),
      new ThreadsView(this), new MemoryView(this), new CostView(this)
    ];
    this._tabs.setAttribute('role', 'tablist');
    this._tabs.setAttribute('aria-label', 'Mastra');
    this._tabs.addEventListener('keydown', event => this._onKey(event));
    for (const view of this._views) {
      this._addTab(view);
    }
    this.node.append(this._title, this._tabs, ...this._views.map(view => view.node));
    this._active = this._views[0];
    this._mark();
    ledger.changed.connect(this._onLedger, this);
    this._onLedger();
  }

  get panel(): NotebookPanel | null {
    return this.ledger.panel;
  }

  get link(): IAsker | null {
    return this._wire.link ?? this._store;
  }

  get kernel(): Link | null {
    return this._wire.link;
  }

  get showCost(): boolean {
    return this._showCost;
  }

  set showCost(value: boolean) {
    this._showCost = value;
    this._later();
  }

  get chosen(): IChosen | null {
    return this._chosen;
  }

  choose(chosen: IChosen | null): void {
    this._chosen = chosen;
    this._later(0);
  }

  turn(section: string): void {
    const view = this._views.find(each => each.name === section);
    if (view) {
      this._active = view;
      this._mark();
      this._later(0);
    }
  }

  dispose(): void {
    if (!this.isDisposed) {
      this.ledger.changed.disconnect(this._onLedger, this);
      this._listen(null);
      this._wire.release();
      this._views.forEach(view => view.dispose());
      window.clearTimeout(this._timer);
      super.dispose();
    }
  }

  protected onAfterShow(_: Message): void {
    this._later(0);
  }

  protected onActivateRequest(_: Message): void {
    this._buttons.get(this._active)?.focus();
  }

  private _onLedger(): void {
    const { panel } = this.ledger;
    if (panel !== this._shown) {
      this._shown = panel;
      this._chosen = null;
      this._store = null;
      this._wire.follow(panel);
      void this._findStore();
      this._views.forEach(view => view.reset());
    }
    this._later();
  }

  private _onLink(): void {
    this._listen(this._wire.link);
    this._store = null;
    void this._findStore();
    this._views.forEach(view => view.reset());
    this._later(0);
  }

  /** Without a kernel what is kept in the notebook's folder can be read all the same. */
  private async _findStore(): Promise<void> {
    const { panel } = this;
    if (panel === null || this._wire.link !== null) {
      return;
    }
    const store = new StoreLink(panel.context.path);
    const there = await store.isThere();
    if (there && panel === this.panel && this._wire.link === null && !this.isDisposed) {
      this._store = store;
      this._views.forEach(view => view.reset());
      this._later(0);
    }
  }

  private _listen(link: Link | null): void {
    this._heard?.events.disconnect(this._onEvent, this);
    this._heard = link;
    link?.events.connect(this._onEvent, this);
  }

  private _onEvent(_: Link, event: IKernelEvent): void {
    if (event.event === 'changed') {
      this._later();
    }
  }

  private _later(ms = CALM_MS): void {
    if (ms === 0) {
      window.clearTimeout(this._timer);
      this._timer = undefined;
    }
    this._timer ??= window.setTimeout(() => this._refresh(), ms);
  }

  /** Nothing is drawn or asked while the panel is not in view. */
  private _refresh(): void {
    this._timer = undefined;
    if (this.isDisposed || !this.isVisible) {
      return;
    }
    const name = this.panel?.title.label ?? 'No notebook';
    setText(this._title, name);
    const n = this.ledger.entries.filter(({ record }) => waits(record)).length;
    const waiting = this._views[1];
    setText(this._buttons.get(waiting)!, n ? `Waiting (${n})` : waiting.name);
    this._active.refresh();
  }

  private _addTab(view: IView): void {
    const tab = el('button', 'mnb-Tab', view.name);
    tab.type = 'button';
    tab.id = newId();
    view.node.id = newId();
    view.node.tabIndex = -1;
    tab.setAttribute('role', 'tab');
    tab.setAttribute('aria-controls', view.node.id);
    view.node.setAttribute('role', 'tabpanel');
    view.node.setAttribute('aria-labelledby', tab.id);
    tab.addEventListener('click', () => this.turn(view.name));
    this._buttons.set(view, tab);
    this._tabs.append(tab);
  }

  private _mark(): void {
    for (const [view, tab] of this._buttons) {
      const active = view === this._active;
      tab.setAttribute('aria-selected', String(active));
      tab.tabIndex = active ? 0 : -1;
      show(view.node, active);
    }
  }

  private _onKey(event: KeyboardEvent): void {
    const at = this._views.indexOf(this._active);
    const last = this._views.length - 1;
    const to: { [key: string]: number } = {
      ArrowRight: at === last ? 0 : at + 1,
      ArrowLeft: at === 0 ? last : at - 1,
      Home: 0,
      End: last
    };
    if (Object.hasOwn(to, event.key)) {
      this.turn(this._views[to[event.key]].name);
      this._buttons.get(this._active)?.focus();
      event.preventDefault();
      event.stopPropagation();
    }
  }

  private _wire: Wire;
  private _views: IView[];
  private _active: IView;
  private _buttons = new Map<IView, HTMLButtonElement>();
  private _title = el('div', 'mnb-Panel-title');
  private _tabs = el('div', 'mnb-Tabs');
  private _shown: NotebookPanel | null = null;
  private _chosen: IChosen | null = null;
  private _heard: Link | null = null;
  private _store: IAsker | null = null;
  private _showCost = true;
  private _timer: number | undefined;
}
