/** Section Trace: what happened in one run, and when. */

import type { Json } from '../record';
import { el } from '../runs/dom';
import { TimelineView } from '../runs/timeline';
import { fieldsNode } from '../runs/values';
import { barsOf, barsOfSpans, isMeasured, ISpan } from './bars';
import { emptyNode, errorNode, ISources, IView, Latest } from './view';

interface ITrace {
  spans: ISpan[];
  began: number;
}

export class TraceView implements IView {
  readonly name = 'Trace';
  readonly node = el('div', 'mnb-View mnb-Run');

  constructor(private readonly _sources: ISources) {}

  refresh(): void {
    const { chosen, ledger, link } = this._sources;
    const entry = chosen && 'key' in chosen ? ledger.find(chosen.key) : undefined;
    const run = chosen && 'run' in chosen ? chosen.run : entry?.record.run;
    if (run !== undefined && link !== null) {
      void this._ask(run);
      return;
    }
    this._asked.drop();
    if (entry === undefined) {
      this.node.replaceChildren(
        emptyNode('No run is chosen', 'Choose a run in Runs to see what it did, and when.')
      );
      return;
    }
    const bars = barsOf(entry.record);
    if (!bars.length) {
      this.node.replaceChildren(
        this._title(entry.record.agent),
        emptyNode('No calls', 'This run called no tool, agent or step.')
      );
      return;
    }
    const note = isMeasured(entry.record)
      ? ''
      : 'How long each call took; when it began is in the kernel’s store.';
    this._draw(entry.record.agent, bars, note, () => false);
  }

  reset(): void {
    this._asked.drop();
    this.node.replaceChildren();
  }

  dispose(): void {
    this._asked.drop();
  }

  private async _ask(run: string): Promise<void> {
    try {
      const trace = await this._asked.of(this._sources.link!.ask<ITrace>('trace', { id: run }));
      if (trace !== undefined) {
        const bars = barsOfSpans(trace.spans, Date.now() / 1000 - trace.began);
        const name = trace.spans[0]?.name ?? run;
        this._draw(name, bars, '', names => this._reveal(trace.spans, names));
      }
    } catch (error) {
      this.node.replaceChildren(errorNode(error, () => this.refresh()));
    }
  }

  private _draw(name: string, bars: Json[], note: string, reveal: TimelineReveal): void {
    const timeline = new TimelineView(reveal);
    timeline.update(bars);
    timeline.node.open = true;
    this._span.replaceChildren();
    const about = note ? [el('div', 'mnb-Quiet', note)] : [];
    this.node.replaceChildren(this._title(name), ...about, timeline.node, this._span);
  }

  private _title(name: string): HTMLElement {
    return el('div', 'mnb-Detail-title', name || 'run');
  }

  /** Shows what the span at this place was given and gave. */
  private _reveal(spans: readonly ISpan[], names: readonly string[]): boolean {
    const above: string[] = [];
    for (const span of spans) {
      above.length = Math.min(above.length, span.depth);
      above.push(span.name);
      if (above.length === names.length && above.every((name, n) => name === names[n])) {
        const { kind, status, usage, input, output, error } = span;
        const parts: { [name: string]: Json } = { kind, status };
        for (const [key, value] of Object.entries({ input, output, error, usage })) {
          if (value !== undefined && value !== null) {
            parts[key] = value;
          }
        }
        this._span.replaceChildren(this._title(span.name), fieldsNode(parts));
        return true;
      }
    }
    return false;
  }

  private _asked = new Latest();
  private _span = el('div', 'mnb-Span');
}

type TimelineReveal = (names: readonly string[]) => boolean;
