/** The parts of a run that are not calls: texts, notes, scores, displays, errors. */

import { IItem, textOf } from '../record';
import { el, setData, setText, show } from './dom';
import { icon, mark } from './icons';
import type { MarkdownFactory, MarkdownView } from './markdown';
import { ValueView } from './values';
import { jsonText, short } from './words';

/** What all parts of one run share. */
export interface IContext {
  /** The bundle's Markdown, which holds the texts. */
  markdown: string;
  factory: MarkdownFactory;
  foldReasoning: boolean;
  /** No more is coming: what is only for afterwards may be drawn. */
  finished: boolean;
}

export interface IView {
  readonly node: HTMLElement;
  update(item: IItem, context: IContext): void;
  dispose(): void;
}

/** Text of the bundle's Markdown; a text that Python has not made inert stays plain. */
export class TextView implements IView {
  readonly node = el('div', 'mnb-Text');

  update(item: { text?: string; at?: [number, number] }, context: IContext): void {
    const text = textOf(item, context.markdown);
    if (item.text !== undefined) {
      this._markdown?.dispose();
      this._markdown = null;
      this._plain ??= this.node.appendChild(el('div', 'mnb-Plain'));
      setText(this._plain, text);
      return;
    }
    this._plain?.remove();
    this._plain = null;
    if (this._markdown === null) {
      this._markdown = context.factory.create();
      this.node.append(this._markdown.node);
    }
    this.drawn = this._markdown.update(text);
  }

  drawn: Promise<void> = Promise.resolve();

  dispose(): void {
    this._markdown?.dispose();
  }

  private _plain: HTMLElement | null = null;
  private _markdown: MarkdownView | null = null;
}

/** A line that opens. What is inside is built when it is opened for the first time. */
export abstract class Fold implements IView {
  readonly node = el('details', 'mnb-Fold');
  protected readonly line = el('summary', 'mnb-Fold-line');
  protected readonly body = el('div', 'mnb-Fold-body');

  constructor() {
    this.node.append(this.line, this.body);
    this.node.addEventListener('toggle', () => this._fill());
  }

  update(item: IItem, context: IContext): void {
    this.item = item;
    this.context = context;
    this.drawLine(item, context);
    if (this.node.open) {
      this._fill();
    }
  }

  open(): void {
    this.node.open = true;
    this._fill();
  }

  focus(): void {
    this.line.focus({ preventScroll: true });
    this.line.scrollIntoView({ block: 'nearest' });
    this.node.classList.add('mnb-mod-found');
    setTimeout(() => this.node.classList.remove('mnb-mod-found'), 1600);
  }

  abstract dispose(): void;
  protected abstract drawLine(item: IItem, context: IContext): void;
  protected abstract drawBody(item: IItem, context: IContext): void;

  private _fill(): void {
    if (this.node.open && this.item && this.context) {
      this.drawBody(this.item, this.context);
    }
  }

  protected item: IItem | null = null;
  protected context: IContext | null = null;
}

export class ReasoningView extends Fold {
  constructor() {
    super();
    this.node.classList.add('mnb-mod-reasoning');
    this.line.append(icon('reasoning'), el('span', 'mnb-Fold-name', 'reasoning'), this._head);
    this.body.append(this._text.node);
  }

  dispose(): void {
    this._text.dispose();
  }

  protected drawLine(item: IItem, context: IContext): void {
    const head = textOf(item, context.markdown).slice(0, 160).replace(/\s+/g, ' ').trim();
    setText(this._head, short(head, 90));
    if (!context.foldReasoning && !this._opened) {
      this._opened = true;
      this.node.open = true;
    }
  }

  protected drawBody(item: IItem, context: IContext): void {
    this._text.update(item, context);
  }

  private _opened = false;
  private _head = el('span', 'mnb-Fold-args');
  private _text = new TextView();
}

export class CustomView extends Fold {
  constructor() {
    super();
    this.line.append(icon('custom'), this._name, this._head);
    this.body.append(this._value.node);
  }

