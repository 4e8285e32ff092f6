/**
 * `cow`: copy on write. What is written goes to an overlay, in a file or in memory; the layer below is
 * read where nothing was written, and is changed by a commit alone.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import { emulate } from "../block/emulate.ts";
import { BlockError } from "../block/errors.ts";
import { EXTENTS_PER_CALL_MAX } from "../block/limits.ts";
import type { Progress } from "../block/image.ts";
import { chain, oneByOne } from "../block/maybe.ts";
import { omittable, optionSchema, pathOption, sizeOption } from "../block/options.ts";
import { RangeLocks } from "../block/range_locks.ts";
import { FLAG_MAY_TRIM } from "../block/request.ts";
import type {
  Backend,
  Extent,
  FilterType,
  Management,
  Maybe,
  Opened,
  ZeroOptions,
} from "../block/types.ts";
import { checkBlock, cutAtBlocks, outward, type Piece } from "./shared/blocks.ts";
import {
  COMMIT_BYTES,
  COW_BLOCK_BYTES,
  COW_BLOCK_BYTES_MAX,
  COW_BLOCK_BYTES_MIN,
  COW_BLOCKS_MAX,
  COW_MEMORY_BYTES,
} from "./shared/limits.ts";
import { BELOW, fileOverlay, HERE, memoryOverlay, type Overlay, ZERO } from "./shared/overlay.ts";
import { cutExtents } from "./shared/window.ts";
import { type Next, nextOf, wrap } from "./shared/wrap.ts";

/** Options of cow, in bytes. */
export interface CowOptions {
  /** The overlay's file; memory if left out. */
  readonly file?: string | undefined;
  /** What is copied at least: a power of two. COW_BLOCK_BYTES, or what the file has, if left out. */
  readonly block?: number | undefined;
  /** Memory that an overlay without a file may use. */
  readonly limit: number;
}

const DATA_BELOW = { allocated: true, zero: false };

/** A device with an overlay. */
class Cow {
  readonly #backend: Backend;
  readonly #next: Next;
  readonly #overlay: Overlay;
  readonly #block: number;
  readonly #size: number;
  /** Changes of blocks, and the commit, wait for each other. Reads need not: no read sees a change half done. */
  readonly #changes = new RangeLocks();
  /** A reset alone takes away what a read is at. */
  readonly #reads = new RangeLocks();

  constructor(backend: Backend, overlay: Overlay) {
    this.#backend = backend;
    this.#next = nextOf(backend);
    this.#overlay = overlay;
    this.#block = overlay.block;
    this.#size = backend.geometry.size;
  }

  /** Bytes of blocks that are not those below. */
  get changed(): number {
    let blocks = 0;
    for (const state of this.#overlay.states) if (state !== BELOW) blocks += 1;
    return Math.min(blocks * this.#block, this.#size);
  }

  read(into: Uint8Array, offset: number): Maybe<void> {
    return this.#reads.run(
      offset,
      into.length,
      "shared",
      () =>
        oneByOne(this.#runs(offset, into.length), ([at, length, state]) => {
          const part = into.subarray(at - offset, at - offset + length);
          if (state === BELOW) return this.#next.read(part, at);
          if (state === HERE) this.#overlay.read(part, at);
          else part.fill(0);
          return undefined;
        }),
    );
  }

