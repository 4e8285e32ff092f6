/**
 * Checkpoints: `ckpt/SEQ-NONCE` is the map of the disk after the log object SEQ. A header, then sections that
 * can be checked and decoded one by one. Numbers of the header are little-endian.
 *
 * | at | bytes | header |
 * | -- | ----- | ------ |
 * | 0  | 8  | magic `dmu-map1` |
 * | 8  | 4  | bytes of the header, checksum included: 116 |
 * | 12 | 4  | flags: 1 the writer of SEQ has detached |
 * | 16 | 16 | volume id |
 * | 32 | 16 | nonce of the writer |
 * | 48 | 8  | SEQ: the last log object that is included |
 * | 56 | 8  | epoch of that object |
 * | 64 | 8  | sequence number of the object that follows |
 * | 72 | 8  | size of the disk, bytes |
 * | 80 | 8  | extents |
 * | 88 | 8  | objects |
 * | 96 | 8  | bytes of all sections |
 * | 104| 4  | sections |
 * | 108| 4  | bytes of a block: offsets, lengths and places below are in blocks |
 * | 112| 4  | CRC-32 of all before |
 *
 * A section is: bytes of its body (4), items (4), kind (4: 1 objects, 2 extents), body, CRC-32 (4) of all
 * that. Bodies are made of numbers of 7 bits a byte, the lowest first, the top bit set in all but the last.
 * Differences that may be negative are doubled, less one if negative.
 *
 * - Objects: origin, then for each: sequence number less that of the one before in the section, bytes of
 *   header doubled and one more if it is a claim for ever, bytes of data.
 * - Extents: bytes of the disk between the end of the one before in the section and this, doubled and one more if it is
 *   zeroes; length; and for data the index of its object among all objects less that of the one before,
 *   and its place.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { damaged, getU64, putU64, viewOf } from "./bytes.ts";
import { emptyRun, ExtentMap, type MapCopy, type Run } from "./extent_map.ts";
import {
  checkMagic,
  getHeader,
  type HeaderPlace,
  isHeaderIntact,
  putHeader,
  sealHeader,
} from "./header.ts";
import {
  BLOCK_BYTES_MAX,
  BLOCK_BYTES_MIN,
  OBJECT_DATA_BYTES_MAX,
  ORIGINS_MAX,
  SECTION_BYTES,
  SECTION_BYTES_MAX,
  SEQ_MAX,
} from "./limits.ts";

/** Bytes of the header of a checkpoint. */
export const CHECKPOINT_HEADER_BYTES = 116;

const MAGIC = "dmu-map1";
const FLAG_DETACHED = 1;
const SECTION_HEAD_BYTES = 12, SUM_BYTES = 4;
const OBJECTS = 1, EXTENTS = 2;
/** Most bytes that one item of a section takes: four numbers of 8 bytes at most. */
const ITEM_BYTES_MAX = 32;

/** What a checkpoint says about the log: its place is behind the last object that it includes. */
export interface CheckpointState extends HeaderPlace {
  /** Bytes of a block of the volume. */
  readonly blockBytes: number;
  /** Its writer has ended with that object. */
  readonly detached: boolean;
}

/** The header of a checkpoint. */
export interface CheckpointHeader extends CheckpointState {
  /** Extents of the map. */
  readonly extents: number;
  /** Log objects that the map knows. */
  readonly objects: number;
  /** Sections that follow the header. */
  readonly sections: number;
  /** Bytes of all sections. */
  readonly bodyBytes: number;
}

/** Builds the sections, one after another. */
class SectionWriter {
  readonly done: Uint8Array<ArrayBuffer>[] = [];
  #kind = 0;
  #items = 0;
  #bytes = new Uint8Array(SECTION_BYTES + ITEM_BYTES_MAX);
  #at = SECTION_HEAD_BYTES;

  /** True if an item still fits. */
  get hasRoom(): boolean {
    return this.#at < SECTION_BYTES - SUM_BYTES;
  }

  begin(kind: number): void {
    this.#kind = kind;
    this.#items = 0;
    this.#at = SECTION_HEAD_BYTES;
  }

