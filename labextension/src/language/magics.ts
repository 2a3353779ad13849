/**
 * What is ours in a cell's source: its first line, and the lines of ours among Python.
 * mastra_nb/notebook/_specs.py is the grammar.
 */

/** The bodies of our cell magics: words for a model, or Python; or a cell that is no magic of ours. */
export type Kind = 'prose' | 'python' | 'none';

export type Mark = 'magic' | 'name' | 'flag' | 'rest' | 'value' | 'context';

/** A piece of a line, from its beginning. */
export interface IPiece {
  from: number;
  to: number;
  mark: Mark;
}

/** A cell whose beginning is longer than this is none of ours. */
export const HEAD = 40;

const CELL = /^\s*%%(agent|ask|evals|tool|workflow)(?=\s|$)/;
const LINE = /^\s*(?:[\w.,[\]'"* \t]+?=\s*)?(?=%(?:ask|agent|resume|mastra)(?:\s|\?|$))/;
const WORD = /"[^"]*"?|'[^']*'?|\{\{.*?\}\}|\S+/g;
const CONTEXT = /^@[A-Za-z_]\w*(?:\[-?\d+\])?/;
const INSERTED = /\{\{(?:(?!\}\}).)+\}\}|(?<![\w.@/`])@[A-Za-z_]\w*(?:\[-?\d+\])?/g;

export function kindOf(head: string): Kind {
  const name = CELL.exec(head)?.[1];
  return name === undefined ? 'none' : ['tool', 'workflow'].includes(name) ? 'python' : 'prose';
}

/** Where the line of the cell magic begins; blank lines before it are left out by IPython. */
export function startOf(head: string): number {
  return head.indexOf('%%');
}

/** The pieces of a line whose magic begins at `start`. Spaces belong to none. */
export function magicPieces(line: string, start: number): IPiece[] {
  const pieces: IPiece[] = [];
  const signature = line.startsWith('%%workflow', start);
  let flags = !signature;
  WORD.lastIndex = start;
  for (let found = WORD.exec(line); found; found = WORD.exec(line)) {
    const word = found[0];
    let mark: Mark = 'rest';
    if (found.index === start) {
      mark = 'magic';
    } else if (flags && word === '--') {
      mark = 'flag';
      flags = false;
    } else if (flags && /^--?[A-Za-z]/.test(word)) {
      mark = 'flag';
    } else if (word.startsWith('{{')) {
      mark = 'value';
    } else if (CONTEXT.test(word)) {
      const end = found.index + CONTEXT.exec(word)![0].length;
      pieces.push({ from: found.index, to: end, mark: 'context' });
      WORD.lastIndex = end;
      continue;
    } else if (signature && pieces.length === 1) {
      const name = /^\w*/.exec(word)![0].length;
      pieces.push({ from: found.index, to: found.index + name, mark: 'name' });
      if (name === word.length) {
        continue;
      }
      pieces.push({ from: found.index + name, to: found.index + word.length, mark });
      continue;
    } else if (pieces.length === 1 && line.startsWith('%%', start)) {
      mark = 'name';
    }
    pieces.push({ from: found.index, to: found.index + word.length, mark });
  }
  return pieces;
}

/** Where our magic begins in a line of Python; -1 if it has none. */
export function lineMagic(line: string): number {
  return LINE.exec(line)?.[0].length ?? -1;
}

/** What a template fills in, `{{ … }}`, and what is attached, `@name`. */
export function* inserted(text: string): Generator<IPiece> {
  for (const found of text.matchAll(INSERTED)) {
    const mark = found[0].startsWith('{{') ? 'value' : 'context';
    yield { from: found.index, to: found.index + found[0].length, mark };
  }
}
