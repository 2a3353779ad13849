/** What happened on the way to an answer: one line each, folded, drawn anew where it changed. */

import type { IItem } from '../record';
import { clean, el, setData, setText, show } from './dom';
import { GraphView } from './graphview';
import { icon } from './icons';
import * as parts from './parts';
import { TimelineView } from './timeline';
import { fieldsNode, ValueView } from './values';
import { argsText, duration, isObject, kindText, short, statusText } from './words';

/** Kinds whose result is told in their line if it is short: there may be many of them. */
const BRIEF = ['step', 'map', 'ask', 'event'];

class CallView extends parts.Fold {
  constructor(kind: string) {
    super();
    setData(this.node, 'kind', kind);
    const word = kindText(kind);
    this.line.append(icon(kind));
    if (word) {
      this.line.append(el('span', 'mnb-Fold-word', word));
    }
    this.line.append(this._name, this._args, this._result, this._why, this._state, this._seconds);
  }

  dispose(): void {
    this._inside?.dispose();
  }

  /** The item that a workflow's node or bar stands for, the fold above it opened. */
  find(names: readonly string[]): parts.Fold | null {
    if (!names.length || !this.item?.items) {
      return this;
    }
    const wasOpen = this.node.open;
    this.open();
    const found = this._inside?.find(names) ?? null;
    this.node.open = found !== null || wasOpen;
    return found ?? this;
  }

  protected drawLine(item: IItem): void {
    const { args, result, error } = item;
    setText(this._name, item.name ?? '');
    const called = item.type === 'tool' || args !== undefined;
    setText(this._args, called ? `(${argsText(args)})` : '');
    const brief = BRIEF.includes(item.type) && result !== undefined && result !== null;
    setText(this._result, brief ? `→ ${argsText(result, 60)}` : '');
    setText(this._why, error ? short(error.message.replace(/\s+/g, ' '), 160) : '');
    const attempt = item.attempt === undefined ? '' : `attempt ${item.attempt}`;
    setText(this._state, [statusText(item), attempt].filter(Boolean).join(' · '));
    setText(this._seconds, item.seconds === undefined ? '' : duration(item.seconds));
    setData(this.node, 'status', item.status ?? '');
    this.line.querySelector('.mnb-Spinner')?.remove();
    if (item.status === 'running' || item.status === 'streaming') {
      this._state.before(el('span', 'mnb-Spinner'));
    }
  }

  protected drawBody(item: IItem, context: parts.IContext): void {
    const own = (this._own ??= this._build());
    const { name, error } = item;
    own.full.hidden = (name ?? '').length < 60;
    setText(own.full, name ?? '');
    own.args.update(item.args);
    own.result.update(item.result);
    own.error.update(error);
    const inner = item.items !== undefined || item.graph !== undefined;
    if (inner || item.output !== undefined || item.at || item.text !== undefined) {
      if (this._inside === null) {
        this._inside = new Inside();
        this.body.insertBefore(this._inside.node, own.error.node);
      }
      this._inside.update(item, context);
    }
    const some = [item.args, item.result, error, item.items, item.output, item.at, item.text];
    show(own.none, some.every(each => each === undefined) && !item.graph);
  }

  private _build() {
    const own = {
      full: el('div', 'mnb-Label'),
      args: new ValueView('arguments', fieldsNode),
      result: new ValueView('result'),
      error: new parts.ErrorView(),
      none: el('div', 'mnb-Label', 'no arguments and no result')
    };
    this.body.append(own.full, own.args.node, own.result.node, own.error.node, own.none);
    return own;
  }

  private _name = el('code', 'mnb-Fold-name');
  private _args = el('span', 'mnb-Fold-args');
  private _result = el('span', 'mnb-Fold-result');
  private _why = el('span', 'mnb-Fold-why');
  private _state = el('span', 'mnb-Fold-state');
  private _seconds = el('span', 'mnb-Fold-seconds');
  private _own: ReturnType<CallView['_build']> | null = null;
  private _inside: Inside | null = null;
}

/** What a nested agent or workflow did, and what it gave. */
class Inside {
  readonly node = el('div', 'mnb-Inside');

