/**
 * The language of a cell whose body is meant for a model: the magic's line, options in YAML
 * between two lines of ---, and Markdown. Each part is parsed by JupyterLab's own language.
 */

import { defineLanguageFacet, Language, languageDataProp, LanguageSupport } from '@codemirror/language';
import type { IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import {
  Input,
  NodeType,
  parseMixed,
  Parser,
  PartialParse,
  Tree,
  TreeFragment
} from '@lezer/common';

const data = defineLanguageFacet({ commentTokens: { block: { open: '<!--', close: '-->' } } });

const CELL = NodeType.define({ id: 0, name: 'Cell', top: true, props: [[languageDataProp, data]] });
const LINE = NodeType.define({ id: 1, name: 'MagicLine' });
const OPTIONS = NodeType.define({ id: 2, name: 'Options' });
const BODY = NodeType.define({ id: 3, name: 'Body' });

const FIRST_LINE = /^\s*[^\n]*\n?/;
const FRONT_MATTER = /^---[ \t]*\n(?:[\s\S]*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|$)/;
/** Options are not looked for beyond this. */
const MAX_OPTIONS = 4000;

class Outline implements PartialParse {
  constructor(private readonly _input: Input) {}

  readonly parsedPos = 0;
  readonly stoppedAt = null;

  stopAt(): void {
    // One step does all of it.
  }

  advance(): Tree {
    const end = this._input.length;
    const head = this._input.read(0, Math.min(end, MAX_OPTIONS));
    const line = FIRST_LINE.exec(head)![0].length;
    const options = FRONT_MATTER.exec(head.slice(line))?.[0].length ?? 0;
    const children = [new Tree(LINE, [], [], line)];
    const positions = [0];
    if (options) {
      children.push(new Tree(OPTIONS, [], [], options));
      positions.push(line);
    }
    if (line + options < end) {
      children.push(new Tree(BODY, [], [], end - line - options));
      positions.push(line + options);
    }
    return new Tree(CELL, children, positions, end);
  }
}

class CellParser extends Parser {
  constructor(markdown: Parser, yaml: Parser) {
    super();
    this._inner = parseMixed(node =>
      node.type === BODY ? { parser: markdown } : node.type === OPTIONS ? { parser: yaml } : null
    );
  }

  createParse(
    input: Input,
    fragments: readonly TreeFragment[],
    ranges: readonly { from: number; to: number }[]
  ): PartialParse {
    return this._inner(new Outline(input), input, fragments, ranges);
  }

  private readonly _inner: ReturnType<typeof parseMixed>;
}

/** Loads the parts when a cell first needs them. */
export async function loadProse(languages: IEditorLanguageRegistry): Promise<LanguageSupport> {
  const [markdown, yaml] = await Promise.all(
    ['Markdown', 'YAML'].map(name => languages.getLanguage(name))
  );
  if (!markdown?.support || !yaml?.support) {
    throw new Error('JupyterLab has no Markdown or no YAML for its editors.');
  }
  const parser = new CellParser(markdown.support.language.parser, yaml.support.language.parser);
  return new LanguageSupport(new Language(data, parser, [], 'mastra'), markdown.support.support);
}
