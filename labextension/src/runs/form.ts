/** A form made from a JSON schema; the kernel has the last word on what fits. */

import type { Json } from '../record';
import { button, clean, el } from './dom';
import * as inputs from './inputs';
import { bound, Field, IPlace, labelText, Schema } from './inputs';
import { isObject } from './words';

const MAX_DEPTH = 5;
const MAX_FIELDS = 60;
export function fieldOf(schema: Json | undefined, name: string): Field {
  const root = isObject(schema) ? schema : {};
  return make(root, name, { root, required: true, depth: 0 });
}

/** The schema itself, for one that refers to another or also takes null. */
function resolved(given: Schema, root: Schema): { schema: Schema; nullable: boolean } {
  let schema = given;
  let nullable = false;
  for (let n = 0; n < 10; n++) {
    const reference = typeof schema.$ref === 'string' ? schema.$ref : '';
    const choices = schema.anyOf ?? schema.oneOf;
    if (reference.startsWith('#/')) {
      let target: Json | undefined = root;
      for (const part of reference.slice(2).split('/')) {
        target = isObject(target) && Object.hasOwn(target, part) ? target[part] : undefined;
      }
      const { $ref: _, ...rest } = schema;
      schema = isObject(target) ? { ...target, ...rest } : rest;
    } else if (Array.isArray(schema.allOf) && schema.allOf.length === 1) {
      const { allOf: _, ...rest } = schema;
      schema = isObject(schema.allOf[0]) ? { ...schema.allOf[0], ...rest } : rest;
    } else if (Array.isArray(choices)) {
      const others = choices.filter(each => !(isObject(each) && each.type === 'null'));
      if (others.length !== 1 || !isObject(others[0]) || others.length === choices.length) {
        break;
      }
      nullable = true;
      const { anyOf: _, oneOf: __, ...rest } = schema;
      schema = { ...others[0], ...rest };
    } else if (Array.isArray(schema.type) && schema.type.length === 2) {
      const types: Json[] = schema.type.filter(type => type !== 'null');
      if (types.length !== 1) {
        break;
      }
      nullable = true;
      schema = { ...schema, type: types[0] };
    } else {
      break;
    }
  }
  return { schema, nullable };
}

function make(given: Schema, name: string, place: IPlace): Field {
  const { schema, nullable } = resolved(given, place.root);
  const inner = { ...place, required: place.required && !nullable };
  if (Array.isArray(schema.enum) && schema.enum.length && schema.enum.length <= 200) {
    return new inputs.ChoiceField(schema, name, inner, schema.enum);
  }
  if (Object.hasOwn(schema, 'const')) {
    return new inputs.ChoiceField(schema, name, inner, [schema.const]);
  }
  switch (schema.type) {
    case 'string':
      return new inputs.TextField(schema, name, inner);
    case 'integer':
    case 'number':
      return new inputs.NumberField(schema, name, inner);
    case 'boolean':
      return new inputs.BooleanField(schema, name, inner);
    case 'array':
      return isObject(schema.items) && place.depth < MAX_DEPTH
        ? new ArrayField(schema, name, inner, schema.items)
        : new inputs.JsonField(schema, name, inner);
    case 'object': {
      const properties = isObject(schema.properties) ? Object.entries(schema.properties) : [];
      return properties.length && properties.length <= MAX_FIELDS && place.depth < MAX_DEPTH
        ? new ObjectField(schema, name, inner, properties)
        : new inputs.JsonField(schema, name, inner);
    }
    default:
      return new inputs.JsonField(schema, name, inner);
  }
}

abstract class GroupField implements Field {
  readonly node = el('fieldset', 'mnb-Group');
  abstract readonly input: HTMLElement | null;

  constructor(schema: Schema, name: string, place: IPlace) {
    const legend = el('legend', 'mnb-Field-label', labelText(schema, name));
    const text = clean(String(schema.description ?? '')).slice(0, 1000);
    const about = el('div', 'mnb-Field-about', text);
    about.hidden = !text;
    // The whole answer needs no frame and no name.
    this.node.classList.toggle('mnb-mod-root', place.depth === 0);
    this.node.append(legend, about);
  }

  abstract isEmpty(): boolean;
  abstract read(): Json | undefined;
}

class ObjectField extends GroupField {
  constructor(schema: Schema, name: string, place: IPlace, properties: [string, Json][]) {
    super(schema, name, place);
    const required = Array.isArray(schema.required) ? schema.required : [];
    for (const [key, given] of properties) {
      const needed = place.required && required.includes(key);
      const inner = { root: place.root, required: needed, depth: place.depth + 1 };
      const field = make(isObject(given) ? given : {}, key, inner);
      this._fields.push([key, field, required.includes(key)]);
      this.node.append(field.node);
    }
  }

  get input(): HTMLElement | null {
    return this._fields[0]?.[1].input ?? null;
  }

  isEmpty(): boolean {
    return this._fields.every(([, field]) => field.isEmpty());
  }

  read(): Json | undefined {
    const out: { [key: string]: Json } = {};
    let fits = true;
    for (const [key, field, required] of this._fields) {
      const value = field.isEmpty() && !required ? null : field.read();
      if (value === undefined) {
        fits = false;
      } else if (!field.isEmpty() || required) {
        out[key] = value;
      }
    }
    return fits ? out : undefined;
  }

  private _fields: [string, Field, boolean][] = [];
}

class ArrayField extends GroupField {
  constructor(
    private readonly _schema: Schema,
    private readonly _name: string,
    private readonly _place: IPlace,
    private readonly _items: Schema
  ) {
    super(_schema, _name, _place);
    this._add = button('Add', 'mnb-mod-quiet', () => this._append()?.input?.focus());
    this._add.setAttribute('aria-label', `Add to ${labelText(_schema, _name)}`);
    this._error.setAttribute('role', 'alert');
    this._error.hidden = true;
    this.node.append(this._list, this._add, this._error);
    const least = Math.min(20, bound(_schema, 'minItems') ?? (_place.required ? 1 : 0));
    while (this._fields.length < least) {
      this._append();
    }
  }

  get input(): HTMLElement | null {
    return this._fields[0]?.input ?? this._add;
  }

  isEmpty(): boolean {
    return this._fields.every(field => field.isEmpty());
  }

  read(): Json | undefined {
    const filled = this._fields.filter(field => !field.isEmpty());
    const values = filled.map(field => field.read());
    const least = bound(this._schema, 'minItems') ?? 0;
    this._error.hidden = filled.length >= least;
    this._error.textContent = this._error.hidden ? '' : `At least ${least} of them.`;
    const fits = values.every((value): value is Json => value !== undefined);
    return fits && this._error.hidden ? (values as Json[]) : undefined;
  }

  private _append(): Field | null {
    if (this._fields.length >= Math.min(MAX_FIELDS, bound(this._schema, 'maxItems') ?? Infinity)) {
      return null;
    }
    const inner = { root: this._place.root, required: false, depth: this._place.depth + 1 };
    const field = make(this._items, `${this._name} ${this._fields.length + 1}`, inner);
    const row = el('div', 'mnb-Row');
    const remove = button('Remove', 'mnb-mod-quiet', () => {
      this._fields = this._fields.filter(each => each !== field);
      row.remove();
      this._add.focus();
    });
    row.append(field.node, remove);
    this._fields.push(field);
    this._list.append(row);
    return field;
  }

  private _add: HTMLButtonElement;
  private _error = el('div', 'mnb-Field-error');
  private _list = el('div');
  private _fields: Field[] = [];
}
