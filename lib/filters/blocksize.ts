/**
 * `blocksize`: a device of small blocks on one of large blocks. What is not aligned is read, modified
 * and written back, in order where two such calls meet in one block.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { chain, oneByOne } from "../block/maybe.ts";
import { omittable, optionSchema, sizeOption } from "../block/options.ts";
import { RangeLocks } from "../block/range_locks.ts";
import type { Backend, Extent, FilterType, Maybe, Opened, WriteOptions } from "../block/types.ts";
import { checkBlock, cutAtBlocks, outward, type Piece, type Span } from "./shared/blocks.ts";
import { BLOCK_BYTES_MAX } from "./shared/limits.ts";
import { type Next, nextOf, type Verbs, wrap } from "./shared/wrap.ts";

/** Options of blocksize, in bytes. */
export interface BlocksizeOptions {
  /** Smallest I/O above: a power of two. */
  readonly minimum: number;
  /** What I/O below is aligned to: a power of two; the smallest I/O of the device below if left out. */
  readonly block?: number | undefined;
  /** Longest I/O below. */
  readonly maximum?: number | undefined;
}

/** Extents without their first `count` bytes. */
function withoutStart(extents: readonly Extent[], count: number): Extent[] {
  let left = count;
  return extents.flatMap((extent) => {
    const cut = Math.min(left, extent.length);
    left -= cut;
    return cut < extent.length ? [{ ...extent, length: extent.length - cut }] : [];
  });
}

/** The verbs over blocks of `block` bytes. */
function alignedVerbs(next: Next, block: number): Verbs {
  const locks = new RangeLocks();
  const sizeNow = (): number => next.geometry.size;
  const cut = (offset: number, length: number): Piece[] =>
    cutAtBlocks(offset, length, block, sizeNow());
  const around = ({ offset, length }: Span): Span => outward(offset, length, block, sizeNow());

  /** The block around a piece that is less than one. */
  function readAround(piece: Piece): Maybe<{ bytes: Uint8Array; start: number; at: number }> {
    const whole = around(piece);
    const bytes = new Uint8Array(whole.length);
    const found = { bytes, start: whole.offset, at: piece.offset - whole.offset };
    return chain(next.read(bytes, whole.offset), () => found);
  }

  /** Runs `work` alone if it modifies parts of blocks; whole blocks may be written at the same time. */
  function ordered(pieces: readonly Piece[], span: Span, work: () => Maybe<void>): Maybe<void> {
    const { offset, length } = around(span);
    return locks.run(
      offset,
      length,
      pieces.every(({ whole }) => whole) ? "shared" : "exclusive",
      work,
    );
  }

  function modify(piece: Piece, from: Uint8Array, options: WriteOptions): Maybe<void> {
    return chain(readAround(piece), ({ bytes, start, at }) => {
      bytes.set(from, at);
      return next.write(bytes, start, options);
    });
  }

  return {
    flush: () => next.flush(),
    resize: (size) => {
      const { minimum } = next.geometry;
      if (size % minimum === 0) return next.resize(size);
      throw new BlockError(
        "EINVAL",
        `Cannot resize to ${size}: the device below has blocks of ${minimum} bytes`,
      );
    },
    read: (into, offset) =>
      oneByOne(cut(offset, into.length), (piece) => {
        const start = piece.offset - offset;
        const part = into.subarray(start, start + piece.length);
        if (piece.whole) return next.read(part, piece.offset);
        return chain(
          readAround(piece),
          ({ bytes, at }) => part.set(bytes.subarray(at, at + part.length)),
        );
      }),
    write: (from, offset, options) => {
      const pieces = cut(offset, from.length);
      return ordered(pieces, { offset, length: from.length }, () =>
        oneByOne(pieces, (piece) => {
          const start = piece.offset - offset;
          const part = from.subarray(start, start + piece.length);
          return piece.whole
            ? next.write(part, piece.offset, options)
            : modify(piece, part, options);
        }));
    },
    trim: (offset, length, options) => {
      // A hint: what is less than a block is left alone.
      const body = cut(offset, length).find(({ whole }) => whole);
      if (body === undefined) return undefined;
      return ordered([body], body, () => next.trim(body.offset, body.length, options));
    },
    zero: (offset, length, options) => {
      const pieces = cut(offset, length);
      const body = pieces.find(({ whole }) => whole);
      if (body === undefined && options.fastOnly) {
        throw new BlockError("EOPNOTSUPP", "Cannot zero less than a block faster than by writing");
      }
      // The whole blocks go first: if they cannot be zeroed nothing may have changed.
      return ordered(pieces, { offset, length }, () =>
        chain(
          body === undefined ? undefined : next.zero(body.offset, body.length, options),
          () =>
            oneByOne(
              pieces.filter(({ whole }) => !whole),
              (piece) => modify(piece, new Uint8Array(piece.length), { fua: options.fua }),
            ),
        ));
    },
    cache: (offset, length) => {
      const whole = around({ offset, length });
      return next.cache(whole.offset, whole.length);
    },
    extents: (offset, length) => {
      // In the smallest units below: then the first extent reaches past what is cut off before it.
      const whole = outward(offset, length, next.geometry.minimum, sizeNow());
      return chain(
        next.extents(whole.offset, whole.length),
        (found) => trimTo(withoutStart(found, offset - whole.offset), length),
      );
    },
  };
}

/** Extents up to and including the one that reaches `length`: one that begins past it is too many. */
function trimTo(extents: readonly Extent[], length: number): Extent[] {
  const kept: Extent[] = [];
  let at = 0;
  for (const extent of extents) {
    if (at >= length) break;
    kept.push(extent);
    at += extent.length;
  }
  return kept;
}

function open(backend: Backend, options: BlocksizeOptions): Opened {
  const { minimum } = options;
  const below = backend.geometry;
  const { block = below.minimum, maximum = below.maximum } = options;
  checkBlock(block, BLOCK_BYTES_MAX, below, "blocksize");
  if (!Number.isInteger(Math.log2(minimum)) || minimum > block) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter blocksize with a minimum of ${minimum}: a power of two up to ${block} is ` +
        "possible",
    );
  }
  const preferred = Math.max(below.preferred, block);
  if (maximum > below.maximum || maximum < preferred || maximum % preferred !== 0) {
    throw new BlockError(
      "EINVAL",
      `Cannot use filter blocksize with a maximum of ${maximum}: a multiple of ${preferred} up to ` +
        `${below.maximum} is possible`,
    );
  }
  return {
    backend: wrap(backend, {
      geometry: (now) => ({ ...now, minimum, preferred, maximum }),
      verbs: alignedVerbs(nextOf(backend), block),
    }),
  };
}

/** The filter. */
export const blocksize: FilterType<BlocksizeOptions> = {
  name: "blocksize",
  summary: "small blocks on a device of large ones",
  options: optionSchema<BlocksizeOptions>({
    minimum: sizeOption({ summary: "smallest I/O that is offered", default: 1 }),
    block: omittable(
      sizeOption({ summary: "what I/O below is aligned to; its own smallest if left out" }),
    ),
    maximum: omittable(sizeOption({ summary: "longest I/O below" })),
  }),
  open: (next, options) => Promise.try(open, next, options),
};
