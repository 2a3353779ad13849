/** Sections Threads and Memory: conversations that are stored, and what is remembered of them. */

import type { JSONObject } from '@lumino/coreutils';

import type { Json } from '../record';
import { button, el, show } from '../runs/dom';
import { jsonText } from '../runs/words';
import { drawRow, IRow, PAGE, PagedList } from './list';
import { emptyNode, errorNode, ISources, IView, Latest, noKernel } from './view';

interface IThread {
  id: string;
  title: string;
  resource: string;
  messages: number;
  updated: number;
}

interface IMessage {
  pos: number;
  role: string;
  text: string;
  tools?: { name: string; args?: string; result?: string }[];
}

interface IConversation {
  thread: IThread;
  messages: IMessage[];
  before: number | null;
  working?: string;
}

interface IIndex {
  name: string;
  count: number;
  dimension: number;
  embedder: Json;
}

abstract class ThreadList implements IView {
  abstract readonly name: string;
  readonly node = el('div', 'mnb-View');

  constructor(protected readonly sources: ISources) {
    this._text.type = 'search';
    this._text.placeholder = 'Filter';
    this._text.setAttribute('aria-label', 'Filter threads');
    this._text.addEventListener('change', () => this._turn(0));
    this.node.append(this._text, this._list.node, this._empty, this.shown);
  }

  refresh(): void {
    const { link } = this.sources;
    show(this._text, link !== null);
    if (link === null) {
      this.reset();
      this._empty.replaceChildren(noKernel(this.name === 'Memory' ? 'Memories' : 'Threads'));
      return;
    }
    void this._ask();
  }

  reset(): void {
    this._asked.drop();
    this.opened.drop();
    this._page = 0;
    this._list.update([], 0, 0, false);
    this._empty.replaceChildren();
    this.shown.replaceChildren();
  }

  dispose(): void {
    this._asked.drop();
    this.opened.drop();
  }

  protected abstract draw(found: IConversation): void;
  /** What is shown besides the threads. */
  protected abstract more(): Promise<void>;

  protected async open(id: string, before: number | null = null): Promise<void> {
    const args: JSONObject = { id, limit: PAGE, ...(before === null ? {} : { before }) };
    try {
      const found = await this.opened.of(this.sources.link!.ask<IConversation>('thread', args));
      if (found !== undefined) {
        this.draw(found);
      }
    } catch (error) {
      this.shown.replaceChildren(errorNode(error, () => void this.open(id, before)));
    }
  }

  private _turn(page: number): void {
    this._page = page;
    this.refresh();
  }

  private async _ask(): Promise<void> {
    const args: { [name: string]: string | number } = { limit: PAGE };
    if (this._page > 0) {
      args.cursor = this._cursors[this._page] ?? '';
    }
    if (this._text.value.trim()) {
      args.text = this._text.value.trim();
    }
    try {
      const found = await this._asked.of(
        this.sources.link!.ask<{ threads: IThread[]; next: string | null }>('threads', args)
      );
      if (found === undefined) {
        return;
      }
      this._cursors[this._page + 1] = found.next ?? '';
      const rows = found.threads.map(row);
      this._list.update(rows, this._page, null, found.next !== null);
      const hint = emptyNode(
        'No threads', 'An agent with memory keeps its conversations here:',
        '%%agent helper --memory auto\nYou help.'
      );
      this._empty.replaceChildren(...(rows.length ? [] : [hint]));
      await this.more();
    } catch (error) {
      this._list.update([], 0, 0, false);
      this._empty.replaceChildren(errorNode(error, () => this.refresh()));
    }
  }

  protected readonly opened = new Latest();
  protected readonly shown = el('div');
  private _text = el('input', 'mnb-Input');
  private _list = new PagedList('threads', id => void this.open(id), page => this._turn(page));
  private _empty = el('div');
  private _asked = new Latest();
  private _page = 0;
  private _cursors: string[] = [];
}

function row(thread: IThread): IRow {
  return {
    key: thread.id,
    draw: node => {
      const count = `${thread.messages} message${thread.messages === 1 ? '' : 's'}`;
      const head = [el('strong', '', thread.title || thread.id)];
      const when = new Date(thread.updated * 1000).toLocaleString();
      drawRow(node, head, [[thread.resource, count, when].filter(Boolean).join(' · ')]);
    }
  };
}

export class ThreadsView extends ThreadList {
  readonly name = 'Threads';

  protected draw({ thread, messages, before }: IConversation): void {
    const list = el('ol', 'mnb-Messages');
    list.setAttribute('aria-label', `Messages of ${thread.title || thread.id}`);
    for (const message of messages) {
      const item = el('li', 'mnb-Message');
      item.dataset.role = message.role;
      item.append(el('div', 'mnb-Label', message.role), el('div', 'mnb-Plain', message.text));
      for (const { name, args, result } of message.tools ?? []) {
        const said = args === undefined ? `${name} → ${result ?? ''}` : `${name} ${args}`;
        item.append(el('code', 'mnb-Message-tool', said));
      }
      list.append(item);
    }
    const older = button('Older messages', '', () => void this.open(thread.id, before));
    this.shown.replaceChildren(
      el('div', 'mnb-Detail-title', thread.title || thread.id), ...(before ? [older] : []), list
    );
  }

  protected async more(): Promise<void> {
    // The threads are all there is.
  }
}

export class MemoryView extends ThreadList {
  readonly name = 'Memory';

  constructor(sources: ISources) {
    super(sources);
    this.node.append(this._indexes);
  }

  reset(): void {
    super.reset();
    this._indexes?.replaceChildren();
  }

  protected draw({ thread, working }: IConversation): void {
    const text = working?.trim();
    this.shown.replaceChildren(
      el('div', 'mnb-Detail-title', `Working memory of ${thread.title || thread.id}`),
      text ? el('pre', 'mnb-Value', text) : el('div', 'mnb-Quiet', 'Nothing is remembered yet.')
    );
  }

  protected async more(): Promise<void> {
    const { indexes } = await this.sources.link!.ask<{ indexes: IIndex[] }>('indexes');
    const lines = indexes.map(({ name, count, dimension, embedder }) => {
      const by = typeof embedder === 'string' ? embedder : embedder ? jsonText(embedder) : '';
      const about = [`${count.toLocaleString('en')} entries`, `${dimension} numbers each`, by];
      const node = el('li', 'mnb-Listed');
      drawRow(node, [el('strong', '', name)], [about.filter(Boolean).join(' · ')]);
      return node;
    });
    const list = el('ul', 'mnb-Messages');
    list.append(...lines);
    const title = el('div', 'mnb-Detail-title', 'Vector indexes');
    this._indexes.replaceChildren(...(lines.length ? [title, list] : []));
  }

  private _indexes = el('div');
}
