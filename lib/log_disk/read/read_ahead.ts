/**
 * Follows readers that go forward and says what they will want next. The distance doubles from
 * AHEAD_BYTES_MIN while a reader goes on, so that a store which takes long to answer has many GETs in
 * flight for it; a reader that jumps begins anew, so that random reads cost nothing.
 *
 * @module
 */
import { AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, AHEAD_STREAMS_MAX } from "./limits.ts";

/** A reader that goes forward. */
interface Stream {
  /** Where it has begun, and where it is expected to read next. */
  next: number;
  /** First byte that it was not read ahead to. */
  ahead: number;
  /** How far it is read ahead, bytes; 0 for one that was seen once. */
  distance: number;
}

/** Settings of ReadAhead. */
export interface ReadAheadOptions {
  /** Longest distance, bytes; 0 turns it off. */
  readonly distanceMax: number;
  /** Size of the disk now, bytes. */
  readonly size: () => number;
  /** Begins to fetch a range. It must not throw. */
  readonly fetch: (offset: number, length: number) => void;
}

/** Reading ahead for all readers of a disk. */
export class ReadAhead {
  readonly #distanceMax: number;
  readonly #options: ReadAheadOptions;
  /** The one that was used last is last. */
  readonly #streams: Stream[] = [];

  /** `distanceMax` is at most AHEAD_BYTES_MAX. */
  constructor(options: ReadAheadOptions) {
    this.#options = options;
    this.#distanceMax = Math.min(options.distanceMax, AHEAD_BYTES_MAX);
  }

  /** Somebody reads this range now. */
  note(offset: number, length: number): void {
    if (this.#distanceMax === 0) return;
    const index = this.#streams.findIndex((stream) => continues(stream, offset));
    if (index < 0) return this.#begin(offset + length);
    for (const stream of this.#streams.splice(index, 1)) {
      this.#streams.push(stream);
      this.#advance(stream, offset + length);
    }
  }

  #begin(next: number): void {
    this.#streams.push({ next, ahead: next, distance: 0 });
    if (this.#streams.length > AHEAD_STREAMS_MAX) this.#streams.shift();
  }

  #advance(stream: Stream, end: number): void {
    stream.next = Math.max(stream.next, end);
    stream.ahead = Math.max(stream.ahead, stream.next);
    if (stream.distance === 0) stream.distance = Math.min(AHEAD_BYTES_MIN, this.#distanceMax);
    // In long pieces: only once half of the distance is used up, and then the distance grows.
    if (stream.ahead - stream.next > stream.distance / 2) return;
    const target = Math.min(stream.next + stream.distance, this.#options.size());
    stream.distance = Math.min(stream.distance * 2, this.#distanceMax);
    if (target <= stream.ahead) return;
    const from = stream.ahead;
    stream.ahead = target;
    this.#options.fetch(from, target - from);
  }
}

/**
 * True if a read at `offset` goes on with a stream: where it was expected, or within what was read
 * ahead, since readers with several requests in flight come in any order.
 */
function continues({ next, ahead, distance }: Stream, offset: number): boolean {
  return offset === next || offset >= next - distance && offset < ahead;
}