  write(from: Uint8Array, offset: number): Maybe<void> {
    const pieces = this.#cut(offset, from.length);
    return this.#change(
      offset,
      from.length,
      () =>
        chain(oneByOne(pieces, (piece) => this.#copyUp(piece)), () => {
          this.#overlay.write(from, offset);
          this.#mark(offset, from.length, HERE);
        }),
    );
  }

  trim(offset: number, length: number): Maybe<void> {
    const body = this.#cut(offset, length).find(({ whole }) => whole);
    if (body === undefined) return undefined;
    return this.#change(body.offset, body.length, () => this.#blank(body));
  }

  zero(offset: number, length: number, { mayTrim, fastOnly }: ZeroOptions): Maybe<void> {
    const pieces = this.#cut(offset, length);
    const body = pieces.find(({ whole }) => whole);
    // Nothing can be reserved here; the Device then writes zeroes.
    if (!mayTrim || (fastOnly && body === undefined)) {
      throw new BlockError("EOPNOTSUPP", "Cannot zero faster than by writing");
    }
    return this.#change(offset, length, () =>
      oneByOne(pieces, (piece) => {
        if (piece.whole) return this.#blank(piece);
        return chain(this.#copyUp(piece), () => {
          this.#overlay.write(new Uint8Array(piece.length), piece.offset);
          this.#mark(piece.offset, piece.length, HERE);
        });
      }));
  }

  extents(offset: number, length: number): Maybe<Extent[]> {
    const found: Extent[] = [];
    let short = false;
    const done = oneByOne(this.#runs(offset, length), ([at, count, state]) => {
      if (short || found.length >= EXTENTS_PER_CALL_MAX) return undefined;
      if (state !== BELOW) {
        found.push({ length: count, allocated: state === HERE, zero: state === ZERO });
        return undefined;
      }
      return chain(this.#extentsBelow(at, count), (below) => {
        const room = EXTENTS_PER_CALL_MAX - found.length;
        const kept = cutExtents(below, count).slice(0, room);
        found.push(...kept);
        // What the layer below leaves out is asked for again, by whoever wants to know.
        short = kept.reduce((sum, extent) => sum + extent.length, 0) < count;
      });
    });
    return chain(done, () => found);
  }

  /** Writes the overlay into the layer below, durably, and then empties it. */
  commit(progress: Progress = () => {}): Maybe<void> {
    if (this.#next.geometry.readOnly) {
      throw new BlockError("EROFS", "Cannot commit: the layer below is read-only");
    }
    return this.#changes.run(0, Infinity, "exclusive", () => {
      const below = emulate(this.#backend);
      const total = this.changed;
      let done = 0;
      const copy = (at: number, length: number, state: number): Maybe<void> => {
        if (state === ZERO) return below.zero(at, length, FLAG_MAY_TRIM);
        const bytes = new Uint8Array(length);
        this.#overlay.read(bytes, at);
        return below.write(bytes, at, false);
      };
      const copied = oneByOne(
        this.#changedPieces(),
        ([at, length, state]) =>
          chain(copy(at, length, state), () => {
            done += length;
            progress(Math.min(done, total), total);
          }),
      );
      return chain(chain(copied, () => this.#next.flush()), () => this.#empty());
    });
  }

  /** Throws the overlay's content away. */
  reset(): Maybe<void> {
    return this.#changes.run(
      0,
      Infinity,
      "exclusive",
      () => this.#reads.run(0, Infinity, "exclusive", () => this.#empty()),
    );
  }

  /** Storage is given back only when the table that says so is durable. */
  #empty(): Maybe<void> {
    this.#overlay.mark(0, this.#overlay.states.length, BELOW);
    return chain(this.#overlay.flush(), () => {
      if (this.#size > 0) this.#overlay.discard(0, this.#size);
    });
  }

  #cut(offset: number, length: number): Piece[] {
    return cutAtBlocks(offset, length, this.#block, this.#size);
  }

  #change(offset: number, length: number, work: () => Maybe<void>): Maybe<void> {
    const whole = outward(offset, length, this.#block, this.#size);
    return this.#changes.run(whole.offset, whole.length, "exclusive", work);
  }

  #mark(offset: number, length: number, state: number): void {
    const first = Math.floor(offset / this.#block);
    this.#overlay.mark(first, Math.ceil((offset + length) / this.#block), state);
  }

  /** Makes whole blocks zero. */
  #blank({ offset, length }: Piece): void {
    this.#mark(offset, length, ZERO);
    this.#overlay.discard(offset, length);
  }

  /** Puts a block into the overlay of which only a part is going to be written. */
  #copyUp(piece: Piece): Maybe<void> {
    const state = this.#overlay.states[Math.floor(piece.offset / this.#block)];
    if (piece.whole || state === HERE) return undefined;
    const { offset, length } = outward(piece.offset, piece.length, this.#block, this.#size);
    const bytes = new Uint8Array(length);
    const read = state === BELOW ? this.#next.read(bytes, offset) : undefined;
    return chain(read, () => this.#overlay.write(bytes, offset));
  }

  #extentsBelow(offset: number, length: number): Maybe<Extent[]> {
    if (this.#backend.extents === undefined) return [{ length, ...DATA_BELOW }];
    return this.#next.extents(offset, length);
  }

  /** A range in runs of blocks of one state, as it is when each is asked for. */
  *#runs(offset: number, length: number): Generator<[at: number, length: number, state: number]> {
    const { states } = this.#overlay;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const state = states[Math.floor(at / this.#block)] ?? BELOW;
      let number = Math.floor(at / this.#block) + 1;
      while (number * this.#block < end && states[number] === state) number += 1;
      const stop = Math.min(number * this.#block, end);
      yield [at, stop - at, state];
      at = stop;
    }
  }

  /** What the overlay has, in pieces that one write may take. */
  *#changedPieces(): Generator<[at: number, length: number, state: number]> {
    const piece = Math.max(COMMIT_BYTES, this.#block);
    for (const [offset, length, state] of this.#runs(0, this.#size)) {
      if (state === BELOW) continue;
      if (state === ZERO) yield [offset, length, state];
      else {
        for (let at = 0; at < length; at += piece) {
          yield [offset + at, Math.min(piece, length - at), state];
        }
      }
    }
  }
}

function openOverlay(size: number, options: CowOptions, context: OpenContext): Overlay {
  const { file: path, block, limit } = options;
  if (path !== undefined) {
    return fileOverlay({ path, size, block, usual: COW_BLOCK_BYTES }, context);
  }
  return memoryOverlay(size, block ?? COW_BLOCK_BYTES, limit);
}

/** Fails with EINVAL unless blocks of this size fit the device. */
function checkBlocks({ geometry }: Backend, block: number): void {
  checkBlock(block, COW_BLOCK_BYTES_MAX, geometry, "cow");
  if (block < COW_BLOCK_BYTES_MIN) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter cow with blocks of ${block}: at least ${COW_BLOCK_BYTES_MIN} bytes are needed`,
    );
  }
  if (geometry.size / block > COW_BLOCKS_MAX) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter cow with blocks of ${block}: a device of ${geometry.size} bytes has more ` +
        `than ${COW_BLOCKS_MAX} of them, give a larger block`,
    );
  }
}

