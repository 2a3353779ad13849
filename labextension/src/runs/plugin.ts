import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';

import { RUN_MIME, WORKFLOW_MIME } from '../record';
import { IMastra, NAMESPACE } from '../tokens';
import { Attention } from './attention';
import { Options } from './options';
import { RunRenderer, WorkflowRenderer } from './renderer';

const ID = `${NAMESPACE}:runs`;
/** Before Markdown, which every bundle of ours has as well. */
const RANK = 10;

export const runs: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Draws the runs of agents and workflows in outputs, with what they ask.',
  autoStart: true,
  requires: [IMastra, IRenderMimeRegistry],
  optional: [ISettingRegistry],
  activate: (
    app: JupyterFrontEnd,
    mastra: IMastra,
    rendermime: IRenderMimeRegistry,
    settings: ISettingRegistry | null
  ) => {
    const options = new Options();
    const attention = new Attention(app, options);
    rendermime.addFactory(
      {
        safe: true,
        mimeTypes: [RUN_MIME],
        defaultRank: RANK,
        createRenderer: given => new RunRenderer(mastra, rendermime, options, attention, given)
      },
      RANK
    );
    rendermime.addFactory(
      {
        safe: true,
        mimeTypes: [WORKFLOW_MIME],
        defaultRank: RANK,
        createRenderer: () => new WorkflowRenderer()
      },
      RANK
    );
    settings
      ?.load(ID)
      .then(loaded => options.follow(loaded))
      .catch(error => console.error('mastra_nb: the settings of runs cannot be read', error));
  }
};
