/** What a run asks of somebody: one box for each question. */

import type { NotebookPanel } from '@jupyterlab/notebook';

import type { IPending, IRecord } from '../record';
import type { Announcer } from './announcer';
import { ApprovalBox } from './approval';
import type { Attention } from './attention';
import { AskBox } from './askbox';
import { el, isTyping } from './dom';
import { FormBox } from './formbox';
import type { Wire } from './wire';
import { jsonText, resumes } from './words';

const PATIENCE_MS = 20_000;

export class Asks {
  readonly node = el('div', 'mnb-Asks');

  constructor(
    private readonly _wire: Wire,
    private readonly _attention: Attention,
    private readonly _announcer: Announcer
  ) {}

  update(record: IRecord, root: HTMLElement, panel: NotebookPanel | null): void {
    const left = this._boxes;
    this._boxes = new Map();
    const how = resumes(record);
    const waits = record.status === 'suspended' || record.status === 'running';
    const pending = waits ? (record.pending ?? []) : [];
    pending.forEach((asked, n) => {
      const key = `${record.run ?? ''} ${asked.path} ${jsonText(asked as never)}`;
      let box = left.get(key);
      left.delete(key);
      if (box === undefined) {
        box = this._newBox(asked);
        this.node.append(box.node);
      }
      this._boxes.set(key, box);
      const link = record.run === undefined ? null : this._wire.link;
      const began = box.follow(link, record.run ?? '', how[n]);
      if (began) {
        this._call(key, box, record, root, panel);
      }
      if (link === null) {
        this._attention.answered(key);
      }
    });
    for (const [key, box] of left) {
      const held = box.node.contains(document.activeElement);
      this._attention.answered(key);
      box.node.remove();
      if (held) {
        panel?.content.activeCell?.node.focus();
      }
    }
  }

  dispose(): void {
    this._boxes.forEach((_, key) => this._attention.answered(key));
    this._boxes.clear();
  }

  private _newBox(asked: IPending): AskBox {
    return asked.reason === 'approval' ? new ApprovalBox(asked) : new FormBox(asked);
  }

  private _call(
    key: string,
    box: AskBox,
    record: IRecord,
    root: HTMLElement,
    panel: NotebookPanel | null
  ): void {
    const text = `${record.agent || 'A run'}: ${box.title}`;
    this._announcer.say(text);
    this._attention.ask(key, panel, text, () => {
      box.node.scrollIntoView({ block: 'nearest' });
      box.focus();
    });
    this._focus(key, box, root, performance.now() + PATIENCE_MS);
  }

  /** Goes to the box once nobody is typing, unless somebody has gone elsewhere meanwhile. */
  private _focus(key: string, box: AskBox, root: HTMLElement, until: number): void {
    if (this._boxes.get(key) !== box || performance.now() > until || document.hidden) {
      return;
    }
    if (isTyping()) {
      setTimeout(() => this._focus(key, box, root, until), 250);
      return;
    }
    const active = document.activeElement;
    const cell = root.closest('.jp-Notebook');
    const isHere = active === null || active === document.body || Boolean(cell?.contains(active));
    const asksAlready = active?.closest('.mnb-Ask');
    if (isHere && !asksAlready && root.checkVisibility()) {
      box.focus();
    }
  }

  private _boxes = new Map<string, AskBox>();
}
