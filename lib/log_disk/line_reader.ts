/**
 * Reading what is in log objects: the interface behind which caches stand, and the plain way without any.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { inLanes } from "../block/maybe.ts";
import type { Maybe } from "../block/types.ts";
import type { ObjectStore } from "../object_store/types.ts";
import { damaged } from "./bytes.ts";
import { LINE_BYTES, PLAIN_READS } from "./limits.ts";
import { CHECK_BYTES, isLineIntact, lineDataBytes, lineOffset } from "./log_object.ts";
import { logKey } from "./names.ts";

/** Whose objects they are: the volume itself or one of its ancestors. */
export interface Origin {
  /** The objects. */
  readonly store: ObjectStore;
  /** Id of the volume that they are of. */
  readonly volume: string;
}

/** A part of the data of a log object that is wanted. Immutable: what was read once stays true. */
export interface Piece {
  /** Index into the origins: 0 for the volume itself, 1 for its parent … */
  readonly origin: number;
  /** Sequence number of the object. */
  readonly seq: number;
  /** Bytes of its header. */
  readonly headerBytes: number;
  /** Bytes of data in it. */
  readonly dataBytes: number;
  /** Where the part begins, in bytes of data. */
  readonly at: number;
  /** Where it goes. Its length says how much is wanted. */
  readonly into: Uint8Array;
}

/** The object is not there: it was deleted after its data had been moved, and the map has to be asked again. */
export class ObjectGone extends BlockError {
  /** Whose object it was. */
  readonly origin: number;
  /** Its sequence number. */
  readonly seq: number;

  constructor(name: string, origin: number, seq: number) {
    super("EIO", `Cannot use ${name}: it does not exist`);
    this.name = "ObjectGone";
    this.origin = origin;
    this.seq = seq;
  }
}

/** Reads data of log objects. What is read is verified by the checksums of its lines. */
export interface LineReader {
  /**
   * Fills all pieces (of one request, in the order of the disk). Throws ObjectGone, or EIO naming the object if it
   * is damaged, or what the store throws.
   */
  read(pieces: readonly Piece[]): Maybe<void>;
  /** Hint that these are going to be read; `into` is empty, and `length` says how much. */
  prefetch?(pieces: readonly (Omit<Piece, "into"> & { readonly length: number })[]): void;
  /**
   * Lines of an object of this volume that has just become durable, each with its checksum: what is in
   * memory need not be read.
   */
  offer?(seq: number, lines: readonly Uint8Array[]): void;
  /** The object is about to be deleted: what is kept of it can go. */
  forget?(origin: number, seq: number): void;
}

/** The name of an object for messages. */
export function objectName(origin: Origin, seq: number): string {
  return `${origin.store.name}/${logKey(seq)}`;
}

/** The lines of a piece, one after another, as they come in one range. */
async function readPiece(origin: Origin, piece: Piece): Promise<void> {
  const { seq, headerBytes, dataBytes, at, into } = piece;
  const name = objectName(origin, seq);
  const first = Math.floor(at / LINE_BYTES), last = Math.floor((at + into.length - 1) / LINE_BYTES);
  const offset = lineOffset(headerBytes, first);
  const end = lineOffset(headerBytes, last) + lineDataBytes(dataBytes, last) + CHECK_BYTES;
  const bytes = await origin.store.get(logKey(seq), { offset, length: end - offset });
  if (bytes === null) throw new ObjectGone(name, piece.origin, seq);
  if (bytes.length !== end - offset) throw damaged(name, "it is cut short");
  for (let line = first; line <= last; line += 1) {
    const start = lineOffset(headerBytes, line) - offset, length = lineDataBytes(dataBytes, line);
    const stored = bytes.subarray(start, start + length + CHECK_BYTES);
    if (!isLineIntact(stored, origin.volume, seq, line)) {
      throw damaged(name, `line ${line} of it has a wrong checksum`);
    }
    const from = Math.max(at - line * LINE_BYTES, 0);
    const to = Math.min(at + into.length - line * LINE_BYTES, length);
    into.set(stored.subarray(from, to), line * LINE_BYTES + from - at);
  }
}

/** Reads every time from the store, one request for each piece. */
export function plainLineReader(origins: readonly Origin[]): LineReader {
  return {
    read: (pieces) =>
      inLanes(pieces, PLAIN_READS, (piece) => {
        const origin = origins[piece.origin];
        if (origin === undefined) {
          throw new BlockError("EIO", `Cannot read: the volume has no ancestor ${piece.origin}`);
        }
        return readPiece(origin, piece);
      }),
  };
}
