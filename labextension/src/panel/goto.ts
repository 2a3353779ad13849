/** Goes to a cell and shows which one it is. */

import type { NotebookPanel } from '@jupyterlab/notebook';

const FLASH_MS = 1600;

export async function goTo(panel: NotebookPanel | null, cell: string): Promise<void> {
  const index = panel?.content.widgets.findIndex(widget => widget.model.id === cell) ?? -1;
  if (panel === null || index < 0) {
    return;
  }
  panel.content.activeCellIndex = index;
  panel.content.deselectAll();
  const { node } = panel.content.widgets[index];
  try {
    await panel.content.scrollToItem(index, 'start');
  } catch {
    return; // the notebook was closed or scrolled elsewhere meanwhile
  }
  node.scrollIntoView({ block: 'nearest' });
  node.classList.add('mnb-mod-flash');
  setTimeout(() => node.classList.remove('mnb-mod-flash'), FLASH_MS);
}
