/**
 * A run's record, as mastra_nb/records.py describes it, and the texts that its JSON leaves out.
 */

export const RUN_MIME = 'application/vnd.mastra.run.v1+json';
export const WORKFLOW_MIME = 'application/vnd.mastra.workflow.v1+json';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface IError {
  code: string;
  message: string;
  hint?: string;
}

export interface IPending {
  path: string;
  reason: string;
  tool?: string;
  args?: Json;
  payload?: Json;
  schema?: { [key: string]: Json };
}

export interface IUsage {
  input: number;
  output: number;
  cached: number;
  reasoning: number;
  cost: number | null;
  estimated?: boolean;
}

/** An item of a record: a text, a call with what is inside it, a display, a note, … */
export interface IItem {
  type: string;
  name?: string;
  status?: string;
  text?: string;
  /** Where the text or the image is in the bundle's Markdown, in UTF-16 units. */
  at?: [number, number];
  args?: Json;
  result?: Json;
  output?: Json;
  error?: IError;
  seconds?: number;
  attempt?: number;
  partial?: boolean;
  mime?: string;
  data?: Json;
  level?: string;
  value?: Json;
  count?: number;
  items?: IItem[];
  graph?: { [key: string]: Json };
  timeline?: Json[];
}

export interface IRecord extends Omit<IItem, 'type'> {
  version: number;
  agent: string;
  status: 'new' | 'running' | 'suspended' | 'done' | 'failed' | 'cancelled';
  pending?: IPending[];
  usage?: IUsage;
  model?: string;
  step?: number;
  thread?: string;
  /** Only while the run is running or waits. */
  run?: string;
  /** An error output beside it says how the run ended. */
  told?: boolean;
  /** What an answer in code is meant for. */
  code?: { language: string; cell?: string; source?: string };
}

/** The text of a record or an item: its own, or the part of the Markdown that holds it. */
export function textOf(node: { text?: string; at?: [number, number] }, markdown: string): string {
  return node.text ?? (node.at ? markdown.slice(node.at[0], node.at[1]) : '');
}

/** Whether somebody may still stop or answer the run. */
export function isLive(record: IRecord): boolean {
  return record.run !== undefined && ['running', 'suspended'].includes(record.status);
}

export function seconds(value: number): string {
  return value < 60
    ? `${value.toFixed(1)} s`
    : `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
}

export function dollars(cost: number): string {
  if (cost > 0 && cost < 0.0001) {
    return '<$0.0001';
  }
  return cost >= 1 || cost === 0 ? `$${cost.toFixed(2)}` : `$${cost.toFixed(4)}`;
}