  item(): void {
    this.#items += 1;
  }

  /** A whole number from 0 to 2^53 - 1. */
  number(value: number): void {
    let rest = value;
    while (rest >= 2 ** 31) {
      this.#bytes[this.#at] = rest % 128 | 128;
      this.#at += 1;
      rest = Math.floor(rest / 128);
    }
    let low = rest | 0;
    while (low >= 128) {
      this.#bytes[this.#at] = low & 127 | 128;
      this.#at += 1;
      low >>>= 7;
    }
    this.#bytes[this.#at] = low;
    this.#at += 1;
  }

  /** A whole number that may be negative. */
  signed(value: number): void {
    this.number(value < 0 ? -2 * value - 1 : 2 * value);
  }

  end(): void {
    if (this.#items === 0) return;
    const view = viewOf(this.#bytes);
    view.setUint32(0, this.#at - SECTION_HEAD_BYTES, true);
    view.setUint32(4, this.#items, true);
    view.setUint32(8, this.#kind, true);
    view.setUint32(this.#at, crc32(this.#bytes.subarray(0, this.#at)), true);
    this.done.push(this.#bytes.slice(0, this.#at + SUM_BYTES));
  }
}

/** Sequence numbers of all objects, by origin: what tells the index of an object. */
interface ObjectIndex {
  readonly origins: readonly { readonly base: number; readonly seqs: Float64Array }[];
}

function writeObjects(writer: SectionWriter, map: MapCopy): ObjectIndex {
  const origins: { base: number; seqs: Float64Array }[] = [];
  let base = 0;
  for (const origin of [...map.tables.keys()].sort((a, b) => a - b)) {
    const table = map.tables.get(origin);
    if (table === undefined || table.size === 0) continue;
    const seqs = new Float64Array(table.size);
    let before = 0, index = 0, open = false;
    for (const { seq, headerBytes, dataBytes, permanent } of table) {
      if (open && !writer.hasRoom) {
        writer.end();
        open = false;
      }
      if (!open) {
        writer.begin(OBJECTS);
        writer.number(origin);
        before = 0;
        open = true;
      }
      writer.number(seq - before);
      writer.number(2 * headerBytes + (permanent ? 1 : 0));
      writer.number(dataBytes);
      writer.item();
      before = seq;
      seqs[index] = seq;
      index += 1;
    }
    writer.end();
    origins[origin] = { base, seqs };
    base += table.size;
  }
  return { origins };
}

/** Finds the index of an object among all. */
function objectIndex({ origins }: ObjectIndex, origin: number, seq: number): number {
  const found = origins[origin];
  if (found === undefined) throw new RangeError(`Cannot encode a map: origin ${origin} is unknown`);
  const { seqs } = found;
  let low = 0, high = seqs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((seqs[middle] ?? 0) < seq) low = middle + 1;
    else high = middle;
  }
  if (seqs[low] !== seq) throw new RangeError(`Cannot encode a map: object ${seq} is unknown`);
  return found.base + low;
}

/**
 * Encodes a checkpoint: the parts of its body in order. It is a generator so that whoever encodes a large map
 * can see to other work: it yields after each section.
 */
export function* encodeCheckpoint(
  state: CheckpointState,
  map: MapCopy,
): Generator<void, Uint8Array<ArrayBuffer>[]> {
  const writer = new SectionWriter(), block = state.blockBytes;
  const index = writeObjects(writer, map);
  const objects = index.origins.reduce((sum, { seqs }) => sum + seqs.length, 0);
  let before = 0, object = 0, open = false;
  for (const run of map.runs()) {
    if (open && !writer.hasRoom) {
      writer.end();
      open = false;
      yield;
    }
    if (!open) {
      writer.begin(EXTENTS);
      before = 0;
      object = 0;
      open = true;
    }
    const isZero = run.kind === "zero";
    writer.number((run.offset - before) / block * 2 + (isZero ? 1 : 0));
    writer.number(run.length / block);
    before = run.offset + run.length;
    writer.item();
    if (isZero) continue;
    const next = objectIndex(index, run.origin, run.seq);
    writer.signed(next - object);
    writer.number(run.at / block);
    object = next;
  }
  if (open) writer.end();
  const bodyBytes = writer.done.reduce((sum, { length }) => sum + length, 0);
  const sections = writer.done.length;
  return [
    encodeHeader({ ...state, extents: map.extents, objects, sections, bodyBytes }),
    ...writer.done,
  ];
}

function encodeHeader(header: CheckpointHeader): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(CHECKPOINT_HEADER_BYTES);
  const view = putHeader(bytes, MAGIC, header.detached ? FLAG_DETACHED : 0, header);
  putU64(view, 80, header.extents);
  putU64(view, 88, header.objects);
  putU64(view, 96, header.bodyBytes);
  view.setUint32(104, header.sections, true);
  view.setUint32(108, header.blockBytes, true);
  sealHeader(bytes);
  return bytes;
}

/** Decodes the header of a checkpoint from its first bytes. Throws EIO, naming `name`, for whatever is none. */
export function decodeCheckpointHeader(bytes: Uint8Array, name: string): CheckpointHeader {
  checkMagic(bytes, MAGIC, CHECKPOINT_HEADER_BYTES, { name, what: "checkpoint" });
  const head = bytes.subarray(0, CHECKPOINT_HEADER_BYTES), view = viewOf(head);
  const isWhole = view.getUint32(8, true) === CHECKPOINT_HEADER_BYTES && isHeaderIntact(head);
  if (!isWhole) throw damaged(name, "its header has a wrong checksum");
  const { flags, ...place } = getHeader(head);
  const header = {
    ...place,
    detached: (flags & FLAG_DETACHED) !== 0,
    extents: getU64(view, 80),
    objects: getU64(view, 88),
    bodyBytes: getU64(view, 96),
    sections: view.getUint32(104, true),
    blockBytes: view.getUint32(108, true),
  };
  const { seq, next, blockBytes } = header;
  const isSound = seq >= 1 && next > seq && next <= SEQ_MAX && header.epoch <= SEQ_MAX &&
    header.diskBytes <= Number.MAX_SAFE_INTEGER && blockBytes >= BLOCK_BYTES_MIN &&
    blockBytes <= BLOCK_BYTES_MAX && Number.isInteger(Math.log2(blockBytes)) &&
    header.bodyBytes <= header.sections * SECTION_BYTES_MAX;
  if (!isSound) throw damaged(name, "its header has impossible values");
  return header;
}

/** Reads the numbers of a section; whatever is behind its end reads as Infinity. */
class SectionReader {
  readonly items: number;
  readonly kind: number;
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array, items: number, kind: number) {
    this.#bytes = bytes;
    this.items = items;
    this.kind = kind;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  number(): number {
    let value = 0, factor = 1;
    for (;;) {
      const byte = this.#bytes[this.#at];
      if (byte === undefined || factor > 2 ** 49) return Infinity;
      this.#at += 1;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  }

  signed(): number {
    const value = this.number();
    return value % 2 === 1 ? -(value + 1) / 2 : value / 2;
  }
}

/** What is known while the sections are read. */
interface Loading {
  readonly header: CheckpointHeader;
  readonly name: string;
  readonly map: ExtentMap;
  /** All objects: sequence number, and origin. */
  readonly seqs: Float64Array;
  readonly origins: Uint8Array;
  readonly dataBytes: Float64Array;
  objects: number;
  /** End of the extent before, bytes. */
  end: number;
}

function loadObjects(reader: SectionReader, loading: Loading): void {
  const { name, map } = loading, origin = reader.number();
  if (origin >= ORIGINS_MAX) throw damaged(name, `it has an object of origin ${origin}`);
  const table = map.objects(origin);
  let seq = 0;
  for (let item = 0; item < reader.items; item += 1) {
    seq += reader.number();
    const header = reader.number(), dataBytes = reader.number(), index = loading.objects;
    const before = loading.origins[index - 1] === origin ? loading.seqs[index - 1] ?? 0 : 0;
    const isSound = index < loading.seqs.length && seq > before && seq <= SEQ_MAX &&
      header < 2 ** 33 && dataBytes <= OBJECT_DATA_BYTES_MAX &&
      origin >= (loading.origins[index - 1] ?? 0);
    if (!isSound) throw damaged(name, "its objects are not in order");
    table.add(seq, Math.floor(header / 2), dataBytes, header % 2 === 1);
    loading.seqs[index] = seq;
    loading.origins[index] = origin;
    loading.dataBytes[index] = dataBytes;
    loading.objects += 1;
  }
}

function loadExtents(reader: SectionReader, loading: Loading): void {
  const { name, map, header: { blockBytes, diskBytes } } = loading;
  const run: Run = emptyRun();
  let before = 0, object = 0;
  for (let item = 0; item < reader.items; item += 1) {
    const gap = reader.number(), isZero = gap % 2 === 1;
    run.offset = before + Math.floor(gap / 2) * blockBytes;
    run.length = reader.number() * blockBytes;
    run.kind = isZero ? "zero" : "data";
    before = run.offset + run.length;
    if (run.length === 0 || run.offset < loading.end || !(before <= diskBytes)) {
      throw damaged(name, "its extents are not in order");
    }
    loading.end = before;
    if (!isZero) {
      object += reader.signed();
      run.at = reader.number() * blockBytes;
      if (!(object >= 0 && object < loading.objects)) {
        throw damaged(name, "an extent is in an object that it does not name");
      }
      if (run.at + run.length > (loading.dataBytes[object] ?? 0)) {
        throw damaged(name, "an extent is outside its object");
      }
      run.seq = loading.seqs[object] ?? 0;
      run.origin = loading.origins[object] ?? 0;
    }
    map.append(run);
  }
}

/** Takes a section off `bytes`; gives what is in it, and where the next one begins. */
function openSection(bytes: Uint8Array, at: number, name: string): [SectionReader, number] {
  const body = at + SECTION_HEAD_BYTES;
  if (body > bytes.length) throw damaged(name, "it is cut short");
  const view = viewOf(bytes), length = view.getUint32(at, true), end = body + length;
  if (end + SUM_BYTES > bytes.length) throw damaged(name, "it is cut short");
  if (view.getUint32(end, true) !== crc32(bytes.subarray(at, end))) {
    throw damaged(name, "a section of it has a wrong checksum");
  }
  const items = view.getUint32(at + 4, true), kind = view.getUint32(at + 8, true);
  return [new SectionReader(bytes.subarray(body, end), items, kind), end + SUM_BYTES];
}

/**
 * Decodes the sections of a checkpoint: `body` is all behind its header. Yields after each section, so
 * that whoever decodes a large map can see to other work. Throws EIO, naming `name`, if they are damaged.
 */
export function* decodeCheckpointBody(
  header: CheckpointHeader,
  body: Uint8Array,
  name: string,
): Generator<void, ExtentMap> {
  if (body.length !== header.bodyBytes) throw damaged(name, "it is cut short");
  // Each takes bytes of the body: no header can ask for more memory than there is data.
  if (header.objects > body.length || header.extents > body.length) {
    throw damaged(name, "it is too short for its extents");
  }
  const loading: Loading = {
    header,
    name,
    map: new ExtentMap(),
    seqs: new Float64Array(header.objects),
    origins: new Uint8Array(header.objects),
    dataBytes: new Float64Array(header.objects),
    objects: 0,
    end: 0,
  };
  let at = 0;
  for (let index = 0; index < header.sections; index += 1) {
    const [reader, next] = openSection(body, at, name);
    if (reader.kind === OBJECTS) loadObjects(reader, loading);
    else if (reader.kind === EXTENTS) loadExtents(reader, loading);
    else throw damaged(name, `it has a section of the unknown kind ${reader.kind}`);
    if (!reader.isAtEnd) throw damaged(name, "a section of it is too long");
    at = next;
    yield;
  }
  const { map, objects } = loading;
  if (at !== body.length || objects !== header.objects || map.extents !== header.extents) {
    throw damaged(name, "it is not complete");
  }
  return map;
}
