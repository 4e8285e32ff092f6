/**
 * The one event model of traces: what passes a Device, as two events a request. Whatever a trace came
 * from (a Device, blktrace, fio, a CSV of a data centre), it is these events in between.
 *
 * @module
 */
import type { Errno } from "../block/errors.ts";
import type { Operation } from "../block/request.ts";

/** A request has entered. */
export interface SubmitEvent {
  /** What it is. */
  readonly kind: "submit";
  /** Time since the beginning of the trace in µs, with a fraction where the source has one. */
  readonly timeUs: number;
  /** Pairs it with its completion: a whole number from 1, unique in its trace. */
  readonly id: number;
  /** The way in: the minor of an open file, the process or the volume of a foreign trace; 0 if unknown. */
  readonly connection: number;
  /** What is done. */
  readonly operation: Operation;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** FLAG_ bits of a request. */
  readonly flags: number;
  /** CRC-32 of the data of a write (see `digestOf`); null if it was not kept. */
  readonly digest: number | null;
  /** The data of a write, exactly `length` bytes; null if they were not kept. */
  readonly payload: Uint8Array | null;
}

/** A request is done. A trace may lack it: the format has none, or the request never ended. */
export interface CompleteEvent {
  /** What it is. */
  readonly kind: "complete";
  /** Time since the beginning of the trace in µs, with a fraction where the source has one. */
  readonly timeUs: number;
  /** The id of the request. */
  readonly id: number;
  /** Null for success. */
  readonly errno: Errno | null;
  /** CRC-32 of the data of a read that succeeded; null if it was not kept. */
  readonly digest: number | null;
  /** The data of a read that succeeded; null if they were not kept. */
  readonly payload: Uint8Array | null;
}

/** An event of a trace. */
export type TraceEvent = SubmitEvent | CompleteEvent;

/** What is known of a trace as a whole. */
export interface TraceInfo {
  /** When it began, in ms since 1970; null if unknown. */
  readonly started_ms: number | null;
  /** The target that was traced; null if unknown. */
  readonly target: string | null;
  /** Size of the device in bytes; null if unknown. */
  readonly size: number | null;
  /** It tells when requests were done, but for those that never were. */
  readonly completes: boolean;
}

/** What is known of a trace whose format says nothing. */
export const NO_INFO: TraceInfo = { started_ms: null, target: null, size: null, completes: false };
