/**
 * Where `cow` keeps what was written: memory, or a file. Both have bytes at the same offsets as the
 * device, and a table that says of each block whether it is here.
 *
 * The file, all numbers little-endian: a header of 512 bytes (8 bytes "dmu cow\n", u32 version 1, u32
 * bytes of a block, u64 bytes of the device, u64 offset of the table, u64 offset of the data, zeroes,
 * u32 CRC-32 of the 508 bytes before it); the table, one byte a block (BELOW, HERE, ZERO); the data,
 * block n at n times its size. The file is sparse.
 *
 * Durability: a flush makes the data durable first and then the table as it was when the flush began,
 * so the table on disk never speaks of data that is not there. What a crash leaves of later writes is
 * in blocks that the table does not have, or is newer content of blocks that it has.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import type { OpenContext } from "../../block/context.ts";
import { BlockError, toBlockError } from "../../block/errors.ts";
import { chain, rescue } from "../../block/maybe.ts";
import { SparseMemory } from "../../block/sparse_memory.ts";
import type { Maybe } from "../../block/types.ts";
import { COW_BLOCK_BYTES_MAX, COW_BLOCK_BYTES_MIN } from "./limits.ts";
import type { RawFile } from "./raw_file.ts";

/** The block is that of the layer below. */
export const BELOW = 0;
/** The block is in the overlay. */
export const HERE = 1;
/** The block is zero, and has no data. */
export const ZERO = 2;

/** Bytes of the header that count. */
const HEADER_BYTES = 512;
/** The table begins here, and its pages are as large; the data begins at a multiple as well. */
const PAGE_BYTES = 4096;
const MAGIC: Uint8Array = new TextEncoder().encode("dmu cow\n");
const VERSION = 1;

/** An overlay. Ranges of blocks are given by the first and the one behind the last. */
export interface Overlay {
  /** Bytes of a block. */
  readonly block: number;
  /** Its state of each block; changed with `mark` alone. */
  readonly states: Uint8Array;
  /** Calls never return a promise. */
  readonly synchronous: boolean;
  /** Where it is, for people. */
  readonly place: string;
  /** Sets the state of blocks. */
  mark(first: number, last: number, state: number): void;
  /** Fills `into`. */
  read(into: Uint8Array, offset: number): void;
  /** Stores `from`. Errno: ENOSPC. */
  write(from: Uint8Array, offset: number): void;
  /** Gives back storage whose content does not matter any more, where that is possible. */
  discard(offset: number, length: number): void;
  /** Makes durable what was written and marked before the call. */
  flush(): Maybe<void>;
  /** Bytes of storage in use. */
  allocated(): number;
  /** Ends it. */
  close(): void;
}

/** An overlay in memory, of at most `limit` bytes. */
export function memoryOverlay(size: number, block: number, limit: number): Overlay {
  const memory = new SparseMemory({ size, limit });
  const states = new Uint8Array(Math.ceil(size / block));
  return {
    block,
    states,
    synchronous: true,
    place: "memory",
    mark: (first, last, state) => void states.fill(state, first, last),
    read: (into, offset) => memory.read(into, offset),
    write: (from, offset) => memory.write(from, offset),
    discard: (offset, length) => memory.discard(offset, length),
    flush: () => undefined,
    allocated: () => memory.allocated,
    close: () => memory.clear(),
  };
}

/** Where things are in a file. */
interface Layout {
  readonly block: number;
  readonly size: number;
  readonly tableOffset: number;
  readonly dataOffset: number;
  readonly fileBytes: number;
}

function layoutOf(size: number, block: number): Layout {
  const blocks = Math.ceil(size / block);
  const tableOffset = PAGE_BYTES;
  const unit = Math.max(block, PAGE_BYTES);
  const dataOffset = Math.ceil((tableOffset + blocks) / unit) * unit;
  return { block, size, tableOffset, dataOffset, fileBytes: dataOffset + blocks * block };
}

function makeHeader(layout: Layout): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, layout.block, true);
  view.setBigUint64(16, BigInt(layout.size), true);
  view.setBigUint64(24, BigInt(layout.tableOffset), true);
  view.setBigUint64(32, BigInt(layout.dataOffset), true);
  view.setUint32(HEADER_BYTES - 4, crc32(bytes.subarray(0, HEADER_BYTES - 4)), true);
  return bytes;
}

function isBlock(block: number): boolean {
  return Number.isInteger(Math.log2(block)) && block >= COW_BLOCK_BYTES_MIN &&
    block <= COW_BLOCK_BYTES_MAX;
}

/** Checks a header against the device; gives its layout. Errno: EINVAL. */
function readHeader(file: RawFile, bytes: Uint8Array, size: number): Layout {
  const refuse = (reason: string): never => {
    throw new BlockError("EINVAL", `Cannot use ${file.path} as an overlay: ${reason}`);
  };
  const view = new DataView(bytes.buffer);
  if (!MAGIC.every((byte, at) => bytes[at] === byte)) refuse("it is none");
  const version = view.getUint32(8, true);
  if (version !== VERSION) refuse(`it has version ${version}, ${VERSION} is known`);
  if (crc32(bytes.subarray(0, HEADER_BYTES - 4)) !== view.getUint32(HEADER_BYTES - 4, true)) {
    refuse("its header is damaged");
  }
  const block = view.getUint32(12, true), own = Number(view.getBigUint64(16, true));
  if (own !== size) refuse(`it belongs to a device of ${own} bytes, this one has ${size}`);
  if (!isBlock(block)) refuse(`it has blocks of ${block}`);
  const layout = layoutOf(size, block);
  if (file.size() < layout.fileBytes) refuse(`it is cut off, at ${file.size()} bytes`);
  return layout;
}

