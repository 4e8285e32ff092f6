/**
 * From a stream of bytes to a source of events: what all foreign formats share. A decoder understands
 * as much as is there, without waiting; this waits for it.
 *
 * @module
 */
import { ByteWindow } from "./byte_window.ts";
import type { TraceEvent, TraceInfo } from "./event.ts";
import { EventList } from "./event_list.ts";
import { TraceNotes, type TraceSource } from "./source.ts";
import { TraceError } from "./trace_error.ts";

/** Understands the bytes of a format. */
export interface Decoder {
  /** Understands what is there and moves `at` on. True if it stopped because the list is full. */
  decode(window: ByteWindow): boolean;
  /** Understands what is left at the end of the stream, and tells what is missing. */
  finish(window: ByteWindow): void;
  /** What is known of the trace when its first events are. */
  info(): TraceInfo;
}

/** What a decoder is made with. */
export interface DecoderParts {
  /** Where events go to. */
  readonly events: EventList;
  /** Where problems go to. */
  readonly notes: TraceNotes;
}

/** Reads a stream with a decoder. Waits until there is a first event. Throws TraceError. */
export async function decodeStream(
  input: ReadableStream<Uint8Array>,
  make: (parts: DecoderParts) => Decoder,
  notes: TraceNotes = new TraceNotes(),
): Promise<TraceSource> {
  const window = new ByteWindow(input);
  const events = new EventList();
  const decoder = make({ events, notes });
  const batches = decoded(window, decoder, events, notes);
  try {
    const first = await batches.next();
    return { info: decoder.info(), notes, batches: () => resumed(first, batches) };
  } catch (error) {
    await window.cancel();
    throw error;
  }
}

/** The batches of a stream whose first one was awaited already. */
async function* resumed(
  first: IteratorResult<readonly TraceEvent[], void>,
  rest: AsyncGenerator<readonly TraceEvent[], void>,
): AsyncGenerator<readonly TraceEvent[], void> {
  if (first.done === true) return;
  try {
    yield first.value;
    yield* rest;
  } finally {
    await rest.return();
  }
}

async function* decoded(
  window: ByteWindow,
  decoder: Decoder,
  events: EventList,
  notes: TraceNotes,
): AsyncGenerator<readonly TraceEvent[], void> {
  try {
    while (await window.fill()) {
      for (let full = true; full;) {
        full = decoder.decode(window);
        const batch = events.take();
        if (batch.length > 0) yield batch;
      }
    }
    decoder.finish(window);
    events.finish(notes);
    understood(events, notes);
    const batch = events.take();
    if (batch.length > 0) yield batch;
  } finally {
    await window.cancel();
  }
}

/** Throws TraceError if nothing of a trace was understood. */
function understood(events: EventList, notes: TraceNotes): void {
  const first = notes.problems[0];
  if (events.requests > 0 || first === undefined) return;
  throw new TraceError(`nothing in it could be understood; ${first.where}: ${first.what}`);
}
