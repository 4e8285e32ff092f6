/**
 * `readahead`: follows readers that go forward, reads for them in long pieces and, where the layer
 * below takes time, the next piece while they work on the one before.
 *
 * A piece that was read is a window. Whatever changes data drops the windows that it touches when it
 * begins and when it is done, so no read that begins later sees what was there before.
 *
 * @module
 */
import { chain, ensure, rescue } from "../block/maybe.ts";
import { optionSchema, sizeOption } from "../block/options.ts";
import type { Backend, FilterType, Maybe, Opened } from "../block/types.ts";
import { UsageError } from "../block/usage_error.ts";
import {
  READAHEAD_BYTES,
  READAHEAD_BYTES_MAX,
  READAHEAD_BYTES_MIN,
  READAHEAD_STREAMS_MAX,
} from "./shared/limits.ts";
import { type Next, nextOf, type Verbs, wrap } from "./shared/wrap.ts";

/** Options of readahead, in bytes. */
export interface ReadaheadOptions {
  /** Longest piece that is read ahead: a power of two. */
  readonly window: number;
}

/** A piece that was read, or is being read. */
interface Window {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array;
  /** Resolves to whether it could be read; a plain value once that is known. */
  ready: Maybe<boolean>;
}

/** A reader that goes forward. */
interface Stream {
  /** Where it is expected to read next. */
  next: number;
  /** Bytes of its next window. */
  bytes: number;
  windows: Window[];
}

/** Windows over the next layer. */
class Readahead {
  readonly #next: Next;
  readonly #windowMax: number;
  /** The one that was used last is last. */
  readonly #streams: Stream[] = [];
  readonly #pending = new Set<Promise<unknown>>();

  constructor(next: Next, windowMax: number) {
    this.#next = next;
    this.#windowMax = windowMax;
  }

  verbs(): Partial<Verbs> {
    const next = this.#next;
    return {
      read: (into, offset) => this.#read(into, offset),
      write: (from, offset, options) =>
        this.#change(offset, from.length, () => next.write(from, offset, options)),
      trim: (offset, length, options) =>
        this.#change(offset, length, () => next.trim(offset, length, options)),
      zero: (offset, length, options) =>
        this.#change(offset, length, () => next.zero(offset, length, options)),
      resize: (size) => {
        this.#drop(0, Infinity);
        if (this.#pending.size === 0) return next.resize(size);
        return this.settle().then(() => next.resize(size));
      },
    };
  }

  /** Waits for what is being read ahead. */
  async settle(): Promise<void> {
    await Promise.all(this.#pending);
  }

  #read(into: Uint8Array, offset: number): Maybe<void> {
    const stream = this.#follow(offset, into.length);
    if (stream === null) return this.#next.read(into, offset);
    return this.#serve(stream, into, offset);
  }

  /** The stream that this read continues; null, and a new stream, if there is none. */
  #follow(offset: number, length: number): Stream | null {
    const index = this.#streams.findIndex((stream) =>
      stream.next === offset ||
      stream.windows.some(({ start, end }) => offset >= start && offset < end)
    );
    const [found] = index < 0 ? [] : this.#streams.splice(index, 1);
    const stream = found ?? { next: 0, bytes: this.#smallest(), windows: [] };
    stream.next = Math.max(offset + length, found?.next ?? 0);
    this.#streams.push(stream);
    if (this.#streams.length > READAHEAD_STREAMS_MAX) this.#streams.shift();
    return found ?? null;
  }

  #smallest(): number {
    const { minimum } = this.#next.geometry;
    return Math.min(Math.max(READAHEAD_BYTES_MIN, minimum), this.#windowMax);
  }

  /** Reads from the stream's windows, and reads a new one where they end. */
  #serve(stream: Stream, into: Uint8Array, offset: number): Maybe<void> {
    const end = offset + into.length;
    const window = stream.windows.find((each) => offset >= each.start && offset < each.end) ??
      this.#fetch(stream, offset, into.length);
    if (window === null) return this.#next.read(into, offset);
    return chain(window.ready, (good) => {
      // What failed for a whole window may still work for the part that somebody wants.
      if (!good) return this.#next.read(into, offset);
      const stop = Math.min(end, window.end);
      into.set(window.bytes.subarray(offset - window.start, stop - window.start));
      this.#prepare(stream, window, stop);
      return stop === end ? undefined : this.#serve(stream, into.subarray(stop - offset), stop);
    });
  }

  /** Begins to read a window at `start`; null if it would be no longer than what is wanted. */
  #fetch(stream: Stream, start: number, wanted: number): Window | null {
    const { size, maximum } = this.#next.geometry;
    const length = Math.min(stream.bytes, maximum, size - start);
    if (length <= wanted) return null;
    const bytes = new Uint8Array(length);
    const window: Window = { start, end: start + length, bytes, ready: false };
    const ready = rescue(() => chain(this.#next.read(bytes, start), () => true), () => false);
    window.ready = ready;
    if (ready instanceof Promise) this.#watch(stream, window, ready);
    else if (!ready) return window;
    stream.windows.push(window);
    if (stream.windows.length > 2) stream.windows.shift();
    stream.bytes = Math.min(stream.bytes * 2, this.#windowMax);
    return window;
  }

  #watch(stream: Stream, window: Window, ready: Promise<boolean>): void {
    const watched = ready.then((good) => {
      window.ready = good;
      if (!good) stream.windows = stream.windows.filter((each) => each !== window);
    });
    this.#pending.add(watched);
    watched.finally(() => this.#pending.delete(watched));
  }

  /** Once half of the last window is used, the next is read: if that takes time, meanwhile. */
  #prepare(stream: Stream, window: Window, used: number): void {
    if (this.#next.capabilities.synchronous || stream.windows.at(-1) !== window) return;
    if (used - window.start < (window.end - window.start) / 2) return;
    if (window.end < this.#next.geometry.size) this.#fetch(stream, window.end, 0);
  }

  #change(offset: number, length: number, work: () => Maybe<void>): Maybe<void> {
    this.#drop(offset, offset + length);
    return ensure(work, () => this.#drop(offset, offset + length));
  }

  #drop(start: number, end: number): void {
    for (const stream of this.#streams) {
      if (stream.windows.every((window) => window.end <= start || window.start >= end)) continue;
      stream.windows = stream.windows.filter((window) =>
        window.end <= start || window.start >= end
      );
    }
  }
}

function open(backend: Backend, { window }: ReadaheadOptions): Opened {
  const isPower = Number.isInteger(Math.log2(window));
  if (!isPower || window < READAHEAD_BYTES_MIN || window > READAHEAD_BYTES_MAX) {
    throw new UsageError(
      `Cannot use filter readahead with a window of ${window}: a power of two from ` +
        `${READAHEAD_BYTES_MIN} to ${READAHEAD_BYTES_MAX} is possible`,
    );
  }
  const readahead = new Readahead(nextOf(backend), window);
  return {
    backend: wrap(backend, {
      verbs: readahead.verbs(),
      dispose: () => readahead.settle(),
    }),
  };
}

/** The filter. */
export const readahead: FilterType<ReadaheadOptions> = {
  name: "readahead",
  summary: "reads in long pieces for those who read forward",
  options: optionSchema<ReadaheadOptions>({
    window: sizeOption({
      summary: "longest piece: a power of two, 64k to 32M",
      default: READAHEAD_BYTES,
    }),
  }),
  open: (next, options) => Promise.try(open, next, options),
};
