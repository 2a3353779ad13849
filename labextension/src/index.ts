import type { JupyterFrontEndPlugin } from '@jupyterlab/application';

import { commands } from './commands/plugin';
import { core } from './core';
import { explain } from './explain/plugin';
import { language } from './language/plugin';
import { launcher } from './launcher/plugin';
import { panel } from './panel/plugin';
import { proposals } from './proposals/plugin';
import { runs } from './runs/plugin';
import { status } from './status/plugin';

const plugins = [
  core,
  runs,
  language,
  proposals,
  explain,
  panel,
  status,
  commands,
  launcher
] as JupyterFrontEndPlugin<unknown>[];

export default plugins;
