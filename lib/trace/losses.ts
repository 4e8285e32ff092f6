/**
 * What a format cannot hold, counted while it is written: told at the end, each kind once.
 *
 * @module
 */
import { FLAG_FUA } from "../block/request.ts";
import type { SubmitEvent } from "./event.ts";
import { PIECE_BYTES_MAX, PIECES_MAX } from "./limits.ts";
import type { TraceNotes } from "./source.ts";

/** Counts what is lost. */
export class Losses {
  readonly #counts = new Map<string, number>();

  /** Counts requests: "were left out: the format has no cache" completes "3 requests ". */
  count(what: string, count = 1): void {
    if (count > 0) this.#counts.set(what, (this.#counts.get(what) ?? 0) + count);
  }

  /** Counts FUA and data of a request, where the format has neither. */
  flagsAndData({ flags, payload, digest }: SubmitEvent): void {
    if ((flags & FLAG_FUA) !== 0) this.count("lost their FUA");
    if (payload !== null || digest !== null) this.count("lost their data or digest");
  }

  /** Tells all of it. */
  tell(notes: TraceNotes): void {
    for (const [what, count] of this.#counts) notes.remarks.push(`${count} requests ${what}`);
  }
}

/**
 * How many pieces a request of `length` bytes is cut into for formats whose readers take no longer ones
 * than `most`; 0 if it would be too many. All but the last are of `most` bytes. A request of no length
 * is one piece.
 */
export function pieceCount(length: number, most: number = PIECE_BYTES_MAX): number {
  const count = Math.max(1, Math.ceil(length / most));
  return count > PIECES_MAX ? 0 : count;
}
