import type { LanguageSupport } from '@codemirror/language';
import { indentService } from '@codemirror/language';
import { Compartment, EditorState, Extension, Prec, StateEffect, StateField } from '@codemirror/state';
import { EditorView, ViewPlugin } from '@codemirror/view';
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import type { CodeEditor } from '@jupyterlab/codeeditor';
import { IEditorExtensionRegistry, IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

import { NAMESPACE } from '../tokens';
import { HEAD, Kind, kindOf } from './magics';
import { marks } from './marks';
import { loadProse } from './prose';

const ID = `${NAMESPACE}:language`;
/** Of a kernel's cells these may be ours; without a kernel nobody says what they are. */
const OURS = ['text/x-ipython', 'text/x-python', 'text/plain'];

/** Tells an editor to look again: the language was loaded, or a setting changed. */
const again = StateEffect.define<null>();
/** What a cell has become; null is a cell of another kernel's language. */
const become = StateEffect.define<Kind | null>();
const kindField = StateField.define<Kind | null>({
  create: () => null,
  update: (kind, { effects }) => {
    const changed = effects.find(effect => effect.is(become));
    return changed ? (changed.value as Kind | null) : kind;
  }
});

/** What all editors share. */
class Prose {
  constructor(private readonly _languages: IEditorLanguageRegistry) {}

  readonly views = new Set<EditorView>();
  wrap = true;
  spellcheck = true;

  extension(): Extension {
    if (this._support === null) {
      void this._load();
    }
    return [
      this._support === null ? [] : Prec.highest(this._support.extension),
      // As in a text: a new line begins where the one before it did.
      Prec.highest(indentService.of(() => null)),
      Prec.highest(EditorState.languageData.of(() => [{ closeBrackets: { brackets: ['(', '['] } }])),
      Prec.highest(
        EditorView.contentAttributes.of({
          class: 'mnb-cm-prose',
          spellcheck: String(this.spellcheck)
        })
      ),
      this.wrap ? EditorView.lineWrapping : []
    ];
  }

  lookAgain(): void {
    for (const view of this.views) {
      view.dispatch({ effects: again.of(null) });
    }
  }

  private async _load(): Promise<void> {
    this._loading ??= loadProse(this._languages).then(support => {
      this._support = support;
      this.lookAgain();
    });
    return this._loading.catch(error => {
      console.warn('mastra_nb: cells stay without the colours of Markdown', error);
    });
  }

  private _support: LanguageSupport | null = null;
  private _loading: Promise<void> | null = null;
}

/** The extension of one cell's editor: what it holds changes with the cell's first line. */
function cellExtension(prose: Prose, model: CodeEditor.IModel): Extension {
  const held = new Compartment();
  const find = (head: string): Kind | null => (OURS.includes(model.mimeType) ? kindOf(head) : null);
  const make = (kind: Kind | null): Extension =>
    kind === null ? [] : [marks(kind), kind === 'prose' ? prose.extension() : []];
  const first = find(model.sharedModel.getSource().slice(0, HEAD));
  return [
    kindField.init(() => first),
    held.of(make(first)),
    EditorState.transactionExtender.of(transaction => {
      const asked = transaction.effects.some(effect => effect.is(again));
      const typed = transaction.docChanged && transaction.changes.touchesRange(0, HEAD) !== false;
      // JupyterLab sets its own language by an effect, which is when the type has changed.
      if (!typed && !transaction.effects.length) {
        return null;
      }
      const kind = find(transaction.newDoc.sliceString(0, HEAD));
      if (kind === transaction.startState.field(kindField) && !asked) {
        return null;
      }
      return { effects: [become.of(kind), held.reconfigure(make(kind))] };
    }),
    ViewPlugin.define(view => {
      prose.views.add(view);
      return { destroy: () => void prose.views.delete(view) };
    })
  ];
}

export const language: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Cells that begin with a magic of mastra_nb are shown as what they hold.',
  autoStart: true,
  requires: [IEditorExtensionRegistry, IEditorLanguageRegistry],
  optional: [ISettingRegistry],
  activate: (
    _: JupyterFrontEnd,
    extensions: IEditorExtensionRegistry,
    languages: IEditorLanguageRegistry,
    settings: ISettingRegistry | null
  ) => {
    const prose = new Prose(languages);
    extensions.addExtension({
      name: 'mastra-cells',
      factory: ({ model }) => {
        const isCode = (model as { type?: string }).type === 'code';
        return isCode
          ? { instance: () => cellExtension(prose, model), reconfigure: () => null }
          : null;
      }
    });
    void settings?.load(ID).then(loaded => {
      const read = (): void => {
        prose.wrap = loaded.get('wrap').composite as boolean;
        prose.spellcheck = loaded.get('spellcheck').composite as boolean;
        prose.lookAgain();
      };
      loaded.changed.connect(read);
      read();
    });
  }
};
