/**
 * What the Device does for backends that lack a verb: splitting of long I/O, FUA by flush, zeroing
 * by writing, one allocated extent. Each function is done without a promise as long as the backend is.
 *
 * @module
 */
import { BlockError } from "./errors.ts";
import { EXTENTS_PER_CALL_MAX, ZERO_CHUNK_BYTES } from "./limits.ts";
import { chain, oneByOne, rescue } from "./maybe.ts";
import { FLAG_FAST_ONLY, FLAG_FUA, FLAG_MAY_TRIM, type Request } from "./request.ts";
import type { Backend, Extent, Maybe, WriteOptions } from "./types.ts";

/** The verbs of a backend with whatever it lacks made up for. */
export interface Emulated {
  /** Reads more than the backend takes at once. */
  readSplit(into: Uint8Array, offset: number): Maybe<void>;
  /** Writes, durably if `fua`. */
  write(from: Uint8Array, offset: number, fua: boolean): Maybe<void>;
  /** Trims; EOPNOTSUPP if the backend cannot. */
  trim(offset: number, length: number, fua: boolean): Maybe<void>;
  /** Zeroes; `flags` are FLAG_ bits. EOPNOTSUPP only with FLAG_FAST_ONLY. */
  zero(offset: number, length: number, flags: number): Maybe<void>;
  /** Prefetches; EOPNOTSUPP if the backend cannot. */
  cache(offset: number, length: number): Maybe<void>;
  /** Puts the extents into the request. */
  extents(request: Request): Maybe<void>;
}

const PLAIN: WriteOptions = { fua: false };
const DURABLE: WriteOptions = { fua: true };
const ZEROES = new Uint8Array(ZERO_CHUNK_BYTES);

/** Calls `step(from, length)` for each piece of at most `pieceBytes`, one after another. */
function inPieces(
  total: number,
  pieceBytes: number,
  step: (at: number, length: number) => Maybe<void>,
): Maybe<void> {
  // One piece is the common case, and a generator costs more than the piece.
  if (total <= pieceBytes) return total === 0 ? undefined : step(0, total);
  return oneByOne(
    pieces(total, pieceBytes),
    ([at, length]) => step(at, length),
  );
}

function* pieces(total: number, pieceBytes: number): Generator<[at: number, length: number]> {
  for (let at = 0; at < total; at += pieceBytes) yield [at, Math.min(pieceBytes, total - at)];
}

function unsupported(error: unknown): boolean {
  if (error instanceof BlockError) return error.errno === "EOPNOTSUPP";
  return error instanceof Error && "code" in error && error.code === "EOPNOTSUPP";
}

/** Runs `attempt`; if it fails with EOPNOTSUPP, now or later, runs `instead`. */
function orElse(attempt: () => Maybe<void>, instead: () => Maybe<void>): Maybe<void> {
  return rescue(attempt, (error) => {
    if (!unsupported(error)) throw error;
    return instead();
  });
}

/** Extents as the contract wants them; a backend that breaks it gets a bug report instead of a loop. */
function checkExtents(extents: Extent[], request: Request, size: number): Extent[] {
  let total = 0;
  for (const extent of extents) {
    if (!Number.isSafeInteger(extent.length) || extent.length < 1) {
      throw new TypeError(`An extent of ${extent.length} bytes came from the backend`);
    }
    total += extent.length;
  }
  if (total === 0 || extents.length > EXTENTS_PER_CALL_MAX || total > size - request.offset) {
    throw new TypeError(
      `${extents.length} extents of ${total} bytes came from the backend, at ${request.offset} of ${size}`,
    );
  }
  return extents;
}

/** Puts the missing verbs in front of a backend. */
export function emulate(backend: Backend): Emulated {
  const durable = (done: Maybe<void>, fua: boolean): Maybe<void> =>
    fua && !backend.capabilities.fua ? chain(done, () => backend.flush()) : done;
  const native = (fua: boolean): WriteOptions => fua && backend.capabilities.fua ? DURABLE : PLAIN;

  function writeZeroes(offset: number, length: number, options: WriteOptions): Maybe<void> {
    const pieceBytes = Math.min(ZERO_CHUNK_BYTES, backend.geometry.maximum);
    return inPieces(
      length,
      pieceBytes,
      (at, count) => backend.write(ZEROES.subarray(0, count), offset + at, options),
    );
  }

  return {
    readSplit: (into, offset) =>
      inPieces(
        into.length,
        backend.geometry.maximum,
        (at, count) => backend.read(into.subarray(at, at + count), offset + at),
      ),

    write: (from, offset, fua) => {
      const options = native(fua);
      const done = inPieces(
        from.length,
        backend.geometry.maximum,
        (at, count) => backend.write(from.subarray(at, at + count), offset + at, options),
      );
      return durable(done, fua);
    },

    trim: (offset, length, fua) => {
      if (backend.trim === undefined) {
        throw new BlockError("EOPNOTSUPP", "Cannot trim: the storage has no such operation");
      }
      return durable(backend.trim(offset, length, native(fua)), fua);
    },

    zero: (offset, length, flags) => {
      const fua = (flags & FLAG_FUA) !== 0;
      const fastOnly = (flags & FLAG_FAST_ONLY) !== 0;
      const options = { ...native(fua), mayTrim: (flags & FLAG_MAY_TRIM) !== 0, fastOnly };
      const { zero } = backend;
      if (fastOnly) {
        if (zero === undefined) {
          throw new BlockError("EOPNOTSUPP", "Cannot zero faster than by writing");
        }
        return durable(zero.call(backend, offset, length, options), fua);
      }
      const slowly = (): Maybe<void> => writeZeroes(offset, length, native(fua));
      const done = zero === undefined
        ? slowly()
        : orElse(() => zero.call(backend, offset, length, options), slowly);
      return durable(done, fua);
    },

    cache: (offset, length) => {
      if (backend.cache === undefined) {
        throw new BlockError("EOPNOTSUPP", "Cannot prefetch: the storage has no such operation");
      }
      return backend.cache(offset, length);
    },

    extents: (request) => {
      if (backend.extents === undefined) {
        request.extents = [{ length: request.length, allocated: true, zero: false }];
        return undefined;
      }
      const take = (extents: Extent[]): void => {
        request.extents = checkExtents(extents, request, backend.geometry.size);
      };
      const found = backend.extents(request.offset, request.length);
      return found instanceof Promise ? found.then(take) : take(found);
    },
  };
}
