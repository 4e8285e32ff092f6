/**
 * Looking through the objects of a volume: which there are, and what their headers say.
 *
 * @module
 */
import type { ObjectStore } from "../object_store/types.ts";
import { damaged } from "./bytes.ts";
import { HEAD_BYTES, SCAN_READS } from "./limits.ts";
import {
  decodeLogHeader,
  FIXED_HEADER_BYTES,
  headerBytesOf,
  type LogHeader,
  logHeaderBytes,
  objectBytes,
} from "./log_object.ts";
import { CHECKPOINT_PREFIX, LOG_PREFIX, logKey, parseCheckpointKey, seqOfLogKey } from "./names.ts";

/** A checkpoint that is listed. */
export interface ListedCheckpoint {
  /** Its key. */
  readonly key: string;
  /** The last log object that it includes. */
  readonly seq: number;
  /** Bytes. */
  readonly size: number;
}

/** All checkpoints, the newest first. */
export async function listCheckpoints(
  store: ObjectStore,
  signal: AbortSignal,
): Promise<ListedCheckpoint[]> {
  const found: ListedCheckpoint[] = [];
  for await (const { key, size } of store.list(CHECKPOINT_PREFIX, { signal })) {
    const parsed = parseCheckpointKey(key);
    if (parsed !== null) found.push({ key, seq: parsed.seq, size });
  }
  return found.reverse();
}

/** Sizes of the log objects from `first` on, by sequence number, ascending. */
export async function listLog(
  store: ObjectStore,
  first: number,
  signal: AbortSignal,
): Promise<Map<number, number>> {
  const sizes = new Map<number, number>();
  const after = first === 0 ? {} : { after: logKey(first - 1) };
  for await (const { key, size } of store.list(LOG_PREFIX, { signal, ...after })) {
    const seq = seqOfLogKey(key);
    if (seq !== null) sizes.set(seq, size);
  }
  return sizes;
}

/**
 * Reads the header of a log object; null if there is no such object. Throws EIO, naming the object, if it is
 * damaged or not what its name says.
 */
export async function readLogHeader(
  store: ObjectStore,
  seq: number,
  signal: AbortSignal,
): Promise<LogHeader | null> {
  const key = logKey(seq), name = `${store.name}/${key}`;
  const head = await store.get(key, { offset: 0, length: HEAD_BYTES }, { signal });
  if (head === null) return null;
  const headerBytes = logHeaderBytes(head, name);
  let bytes: Uint8Array = head;
  if (headerBytes > head.length && head.length >= FIXED_HEADER_BYTES) {
    const whole = await store.get(key, { offset: 0, length: headerBytes }, { signal });
    if (whole === null) return null;
    bytes = whole;
  }
  const header = decodeLogHeader(bytes, name);
  if (header.seq !== seq) throw damaged(name, `it says that it is object ${header.seq}`);
  return header;
}

/** A log object that was found, or that is missing. */
export interface Scanned {
  /** Its sequence number. */
  readonly seq: number;
  /** What it says; null if it was deleted since it was listed. */
  readonly header: LogHeader | null;
}

/**
 * The headers of listed log objects in the order of the log, from `first` to the first object that is
 * not listed, several of them read at a time. Throws EIO, naming the object, for whatever is damaged.
 */
export async function* scanLog(
  store: ObjectStore,
  first: number,
  sizes: ReadonlyMap<number, number>,
  signal: AbortSignal,
): AsyncGenerator<Scanned> {
  const reading = new Map<number, Promise<LogHeader | null>>();
  /** Begins to read what is likely to follow: numbers without a gap. */
  const readAhead = (from: number): void => {
    for (let seq = from; seq < from + SCAN_READS && sizes.has(seq); seq += 1) {
      if (reading.has(seq)) continue;
      const header = readLogHeader(store, seq, signal);
      header.catch(() => {}); // it is thrown where it is waited for, if it ever is
      reading.set(seq, header);
    }
  };
  for (let seq = first; sizes.has(seq);) {
    readAhead(seq);
    const header = await reading.get(seq) ?? null;
    reading.delete(seq);
    if (header !== null) checkSize(store, header, sizes.get(seq) ?? 0);
    yield { seq, header };
    if (header === null) return;
    seq = header.next;
  }
}

function checkSize(store: ObjectStore, header: LogHeader, size: number): void {
  const expected = objectBytes(headerBytesOf(header.extents), header.dataBytes);
  if (size === expected) return;
  const name = `${store.name}/${logKey(header.seq)}`;
  throw damaged(name, `it has ${size} bytes in place of ${expected}`);
}
