/** Calls somebody back who is not looking: a notification, a number in the titles. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';

import { clean } from './dom';
import type { Options } from './options';
import { short } from './words';

/** Data of a notebook's tab: how many of its questions wait. */
const WAITING = 'mnb-waiting';
const BADGE = /^\(\d+\) /;

interface IWaiting {
  panel: NotebookPanel | null;
  notification: string | null;
}

export class Attention {
  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _options: Options
  ) {
    // JupyterLab writes the title anew whenever another file comes to the front.
    const title = document.querySelector('title');
    if (title) {
      new MutationObserver(() => this._badge()).observe(title, { childList: true });
    }
  }

  /** Once for each question. `show` brings it into view. */
  ask(key: string, panel: NotebookPanel | null, text: string, show: () => void): void {
    if (this._waiting.has(key)) {
      return;
    }
    const isSeen = !document.hidden && (panel?.isVisible ?? true);
    const waiting: IWaiting = { panel, notification: null };
    this._waiting.set(key, waiting);
    if (!isSeen && this._options.notify) {
      const callback = () => {
        if (panel) {
          this._app.shell.activateById(panel.id);
        }
        show();
      };
      waiting.notification = Notification.emit(short(clean(text), 140), 'warning', {
        autoClose: false,
        actions: [{ label: 'Show', callback, displayType: 'accent' }]
      });
    }
    if (!isSeen) {
      this._marked.add(key);
    }
    this._mark(panel);
  }

  answered(key: string): void {
    const waiting = this._waiting.get(key);
    if (waiting === undefined) {
      return;
    }
    this._waiting.delete(key);
    this._marked.delete(key);
    if (waiting.notification !== null) {
      Notification.dismiss(waiting.notification);
    }
    this._mark(waiting.panel);
  }

  private _mark(panel: NotebookPanel | null): void {
    if (panel && !panel.isDisposed) {
      const here = [...this._marked].filter(key => this._waiting.get(key)?.panel === panel).length;
      // Not its label: a document is renamed by that.
      const { [WAITING]: _, ...rest } = panel.title.dataset;
      panel.title.dataset = here ? { ...rest, [WAITING]: String(here) } : rest;
    }
    this._badge();
  }

  private _badge(): void {
    const bare = document.title.replace(BADGE, '');
    const title = this._marked.size ? `(${this._marked.size}) ${bare}` : bare;
    if (document.title !== title) {
      document.title = title;
    }
  }

  private _waiting = new Map<string, IWaiting>();
  /** Those that came while nobody was looking. */
  private _marked = new Set<string>();
}
