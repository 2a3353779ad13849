/** What a reader may choose, in JupyterLab's settings. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';

export class Options {
  foldReasoning = true;
  showCost = true;
  notify = true;

  readonly changed = new Signal<Options, void>(this);

  follow(settings: ISettingRegistry.ISettings): void {
    const read = () => {
      this.foldReasoning = settings.composite.foldReasoning !== false;
      this.showCost = settings.composite.showCost !== false;
      this.notify = settings.composite.notify !== false;
      this.changed.emit();
    };
    settings.changed.connect(read);
    read();
  }
}
