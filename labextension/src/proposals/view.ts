/** Draws a diff: signs and colours, equal lines folded, hidden characters by their names. */

import { pieces } from './code';
import { hunks, IDiffLine } from './diff';
import { button, el } from '../runs/dom';

const SIGNS = { same: ' ', add: '+', remove: '−' };

export function countText(lines: IDiffLine[]): string {
  const count = (op: string): number => lines.filter(line => line.op === op).length;
  const many = (n: number, what: string): string => `${n} ${n === 1 ? 'line' : 'lines'} ${what}`;
  const [added, removed] = [count('add'), count('remove')];
  return [added ? many(added, 'added') : '', removed ? many(removed, 'removed') : '']
    .filter(Boolean)
    .join(', ');
}

export function drawDiff(lines: IDiffLine[]): HTMLElement {
  const node = el('div', 'mnb-Diff');
  node.setAttribute('role', 'region');
  node.setAttribute('aria-label', `Proposed change: ${countText(lines) || 'none'}`);
  // Long ones scroll, by keys as well.
  node.tabIndex = 0;
  for (const hunk of hunks(lines)) {
    if ('lines' in hunk) {
      const words = changedWords(hunk.lines);
      node.append(...hunk.lines.map((line, i) => drawLine(line, words.get(i))));
    } else {
      const fold = button(`⋯ ${hunk.folded.length} unchanged lines`, 'mnb-Diff-fold', () => {
        fold.replaceWith(...hunk.folded.map(line => drawLine(line)));
        node.focus();
      });
      fold.setAttribute('aria-label', `Show ${hunk.folded.length} unchanged lines`);
      node.append(fold);
    }
  }
  return node;
}

/** Where a line differs from the one that it replaces: [start, end) of its text. */
type Words = [number, number];

/** For as many removed lines as are added after them, what of each is not in its counterpart. */
function changedWords(lines: IDiffLine[]): Map<number, Words> {
  const found = new Map<number, Words>();
  for (let i = 0; i < lines.length; ) {
    const run = (from: number, op: string): number => {
      let to = from;
      while (to < lines.length && lines[to].op === op) {
        to++;
      }
      return to;
    };
    const added = run(i, 'remove');
    const end = run(added, 'add');
    if (added > i && added - i === end - added) {
      for (let k = 0; k < added - i; k++) {
        const [before, after] = [lines[i + k].text, lines[added + k].text];
        const most = Math.min(before.length, after.length);
        let start = 0;
        while (start < most && before[start] === after[start]) {
          start++;
        }
        let tail = 0;
        while (tail < most - start && before.at(-1 - tail) === after.at(-1 - tail)) {
          tail++;
        }
        // Lines that have little in common are other lines.
        if (start + tail > most / 3) {
          found.set(i + k, [start, before.length - tail]);
          found.set(added + k, [start, after.length - tail]);
        }
      }
    }
    i = Math.max(end, i + 1);
  }
  return found;
}

function drawLine({ op, text }: IDiffLine, words?: Words): HTMLElement {
  const node = el('div', 'mnb-Diff-line');
  node.dataset.op = op;
  const said = el(op === 'add' ? 'ins' : op === 'remove' ? 'del' : 'span', 'mnb-Diff-text');
  const [start, end] = words ?? [text.length, text.length];
  write(said, text.slice(0, start));
  if (start < end) {
    write(said.appendChild(el('span', 'mnb-Diff-words')), text.slice(start, end));
  }
  write(said, text.slice(end));
  node.append(el('span', 'mnb-Diff-sign', SIGNS[op]), said);
  return node;
}

function write(node: HTMLElement, text: string): void {
  for (const piece of pieces(text)) {
    node.append(piece.hidden ? el('span', 'mnb-Diff-hidden', piece.text) : piece.text);
  }
}
