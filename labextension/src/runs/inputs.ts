/** The parts of a form that hold one value. */

import type { Json } from '../record';
import { clean, el, fit, newId } from './dom';
import { jsonText, short } from './words';

export type Schema = { [key: string]: Json };

/** More choices than this are a list that folds. */
const MAX_RADIOS = 4;

/** A part of an answer. */
export interface Field {
  readonly node: HTMLElement;
  /** What gets the focus first. */
  readonly input: HTMLElement | null;
  /** Undefined, and the field says why, if it does not fit; null is a value. */
  read(): Json | undefined;
  /** Whether nothing was entered, so that it may be left out. */
  isEmpty(): boolean;
}

export interface IPlace {
  /** Holds the definitions that are referred to. */
  root: Schema;
  required: boolean;
  depth: number;
}

export function labelText(schema: Schema, name: string): string {
  return short(clean(String(schema.title ?? '') || name), 200);
}

/** A label, a description, an input and what is wrong with it. */
abstract class InputField implements Field {
  readonly node = el('div', 'mnb-Field');
  abstract readonly input: HTMLElement | null;
  protected readonly error = el('div', 'mnb-Field-error');
  protected readonly about = el('div', 'mnb-Field-about');
  protected readonly required: boolean;

  constructor(
    protected readonly schema: Schema,
    protected readonly name: string,
    place: IPlace
  ) {
    this.required = place.required;
    this.error.id = newId();
    this.error.hidden = true;
    this.about.id = newId();
    this.about.textContent = clean(String(schema.description ?? '')).slice(0, 1000);
    this.about.hidden = !this.about.textContent;
  }

  abstract isEmpty(): boolean;
  protected abstract value(): Json | undefined;

  read(): Json | undefined {
    this.fail('');
    if (this.isEmpty() && this.required) {
      this.fail('This is needed.');
      return undefined;
    }
    return this.value();
  }

  protected place(input: HTMLElement): void {
    const label = el('label', 'mnb-Field-label', labelText(this.schema, this.name));
    input.id = newId();
    label.htmlFor = input.id;
    if (!this.required) {
      label.append(el('span', 'mnb-Quiet', ' optional'));
    }
    input.setAttribute('aria-describedby', `${this.about.id} ${this.error.id}`);
    input.setAttribute('aria-required', String(this.required));
    input.addEventListener('input', () => this.fail(''));
    this.node.append(label, this.about, input, this.error);
  }

  protected fail(error: string): undefined {
    this.error.hidden = !error;
    this.error.textContent = error;
    this.input?.setAttribute('aria-invalid', String(Boolean(error)));
    return undefined;
  }
}

export function bound(schema: Schema, name: string): number | undefined {
  const value = schema[name];
  return typeof value === 'number' ? value : undefined;
}

export class TextField extends InputField {
  readonly input: HTMLTextAreaElement | HTMLInputElement;

  constructor(schema: Schema, name: string, place: IPlace) {
    super(schema, name, place);
    const long = (bound(schema, 'maxLength') ?? Infinity) > 120 && schema.format === undefined;
    this.input = long ? el('textarea', 'mnb-Input') : el('input', 'mnb-Input');
    const formats: { [format: string]: string } = { date: 'date', email: 'email', uri: 'url' };
    if (this.input instanceof HTMLInputElement) {
      this.input.type = formats[String(schema.format)] ?? 'text';
    } else {
      const { input } = this;
      fit(input);
      input.addEventListener('input', () => fit(input));
    }
    this.input.value = typeof schema.default === 'string' ? schema.default : '';
    this.place(this.input);
  }

  isEmpty(): boolean {
    // An empty text is a text, where one may be empty.
    const mayBeEmpty = this.required && !bound(this.schema, 'minLength');
    return this.input.value === '' && !mayBeEmpty;
  }

  protected value(): Json | undefined {
    const { value } = this.input;
    const [least, most] = [bound(this.schema, 'minLength'), bound(this.schema, 'maxLength')];
    if (least !== undefined && value.length < least) {
      return this.fail(`At least ${least} characters.`);
    }
    if (most !== undefined && value.length > most) {
      return this.fail(`At most ${most} characters.`);
    }
    return value;
  }
}

export class NumberField extends InputField {
  readonly input = el('input', 'mnb-Input');

