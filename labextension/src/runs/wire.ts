/** Whether the kernel that made a run is there to be asked. */

import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';

import type { Link } from '../link';
import { IMastra } from '../tokens';

/** Follows the kernel of the notebook that a node is in, as long as that is of use. */
export class Wire {
  constructor(
    private readonly _mastra: IMastra,
    private readonly _changed: () => void
  ) {}

  /** The line to a kernel that has mastra_nb loaded; null if there is none. */
  get link(): Link | null {
    return this._link;
  }

  /** Whether a cell runs: what it shows is then what happens now. */
  get isBusy(): boolean {
    return this._panel?.sessionContext.session?.kernel?.status === 'busy';
  }

  follow(panel: NotebookPanel | null): void {
    if (panel !== this._panel) {
      this.release();
      this._panel = panel;
      panel?.sessionContext.statusChanged.connect(this._onStatus, this);
      panel?.sessionContext.kernelChanged.connect(this._onStatus, this);
    }
    void this._check();
  }

  release(): void {
    this._panel?.sessionContext.statusChanged.disconnect(this._onStatus, this);
    this._panel?.sessionContext.kernelChanged.disconnect(this._onStatus, this);
    this._panel = null;
    this._set(null);
  }

  private _onStatus(_: unknown, status: unknown): void {
    const gone: (Kernel.Status | unknown)[] = ['restarting', 'autorestarting', 'dead'];
    if (gone.includes(status)) {
      this._set(null);
    } else if (status === 'idle' || typeof status !== 'string') {
      void this._check();
    }
  }

  /** A line is only opened to a kernel that knows us: any other would complain of it. */
  private async _check(): Promise<void> {
    const link = this._mastra.linkOf(this._panel);
    if (this._checking || (link === this._link && (link === null || link.isOpen))) {
      return;
    }
    this._checking = true;
    try {
      // A question would wait for the cell that runs, and so for the run that it shows.
      const known = link !== null && (this.isBusy || (await link.isLoaded()));
      if (known) {
        await link.open();
      }
      if (link === this._mastra.linkOf(this._panel)) {
        this._set(known ? link : null);
      }
    } catch (error) {
      console.warn('mastra_nb: no line to the kernel', error);
      this._set(null);
    } finally {
      this._checking = false;
    }
  }

  private _set(link: Link | null): void {
    if (link !== this._link) {
      this._link = link;
      this._changed();
    }
  }

  private _panel: NotebookPanel | null = null;
  private _link: Link | null = null;
  private _checking = false;
}
