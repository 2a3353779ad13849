/** A call of a tool that somebody has to approve. */

import type { IPending, Json } from '../record';
import { AskBox, nameText } from './askbox';
import { button, el, fit, newId, show } from './dom';
import { fieldsNode } from './values';
import { isObject, jsonText } from './words';

/** Records cut long arguments off: what is cut cannot be edited. */
const CUT = /… \([\d,]+ more characters\)$/;

export class ApprovalBox extends AskBox {
  readonly title: string;

  constructor(asked: IPending) {
    super(asked);
    this.title = asked.tool === undefined ? 'Approve?' : `Approve ${nameText(asked.tool)}?`;
    if (asked.tool === undefined) {
      this._shown.append(fieldsNode(asked.payload ?? null));
    } else if (isObject(asked.args) && !Object.keys(asked.args).length) {
      this._shown.append(el('div', 'mnb-Label', 'no arguments'));
    } else {
      this._shown.append(fieldsNode(asked.args ?? null));
    }
    this.body.append(this._shown, this._editor, this._why);
    this._editor.hidden = true;
    this._reason = el('textarea', 'mnb-Input');
    this._reason.rows = 1;
    this._reason.id = newId();
    const label = el('label', 'mnb-Field-label', 'Reason (optional, the model reads it)');
    label.htmlFor = this._reason.id;
    this._why.append(label, this._reason);
    this._why.hidden = true;
    this._reason.addEventListener('keydown', event => {
      if (event.key === 'Enter' && !event.shiftKey) {
        event.preventDefault();
        event.stopPropagation();
        this._deny();
      }
    });
    this._edit.setAttribute('aria-expanded', 'false');
    this._no.setAttribute('aria-expanded', 'false');
    this._back.hidden = true;
    this.buttons.append(this._yes, this._edit, this._no, this._back, this._later);
    show(this._edit, isObject(asked.args) && Object.keys(asked.args).length > 0);
  }

  protected first(): HTMLElement {
    return this._yes;
  }

  protected setActive(active: boolean): void {
    if (!active) {
      this._showEditor(false);
      this._showReason(false);
    }
  }

  protected accept(): void {
    if (this._why.hidden) {
      this._approve();
    } else {
      this._deny();
    }
  }

  protected escape(): void {
    if (!this._editor.hidden) {
      this._showEditor(false);
      this._edit.focus();
    } else if (this._why.hidden) {
      this._showReason(true);
    } else {
      this._showReason(false);
      this._yes.focus();
    }
  }

  private _approve(): void {
    if (this._editor.hidden) {
      void this.send({ approved: true });
      return;
    }
    const args: { [name: string]: Json } = {};
    let wrong: HTMLElement | null = null;
    for (const field of this._fields) {
      const value = field.read();
      if (value === undefined) {
        wrong ??= field.input;
      } else {
        args[field.name] = value;
      }
    }
    if (wrong) {
      wrong.focus();
      return;
    }
    const changed = jsonText(args) !== jsonText(this.asked.args);
    void this.send(changed ? { approved: true, args } : { approved: true });
  }

  private _deny(): void {
    if (this._why.hidden) {
      this._showReason(true);
      return;
    }
    const reason = this._reason.value.trim();
    void this.send(reason ? { approved: false, reason } : { approved: false });
  }

  private _showReason(shown: boolean): void {
    this._why.hidden = !shown;
    this._no.setAttribute('aria-expanded', String(shown));
    this._no.textContent = shown ? 'Deny' : 'Deny…';
    show(this._yes, !shown);
    show(this._back, shown);
    show(this._edit, !shown && isObject(this.asked.args));
    if (shown) {
      this._showEditor(false);
      this._reason.focus();
    }
  }

  private _showEditor(shown: boolean): void {
    this._editor.hidden = !shown;
    this._shown.hidden = shown;
    this._edit.setAttribute('aria-expanded', String(shown));
    this._edit.textContent = shown ? 'Discard changes' : 'Edit arguments';
    this._yes.textContent = shown ? 'Approve with these' : 'Approve';
    if (shown && isObject(this.asked.args)) {
      this._fields = Object.entries(this.asked.args).map(([name, v]) => new ArgField(name, v));
      this._editor.replaceChildren(...this._fields.map(field => field.node));
      this._fields.find(field => !field.input.readOnly)?.input.focus();
    }
  }

  private _shown = el('div', 'mnb-Ask-args');
  private _editor = el('div', 'mnb-Form');
  private _fields: ArgField[] = [];
  private _why = el('div', 'mnb-Field');
  private _reason: HTMLTextAreaElement;
  private _yes = button('Approve', 'mnb-mod-accept', () => this._approve());
  private _edit = button('Edit arguments', '', () => {
    this._showEditor(this._editor.hidden);
    if (this._editor.hidden) {
      this._edit.focus();
    }
  });
  private _no = button('Deny…', 'mnb-mod-deny', () => this._deny());
  private _back = button('Back', 'mnb-mod-quiet', () => this.escape());
  private _later = button('Later', 'mnb-mod-quiet', () => void this.later());
}

/** One argument: text as it is, everything else as JSON. */
class ArgField {
  readonly node = el('div', 'mnb-Field');
  readonly input = el('textarea', 'mnb-Input');

  constructor(
    readonly name: string,
    private readonly _value: Json
  ) {
    const isText = typeof _value === 'string';
    const isCut = isText && CUT.test(_value);
    this.input.id = newId();
    this.input.value = isText ? _value : JSON.stringify(_value, null, 2);
    fit(this.input);
    this.input.readOnly = isCut;
    this.input.spellcheck = false;
    this.input.classList.toggle('mnb-mod-json', !isText);
    const isNested = typeof _value === 'object' && _value !== null;
    const note = isCut ? ' (too long to be edited here)' : isNested ? ' (JSON)' : '';
    const label = el('label', 'mnb-Field-label', name + note);
    label.htmlFor = this.input.id;
    this._error.id = newId();
    this._error.hidden = true;
    this._error.setAttribute('role', 'alert');
    this.input.setAttribute('aria-describedby', this._error.id);
    this.input.addEventListener('input', () => {
      fit(this.input);
      this.read();
    });
    this.node.append(label, this.input, this._error);
  }

  /** Undefined, and the field says why, if it is no JSON. */
  read(): Json | undefined {
    let value: Json | undefined;
    let error = '';
    if (typeof this._value === 'string') {
      value = this.input.value;
    } else {
      try {
        value = JSON.parse(this.input.value) as Json;
      } catch (caught) {
        error = caught instanceof Error ? caught.message : String(caught);
      }
    }
    this._error.hidden = !error;
    this._error.textContent = error;
    this.input.setAttribute('aria-invalid', String(Boolean(error)));
    return value;
  }

  private _error = el('div', 'mnb-Field-error');
}
