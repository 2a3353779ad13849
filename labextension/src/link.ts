/**
 * The line to the kernel of a notebook: questions with answers, and what the kernel tells by itself.
 *
 * Message there: {id, ask, args}; back: {id, ok} or {id, error: {code, message, hint}}; by itself:
 * {event, …}. mastra_nb/notebook/_channel.py is the other end.
 */

import type { Kernel, KernelMessage } from '@jupyterlab/services';
import type { JSONObject, JSONValue } from '@lumino/coreutils';
import { ISignal, Signal } from '@lumino/signaling';

import type { IError } from './record';

const TARGET = 'mastra_nb';
/** How long a subshell may take to start before the comm is opened without one. */
const SUBSHELL_MS = 1000;

export class LinkError extends Error {
  constructor(readonly error: IError) {
    super(error.message);
  }

  get hint(): string {
    return this.error.hint ?? '';
  }
}

/** What the kernel tells without being asked. */
export interface IKernelEvent {
  event: string;
  run?: string;
  name?: string;
  status?: string;
}

interface IWaiting {
  resolve: (value: JSONValue) => void;
  reject: (error: Error) => void;
}

export class Link {
  constructor(readonly kernel: Kernel.IKernelConnection) {
    kernel.statusChanged.connect(this._onStatus, this);
    kernel.disposed.connect(() => this._drop('the kernel is gone'));
  }

  get events(): ISignal<this, IKernelEvent> {
    return this._events;
  }

  get isOpen(): boolean {
    return this._comm !== null;
  }

  /** Whether mastra_nb is loaded in the kernel. Waits for the cells that are queued. */
  async isLoaded(): Promise<boolean> {
    if (this.isOpen) {
      return true;
    }
    const reply = await this.kernel.requestCommInfo({ target_name: TARGET });
    return reply.content.status === 'ok' && Object.keys(reply.content.comms).length > 0;
  }

  /** Only for kernels that have mastra_nb loaded: others would complain of the comm. */
  open(): Promise<void> {
    this._opening ??= this._open().catch(error => {
      this._opening = null;
      throw error;
    });
    return this._opening;
  }

  async ask<T = JSONValue>(name: string, args: JSONObject = {}): Promise<T> {
    await this.open();
    const id = ++this._count;
    return new Promise<JSONValue>((resolve, reject) => {
      this._waiting.set(id, { resolve, reject });
      this._comm!.send({ id, ask: name, args });
    }) as Promise<T>;
  }

  private async _open(): Promise<void> {
    const comm = this.kernel.createComm(TARGET);
    comm.onMsg = message => this._onMessage(message);
    comm.onClose = () => this._drop('mastra_nb is not loaded in this kernel');
    // In a subshell the kernel hears us while a cell blocks it.
    const subshell = (comm as { subshellStarted?: Promise<unknown> }).subshellStarted;
    if (this.kernel.supportsSubshells && subshell) {
      await Promise.race([subshell, new Promise(done => setTimeout(done, SUBSHELL_MS))]);
    }
    comm.open({});
    this._comm = comm;
  }

  private _onMessage(message: KernelMessage.ICommMsgMsg): void {
    const data = message.content.data as JSONObject;
    const waiting = this._waiting.get(data.id as number);
    if (waiting === undefined) {
      this._events.emit(data as unknown as IKernelEvent);
      return;
    }
    this._waiting.delete(data.id as number);
    if (data.error) {
      waiting.reject(new LinkError(data.error as unknown as IError));
    } else {
      waiting.resolve(data.ok as JSONValue);
    }
  }

  private _onStatus(_: Kernel.IKernelConnection, status: Kernel.Status): void {
    if (['restarting', 'autorestarting', 'dead'].includes(status)) {
      this._drop('the kernel was restarted');
    }
  }

  private _drop(why: string): void {
    const waiting = [...this._waiting.values()];
    this._waiting.clear();
    this._comm = null;
    this._opening = null;
    for (const each of waiting) {
      each.reject(new LinkError({ code: 'kernel.gone', message: why }));
    }
    if (waiting.length) {
      this._events.emit({ event: 'gone' });
    }
  }

  private _comm: Kernel.IComm | null = null;
  private _opening: Promise<void> | null = null;
  private _count = 0;
  private _waiting = new Map<number, IWaiting>();
  private _events = new Signal<this, IKernelEvent>(this);
}
