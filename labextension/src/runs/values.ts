/** JSON values for people. */

import type { Json } from '../record';
import { el } from './dom';
import { isObject, jsonText } from './words';

/** So many fields of a value are a table, if none of them holds more than a line. */
const MAX_ROWS = 16;
const MAX_CELL = 120;

function isPlain(value: Json): boolean {
  return typeof value !== 'object' || value === null;
}

function isFlat(value: Json): boolean {
  if (isPlain(value)) {
    return String(value).length <= MAX_CELL && !String(value).includes('\n');
  }
  return Array.isArray(value) && value.every(isPlain) && jsonText(value).length <= MAX_CELL;
}

function cellText(value: Json): string {
  if (Array.isArray(value) && value.length && value.every(each => typeof each === 'string')) {
    return value.join(', ');
  }
  return typeof value === 'string' ? value : jsonText(value);
}

/** A table of what is flat, else indented JSON, else text as it is. */
export function valueNode(value: Json): HTMLElement {
  if (isObject(value)) {
    const rows = Object.entries(value);
    if (rows.length && rows.length <= MAX_ROWS && rows.every(([, v]) => isFlat(v))) {
      return table(rows, cellText);
    }
  }
  return block(value);
}

/** A text that may be long: where it scrolls, the keyboard gets to it. */
function reachable(node: HTMLElement, text: string): HTMLElement {
  if (text.length > 500 || text.split('\n').length > 9) {
    node.tabIndex = 0;
  }
  return node;
}

function block(value: Json): HTMLElement {
  const text = pretty(value);
  return reachable(el('pre', 'mnb-Value', text), text);
}

export function pretty(value: Json): string {
  if (typeof value === 'string') {
    return value;
  }
  const line = jsonText(value);
  return line.length <= 80 ? line : JSON.stringify(value, null, 2);
}

/** Every field in full, for somebody who has to judge them. */
export function fieldsNode(value: Json): HTMLElement {
  if (!isObject(value)) {
    return block(value);
  }
  return table(Object.entries(value), pretty);
}

function table(rows: [string, Json][], said: (value: Json) => string): HTMLElement {
  const node = el('table', 'mnb-Fields');
  for (const [name, value] of rows) {
    const head = el('th', '', name);
    head.scope = 'row';
    const cell = el('td');
    // A cell of a table does not scroll by itself.
    const text = said(value);
    const box = reachable(cell.appendChild(el('div', '', text)), text);
    box.dataset.type = value === null ? 'null' : typeof value;
    const row = node.insertRow();
    row.append(head, cell);
  }
  return node;
}

/** A part of a fold that shows one value, drawn anew only if the value is another. */
export class ValueView {
  readonly node = el('div', 'mnb-Part');

  constructor(
    private readonly _label: string,
    private readonly _draw: (value: Json) => HTMLElement = valueNode
  ) {
    this.node.hidden = true;
  }

  update(value: Json | undefined): void {
    const text = jsonText(value);
    if (text === this._text) {
      return;
    }
    this._text = text;
    this.node.hidden = value === undefined;
    const parts = value === undefined ? [] : [this._draw(value)];
    const label = this._label && parts.length ? [el('div', 'mnb-Label', this._label)] : [];
    this.node.replaceChildren(...label, ...parts);
  }

  private _text = '';
}
