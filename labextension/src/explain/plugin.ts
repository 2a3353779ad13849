import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { LabIcon } from '@jupyterlab/ui-components';

import { IMastra, NAMESPACE } from '../tokens';
import { Asker } from './asker';
import { Bars } from './bars';
import { hasError, Question } from './errors';

const ID = `${NAMESPACE}:explain`;

const icon = (name: string, path: string): LabIcon =>
  new LabIcon({
    name: `mastra:${name}`,
    svgstr:
      '<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">' +
      `<path class="jp-icon3" fill="#616161" fill-rule="evenodd" d="${path}"/></svg>`
  });

interface ICommand {
  question: Question;
  label: string;
  caption: string;
  icon: LabIcon;
}

const COMMANDS: { [id: string]: ICommand } = {
  'mastra:explain-error': {
    question: 'explain',
    label: 'Explain Error',
    caption: 'Ask an agent what went wrong in this cell',
    icon: icon(
      'explain',
      'M2 2h12v9H8l-4 3.2V11H2zm1.4 1.4v6.2h2v1.7l2.1-1.7h5.1V3.4zM7.3 7.4c0-1.3 1.5-1.3 1.5-2 ' +
        '0-.9-1.5-.9-1.6.1H6c.1-2.2 4-2.1 4-.1 0 1.2-1.5 1.3-1.5 2zm0 .7h1.2v1.1H7.3z'
    )
  },
  'mastra:fix-error': {
    question: 'fix',
    label: 'Fix Error',
    caption: 'Ask an agent for code without the error of this cell',
    icon: icon(
      'fix',
      'M13.7 4.3a3.6 3.6 0 0 1-4.8 4.2l-4.7 4.7a1.7 1.7 0 0 1-2.4-2.4l4.7-4.7a3.6 3.6 0 0 1 ' +
        '4.2-4.8L8.5 3.5l.4 2.6 2.6.4z'
    )
  }
};

export const explain: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Errors of cells can be explained and fixed by an agent.',
  autoStart: true,
  requires: [IMastra, INotebookTracker],
  optional: [ISettingRegistry, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    mastra: IMastra,
    notebooks: INotebookTracker,
    settings: ISettingRegistry | null,
    palette: ICommandPalette | null
  ) => {
    const asker = new Asker(mastra, notebooks);
    let isOn = true;
    const all = new Set<Bars>();
    const failed = (): boolean => hasError(notebooks.activeCell);
    for (const [id, { question, label, caption, icon }] of Object.entries(COMMANDS)) {
      app.commands.addCommand(id, {
        label,
        caption,
        icon,
        isVisible: failed,
        isEnabled: () => failed() && !asker.isBusy,
        execute: async () => {
          const { activeCell, currentWidget } = notebooks;
          if (currentWidget && hasError(activeCell)) {
            await asker.ask(currentWidget, activeCell, question);
          }
        }
      });
      palette?.addItem({ command: id, category: 'Mastra' });
    }
    const tell = (): void => {
      for (const id of Object.keys(COMMANDS)) {
        app.commands.notifyCommandChanged(id);
      }
    };
    let shown = false;
    const look = (): void => {
      if (shown !== failed()) {
        shown = !shown;
        tell();
      }
    };
    notebooks.activeCellChanged.connect(look);
    asker.changed.connect(tell);
    notebooks.widgetAdded.connect((_, panel) => {
      const bars = new Bars(panel, asker, () => isOn, look);
      all.add(bars);
      panel.disposed.connect(() => all.delete(bars));
    });
    void settings?.load(ID).then(loaded => {
      const read = (): void => {
        isOn = loaded.get('buttons').composite as boolean;
        all.forEach(bars => bars.later());
      };
      loaded.changed.connect(read);
      read();
    });
  }
};
