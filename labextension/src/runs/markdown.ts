/** Markdown of a bundle, which Python has made inert, through JupyterLab's sanitising renderer. */

import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { MessageLoop } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';

import { el } from './dom';

const MIME = 'text/markdown';

/** What draws Markdown for one run. Formulas are set once its node is in the page. */
export class MarkdownFactory {
  /** `options` are those of the notebook: its resolver of links, its sanitiser. */
  constructor(
    private readonly _rendermime: IRenderMimeRegistry,
    private readonly _options: IRenderMime.IRendererOptions
  ) {}

  create(): MarkdownView {
    const view = new MarkdownView(this, this._views);
    this._views.add(view);
    if (this._attached) {
      view.attach();
    }
    return view;
  }

  createRenderer(): IRenderMime.IRenderer {
    const factory = this._rendermime.getFactory(MIME);
    return factory
      ? factory.createRenderer({ ...this._options, mimeType: MIME })
      : this._rendermime.createRenderer(MIME);
  }

  createModel(text: string): IRenderMime.IMimeModel {
    return this._rendermime.createModel({ data: { [MIME]: text } });
  }

  attach(): void {
    this._attached = true;
    this._views.forEach(view => view.attach());
  }

  detach(): void {
    this._attached = false;
    this._views.forEach(view => view.detach());
  }

  private _attached = false;
  private _views = new Set<MarkdownView>();
}

export class MarkdownView {
  readonly node = el('div', 'mnb-Markdown');

  constructor(
    private readonly _factory: MarkdownFactory,
    private readonly _views: Set<MarkdownView>
  ) {}

  /** Drawn when the promise resolves; of texts that come while one is drawn, the last counts. */
  update(text: string): Promise<void> {
    if (text !== this._text) {
      this._text = text;
      this._drawing ??= this._draw().finally(() => (this._drawing = null));
    }
    return this._drawing ?? Promise.resolve();
  }

  attach(): void {
    if (this._renderer && !this._renderer.isAttached) {
      MessageLoop.sendMessage(this._renderer, Widget.Msg.AfterAttach);
    }
    this._attached = true;
  }

  detach(): void {
    if (this._renderer?.isAttached) {
      MessageLoop.sendMessage(this._renderer, Widget.Msg.BeforeDetach);
    }
    this._attached = false;
  }

  dispose(): void {
    this.detach();
    this._views.delete(this);
    this._renderer?.dispose();
    this._renderer = null;
    this._disposed = true;
    this.node.remove();
  }

  private async _draw(): Promise<void> {
    let drawn: string | null = null;
    while (drawn !== this._text && !this._disposed) {
      drawn = this._text;
      if (this._renderer === null) {
        this._renderer = this._factory.createRenderer();
        this.node.replaceChildren(this._renderer.node);
        if (this._attached) {
          this.attach();
        }
      }
      await this._renderer.renderModel(this._factory.createModel(drawn ?? ''));
    }
  }

  private _text: string | null = null;
  private _drawing: Promise<void> | null = null;
  private _renderer: IRenderMime.IRenderer | null = null;
  private _attached = false;
  private _disposed = false;
}
