/**
 * Traces of foreign formats in tests: from bytes or text to events, and back.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { SubmitEvent, TraceEvent, TraceInfo } from "../../lib/trace/event.ts";
import {
  type ReadOptions,
  type TraceFormat,
  TraceNotes,
  type TraceSource,
} from "../../lib/trace/source.ts";

/** What was read. */
export interface Read {
  /** All events. */
  readonly events: readonly TraceEvent[];
  /** Where they are from. */
  readonly source: TraceSource;
}

/** Bytes in chunks of a size. */
export function inChunks(bytes: Uint8Array, size: number): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller): void {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, at + size));
      at += size;
    },
  });
}

/** Reads bytes, or text, in a format. */
export async function readAll(
  format: TraceFormat,
  content: Uint8Array | string,
  options: ReadOptions & { readonly chunk?: number } = {},
): Promise<Read> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const source = await format.read(inChunks(bytes, options.chunk ?? 65_536), options);
  const events: TraceEvent[] = [];
  for await (const batch of source.batches()) events.push(...batch);
  return { events, source };
}

/** Writes events in a format; the bytes that replace the first ones are in their place. */
export async function writeAll(
  format: TraceFormat,
  info: TraceInfo,
  events: readonly TraceEvent[],
): Promise<{ bytes: Uint8Array<ArrayBuffer>; notes: TraceNotes }> {
  assert.ok(format.write !== undefined, format.name);
  async function* batches(): AsyncGenerator<readonly TraceEvent[], void> {
    for (let at = 0; at < events.length; at += 100) yield events.slice(at, at + 100);
  }
  const notes = new TraceNotes(), parts: Uint8Array<ArrayBuffer>[] = [];
  const chunks = format.write(info, batches(), notes);
  for (;;) {
    const next = await chunks.next();
    if (next.done !== true) {
      parts.push(next.value);
      continue;
    }
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    if (next.value !== undefined) bytes.set(next.value);
    return { bytes, notes };
  }
}

/** An event as a line: what a golden test compares. */
export function told(event: TraceEvent): string {
  const { timeUs, id } = event;
  if (event.kind === "complete") return `${timeUs} C${id} ${event.errno ?? "ok"}`;
  const { connection, operation, offset, length, flags, payload } = event;
  const data = payload === null ? "" : ` data ${payload.length}:${payload[0] ?? ""}`;
  return `${timeUs} S${id} c${connection} ${operation} ${offset}+${length} f${flags}${data}`;
}

/** A request with what is not told left at nothing. */
export function submit(
  timeUs: number,
  id: number,
  rest: Partial<SubmitEvent> & Pick<SubmitEvent, "operation">,
): SubmitEvent {
  const none = { connection: 1, offset: 0, length: 0, flags: 0, digest: null, payload: null };
  return { kind: "submit", timeUs, id, ...none, ...rest };
}

/** The completion of a request. */
export function complete(timeUs: number, id: number): TraceEvent {
  return { kind: "complete", timeUs, id, errno: null, digest: null, payload: null };
}
