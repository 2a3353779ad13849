import { Notification } from '@jupyterlab/apputils';
import type { Cell, CodeCell } from '@jupyterlab/cells';
import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { ISignal, Signal } from '@lumino/signaling';

import { insertBelow, runCell, sourceOf } from '../cells';
import type { IMastra } from '../tokens';
import { hasError, Question, SOURCES } from './errors';

const LOAD = '%load_ext mastra_nb';

/** Asks about the error of a cell, in a new cell below it. */
export class Asker {
  constructor(
    private readonly _mastra: IMastra,
    notebooks: INotebookTracker
  ) {
    NotebookActions.executed.connect((_, { notebook, cell, success }) => {
      const panel = notebooks.find(panel => panel.content === notebook);
      const kernel = panel?.sessionContext.session?.kernel;
      // Our own errors, such as a question that was stopped, are none that one asks about.
      if (kernel && !success && hasError(cell)) {
        this._failed(kernel, cell);
      }
      this._changed.emit();
    });
  }

  /** Emitted when what may be asked has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isBusy(): boolean {
    return this._busy;
  }

  /** Whether the kernel's last error is another one: then the cell has to fail again first. */
  isOld(panel: NotebookPanel, cell: Cell): boolean {
    const kernel = panel.sessionContext.session?.kernel;
    return !kernel || this._last.get(kernel) !== cell.model.id;
  }

  async ask(panel: NotebookPanel, cell: CodeCell, question: Question): Promise<void> {
    if (this._busy) {
      return;
    }
    this._setBusy(true);
    try {
      await this._ask(panel, cell, question);
    } catch (error) {
      Notification.error(`The error could not be asked about: ${(error as Error).message}`);
    } finally {
      this._setBusy(false);
    }
  }

  private async _ask(panel: NotebookPanel, cell: CodeCell, question: Question): Promise<void> {
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel) {
      Notification.warning('There is no kernel to ask: start one and run the cell.');
      return;
    }
    if (!(await this._load(kernel))) {
      return;
    }
    if (this.isOld(panel, cell)) {
      await runCell(panel, cell);
      if (!hasError(cell)) {
        Notification.info('The cell ran without an error this time: nothing was asked.');
        return;
      }
    }
    // A second click asks again, in the same place.
    const { widgets } = panel.content;
    const below = widgets[widgets.indexOf(cell) + 1];
    const again = below !== undefined && sourceOf(below) === SOURCES[question];
    const asking = again ? below : insertBelow(panel, cell, SOURCES[question]);
    panel.content.activeCellIndex = widgets.indexOf(asking);
    await runCell(panel, asking);
  }

  /** Loads mastra_nb into a kernel that does not have it; silently, as it is no part of the work. */
  private async _load(kernel: Kernel.IKernelConnection): Promise<boolean> {
    if (await this._mastra.linkTo(kernel).isLoaded()) {
      return true;
    }
    const reply = await kernel.requestExecute({ code: LOAD, silent: true, store_history: false })
      .done;
    if (reply.content.status === 'ok' && (await this._mastra.linkTo(kernel).isLoaded())) {
      return true;
    }
    Notification.error(
      'mastra_nb could not be loaded in this kernel. Install it there: %pip install mastra_nb',
      { autoClose: false }
    );
    return false;
  }

  private _failed(kernel: Kernel.IKernelConnection, cell: Cell): void {
    if (!this._last.has(kernel)) {
      kernel.statusChanged.connect((_, status) => {
        if (['restarting', 'autorestarting', 'dead'].includes(status)) {
          this._last.set(kernel, '');
          this._changed.emit();
        }
      });
    }
    this._last.set(kernel, cell.model.id);
  }

  private _setBusy(busy: boolean): void {
    this._busy = busy;
    this._changed.emit();
  }

  private _busy = false;
  /** The cell that failed last in each kernel. */
  private readonly _last = new WeakMap<Kernel.IKernelConnection, string>();
  private readonly _changed = new Signal<this, void>(this);
}
