/** Errors that cells show: which of them a model can say something about, and which is the last. */

import { Cell, CodeCell } from '@jupyterlab/cells';
import type * as nbformat from '@jupyterlab/nbformat';

/** One line that begins in bold: our own errors say themselves what to do. */
const OURS = '\x1b[1m';
const PYTHON = ['text/x-ipython', 'text/x-python'];

/** Whether the cell shows an error that is worth a question. */
export function hasError(cell: Cell | null | undefined): cell is CodeCell {
  if (!(cell instanceof CodeCell) || !PYTHON.includes(cell.model.mimeType)) {
    return false;
  }
  const outputs = cell.model.outputs;
  for (let i = outputs.length - 1; i >= 0; i--) {
    if (outputs.get(i).type === 'error') {
      const error = outputs.get(i).toJSON() as nbformat.IError;
      return error.ename !== 'KeyboardInterrupt' && !error.traceback[0]?.startsWith(OURS);
    }
  }
  return false;
}

export type Question = 'explain' | 'fix';

/** What is asked; `@err` is the kernel's last error, with the cell that raised it. */
export const SOURCES: Record<Question, string> = {
  explain: '%%ask\nExplain this error in two sentences and say what to change. @err',
  fix: '%%ask --as code\nFix the cell that failed. @err'
};
