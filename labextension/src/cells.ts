/** Cells that are found, changed, added and run: the notebook is changed here and nowhere else. */

import { Cell, CodeCell } from '@jupyterlab/cells';
import { NotebookActions, NotebookPanel } from '@jupyterlab/notebook';

import { edits } from './proposals/diff';

/** A cell's undo manager; the type is Yjs's, which only JupyterLab itself depends on. */
interface IUndoable {
  undoManager?: { stopCapturing(): void } | null;
}

export function findCell(panel: NotebookPanel, id: string | undefined): CodeCell | null {
  const found = panel.content.widgets.find(cell => cell.model.id === id);
  return found instanceof CodeCell ? found : null;
}

export function cellAround(panel: NotebookPanel, node: Node): Cell | null {
  return panel.content.widgets.find(cell => cell.node.contains(node)) ?? null;
}

export function sourceOf(cell: Cell): string {
  return cell.model.sharedModel.getSource();
}

export function isEditable(panel: NotebookPanel, cell: Cell): boolean {
  return !panel.content.model?.readOnly && cell.model.getMetadata('editable') !== false;
}

/** One step of the cell's own undo stack, whatever was typed just before or is typed after. */
export function replaceSource(cell: Cell, source: string): void {
  const shared = cell.model.sharedModel;
  const undo = (shared as IUndoable).undoManager;
  undo?.stopCapturing();
  shared.transact(() => {
    for (const edit of edits(shared.getSource(), source)) {
      shared.updateSource(edit.start, edit.end, edit.text);
    }
  });
  undo?.stopCapturing();
}

/** Takes `source` back to `before`, by the cell's undo stack as far as that leads there. */
export function undoReplace(cell: Cell, source: string, before: string): void {
  const shared = cell.model.sharedModel;
  if (shared.getSource() === source && shared.canUndo()) {
    shared.undo();
  }
  if (shared.getSource() !== before) {
    replaceSource(cell, before);
  }
}

export async function runCell(panel: NotebookPanel, cell: Cell): Promise<boolean> {
  return NotebookActions.runCells(panel.content, [cell], panel.sessionContext);
}

/** A new code cell below `above`, which becomes the active one. */
export function insertBelow(panel: NotebookPanel, above: Cell, source: string): CodeCell {
  const { content } = panel;
  const index = content.widgets.indexOf(above) + 1;
  content.model!.sharedModel.insertCell(index, {
    cell_type: 'code',
    source,
    metadata: { trusted: true }
  });
  content.activeCellIndex = index;
  content.deselectAll();
  content.mode = 'command';
  content.activate();
  void content.scrollToItem(index, 'smart').catch(() => undefined);
  return content.widgets[index] as CodeCell;
}
