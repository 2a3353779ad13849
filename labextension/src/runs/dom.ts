/** Nodes made by calls: no text of a record is ever read as HTML. */

const SVG = 'http://www.w3.org/2000/svg';
// What draws nothing, or turns the direction of a text so that it reads as something else.
// eslint-disable-next-line no-control-regex
const UNPRINTABLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

export function clean(text: string): string {
  return text.replace(/\r\n?/g, '\n').replace(UNPRINTABLE, '\ufffd');
}

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = '',
  text = ''
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className) {
    node.className = className;
  }
  if (text) {
    node.textContent = clean(text);
  }
  return node;
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: { [name: string]: string | number } = {},
  text = ''
): SVGElementTagNameMap[K] {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    node.setAttribute(name, typeof value === 'number' ? String(+value.toFixed(1)) : value);
  }
  if (text) {
    node.textContent = clean(text);
  }
  return node;
}

/** Touches the page only if something is different. */
export function setText(node: Element, text: string): void {
  const cleaned = clean(text);
  if (node.textContent !== cleaned) {
    node.textContent = cleaned;
  }
}

export function setData(node: HTMLElement | SVGElement, name: string, value: string): void {
  if (node.dataset[name] !== value) {
    node.dataset[name] = value;
  }
}

export function show(node: HTMLElement, shown: boolean): void {
  if (node.hidden === shown) {
    node.hidden = !shown;
  }
}

export function button(label: string, className: string, clicked: () => void): HTMLButtonElement {
  const node = el('button', `mnb-Button ${className}`, label);
  node.type = 'button';
  node.addEventListener('click', clicked);
  return node;
}

/** As high as its text, within bounds. */
export function fit(input: HTMLTextAreaElement): void {
  input.rows = Math.min(12, input.value.split('\n').length);
}

let count = 0;

/** An id for what another node names. */
export function newId(): string {
  return `mnb-${++count}`;
}

/** Whether somebody is writing or has just pressed a key: the focus is theirs. */
export function isTyping(): boolean {
  const active = document.activeElement as HTMLElement | null;
  const edits =
    active !== null &&
    (active.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(active.tagName));
  return edits || performance.now() - lastKey < 800;
}

let lastKey = -Infinity;
document.addEventListener('keydown', () => (lastKey = performance.now()), true);
