/** Tells a screen reader what an answer says, sentence by sentence, each of them once. */

import { clean, el } from './dom';

const SENTENCE = /[.!?:]["')\]]*\s|\n/g;

export class Announcer {
  readonly node = el('div', 'mnb-Heard');

  constructor() {
    this.node.setAttribute('role', 'status');
  }

  say(text: string): void {
    this.node.append(el('span', '', clean(text) + ' '));
    while (this.node.childNodes.length > 20) {
      this.node.firstChild!.remove();
    }
  }

  /** `text` so far; `ended` if no more of it comes. */
  hear(text: string, ended: boolean): void {
    if (this._told > text.length) {
      this._told = 0;
    }
    let end = ended ? text.length : this._told;
    if (!ended) {
      SENTENCE.lastIndex = this._told;
      for (let found = SENTENCE.exec(text); found; found = SENTENCE.exec(text)) {
        end = SENTENCE.lastIndex;
      }
    }
    const said = text.slice(this._told, end).replace(/[*_`#|>~]+/g, '').trim();
    this._told = end;
    if (said) {
      this.say(said);
    }
  }

  private _told = 0;
}