  dispose(): void {
    // Nothing is held.
  }

  protected drawLine(item: IItem): void {
    setText(this._name, item.name ?? '');
    setText(this._head, short(jsonText(item.value), 90));
  }

  protected drawBody(item: IItem): void {
    this._value.update(item.value);
  }

  private _name = el('code', 'mnb-Fold-name');
  private _head = el('span', 'mnb-Fold-args');
  private _value = new ValueView('');
}

/** An error in its own words, and what to do next. */
export class ErrorView {
  readonly node = el('div', 'mnb-Error');

  constructor() {
    this.node.hidden = true;
    this.node.append(mark('error'), this._message, this._hint);
  }

  update(error: { message: string; hint?: string } | undefined): void {
    this.node.hidden = error === undefined;
    setText(this._message, error?.message ?? '');
    setText(this._hint, error?.hint ? `→ ${error.hint}` : '');
    show(this._hint, Boolean(error?.hint));
  }

  private _message = el('span', 'mnb-Error-message');
  private _hint = el('span', 'mnb-Error-hint');
}

export class NoteView implements IView {
  readonly node = el('div', 'mnb-Note');

  constructor() {
    this.node.append(icon('note'), this._text);
  }

  update(item: IItem, context: IContext): void {
    setData(this.node, 'level', item.level ?? 'info');
    setText(this._text, textOf(item, context.markdown));
  }

  dispose(): void {
    // Nothing is held.
  }

  private _text = el('span');
}

export class ScoreView implements IView {
  readonly node = el('div', 'mnb-Score');

  constructor() {
    this.node.append(icon('score'), this._name, this._value, this._why);
  }

  update(item: IItem, context: IContext): void {
    setText(this._name, item.name ?? '');
    const value = typeof item.value === 'number' ? +item.value.toPrecision(4) : item.value;
    setText(this._value, jsonText(value));
    setText(this._why, textOf(item, context.markdown));
  }

  dispose(): void {
    // Nothing is held.
  }

  private _name = el('code');
  private _value = el('strong');
  private _why = el('span', 'mnb-Quiet');
}

export class MoreView implements IView {
  readonly node = el('div', 'mnb-Quiet mnb-More');

  update(item: IItem): void {
    const of = item.name === undefined ? '' : ` of ${item.name}`;
    setText(this.node, `… ${(item.count ?? 0).toLocaleString('en')} more${of}`);
  }

  dispose(): void {
    // Nothing is held.
  }
}

const IMAGE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}$/;

/** What a tool showed: an image, Markdown, or a value. */
export class DisplayView implements IView {
  readonly node = el('div', 'mnb-Display');

  update(item: IItem, context: IContext): void {
    const key = `${item.mime} ${jsonText(item.data)} ${textOf(item, context.markdown)}`;
    if (key === this._key) {
      return;
    }
    this._key = key;
    const { mime = '', data } = item;
    if (mime.startsWith('image/')) {
      this._image(mime, typeof data === 'string' ? data : textOf(item, context.markdown));
    } else if (mime === 'text/markdown' && data === undefined) {
      this._text ??= new TextView();
      this.node.replaceChildren(this._text.node);
      this._text.update(item, context);
    } else {
      this._value.update(data ?? textOf(item, context.markdown));
      this.node.replaceChildren(this._value.node);
    }
  }

  dispose(): void {
    this._text?.dispose();
  }

  private _image(mime: string, data: string): void {
    // In Markdown it is ![image](data:…).
    const own = data.startsWith('![') ? data.slice(data.indexOf('(') + 1, -1) : '';
    const url = own || `data:${mime};base64,${data}`;
    if (!IMAGE.test(url)) {
      this.node.replaceChildren(el('div', 'mnb-Quiet', `not shown: ${mime}`));
      return;
    }
    const image = el('img');
    image.alt = 'image';
    image.src = url;
    this.node.replaceChildren(image);
  }

  private _key = '';
  private _text: TextView | null = null;
  private _value = new ValueView('');
}

