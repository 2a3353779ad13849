/** What the commands do in the current notebook. */

import { Clipboard, Notification } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { LabIcon } from '@jupyterlab/ui-components';
import type { JSONObject } from '@lumino/coreutils';

import { insertBelow, runCell } from '../cells';
import { LinkError } from '../link';
import { goTo } from '../panel/goto';
import * as icons from '../panel/icon';
import { answerOf, IEntry, Ledger, waits } from '../panel/ledger';
import { isLive } from '../record';
import type { IMastra } from '../tokens';

export interface IAction {
  id: string;
  label: string;
  caption: string;
  icon: LabIcon;
  isEnabled: () => boolean;
  execute: () => Promise<void>;
}

const LOAD = '%load_ext mastra_nb';
const AGENT = '%%agent helper\nYou are a helpful assistant. Answer in a few sentences.';
const ASK = '%%ask\n';

export class Actions {
  constructor(
    private readonly _mastra: IMastra,
    readonly ledger: Ledger
  ) {}

  all(): IAction[] {
    const here = () => this._panel !== null;
    const action = (
      id: string,
      label: string,
      caption: string,
      icon: LabIcon,
      isEnabled: () => boolean,
      execute: () => Promise<void>
    ): IAction => ({ id: `mastra:${id}`, label, caption, icon, isEnabled, execute });
    const running = () => this._running();
    return [
      action('open-dashboard', 'Open Dashboard', 'Live runs, traces, threads, memory and cost, in a new cell',
        icons.dashIcon, here, () => this._runBelow('%mastra dash')),
      action('run-doctor', 'Run Doctor', 'Check key, model, store and kernel, in a new cell',
        icons.doctorIcon, here, () => this._runBelow('%mastra doctor')),
      action('insert-agent', 'Insert Agent Cell Below', 'A cell that defines an agent',
        icons.agentIcon, here, () => this._insert(AGENT)),
      action('insert-ask', 'Insert Ask Cell Below', 'A cell that asks an agent',
        icons.askIcon, here, () => this._insert(ASK)),
      action('stop-run', 'Stop Run of This Cell', 'Stop what the active cell runs; the kernel goes on',
        icons.stopIcon, () => running().some(each => this._isActive(each)),
        () => this._stop(running().filter(each => this._isActive(each)))),
      action('stop-all-runs', 'Stop All Runs', 'Stop all runs of this notebook',
        icons.stopIcon, () => running().length > 0, () => this._stop(running())),
      action('approve-first', 'Approve First Waiting Call', 'Approve the first call that waits, as it is',
        icons.approveIcon, () => this._asked() !== null, () => this._answer(true)),
      action('deny-first', 'Deny First Waiting Call', 'Deny the first call that waits',
        icons.denyIcon, () => this._asked() !== null, () => this._answer(false)),
      action('next-error', 'Go to Next Failed Run', 'Go to the next run of this notebook that failed',
        icons.errorIcon, () => this._failed().length > 0, () => this._nextError()),
      action('copy-answer', 'Copy Answer of This Cell', 'Copy what the run of the active cell answered',
        icons.copyIcon, () => this._answerHere() !== '', () => this._copy())
    ];
  }

  private get _panel(): NotebookPanel | null {
    const { panel } = this.ledger;
    return panel?.content.model ? panel : null;
  }

  private _running(): IEntry[] {
    const live = this.ledger.entries.filter(({ record }) => isLive(record));
    return this._mastra.linkOf(this.ledger.panel) ? live : [];
  }

  private _isActive(entry: IEntry): boolean {
    return this._panel?.content.activeCell?.model.id === entry.cell;
  }

  private _failed(): IEntry[] {
    return this.ledger.entries.filter(({ record }) => record.status === 'failed');
  }

  /** The first call that waits for an approval; other questions need more than a yes or no. */
  private _asked(): { entry: IEntry; path: string } | null {
    for (const entry of this._running()) {
      const asked = waits(entry.record)
        ? entry.record.pending!.find(each => each.reason === 'approval')
        : undefined;
      if (asked) {
        return { entry, path: asked.path };
      }
    }
    return null;
  }

  private _answerHere(): string {
    const entries = this.ledger.of(this._panel?.content.activeCell?.model);
    return entries.length ? answerOf(entries[0].record, entries[0].markdown) : '';
  }

  private async _stop(entries: IEntry[]): Promise<void> {
    await Promise.all(entries.map(({ record }) => this._tell('stop', { run: record.run! })));
  }

  private async _answer(approved: boolean): Promise<void> {
    const asked = this._asked();
    if (asked !== null) {
      const { entry, path } = asked;
      await goTo(this._panel, entry.cell);
      await this._tell('answer', { run: entry.record.run!, path, answer: { approved } });
    }
  }

  private async _tell(name: string, args: JSONObject): Promise<void> {
    try {
      await this._mastra.linkOf(this._panel)?.ask(name, args);
    } catch (error) {
      const hint = error instanceof LinkError && error.hint ? ` → ${error.hint}` : '';
      Notification.error((error instanceof Error ? error.message : String(error)) + hint);
    }
  }

  /** The next one below the active cell, or the first. */
  private async _nextError(): Promise<void> {
    const at = this._panel?.content.activeCellIndex ?? -1;
    const failed = this._failed();
    const next = failed.find(({ place }) => place - 1 > at) ?? failed[0];
    if (next) {
      await goTo(this._panel, next.cell);
    }
  }

  private async _copy(): Promise<void> {
    Clipboard.copyToSystem(this._answerHere());
  }

  private async _insert(source: string): Promise<void> {
    const panel = this._panel;
    const above = panel?.content.activeCell;
    if (panel && above) {
      insertBelow(panel, above, source).editor?.focus();
      panel.content.mode = 'edit';
    }
  }

  private async _runBelow(line: string): Promise<void> {
    const panel = this._panel;
    const above = panel?.content.activeCell;
    if (!panel || !above) {
      return;
    }
    const link = this._mastra.linkOf(panel);
    if (link === null) {
      Notification.warning('There is no kernel: start one for this notebook first.');
      return;
    }
    const loaded = await link.isLoaded();
    await runCell(panel, insertBelow(panel, above, loaded ? line : `${LOAD}\n${line}`));
  }
}
