import { Clipboard } from '@jupyterlab/apputils';
import type { CodeCell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';

import {
  cellAround,
  findCell,
  insertBelow,
  isEditable,
  replaceSource,
  runCell,
  sourceOf,
  undoReplace
} from '../cells';
import type { IShown } from '../tokens';
import { hiddenPlaces, IProposed } from './code';
import { diffLines } from './diff';
import { button, el } from '../runs/dom';
import { countText, drawDiff } from './view';

/** How long nothing must be typed before the diff is made again. */
const SETTLE_MS = 150;

/** The box below an answer in code: what it would change, and the buttons to do so. */
export class ProposalBox {
  constructor(private readonly _findPanel: (node: Node) => NotebookPanel | null) {
    this.node.setAttribute('role', 'group');
    this.node.setAttribute('aria-label', 'Proposed code');
    this._status.setAttribute('role', 'status');
    this.node.append(this._head, this._notices, this._body, this._buttons);
    // An output is drawn before it is in the page; its notebook is known when it has a size.
    this._seen = new ResizeObserver(() => {
      if (this._panel === null) {
        this._draw();
      }
    });
    this._seen.observe(this.node);
  }

  readonly node = el('div', 'mnb-Proposal');

  update(shown: IShown, { code, alone }: IProposed): void {
    this._code = code;
    this._alone = alone;
    this._cell = shown.record.code?.cell;
    this._asked = shown.record.code?.source;
    this._draw();
  }

  dispose(): void {
    this._seen.disconnect();
    this._follow(null);
    clearTimeout(this._timer);
    this.node.remove();
  }

  private _draw(): void {
    this._panel ??= this._findPanel(this.node);
    const panel = this._panel;
    const target = panel && findCell(panel, this._cell);
    this._follow(target);
    this._drawn = this._state();
    const focused = this.node.contains(document.activeElement);
    const label = (document.activeElement as HTMLElement | null)?.dataset.does;
    this._body.replaceChildren();
    this._notices.replaceChildren();
    const current = target && sourceOf(target);
    const lines = current === null ? [] : diffLines(current, this._code);
    const same = current === this._code;
    const can = target !== null && isEditable(panel!, target);
    const buttons: HTMLButtonElement[] = [];
    const add = (does: string, name: string, style: string, clicked: () => void): void => {
      const node = button(name, style, clicked);
      node.dataset.does = does;
      buttons.push(node);
    };
    // The code twice, one below the other, would be for nobody.
    this.node.toggleAttribute('data-instead', this._alone && target !== null);
    this._drawHead(panel, target, same, countText(lines));
    this._drawNotices(panel, target, current, same, can);
    if (target && same && this._before !== null && can) {
      add('undo', 'Undo', 'mnb-mod-accept', () => this._undo(target));
      add('run', 'Run cell', '', () => void runCell(panel!, target));
    } else if (target && !same) {
      this._before = null;
      this._body.append(drawDiff(lines));
      if (can) {
        add('apply', 'Apply', 'mnb-mod-accept', () => this._apply(target));
        add('apply-run', 'Apply and run', '', () => {
          this._apply(target);
          void runCell(panel!, target);
        });
      }
    } else if (hiddenPlaces(this._code)) {
      this._body.append(drawDiff(diffLines('', this._code)));
    }
    if (panel && !panel.content.model?.readOnly && cellAround(panel, this.node)) {
      add('insert', 'Insert below', target ? '' : 'mnb-mod-accept', () => this._insert(panel));
    }
    add('copy', 'Copy', 'mnb-mod-quiet', () => this._copy());
    this._buttons.replaceChildren(...buttons, this._status);
    if (focused) {
      (buttons.find(node => node.dataset.does === label) ?? buttons[0]).focus();
    }
  }

  private _drawHead(
    panel: NotebookPanel | null,
    target: CodeCell | null,
    same: boolean,
    count: string
  ): void {
    if (!target) {
      this._head.replaceChildren('Proposed code');
      return;
    }
    const number = target.model.executionCount ?? '';
    const where = button(`cell [${number || ' '}]`, 'mnb-Proposal-cell', () => {
      panel!.content.activeCellIndex = panel!.content.widgets.indexOf(target);
      void panel!.content.scrollToCell(target);
    });
    where.setAttribute('aria-label', `Show the cell ${number ? `[${number}]` : ''} this is for`);
    const what = !same ? 'Change of ' : this._before === null ? 'The code of ' : 'Applied to ';
    this._head.replaceChildren(what, where, el('span', 'mnb-Proposal-count', same ? '' : count));
  }

  private _drawNotices(
    panel: NotebookPanel | null,
    target: CodeCell | null,
    current: string | null,
    same: boolean,
    can: boolean
  ): void {
    const say = (text: string, level: string): void => {
      const node = el('div', 'mnb-Proposal-notice', text);
      node.dataset.level = level;
      this._notices.append(node);
    };
    const hidden = hiddenPlaces(this._code);
    if (hidden) {
      say(
        `⚠ This code holds characters that are not seen, or that change the order in which it ` +
          `reads: ${hidden}. Below they are shown by their names.`,
        'warning'
      );
    }
    if (panel && this._cell !== undefined && target === null) {
      say('The cell this was meant for is not in this notebook any more.', 'info');
    } else if (target && !same && this._asked !== undefined && current !== this._asked) {
      say('The cell was changed since the question: this is against what it holds now.', 'info');
    } else if (target && same && this._before === null) {
      say('The cell holds this code already.', 'info');
    }
    if (target && !same && !can) {
      say('The cell is read-only.', 'info');
    }
  }

  private _apply(target: CodeCell): void {
    const before = sourceOf(target);
    replaceSource(target, this._code);
    this._before = before;
    this._draw();
    this._say('Applied. Undo brings the old code back.');
  }

  private _undo(target: CodeCell): void {
    const before = this._before!;
    this._before = null;
    undoReplace(target, this._code, before);
    this._draw();
    this._say('Undone.');
  }

  private _insert(panel: NotebookPanel): void {
    const own = cellAround(panel, this.node);
    if (own) {
      insertBelow(panel, own, this._code);
      this._say('Inserted below.');
    }
  }

  private _copy(): void {
    Clipboard.copyToSystem(this._code);
    this._say('Copied.');
  }

  private _say(text: string): void {
    this._status.textContent = text;
  }

  /** The diff is against what the cell holds now: it follows what is typed there. */
  private _follow(target: CodeCell | null): void {
    if (this._target === target) {
      return;
    }
    if (this._target && !this._target.isDisposed) {
      this._target.model.contentChanged.disconnect(this._changed, this);
      this._target.disposed.disconnect(this._changed, this);
    }
    this._target = target;
    target?.model.contentChanged.connect(this._changed, this);
    target?.disposed.connect(this._changed, this);
  }

  /** What of the cell is drawn: its outputs change without concerning us. */
  private _state(): string {
    const cell = this._target;
    return cell === null || cell.isDisposed
      ? ''
      : JSON.stringify([
          sourceOf(cell),
          cell.model.executionCount,
          isEditable(this._panel!, cell)
        ]);
  }

  private _changed(): void {
    clearTimeout(this._timer);
    this._timer = window.setTimeout(() => {
      // The output was cleared: nobody tells a node.
      if (this._panel && (this._panel.isDisposed || !cellAround(this._panel, this.node))) {
        this.dispose();
      } else if (this._state() !== this._drawn) {
        this._status.textContent = '';
        this._draw();
      }
    }, SETTLE_MS);
  }

  private _code = '';
  private _alone = false;
  private _cell: string | undefined;
  private _asked: string | undefined;
  /** What the cell held before the code was applied here. */
  private _before: string | null = null;
  private _panel: NotebookPanel | null = null;
  private _target: CodeCell | null = null;
  private _timer = 0;
  private _drawn = '';
  private readonly _head = el('div', 'mnb-Proposal-head');
  private readonly _notices = el('div');
  private readonly _body = el('div');
  private readonly _buttons = el('div', 'mnb-Proposal-buttons');
  private readonly _status = el('span', 'mnb-Proposal-status');
  private readonly _seen: ResizeObserver;
}
