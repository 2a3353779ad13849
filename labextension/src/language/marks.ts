/** Colours the lines and the words that are ours, only where they are seen. */

import { syntaxTree } from '@codemirror/language';
import { Extension, Prec, RangeSetBuilder } from '@codemirror/state';
import { Decoration, DecorationSet, EditorView, ViewPlugin, ViewUpdate } from '@codemirror/view';

import { HEAD, inserted, Kind, lineMagic, magicPieces, Mark, startOf } from './magics';

const MARKS = Object.fromEntries(
  ['magic', 'name', 'flag', 'rest', 'value', 'context'].map(name => [
    name,
    Decoration.mark({ class: `mnb-cm-${name}` })
  ])
) as Record<Mark, Decoration>;
const MAGIC_LINE = Decoration.line({ class: 'mnb-cm-magicLine' });

/** Beyond this a line is only marked, not looked at. */
const MAX_LINE = 2000;

function build(view: EditorView, kind: Kind): DecorationSet {
  const builder = new RangeSetBuilder<Decoration>();
  const doc = view.state.doc;
  const start = kind === 'none' ? -1 : startOf(doc.sliceString(0, HEAD));
  const magic = start < 0 ? null : doc.lineAt(start);
  for (const { from, to } of view.visibleRanges) {
    for (let at = from; at <= to; ) {
      const line = doc.lineAt(at);
      at = line.to + 1;
      const text = line.text.slice(0, MAX_LINE);
      if (line.from === magic?.from) {
        builder.add(line.from, line.from, MAGIC_LINE);
        add(builder, line.from, magicPieces(text, start - line.from));
      } else if (kind === 'prose') {
        if (magic && line.from > magic.from) {
          add(builder, line.from, inserted(text));
        }
      } else {
        const begin = text.includes('%') ? lineMagic(text) : -1;
        if (begin >= 0 && !inString(view, line.from + begin)) {
          add(builder, line.from, magicPieces(text, begin));
        }
      }
    }
  }
  return builder.finish();
}

function add(
  builder: RangeSetBuilder<Decoration>,
  offset: number,
  pieces: Iterable<{ from: number; to: number; mark: Mark }>
): void {
  for (const { from, to, mark } of pieces) {
    builder.add(offset + from, offset + to, MARKS[mark]);
  }
}

function inString(view: EditorView, at: number): boolean {
  return /String|Comment/.test(syntaxTree(view.state).resolveInner(at, 1).name);
}

/** Highest: what comes first is drawn inside the spans of the language, so its colours count. */
export function marks(kind: Kind): Extension {
  return Prec.highest(
    ViewPlugin.define(
      view => ({
        decorations: build(view, kind),
        update(update: ViewUpdate): void {
          const parsed = syntaxTree(update.startState) !== syntaxTree(update.state);
          if (update.docChanged || update.viewportChanged || (parsed && kind !== 'prose')) {
            this.decorations = build(update.view, kind);
          }
        }
      }),
      { decorations: plugin => plugin.decorations }
    )
  );
}
