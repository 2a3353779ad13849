/** A list of which one page is in the page, with one that is selected: arrows, Home, End, Enter. */

import { button, clean, el, newId, setText, show } from '../runs/dom';

export const PAGE = 50;

export interface IRow {
  key: string;
  draw(node: HTMLElement): void;
}

export class PagedList {
  readonly node = el('div', 'mnb-Paged');

  /** `choose` is called for a row that is selected, `open` for a second Enter or a double click. */
  constructor(
    label: string,
    private readonly _choose: (key: string) => void,
    private readonly _turn: (page: number) => void
  ) {
    this._list.setAttribute('role', 'listbox');
    this._list.setAttribute('aria-label', label);
    this._list.tabIndex = 0;
    this._list.dataset.lmSuppressShortcuts = 'true';
    this._list.addEventListener('keydown', event => this._onKey(event));
    this._pager.append(this._before, this._where, this._after);
    this._where.setAttribute('aria-live', 'polite');
    this._before.setAttribute('aria-label', `Previous page of ${label}`);
    this._after.setAttribute('aria-label', `Next page of ${label}`);
    this.node.append(this._list, this._pager);
  }

  get selected(): string {
    return this._selected;
  }

  /** The rows of the page that is shown, of `total` in all; `total` null: not known. */
  update(rows: IRow[], page: number, total: number | null, more: boolean): void {
    this._page = page;
    const nodes = rows.map(row => {
      const node = el('div', 'mnb-Listed');
      node.setAttribute('role', 'option');
      node.id = newId();
      row.draw(node);
      node.addEventListener('click', () => this.select(row.key, true));
      return node;
    });
    this._keys = rows.map(row => row.key);
    const scroll = this._list.scrollTop;
    this._list.replaceChildren(...nodes);
    this._list.scrollTop = scroll;
    const first = page * PAGE + 1;
    const said = total === null ? '' : ` of ${total.toLocaleString('en')}`;
    const last = page * PAGE + rows.length;
    const range = `${first.toLocaleString('en')}–${last.toLocaleString('en')}`;
    setText(this._where, range + said);
    show(this._pager, page > 0 || more);
    show(this._list, rows.length > 0);
    this._before.disabled = page === 0;
    this._after.disabled = !more;
    this._mark();
  }

  select(key: string, told: boolean): void {
    this._selected = key;
    this._mark();
    if (told) {
      this._choose(key);
    }
  }

  private _mark(): void {
    const at = this._keys.indexOf(this._selected);
    [...this._list.children].forEach((node, n) =>
      node.setAttribute('aria-selected', String(n === at))
    );
    const node = this._list.children[at];
    if (node) {
      this._list.setAttribute('aria-activedescendant', node.id);
    } else {
      this._list.removeAttribute('aria-activedescendant');
    }
  }

  private _onKey(event: KeyboardEvent): void {
    const at = this._keys.indexOf(this._selected);
    const last = this._keys.length - 1;
    const steps: { [key: string]: number } = {
      ArrowDown: Math.min(last, at + 1),
      ArrowUp: Math.max(0, at - 1),
      Home: 0,
      End: last,
      Enter: at
    };
    if (event.key === 'PageDown' && !this._after.disabled) {
      this._turn(this._page + 1);
    } else if (event.key === 'PageUp' && !this._before.disabled) {
      this._turn(this._page - 1);
    } else if (Object.hasOwn(steps, event.key) && steps[event.key] >= 0) {
      this.select(this._keys[steps[event.key]], true);
      this._list.children[steps[event.key]]?.scrollIntoView({ block: 'nearest' });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private _list = el('div', 'mnb-List');
  private _pager = el('div', 'mnb-Pager');
  private _where = el('span', 'mnb-Quiet');
  private _before = button('‹', 'mnb-mod-quiet', () => this._turn(this._page - 1));
  private _after = button('›', 'mnb-mod-quiet', () => this._turn(this._page + 1));
  private _keys: string[] = [];
  private _selected = '';
  private _page = 0;
}

/** A row's first line, and what is below it. */
export function drawRow(node: HTMLElement, head: (Node | string)[], lines: string[]): void {
  const top = el('div', 'mnb-Row-head');
  top.append(...head.map(each => (typeof each === 'string' ? el('span', '', each) : each)));
  node.append(top);
  lines.filter(Boolean).forEach((line, n) => {
    const text = el('div', n === lines.length - 1 ? 'mnb-Row-foot' : 'mnb-Row-line', line);
    text.title = clean(line);
    node.append(text);
  });
}
