/**
 * The store of a notebook's folder, asked of Jupyter's server: where no kernel runs.
 *
 * mastra_nb/notebook/server_extension.py is the other end. It answers questions and changes nothing.
 */

import { PathExt, URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import type { JSONObject, JSONValue } from '@lumino/coreutils';

import { LinkError } from './link';
import type { IError } from './record';

/** Who answers questions: a kernel, or the server. */
export interface IAsker {
  ask<T = JSONValue>(name: string, args?: JSONObject): Promise<T>;
}

export class StoreLink implements IAsker {
  /** `path` is that of a notebook. */
  constructor(path: string) {
    this._folder = PathExt.dirname(path);
  }

  /** Whether the server has the extension, and the folder a store. */
  async isThere(): Promise<boolean> {
    try {
      await this.ask('runs', { limit: 1 });
      return true;
    } catch {
      return false;
    }
  }

  async ask<T = JSONValue>(name: string, args: JSONObject = {}): Promise<T> {
    const settings = ServerConnection.makeSettings();
    const url =
      URLExt.join(settings.baseUrl, 'mastra', 'ask', name) +
      URLExt.objectToQueryString({ path: this._folder });
    const init = { method: 'POST', body: JSON.stringify(args) };
    const response = await ServerConnection.makeRequest(url, init, settings);
    if (!response.ok) {
      throw new ServerConnection.ResponseError(response);
    }
    const said = (await response.json()) as { ok?: JSONValue; error?: IError };
    if (said.error) {
      throw new LinkError(said.error);
    }
    return said.ok as T;
  }

  private _folder: string;
}