function open(backend: Backend, options: CowOptions, context: OpenContext): Opened {
  checkBlocks(backend, options.block ?? COW_BLOCK_BYTES);
  const overlay = openOverlay(backend.geometry.size, options, context);
  try {
    checkBlocks(backend, overlay.block);
  } catch (error) {
    overlay.close();
    throw error;
  }
  const cow = new Cow(backend, overlay);
  const filter = wrap(backend, {
    geometry: (below) => ({ ...below, readOnly: context.readOnly }),
    capabilities: {
      synchronous: backend.capabilities.synchronous && overlay.synchronous,
      // Memory has nothing to make durable.
      fua: options.file === undefined,
    },
    verbs: {
      read: (into, offset) => cow.read(into, offset),
      write: (from, offset) => cow.write(from, offset),
      flush: () => overlay.flush(),
    },
    adds: {
      trim: (offset, length) => cow.trim(offset, length),
      zero: (offset, length, zeroOptions) => cow.zero(offset, length, zeroOptions),
      extents: (offset, length) => cow.extents(offset, length),
    },
    drops: ["resize"],
    dispose: () => overlay.close(),
  });
  const describe = (): Record<string, string | number> => ({
    overlay: overlay.place,
    block: overlay.block,
    changed: cow.changed,
    allocated: overlay.allocated(),
  });
  const management: Management = {
    describe,
    ...(context.readOnly ? {} : {
      commit: (progress) => cow.commit(progress),
      reset: () => cow.reset(),
    }),
  };
  return { backend: filter, management };
}

/** The filter. */
export const cow: FilterType<CowOptions> = {
  name: "cow",
  summary: "writes go to an overlay, in a file or memory, until they are committed",
  options: optionSchema<CowOptions>({
    file: omittable(pathOption({ summary: "the overlay's file; memory if left out" })),
    block: omittable(sizeOption({ summary: "what is copied at least: a power of two, 4k to 2M" })),
    limit: sizeOption({
      summary: "memory that an overlay without a file may use",
      default: COW_MEMORY_BYTES,
    }),
  }),
  open: (next, options, context) => Promise.try(open, next, options, context),
};
