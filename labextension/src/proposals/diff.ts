/** A diff of lines: Myers' O(ND) over what is left between equal beginnings and endings. */

export type Op = 'same' | 'add' | 'remove';

export interface IDiffLine {
  op: Op;
  text: string;
}

/** More differences than this are shown as one block that replaces another. */
const MAX_EDITS = 600;

export function diffLines(before: string, after: string): IDiffLine[] {
  return diff(before === '' ? [] : before.split('\n'), after === '' ? [] : after.split('\n'));
}

function diff(a: string[], b: string[]): IDiffLine[] {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) {
    start++;
  }
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) {
    end++;
  }
  const same = (text: string): IDiffLine => ({ op: 'same', text });
  return [
    ...a.slice(0, start).map(same),
    ...middle(a.slice(start, a.length - end), b.slice(start, b.length - end)),
    ...a.slice(a.length - end).map(same)
  ];
}

function middle(a: string[], b: string[]): IDiffLine[] {
  const trace = a.length && b.length ? search(a, b) : null;
  if (trace === null) {
    return [
      ...a.map((text): IDiffLine => ({ op: 'remove', text })),
      ...b.map((text): IDiffLine => ({ op: 'add', text }))
    ];
  }
  const lines: IDiffLine[] = [];
  let x = a.length;
  let y = b.length;
  for (let d = trace.length - 1; x > 0 || y > 0; d--) {
    const furthest = trace[d];
    const k = x - y;
    const down = k === -d || (k !== d && at(furthest, k - 1) < at(furthest, k + 1));
    const before = down ? k + 1 : k - 1;
    const fromX = d === 0 ? 0 : at(furthest, before);
    const fromY = d === 0 ? 0 : fromX - before;
    while (x > fromX && y > fromY) {
      lines.push({ op: 'same', text: a[--x] });
      y--;
    }
    if (d > 0) {
      lines.push(down ? { op: 'add', text: b[--y] } : { op: 'remove', text: a[--x] });
    }
  }
  return lines.reverse();
}

/** How far each diagonal got before each number of edits; null if there are too many. */
function search(a: string[], b: string[]): Map<number, number>[] | null {
  const trace: Map<number, number>[] = [];
  let furthest = new Map<number, number>([[1, 0]]);
  for (let d = 0; d <= Math.min(a.length + b.length, MAX_EDITS); d++) {
    trace.push(furthest);
    const next = new Map(furthest);
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && at(furthest, k - 1) < at(furthest, k + 1));
      let x = down ? at(furthest, k + 1) : at(furthest, k - 1) + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) {
        x++;
        y++;
      }
      next.set(k, x);
      if (x >= a.length && y >= b.length) {
        return trace;
      }
    }
    furthest = next;
  }
  return null;
}

function at(furthest: Map<number, number>, k: number): number {
  return furthest.get(k) ?? -1;
}

/** Lines of the diff that are shown, and how many equal ones between them are folded. */
export type Hunk = { lines: IDiffLine[] } | { folded: IDiffLine[] };

export function hunks(lines: IDiffLine[], context = 3): Hunk[] {
  const near = new Array<boolean>(lines.length).fill(false);
  lines.forEach((line, i) => {
    if (line.op !== 'same') {
      near.fill(true, Math.max(0, i - context), i + context + 1);
    }
  });
  const found: Hunk[] = [];
  for (let i = 0; i < lines.length; ) {
    let j = i;
    while (j < lines.length && near[j] === near[i]) {
      j++;
    }
    const part = lines.slice(i, j);
    // A fold of one or two lines would take more room than they do.
    const last = found.at(-1);
    if (near[i] || part.length < 3) {
      if (last && 'lines' in last) {
        last.lines.push(...part);
      } else {
        found.push({ lines: part });
      }
    } else {
      found.push({ folded: part });
    }
    i = j;
  }
  return found;
}

/** A change of a text: what stands in [start, end) becomes `text`. */
export interface IEdit {
  start: number;
  end: number;
  text: string;
}

/** The edits that make `after` of `before`, last one first, so that each may be made at once. */
export function edits(before: string, after: string): IEdit[] {
  const found: IEdit[] = [];
  let offset = 0;
  let open: IEdit | null = null;
  // Each line counts with the newline behind it.
  for (const { op, text } of diff(before.split('\n'), after.split('\n'))) {
    if (op === 'same') {
      open = null;
      offset += text.length + 1;
      continue;
    }
    if (open === null) {
      open = { start: offset, end: offset, text: '' };
      found.push(open);
    }
    if (op === 'add') {
      open.text += `${text}\n`;
    } else {
      offset += text.length + 1;
      open.end = offset;
    }
  }
  const last = found.at(-1);
  if (last && last.end > before.length) {
    // The last line has none: what is new, or what goes, takes the one before it.
    const grows = last.start > before.length;
    const shrinks = last.text === '';
    last.text = (grows ? '\n' : '') + last.text.slice(0, -1);
    last.start -= grows || shrinks ? 1 : 0;
    last.end = before.length;
  }
  return found.reverse();
}
