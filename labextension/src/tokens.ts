import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';

import type { Link } from './link';
import type { IRecord } from './record';

export const NAMESPACE = '@mastra-nb/labextension';

/** A run that an output shows, and where. `markdown` holds the texts its record leaves out. */
export interface IShown {
  record: IRecord;
  markdown: string;
  node: HTMLElement;
  panel: NotebookPanel | null;
}

/** What the plugins share: who shows which runs, and the lines to the kernels. */
export interface IMastra {
  /** The notebook whose output a node is in. */
  panelOf(node: Node): NotebookPanel | null;
  /** The line to a notebook's kernel; null if it has none. Not open until it is used. */
  linkOf(panel: NotebookPanel | null): Link | null;
  linkTo(kernel: Kernel.IKernelConnection): Link;
  /** Told by the renderer whenever an output has drawn a record. */
  show(shown: IShown): void;
  readonly shown: ISignal<IMastra, IShown>;
}

export const IMastra = new Token<IMastra>(
  `${NAMESPACE}:IMastra`,
  'The runs that are shown and the lines to the kernels of mastra_nb.'
);
