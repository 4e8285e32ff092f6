/**
 * The native format as a format of traces: see ../native.ts for its bytes.
 *
 * @module
 */
import { ByteReader } from "../byte_reader.ts";
import type { TraceEvent, TraceInfo } from "../event.ts";
import {
  BLOCK_HEADER_BYTES,
  BlockBuilder,
  decodeBlockHeader,
  decodeHeader,
  encodeHeader,
  HEADER_BYTES,
  headerLength,
  isNative,
  recordsFit,
} from "../native.ts";
import { RecordReader } from "../record.ts";
import { type PlainTraceBytes, type TraceFormat, TraceNotes, type TraceSource } from "../source.ts";
import { TraceError } from "../trace_error.ts";

async function read(input: ReadableStream<Uint8Array>): Promise<TraceSource> {
  const reader = new ByteReader(input);
  try {
    const fixed = await reader.read(HEADER_BYTES);
    if (fixed.length < HEADER_BYTES) throw new TraceError("it is cut off in its header");
    const length = headerLength(fixed);
    const rest = await reader.read(length - HEADER_BYTES);
    if (rest.length < length - HEADER_BYTES) throw new TraceError("it is cut off in its header");
    const header = new Uint8Array(length);
    header.set(fixed);
    header.set(rest, HEADER_BYTES);
    const notes = new TraceNotes();
    return { info: decodeHeader(header), notes, batches: () => blocks(reader, notes) };
  } catch (error) {
    await reader.cancel();
    throw error;
  }
}

async function* blocks(
  reader: ByteReader,
  notes: TraceNotes,
): AsyncGenerator<readonly TraceEvent[], void> {
  try {
    for (;;) {
      const at = reader.position;
      const head = await reader.read(BLOCK_HEADER_BYTES);
      if (head.length === 0) return;
      const header = decodeBlockHeader(head);
      const records = header === null ? null : await reader.read(header.bytes);
      if (header === null || records === null || records.length < header.bytes) {
        const left = reader.position - at + await reader.skipAll();
        notes.remarks.push(`the trace is torn at byte ${at}: ${left} bytes were dropped`);
        return;
      }
      notes.lost = header.lost;
      if (recordsFit(header, records)) yield eventsOf(records, at, notes);
      else notes.problem(`byte ${at}`, `the checksum of ${header.events} events is wrong`);
    }
  } finally {
    await reader.cancel();
  }
}

function eventsOf(records: Uint8Array, at: number, notes: TraceNotes): TraceEvent[] {
  const events: TraceEvent[] = [];
  const reader = new RecordReader(records);
  try {
    for (let event = reader.next(); event !== null; event = reader.next()) events.push(event);
  } catch (error) {
    if (!(error instanceof TraceError)) throw error;
    notes.problem(`byte ${at}`, error.message);
  }
  return events;
}

async function* write(
  info: TraceInfo,
  batches: AsyncIterable<readonly TraceEvent[]>,
): PlainTraceBytes {
  yield encodeHeader(info);
  const builder = new BlockBuilder();
  for await (const batch of batches) {
    for (const event of batch) {
      builder.add(event);
      const block = builder.full ? builder.take() : null;
      if (block !== null) yield block;
    }
  }
  const last = builder.take();
  if (last !== null) yield last;
}

/** The native format. */
export const native: TraceFormat = {
  name: "native",
  summary: "what dmu records: all events, with digests or data if they were asked for",
  endings: [".dmutrace"],
  detect: isNative,
  read,
  write,
};
