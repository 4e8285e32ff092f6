/**
 * Traces for tests: events made by hand, written as native files and read back.
 *
 * @module
 */
import type { Errno } from "../../lib/block/errors.ts";
import type { Operation } from "../../lib/block/request.ts";
import type { TraceEvent, TraceInfo } from "../../lib/trace/event.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { digestOf } from "../../lib/trace/record.ts";
import { eventsOf, TraceNotes, type TraceSource } from "../../lib/trace/source.ts";

/** What is known of the traces of tests, unless they say otherwise. */
export const INFO: TraceInfo = {
  started_ms: Date.UTC(2026, 0, 2, 3, 4, 5),
  target: "disk",
  size: 1 << 20,
  completes: true,
};

/** A request enters. Data make it a write that keeps them. */
export function submit(
  id: number,
  timeUs: number,
  operation: Operation,
  offset = 0,
  rest: { length?: number; connection?: number; data?: Uint8Array } = {},
): TraceEvent {
  const { data = null, length = data?.length ?? 4096, connection = 1 } = rest;
  const bytes = operation === "flush" ? 0 : length;
  return {
    ...{ kind: "submit", timeUs, id, connection, operation, offset, length: bytes, flags: 0 },
    ...{ digest: data === null ? null : digestOf(data), payload: data },
  };
}

/** A request is done; data are what a read gave. */
export function complete(
  id: number,
  timeUs: number,
  rest: { errno?: Errno; data?: Uint8Array } = {},
): TraceEvent {
  const { errno = null, data } = rest;
  const digest = data === undefined ? null : digestOf(data);
  return { kind: "complete", timeUs, id, errno, digest, payload: null };
}

/** A trace of events. */
export function traceOf(events: readonly TraceEvent[], info: Partial<TraceInfo> = {}): TraceSource {
  async function* batches(): AsyncGenerator<readonly TraceEvent[]> {
    // Small batches: what goes on over their borders is looked at too.
    for (let at = 0; at < events.length; at += 3) {
      yield await Promise.resolve(events.slice(at, at + 3));
    }
  }
  return { info: { ...INFO, ...info }, notes: new TraceNotes(), batches };
}

/** The bytes of a native trace. */
export async function nativeBytes(source: TraceSource): Promise<Uint8Array<ArrayBuffer>> {
  const pieces: Uint8Array<ArrayBuffer>[] = [];
  const bytes = native.write?.(source.info, source.batches(), source.notes);
  for await (const piece of bytes ?? []) pieces.push(piece);
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** Writes a native trace. */
export async function writeNative(path: string, source: TraceSource): Promise<void> {
  await Deno.writeFile(path, await nativeBytes(source));
}

/** Reads a native trace to its end. */
export async function readNative(
  path: string,
): Promise<{ readonly source: TraceSource; readonly events: TraceEvent[] }> {
  const source = await native.read((await Deno.open(path)).readable);
  return { source, events: await Array.fromAsync(eventsOf(source)) };
}
