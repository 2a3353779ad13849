import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

import { ledgerOf } from '../panel/ledger';
import { IMastra, NAMESPACE } from '../tokens';
import { Actions } from './actions';

const ID = `${NAMESPACE}:commands`;

export const commands: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Commands for the runs of the current notebook, and their shortcuts.',
  autoStart: true,
  requires: [IMastra, INotebookTracker],
  optional: [ICommandPalette, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    mastra: IMastra,
    notebooks: INotebookTracker,
    palette: ICommandPalette | null,
    settings: ISettingRegistry | null
  ) => {
    const actions = new Actions(mastra, ledgerOf(notebooks));
    const all = actions.all();
    for (const { id, label, caption, icon, isEnabled, execute } of all) {
      app.commands.addCommand(id, { label, caption, icon, isEnabled, execute });
      palette?.addItem({ command: id, category: 'Mastra' });
    }
    const tell = (): void => all.forEach(({ id }) => app.commands.notifyCommandChanged(id));
    actions.ledger.changed.connect(tell);
    notebooks.activeCellChanged.connect(tell);
    // The shortcuts come with the schema; nothing else is set.
    settings
      ?.load(ID)
      .catch(error => console.error('mastra_nb: the shortcuts cannot be read', error));
  }
};
