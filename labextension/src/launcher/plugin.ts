import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ILauncher } from '@jupyterlab/launcher';
import type { NotebookPanel } from '@jupyterlab/notebook';

import { agentIcon } from '../panel/icon';
import { NAMESPACE } from '../tokens';

export const NEW_NOTEBOOK = 'mastra:new-notebook';

const CELLS: { cell_type: 'code' | 'markdown'; source: string }[] = [
  {
    cell_type: 'markdown',
    source: '# An agent\n\nRun the cells from the top; then change the instructions and the question.'
  },
  { cell_type: 'code', source: '%load_ext mastra_nb' },
  {
    cell_type: 'code',
    source: '%%agent helper\nYou are a helpful assistant. Answer in a few sentences.'
  },
  { cell_type: 'code', source: '%%ask helper\nWhat can you do for me in a notebook?' }
];

export const launcher: JupyterFrontEndPlugin<void> = {
  id: `${NAMESPACE}:launcher`,
  description: 'A notebook with an agent in it, from the launcher.',
  autoStart: true,
  optional: [ILauncher, ICommandPalette],
  activate: (app: JupyterFrontEnd, launch: ILauncher | null, palette: ICommandPalette | null) => {
    app.commands.addCommand(NEW_NOTEBOOK, {
      label: args => (args.isLauncher ? 'Agent notebook' : 'New Agent Notebook'),
      caption: 'A new notebook with an agent and a question',
      icon: agentIcon,
      isEnabled: () => app.commands.hasCommand('notebook:create-new'),
      execute: async args => {
        const { cwd, kernelId, kernelName } = args;
        const panel = (await app.commands.execute('notebook:create-new', {
          cwd,
          kernelId,
          // JupyterLab asks which kernel where nobody has chosen; its default is Python.
          kernelName: kernelName ?? (await defaultKernel(app))
        })) as NotebookPanel | undefined;
        if (panel) {
          await panel.context.ready;
          fill(panel);
        }
        return panel;
      }
    });
    launch?.add({
      command: NEW_NOTEBOOK,
      category: 'Notebook',
      rank: 50,
      args: { isLauncher: true },
      // Cards of this category show the picture of a kernel, not the command's icon.
      kernelIconUrl: `data:image/svg+xml,${encodeURIComponent(agentIcon.svgstr)}`
    });
    palette?.addItem({ command: NEW_NOTEBOOK, category: 'Mastra' });
  }
};

async function defaultKernel(app: JupyterFrontEnd): Promise<string | undefined> {
  await app.serviceManager.kernelspecs.ready;
  return app.serviceManager.kernelspecs.specs?.default;
}

function fill(panel: NotebookPanel): void {
  const shared = panel.content.model!.sharedModel;
  shared.transact(() => {
    const empty = shared.cells.length;
    shared.insertCells(empty, CELLS.map(cell => ({ ...cell, metadata: { trusted: true } })));
    shared.deleteCellRange(0, empty);
  });
  panel.content.activeCellIndex = 1;
}