/** What to open. Figures are bytes. */
export interface OverlayRequest {
  readonly path: string;
  /** Of the device. */
  readonly size: number;
  /** Of a block; undefined for `usual` in a new file, and for what it has in one that is there. */
  readonly block: number | undefined;
  readonly usual: number;
}

/** Tells a new file from an overlay, and from anything else, which is refused. */
function prepare(file: RawFile, request: OverlayRequest): Layout {
  const { size, block, usual } = request;
  const bytes = new Uint8Array(HEADER_BYTES);
  file.read(bytes, 0);
  const fresh = layoutOf(size, block ?? usual);
  // A file that was just made has this very size, and nothing in it.
  if (file.size() === fresh.fileBytes && bytes.every((byte) => byte === 0) && !file.readOnly) {
    file.write(makeHeader(fresh), 0);
    file.flush();
    return fresh;
  }
  const layout = readHeader(file, bytes, size);
  if (block === undefined || block === layout.block) return layout;
  throw new BlockError(
    "EINVAL",
    `Cannot use ${file.path} with blocks of ${block}: it has blocks of ${layout.block}`,
  );
}

/** Opens, or makes, an overlay in a file. Errno: EINVAL for what is no overlay of this device. */
export function fileOverlay(request: OverlayRequest, context: OpenContext): Overlay {
  const { readOnly } = context;
  const { fileBytes } = layoutOf(request.size, request.block ?? request.usual);
  const file = context.files.open(request.path, {
    readOnly,
    direct: false,
    lock: true,
    ...(readOnly ? {} : { createSize: fileBytes }),
  });
  try {
    const layout = prepare(file, request);
    const states = new Uint8Array(Math.ceil(layout.size / layout.block));
    file.read(states, layout.tableOffset);
    if (states.some((state) => state > ZERO)) {
      throw new BlockError("EINVAL", `Cannot use ${file.path}: its table is damaged`);
    }
    return overlayIn(file, layout, states, context.mayBlock);
  } catch (error) {
    file.close();
    throw error;
  }
}

function overlayIn(file: RawFile, layout: Layout, states: Uint8Array, mayBlock: boolean): Overlay {
  const { block, tableOffset, dataOffset } = layout;
  const flusher = new Flusher(file, states, tableOffset, mayBlock);
  return {
    block,
    states,
    synchronous: mayBlock,
    place: file.path,
    mark: (first, last, state) => {
      states.fill(state, first, last);
      flusher.touch(first, last);
    },
    read: (into, offset) => file.read(into, dataOffset + offset),
    write: (from, offset) => file.write(from, dataOffset + offset),
    discard: (offset, length) => file.discard(dataOffset + offset, length),
    flush: () => flusher.flush(),
    allocated: () => file.allocated(),
    close: () => file.close(),
  };
}

/** Makes a file and its table durable, in the right order, one flush after another. */
class Flusher {
  readonly #file: RawFile;
  readonly #states: Uint8Array;
  readonly #tableOffset: number;
  readonly #mayBlock: boolean;
  /** Pages of the table that were changed since they were last written. */
  readonly #touched = new Set<number>();
  #running: Promise<void> | null = null;
  #failure: BlockError | null = null;

  constructor(file: RawFile, states: Uint8Array, tableOffset: number, mayBlock: boolean) {
    this.#file = file;
    this.#states = states;
    this.#tableOffset = tableOffset;
    this.#mayBlock = mayBlock;
  }

  touch(first: number, last: number): void {
    for (let page = Math.floor(first / PAGE_BYTES); page * PAGE_BYTES < last; page += 1) {
      this.#touched.add(page);
    }
  }

  /** Waits its turn: a flush that finds nothing to do while another is at it would promise too much. */
  flush(): Maybe<void> {
    if (this.#running === null) return this.#begin();
    return this.#running.then(() => this.flush());
  }

  #begin(): Maybe<void> {
    if (this.#failure !== null) throw this.#failure;
    // What fails once is lost for good: the system reports it once, and a second try would succeed.
    const outcome = rescue(() => this.#flushNow(), (error) => {
      this.#failure = toBlockError(error);
      throw this.#failure;
    });
    if (outcome === undefined) return undefined;
    const running = outcome.finally(() => this.#running = null);
    this.#running = running.catch(() => {});
    return running;
  }

  #flushNow(): Maybe<void> {
    // The table of now, before the data of now is durable: later marks wait for the next flush.
    const pages = [...this.#touched].map((page) => ({
      at: page * PAGE_BYTES,
      bytes: this.#states.slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES),
    }));
    this.#touched.clear();
    return chain(this.#sync(), () => {
      if (pages.length === 0) return undefined;
      for (const { at, bytes } of pages) this.#file.write(bytes, this.#tableOffset + at);
      return this.#sync();
    });
  }

  #sync(): Maybe<void> {
    return this.#mayBlock ? this.#file.flush() : this.#file.flushAsync();
  }
}
