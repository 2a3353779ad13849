/** The code of an answer, and what in it would deceive a reader. */

const FENCE = /^(`{3,}|~{3,})[^\n`]*\n/m;

export interface IProposed {
  code: string;
  /** Whether the answer is nothing but the code. */
  alone: boolean;
}

/** The first fenced block of the answer's Markdown; null if it has none, or no end. */
export function proposedCode(markdown: string): IProposed | null {
  const open = FENCE.exec(markdown);
  if (open === null) {
    return null;
  }
  const rest = markdown.slice(open.index + open[0].length);
  const close = new RegExp(`^${open[1][0]}{${open[1].length},}[ \\t]*$`, 'm').exec(rest);
  if (close === null) {
    return null;
  }
  const around = markdown.slice(0, open.index) + rest.slice(close.index + close[0].length);
  return { code: rest.slice(0, close.index).replace(/\n$/, ''), alone: around.trim() === '' };
}

/** Characters that draw nothing, or that change the order in which the others are read. */
const HIDDEN =
  // eslint-disable-next-line no-control-regex
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

export function charName(char: string): string {
  return `U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`;
}

/** A text cut at its hidden characters, each of them a piece of its own. */
export function* pieces(text: string): Generator<{ text: string; hidden: boolean }> {
  let from = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > from) {
      yield { text: text.slice(from, found.index), hidden: false };
    }
    yield { text: charName(found[0]), hidden: true };
    from = found.index + found[0].length;
  }
  if (from < text.length) {
    yield { text: text.slice(from), hidden: false };
  }
}

/** Where hidden characters are, for a reader: "U+202E in line 3"; empty if there are none. */
export function hiddenPlaces(code: string, max = 5): string {
  const places = new Set<string>();
  code.split('\n').forEach((line, i) => {
    for (const [char] of line.matchAll(HIDDEN)) {
      places.add(`${charName(char)} in line ${i + 1}`);
    }
  });
  const shown = [...places].slice(0, max);
  return shown.join(', ') + (places.size > max ? ` and ${places.size - max} more` : '');
}
