import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { Message } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';

import { IRecord, RUN_MIME, textOf, WORKFLOW_MIME } from '../record';
import { IMastra } from '../tokens';
import { Announcer } from './announcer';
import { Asks } from './asks';
import type { Attention } from './attention';
import { el, setData, setText, show } from './dom';
import { GraphView } from './graphview';
import { icon } from './icons';
import { ItemList } from './items';
import { MarkdownFactory } from './markdown';
import type { Options } from './options';
import type { Graph } from './outline';
import { ErrorView, IContext, TextView } from './parts';
import { StatusView } from './status';
import { TimelineView } from './timeline';
import { ValueView } from './values';
import { Wire } from './wire';
import { footer, hasCalls, isObject, stepsText } from './words';

/** Draws one run and keeps drawing it: JupyterLab gives updates of an output to its renderer. */
export class RunRenderer extends Widget implements IRenderMime.IRenderer {
  constructor(
    private readonly _mastra: IMastra,
    rendermime: IRenderMimeRegistry,
    private readonly _options: Options,
    attention: Attention,
    options: IRenderMime.IRendererOptions
  ) {
    super();
    this.addClass('mnb-Run');
    this._factory = new MarkdownFactory(rendermime, options);
    this._wire = new Wire(_mastra, () => this._follow());
    this._status = new StatusView(this._wire);
    this._asks = new Asks(this._wire, attention, this._announcer);
    this._steps.append(this._stepsLine);
    this._stepsLine.append(icon('workflow'), this._stepsText);
    this._none.hidden = true;
    this._options.changed.connect(this._redraw, this);
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const record = model.data[RUN_MIME] as unknown;
    if (!isObject(record)) {
      return;
    }
    this._record = record as unknown as IRecord;
    this._markdown = String(model.data['text/markdown'] ?? '');
    this._redraw();
    this._tell();
    await this._answer.drawn;
  }

  dispose(): void {
    if (!this.isDisposed) {
      this._options.changed.disconnect(this._redraw, this);
      this._wire.release();
      this._asks.dispose();
      this._items.dispose();
      this._answer.dispose();
      super.dispose();
    }
  }

  protected onAfterAttach(_: Message): void {
    this._factory.attach();
    this._tell();
  }

  protected onBeforeDetach(_: Message): void {
    this._factory.detach();
  }

  /** The notebook is known once we are in the page. */
  private _tell(): void {
    const record = this._record;
    if (record === null || !this.node.isConnected) {
      return;
    }
    const panel = this._mastra.panelOf(this.node);
    if (record.run !== undefined) {
      this._wire.follow(panel);
    } else {
      this._wire.release();
    }
    this._mastra.show({ record, markdown: this._markdown, node: this.node, panel });
  }

  /** What depends on whether somebody listens. */
  private _follow(): void {
    const record = this._record;
    if (record !== null && !this.isDisposed) {
      const live = this._isLive(record);
      setData(this.node, 'live', String(live));
      this._status.update(record, live);
      this._asks.update(record, this.node, this._mastra.panelOf(this.node));
    }
  }

  private _isLive(record: IRecord): boolean {
    return this._wire.link !== null || this._wire.isBusy || record.status !== 'running' ||
      !this.node.isConnected;
  }

  private _redraw(): void {
    const record = this._record;
    if (record === null) {
      return;
    }
    this._arrange(record.graph !== undefined);
    setData(this.node, 'status', record.status);
    const finished = record.status !== 'running';
    const context: IContext = {
      markdown: this._markdown,
      factory: this._factory,
      foldReasoning: this._options.foldReasoning,
      finished
    };
    if (record.graph) {
      this._graph ??= this._newGraph();
      this._graph.update(record.graph, record.items ?? []);
      setText(this._stepsText, stepsText(record));
      show(this._steps, (record.items?.length ?? 0) > 0);
      if (finished && (record.timeline?.length ?? 0) > 1) {
        this._timeline.update(record.timeline ?? []);
      }
      show(this._timeline.node, finished && (record.timeline?.length ?? 0) > 1);
    }
    this._items.update(record.items ?? [], context);
    this._output.update(record.output);
    const writes = record.text !== undefined || record.at !== undefined;
    if (writes) {
      this._answer.update(record, context);
    }
    show(this._answer.node, writes);
    const gave = writes || record.output !== undefined || hasCalls(record);
    show(this._none, record.status === 'done' && !gave);
    this._error.update(record.status === 'failed' && !record.told ? record.error : undefined);
    const foot = finished ? footer(record, this._options.showCost).join(' · ') : '';
    setText(this._foot, foot);
    show(this._foot, foot !== '');
    this._listen(record, writes);
    this._follow();
  }

  /** A workflow's picture comes first, what it did is folded below; an agent tells in order. */
  private _arrange(workflow: boolean): void {
    if (this._arranged === workflow) {
      return;
    }
    this._arranged = workflow;
    const gave = [this._output.node, this._answer.node, this._none];
    const ending = [this._asks.node, this._error.node];
    const last = [this._foot, this._announcer.node];
    if (workflow) {
      this._steps.append(this._items.node);
      const how = [this._steps, this._timeline.node];
      this.node.replaceChildren(
        this._status.node, this._picture, this._asks.node, ...gave, this._error.node, ...how,
        ...last
      );
    } else {
      this.node.replaceChildren(this._status.node, this._items.node, ...gave, ...ending, ...last);
    }
  }

  private _newGraph(): GraphView {
    const graph = new GraphView(names => this._items.reveal(names));
    this._picture.append(graph.node);
    return graph;
  }

  /** What was there when the page was opened is not told. */
  private _listen(record: IRecord, writes: boolean): void {
    const running = record.status === 'running';
    if (running && this._wire.isBusy) {
      this._heard = true;
    }
    if (this._heard && writes && record.at) {
      this._announcer.hear(textOf(record, this._markdown), !running);
    }
    this._heard = this._heard && running;
  }

  private _record: IRecord | null = null;
  private _markdown = '';
  private _arranged: boolean | null = null;
  private _heard = false;
  private _factory: MarkdownFactory;
  private _wire: Wire;
  private _announcer = new Announcer();
  private _status: StatusView;
  private _asks: Asks;
  private _picture = el('div', 'mnb-Picture');
  private _graph: GraphView | null = null;
  private _steps = el('details', 'mnb-Fold mnb-Steps');
  private _stepsLine = el('summary', 'mnb-Fold-line');
  private _stepsText = el('span', 'mnb-Fold-word');
  private _items = new ItemList();
  private _timeline = new TimelineView(names => this._items.reveal(names));
  private _output = new ValueView('');
  private _answer = new TextView();
  private _none = el('div', 'mnb-Quiet', '(no answer)');
  private _error = new ErrorView();
  private _foot = el('small', 'mnb-Footer');
}

/** Draws the outline of a workflow that is only defined. */
export class WorkflowRenderer extends Widget implements IRenderMime.IRenderer {
  constructor() {
    super();
    this.addClass('mnb-Run');
    this.node.append(this._graph.node);
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const outline = model.data[WORKFLOW_MIME] as unknown;
    if (isObject(outline)) {
      this._graph.update(outline as Graph, null);
    }
  }

  private _graph = new GraphView(() => false);
}