  constructor(schema: Schema, name: string, place: IPlace) {
    super(schema, name, place);
    this.input.type = 'number';
    this.input.step = schema.type === 'integer' ? '1' : 'any';
    const [least, most] = [bound(schema, 'minimum'), bound(schema, 'maximum')];
    this.input.min = least === undefined ? '' : String(least);
    this.input.max = most === undefined ? '' : String(most);
    this.input.value = typeof schema.default === 'number' ? String(schema.default) : '';
    this.place(this.input);
  }

  isEmpty(): boolean {
    return this.input.value === '' && !this.input.validity.badInput;
  }

  protected value(): Json | undefined {
    const value = this.input.valueAsNumber;
    if (!Number.isFinite(value)) {
      return this.fail('This is no number.');
    }
    if (this.schema.type === 'integer' && !Number.isInteger(value)) {
      return this.fail('This is no whole number.');
    }
    const least = bound(this.schema, 'minimum');
    const most = bound(this.schema, 'maximum');
    const above = bound(this.schema, 'exclusiveMinimum');
    const below = bound(this.schema, 'exclusiveMaximum');
    if (least !== undefined && value < least) {
      return this.fail(`At least ${least}.`);
    }
    if (most !== undefined && value > most) {
      return this.fail(`At most ${most}.`);
    }
    if (above !== undefined && value <= above) {
      return this.fail(`More than ${above}.`);
    }
    if (below !== undefined && value >= below) {
      return this.fail(`Less than ${below}.`);
    }
    return value;
  }
}

export class BooleanField extends InputField {
  readonly input = el('input', 'mnb-Check');

  constructor(schema: Schema, name: string, place: IPlace) {
    super(schema, name, { ...place, required: true });
    this.input.type = 'checkbox';
    this.input.checked = schema.default === true;
    this.place(this.input);
    this.input.removeAttribute('aria-required');
    this.node.classList.add('mnb-mod-check');
  }

  isEmpty(): boolean {
    return false;
  }

  protected value(): Json {
    return this.input.checked;
  }
}

/** One of a few values: radio buttons, or a list. */
export class ChoiceField extends InputField {
  readonly input: HTMLElement;

  constructor(schema: Schema, name: string, place: IPlace, private readonly _values: Json[]) {
    super(schema, name, place);
    const said = _values.map(v => short(clean(typeof v === 'string' ? v : jsonText(v)), 200));
    const chosen = _values.findIndex(v => jsonText(v) === jsonText(schema.default));
    if (_values.length > MAX_RADIOS) {
      const select = el('select', 'mnb-Input');
      select.append(new Option('', ''), ...said.map((text, n) => new Option(text, String(n))));
      select.value = chosen < 0 ? '' : String(chosen);
      this.input = select;
      this._chosen = () => select.value;
      this.place(select);
      return;
    }
    const group = el('fieldset', 'mnb-Choices');
    const legend = el('legend', 'mnb-Field-label', labelText(schema, name));
    group.append(legend, this.about);
    const radios = said.map((text, n) => {
      const label = el('label', 'mnb-Choice');
      const radio = el('input');
      radio.type = 'radio';
      radio.name = this.error.id;
      radio.value = String(n);
      radio.checked = n === chosen || _values.length === 1;
      label.append(radio, el('span', '', text));
      group.append(label);
      return radio;
    });
    this.input = radios.find(radio => radio.checked) ?? radios[0];
    group.addEventListener('change', () => this.fail(''));
    this._chosen = () => radios.find(radio => radio.checked)?.value ?? '';
    this.node.append(group, this.error);
  }

  isEmpty(): boolean {
    return this._chosen() === '';
  }

  protected value(): Json {
    return this._values[Number(this._chosen())];
  }

  private _chosen: () => string;
}

/** What there is no form for. */
export class JsonField extends InputField {
  readonly input = el('textarea', 'mnb-Input mnb-mod-json');

  constructor(schema: Schema, name: string, place: IPlace) {
    super(schema, name, place);
    this.input.rows = 3;
    this.input.spellcheck = false;
    this.input.placeholder = 'JSON';
    this.input.value = schema.default === undefined ? '' : JSON.stringify(schema.default, null, 2);
    this.place(this.input);
  }

  isEmpty(): boolean {
    return this.input.value.trim() === '';
  }

  protected value(): Json | undefined {
    try {
      return JSON.parse(this.input.value) as Json;
    } catch (error) {
      return this.fail(error instanceof Error ? error.message : String(error));
    }
  }
}
