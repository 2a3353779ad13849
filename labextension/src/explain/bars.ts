import type { CodeCell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';

import { button, el } from '../runs/dom';
import type { Asker } from './asker';
import { hasError, Question } from './errors';

/** A burst of changes, such as a stream of output, is looked at once. */
const SETTLE_MS = 100;

interface IBar {
  node: HTMLElement;
  buttons: Record<Question, HTMLButtonElement>;
}

/** The buttons below the errors of one notebook. */
export class Bars {
  constructor(
    private readonly _panel: NotebookPanel,
    private readonly _asker: Asker,
    private readonly _isOn: () => boolean,
    private readonly _drawn: () => void
  ) {
    const { content, sessionContext } = _panel;
    content.modelChanged.connect(this._watch, this);
    sessionContext.kernelChanged.connect(this.later, this);
    _asker.changed.connect(this.later, this);
    _panel.disposed.connect(() => {
      clearTimeout(this._timer);
      _asker.changed.disconnect(this.later, this);
    });
    this._watch();
  }

  later(): void {
    this._timer ||= window.setTimeout(() => {
      this._timer = 0;
      this._draw();
    }, SETTLE_MS);
  }

  private _watch(): void {
    this._panel.content.model?.contentChanged.connect(this.later, this);
    this.later();
  }

  private _draw(): void {
    if (this._panel.isDisposed) {
      return;
    }
    const can = this._isOn() && !!this._panel.sessionContext.session?.kernel;
    for (const cell of this._panel.content.widgets) {
      const bar = this._bars.get(cell as CodeCell);
      if (can && hasError(cell) && cell.model.executionState !== 'running') {
        this._show(cell, bar ?? this._make(cell));
      } else {
        bar?.node.remove();
      }
    }
    this._drawn();
  }

  private _make(cell: CodeCell): IBar {
    const ask = (question: Question): void =>
      void this._asker.ask(this._panel, cell, question);
    const buttons = {
      explain: button('', 'mnb-mod-small', () => ask('explain')),
      fix: button('', 'mnb-mod-small', () => ask('fix'))
    };
    const node = el('div', 'mnb-Explain');
    node.setAttribute('role', 'group');
    node.setAttribute('aria-label', 'Ask about this error');
    node.append(buttons.explain, buttons.fix);
    const bar = { node, buttons };
    this._bars.set(cell, bar);
    return bar;
  }

  private _show(cell: CodeCell, { node, buttons }: IBar): void {
    const old = this._asker.isOld(this._panel, cell);
    const why = old ? 'Another error came since: the cell runs again first, then ' : '';
    buttons.explain.textContent = old ? 'Run again and explain' : 'Explain';
    buttons.explain.title = `${why || 'Below, '}an agent says what went wrong`;
    buttons.fix.textContent = old ? 'Run again and fix' : 'Fix';
    buttons.fix.title = `${why || 'Below, '}an agent proposes other code for this cell`;
    buttons.explain.disabled = buttons.fix.disabled = this._asker.isBusy;
    const area = cell.outputArea.node;
    if (area.lastElementChild !== node) {
      area.append(node);
    }
  }

  private _timer = 0;
  private readonly _bars = new WeakMap<CodeCell, IBar>();
}
