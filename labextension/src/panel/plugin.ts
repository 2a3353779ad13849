import { ILabShell, ILayoutRestorer } from '@jupyterlab/application';
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

import { IMastra, NAMESPACE } from '../tokens';
import { mastraIcon } from './icon';
import { ledgerOf } from './ledger';
import { MastraPanel } from './panel';

const ID = `${NAMESPACE}:panel`;
/** Also known to the status bar, which may be there without us. */
export const OPEN_PANEL = 'mastra:open-panel';

export const panel: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'The runs, threads, memories and costs of a notebook, in the right side bar.',
  autoStart: true,
  requires: [IMastra, INotebookTracker, IRenderMimeRegistry],
  optional: [ILabShell, ILayoutRestorer, ICommandPalette, ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    mastra: IMastra,
    notebooks: INotebookTracker,
    rendermime: IRenderMimeRegistry,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    settings: ISettingRegistry | null
  ) => {
    const widget = new MastraPanel(mastra, ledgerOf(notebooks), rendermime);
    widget.id = 'mastra-panel';
    widget.title.icon = mastraIcon;
    widget.title.caption = 'Mastra';
    // JupyterLab's side bar shows signs; Notebook 7 lists panels by their names in its menu.
    widget.title.label = labShell ? '' : 'Mastra';
    app.shell.add(widget, 'right', { rank: 600, type: 'Mastra' });
    restorer?.add(widget, 'mastra-panel');
    app.commands.addCommand(OPEN_PANEL, {
      label: 'Open Panel',
      caption: 'Runs, traces, threads, memory and cost of this notebook',
      icon: mastraIcon,
      execute: args => {
        app.shell.activateById(widget.id);
        if (typeof args.section === 'string') {
          widget.turn(args.section);
        }
      }
    });
    palette?.addItem({ command: OPEN_PANEL, category: 'Mastra' });
    void settings
      ?.load(ID)
      .then(loaded => {
        const read = (): void => {
          widget.showCost = loaded.composite.showCost !== false;
        };
        loaded.changed.connect(read);
        read();
      })
      .catch(error => console.error('mastra_nb: the settings of the panel cannot be read', error));
  }
};
