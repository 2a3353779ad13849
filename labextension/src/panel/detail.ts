/** One run in full, as its output draws it: graph, calls, answer, timeline, usage. */

import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';

import { IRecord } from '../record';
import { el, setText, show } from '../runs/dom';
import { GraphView } from '../runs/graphview';
import { ItemList } from '../runs/items';
import { MarkdownFactory } from '../runs/markdown';
import { ErrorView, IContext, TextView } from '../runs/parts';
import { TimelineView } from '../runs/timeline';
import { ValueView } from '../runs/values';
import { footer, statusText } from '../runs/words';

export class DetailView {
  readonly node = el('div', 'mnb-Run mnb-Detail');

  constructor(rendermime: IRenderMimeRegistry) {
    this._factory = new MarkdownFactory(rendermime, {
      mimeType: 'text/markdown',
      resolver: null,
      sanitizer: rendermime.sanitizer,
      linkHandler: null,
      latexTypesetter: rendermime.latexTypesetter,
      markdownParser: rendermime.markdownParser
    });
    this._factory.attach();
    this.node.append(
      this._state, this._picture, this._items.node, this._output.node, this._answer.node,
      this._error.node, this._timeline.node, this._foot
    );
  }

  update(record: IRecord, markdown: string, showCost: boolean): void {
    const finished = record.status !== 'running';
    const context: IContext = { markdown, factory: this._factory, foldReasoning: true, finished };
    setText(this._state, `${record.agent || 'run'} · ${statusWord(record.status)}`);
    if (record.graph) {
      this._graph ??= this._newGraph();
      this._graph.update(record.graph, record.items ?? []);
    }
    show(this._picture, record.graph !== undefined);
    this._items.update(record.items ?? [], context);
    this._output.update(record.output);
    const writes = record.text !== undefined || record.at !== undefined;
    if (writes) {
      this._answer.update(record, context);
    }
    show(this._answer.node, writes);
    this._error.update(record.error);
    const bars = record.timeline ?? [];
    show(this._timeline.node, bars.length > 1);
    this._timeline.update(bars);
    const foot = footer(record, showCost).join(' · ');
    setText(this._foot, foot);
    show(this._foot, foot !== '');
  }

  dispose(): void {
    this._factory.detach();
    this._items.dispose();
    this._answer.dispose();
    this.node.remove();
  }

  private _newGraph(): GraphView {
    const graph = new GraphView(names => this._items.reveal(names));
    this._picture.append(graph.node);
    return graph;
  }

  private _factory: MarkdownFactory;
  private _state = el('div', 'mnb-Detail-title');
  private _picture = el('div', 'mnb-Picture');
  private _graph: GraphView | null = null;
  private _items = new ItemList();
  private _output = new ValueView('');
  private _answer = new TextView();
  private _error = new ErrorView();
  private _timeline = new TimelineView(names => this._items.reveal(names));
  private _foot = el('small', 'mnb-Footer');
}

export function statusWord(status: string): string {
  const words: { [status: string]: string } = { suspended: 'waits', new: 'not started' };
  return Object.hasOwn(words, status) ? words[status] : statusText({ type: '', status }) || status;
}
