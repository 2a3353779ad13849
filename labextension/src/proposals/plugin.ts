import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';

import { textOf } from '../record';
import { IMastra, IShown, NAMESPACE } from '../tokens';
import { ProposalBox } from './box';
import { proposedCode } from './code';

export const proposals: JupyterFrontEndPlugin<void> = {
  id: `${NAMESPACE}:proposals`,
  description: 'Code that an agent proposes can be compared with a cell and put there.',
  autoStart: true,
  requires: [IMastra],
  activate: (_: JupyterFrontEnd, mastra: IMastra) => {
    const boxes = new WeakMap<HTMLElement, ProposalBox>();
    mastra.shown.connect((_: IMastra, shown: IShown) => {
      const { record, markdown, node } = shown;
      const finished = record.code && record.status === 'done' && !record.partial;
      const proposed = finished ? proposedCode(textOf(record, markdown)) : null;
      let box = boxes.get(node);
      if (proposed === null) {
        box?.dispose();
        boxes.delete(node);
        return;
      }
      if (box === undefined) {
        box = new ProposalBox(inner => mastra.panelOf(inner));
        boxes.set(node, box);
      }
      // The renderer may have drawn its node anew.
      if (box.node.parentElement !== node) {
        node.insertBefore(box.node, node.querySelector(':scope > .mnb-Footer'));
      }
      box.update(shown, proposed);
    });
  }
};
