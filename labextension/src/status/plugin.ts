import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { ledgerOf } from '../panel/ledger';
import { OPEN_PANEL } from '../panel/plugin';
import { NAMESPACE } from '../tokens';
import { StatusItem } from './item';

const ID = `${NAMESPACE}:status`;

export const status: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'What the runs of the current notebook do and use, in the status bar.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [IStatusBar, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    notebooks: INotebookTracker,
    bar: IStatusBar | null,
    settings: ISettingRegistry | null
  ) => {
    if (bar === null) {
      return;
    }
    const item = new StatusItem(ledgerOf(notebooks), section => {
      if (app.commands.hasCommand(OPEN_PANEL)) {
        void app.commands.execute(OPEN_PANEL, { section });
      }
    });
    bar.registerStatusItem('mastra-status', {
      item,
      align: 'right',
      rank: 40,
      isActive: () => item.isUseful,
      activeStateChanged: item.changed
    });
    void settings
      ?.load(ID)
      .then(loaded => {
        const read = (): void => {
          item.showCost = loaded.composite.showCost !== false;
        };
        loaded.changed.connect(read);
        read();
      })
      .catch(error => console.error('mastra_nb: the settings of the status cannot be read', error));
  }
};
