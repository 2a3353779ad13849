/** A question of a workflow: its payload, and a form made from the JSON schema of its answer. */

import type { IPending } from '../record';
import { AskBox, nameText } from './askbox';
import { button, el, show } from './dom';
import { fieldOf } from './form';
import type { Field } from './inputs';
import { valueNode } from './values';

export class FormBox extends AskBox {
  readonly title: string;

  constructor(asked: IPending) {
    super(asked);
    const place = asked.path.slice(asked.path.lastIndexOf('/') + 1).split('#')[0];
    const isOpen = ['', 'input'].includes(asked.reason);
    this.title = `${nameText(place)} waits for ${isOpen ? 'an answer' : nameText(asked.reason)}`;
    if (asked.payload !== undefined && asked.payload !== null) {
      this.body.append(valueNode(asked.payload));
    }
    this._field = fieldOf(asked.schema, 'Answer');
    const form = el('div', 'mnb-Form');
    form.append(this._field.node);
    this._form = form;
    this.node.insertBefore(form, this.body.nextSibling);
    this.buttons.append(this._send);
    form.addEventListener('keydown', event => {
      const { target } = event;
      if (event.key === 'Enter' && target instanceof HTMLInputElement && !event.isComposing) {
        event.preventDefault();
        event.stopPropagation();
        this.accept();
      }
    });
  }

  protected first(): HTMLElement {
    return this._field.input ?? this._send;
  }

  protected setActive(active: boolean): void {
    show(this._form, active);
  }

  protected accept(): void {
    const value = this._field.read();
    if (value === undefined) {
      this._form.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus();
    } else {
      void this.send(value);
    }
  }

  protected escape(): void {
    this.node.focus();
  }

  private _field: Field;
  private _form: HTMLElement;
  private _send = button('Send answer', 'mnb-mod-accept', () => this.accept());
}
