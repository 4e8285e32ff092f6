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
 * Lengths in bytes of the pieces of a request, for formats whose readers take no longer ones; none
 * if it would be too many. A request of no length is one piece.
 */
export function* pieces(
  length: number,
  most: number = PIECE_BYTES_MAX,
): Generator<{ readonly from: number; readonly bytes: number }, void> {
  if (Math.ceil(length / most) > PIECES_MAX) return;
  let from = 0;
  do {
    const bytes = Math.min(most, length - from);
    yield { from, bytes };
    from += bytes;
  } while (from < length);
}
