import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import { Link } from './link';
import { IMastra, IShown, NAMESPACE } from './tokens';

class Mastra implements IMastra {
  constructor(private readonly _notebooks: INotebookTracker | null) {}

  readonly shown: Signal<IMastra, IShown> = new Signal<IMastra, IShown>(this);

  panelOf(node: Node): NotebookPanel | null {
    return this._notebooks?.find(panel => panel.node.contains(node)) ?? null;
  }

  linkOf(panel: NotebookPanel | null): Link | null {
    const kernel = panel?.sessionContext.session?.kernel;
    return kernel ? this.linkTo(kernel) : null;
  }

  linkTo(kernel: Kernel.IKernelConnection): Link {
    let link = this._links.get(kernel);
    if (link === undefined) {
      link = new Link(kernel);
      this._links.set(kernel, link);
    }
    return link;
  }

  show(shown: IShown): void {
    this.shown.emit(shown);
  }

  private _links = new WeakMap<Kernel.IKernelConnection, Link>();
}

export const core: JupyterFrontEndPlugin<IMastra> = {
  id: `${NAMESPACE}:core`,
  description: 'The lines to the kernels, and the runs that are shown.',
  autoStart: true,
  provides: IMastra,
  optional: [INotebookTracker],
  activate: (_: JupyterFrontEnd, notebooks: INotebookTracker | null) => new Mastra(notebooks)
};
