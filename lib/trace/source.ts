/**
 * Where events come from and go to: what every trace format offers.
 *
 * @module
 */
import type { TraceEvent, TraceInfo } from "./event.ts";
import { BATCH_EVENTS, PROBLEMS_TOLD_MAX } from "./limits.ts";

/** Something in a trace that could not be understood. */
export interface TraceProblem {
  /** Where: "line 12", "byte 4096". */
  readonly where: string;
  /** What is wrong there. */
  readonly what: string;
}

/** What a reader has to say besides events: wrong lines, a torn end, lost events. */
export class TraceNotes {
  /** The first PROBLEMS_TOLD_MAX problems. */
  readonly problems: TraceProblem[] = [];
  /** Lines, records or blocks that could not be understood, those that are not told included. */
  problemCount = 0;
  /** Events that the recorder could not keep up with. */
  lost = 0;
  /** What a reader should know: a torn end that was dropped, times that go back. */
  readonly remarks: string[] = [];

  /** Counts a problem, and tells it if there were not too many. */
  problem(where: string, what: string): void {
    this.problemCount += 1;
    if (this.problems.length < PROBLEMS_TOLD_MAX) this.problems.push({ where, what });
  }
}

/** A trace that is being read. Events come in the order of their times as far as the source is sorted. */
export interface TraceSource {
  /** What is known of it. */
  readonly info: TraceInfo;
  /** Grows while it is read; whole when the batches are at their end. */
  readonly notes: TraceNotes;
  /** The events, in batches that are the caller's. Once. Throws TraceError if it cannot go on. */
  batches(): AsyncIterable<readonly TraceEvent[]>;
}

/** The bytes of a trace that is written, and at the end those that replace the first ones. */
export type TraceBytes = AsyncGenerator<
  Uint8Array<ArrayBuffer>,
  Uint8Array<ArrayBuffer> | undefined
>;

/** The bytes of a trace whose first ones stay as they are. */
export type PlainTraceBytes = AsyncGenerator<Uint8Array<ArrayBuffer>, undefined>;

/** Settings of a reader; each format uses those that it needs. */
export interface ReadOptions {
  /** Which volume or device of a trace of several; all if not told. */
  readonly device?: string;
}

/** A format of traces. */
export interface TraceFormat {
  /** The name on the command line: `[a-z][a-z0-9-]*`. */
  readonly name: string;
  /** One line for lists, without a full stop. */
  readonly summary: string;
  /** Endings of file names that mean it where the content does not tell. */
  readonly endings: readonly string[];
  /** True if a trace that begins with these bytes (up to DETECT_BYTES) is of this format. */
  detect(head: Uint8Array): boolean;
  /** Reads a trace. Throws TraceError for one that cannot be read at all. */
  read(input: ReadableStream<Uint8Array>, options?: ReadOptions): Promise<TraceSource>;
  /**
   * Makes the bytes of a trace from events in the order of their times; absent if nothing reads it.
   * What the format cannot hold is told in `notes`. Returns bytes that replace the first ones of the
   * output where its header tells what is known at the end only.
   */
  write?(
    info: TraceInfo,
    batches: AsyncIterable<readonly TraceEvent[]>,
    notes: TraceNotes,
  ): TraceBytes;
}

/** The events of a source one by one: for scripts, where speed matters less than simplicity. */
export async function* eventsOf(source: TraceSource): AsyncGenerator<TraceEvent, void> {
  for await (const batch of source.batches()) yield* batch;
}

/** A source of events that come from elsewhere, made or changed by a script; in the order of their times. */
export function sourceOf(info: TraceInfo, events: AsyncIterable<TraceEvent>): TraceSource {
  return { info, notes: new TraceNotes(), batches: () => batchesOf(events) };
}

async function* batchesOf(
  events: AsyncIterable<TraceEvent>,
): AsyncGenerator<readonly TraceEvent[], void> {
  let batch: TraceEvent[] = [];
  for await (const event of events) {
    batch.push(event);
    if (batch.length < BATCH_EVENTS) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