  update(item: IItem, context: parts.IContext): void {
    if (isObject(item.graph)) {
      this._graph ??= this._newGraph();
      this._graph.update(item.graph, item.items ?? []);
    }
    this._list.update(item.items ?? [], context);
    this._output.update(item.output);
    if (item.text !== undefined || item.at !== undefined) {
      this._text ??= this._newText();
      this._text.update(item, context);
    }
    if (context.finished && (item.timeline?.length ?? 0) > 1) {
      this._timeline ??= this._newTimeline();
      this._timeline.update(item.timeline ?? []);
    }
  }

  constructor() {
    this.node.append(this._list.node, this._output.node);
  }

  find(names: readonly string[]): parts.Fold | null {
    return this._list.find(names);
  }

  dispose(): void {
    this._list.dispose();
    this._text?.dispose();
  }

  private _newGraph(): GraphView {
    const graph = new GraphView(names => this._list.reveal(names));
    this.node.prepend(graph.node);
    return graph;
  }

  private _newText(): parts.TextView {
    const text = new parts.TextView();
    this.node.insertBefore(text.node, this._timeline?.node ?? null);
    return text;
  }

  private _newTimeline(): TimelineView {
    const timeline = new TimelineView(names => this._list.reveal(names));
    this.node.append(timeline.node);
    return timeline;
  }

  private _graph: GraphView | null = null;
  private _list = new ItemList();
  private _output = new ValueView('');
  private _text: parts.TextView | null = null;
  private _timeline: TimelineView | null = null;
}

function viewOf(item: IItem): parts.IView {
  switch (item.type) {
    case 'text':
      return new parts.TextView();
    case 'reasoning':
      return new parts.ReasoningView();
    case 'display':
      return new parts.DisplayView();
    case 'note':
      return new parts.NoteView();
    case 'score':
      return new parts.ScoreView();
    case 'custom':
      return new parts.CustomView();
    case 'more':
      return new parts.MoreView();
    default:
      return new CallView(item.type);
  }
}

/** The name of a step without which of several it is: `read` of `read[3]`. */
function baseOf(name: string): string {
  return name.split('[')[0].split('#')[0];
}

export class ItemList {
  readonly node = el('div', 'mnb-Items');

  update(items: IItem[], context: parts.IContext): void {
    const left = this._views;
    this._views = new Map();
    this._items = items;
    const counts = new Map<string, number>();
    let before: Element | null = null;
    for (const item of items) {
      const kind = `${item.type} ${item.name ?? ''}`;
      const n = (counts.get(kind) ?? 0) + 1;
      counts.set(kind, n);
      const key = `${kind} ${n}`;
      const view = left.get(key) ?? viewOf(item);
      left.delete(key);
      this._views.set(key, view);
      view.update(item, context);
      const { firstElementChild } = this.node;
      const place: Element | null = before ? before.nextElementSibling : firstElementChild;
      if (place !== view.node) {
        this.node.insertBefore(view.node, place);
      }
      before = view.node;
    }
    for (const view of left.values()) {
      view.node.remove();
      view.dispose();
    }
  }

  /** The fold of the step that `names` lead to, those above it opened. */
  find(names: readonly string[]): parts.Fold | null {
    const views = [...this._views.values()];
    const named = (same: (name: string) => boolean) =>
      this._items.findIndex((item, i) => views[i] instanceof CallView && same(item.name ?? ''));
    const [first, ...rest] = names.map(clean);
    let index = named(name => clean(name) === first);
    index = index < 0 ? named(name => baseOf(clean(name)) === baseOf(first)) : index;
    return index < 0 ? null : (views[index] as CallView).find(rest);
  }

  /** Opens the step that `names` lead to and goes there; false if it is not listed. */
  reveal(names: readonly string[]): boolean {
    const found = this.find(names);
    for (let above = this.node.closest('details'); found && above; ) {
      above.open = true;
      above = above.parentElement?.closest('details') ?? null;
    }
    found?.open();
    found?.focus();
    return found !== null;
  }

  dispose(): void {
    this._views.forEach(view => view.dispose());
  }

  private _items: IItem[] = [];
  private _views = new Map<string, parts.IView>();
}
