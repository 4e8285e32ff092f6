/**
 * Walking over whole devices: which parts read as zeroes, and many pieces at work at a time. Relies on
 * Device alone; what copying and comparing have in common.
 *
 * @module
 */
import type { Clock } from "./context.ts";
import type { Device } from "./device.ts";
import { BlockError } from "./errors.ts";
import {
  COPY_CHUNK_BYTES,
  COPY_DEPTH,
  COPY_DEPTH_MAX,
  COPY_TURN_US,
  MINIMUM_BLOCK_BYTES_MAX,
  REQUEST_BYTES_MAX,
} from "./limits.ts";
import { makeRequest, type Request } from "./request.ts";
import type { Extent } from "./types.ts";

/** A part of a device, in bytes. */
export interface Run {
  readonly offset: number;
  readonly length: number;
  /** It reads as zeroes. */
  readonly zero: boolean;
}

/** How a walk is done. */
export interface WalkOptions {
  /** Measures the time, and gives other work a turn. */
  readonly clock: Clock;
  /** Pieces in flight, 1 to COPY_DEPTH_MAX; COPY_DEPTH if left out. */
  readonly depth?: number;
  /** Bytes in one piece: a power of two, 64 KiB to 64 MiB; COPY_CHUNK_BYTES if left out. */
  readonly chunkBytes?: number;
  /** Ends the walk: it rejects with the signal's reason once nothing is in flight. */
  readonly signal?: AbortSignal;
}

/** The settings of a walk, checked. */
export interface WalkSettings {
  readonly depth: number;
  readonly chunkBytes: number;
}

const CHUNK_BYTES_MIN: number = MINIMUM_BLOCK_BYTES_MAX,
  CHUNK_BYTES_MAX: number = REQUEST_BYTES_MAX;
/** What counts as data, in bytes, where a device does not tell. */
const UNTOLD_BYTES: number = REQUEST_BYTES_MAX;

/** Fills in and checks settings. Throws RangeError. */
export function walkSettings(options: WalkOptions): WalkSettings {
  const { depth = COPY_DEPTH, chunkBytes = COPY_CHUNK_BYTES } = options;
  if (!Number.isInteger(depth) || depth < 1 || depth > COPY_DEPTH_MAX) {
    throw new RangeError(
      `Cannot have ${depth} pieces in flight: 1 to ${COPY_DEPTH_MAX} are possible`,
    );
  }
  const isPower = Number.isInteger(Math.log2(chunkBytes));
  if (!isPower || chunkBytes < CHUNK_BYTES_MIN || chunkBytes > CHUNK_BYTES_MAX) {
    throw new RangeError(
      `Cannot take pieces of ${chunkBytes} bytes: a power of two from ${CHUNK_BYTES_MIN} to ` +
        `${CHUNK_BYTES_MAX} is possible`,
    );
  }
  return { depth, chunkBytes };
}

/** Submits a request; what fails tells which device it was. */
export async function submitTo(device: Device, request: Request): Promise<void> {
  try {
    await device.submit(request);
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.errno, `${error.message} (${device.name})`, { cause: error });
  }
}

/** Tells zeroes from data along a device, from its start to `end`. */
export class ExtentCursor {
  readonly #device: Device;
  readonly #end: number;
  /** What is known; all before `first` is behind. */
  #extents: Extent[] = [];
  #first = 0;
  /** Where the extent at `first` begins. */
  #at = 0;

  /** `end` is at most the size of the device. */
  constructor(device: Device, end: number) {
    this.#device = device;
    this.#end = end;
  }

  /**
   * The run that begins at `offset`, which is less than `end` and never goes back. It is as long as is
   * known without asking more often than it takes to reach `target`.
   */
  async at(offset: number, target: number): Promise<Run> {
    this.#skipTo(offset);
    const goal = Math.min(target, this.#end);
    let stop = this.#at;
    let zero: boolean | null = null;
    for (let index = this.#first;;) {
      const extent = this.#extents[index];
      if (extent !== undefined) {
        zero ??= extent.zero;
        if (extent.zero !== zero) break;
        stop += extent.length;
        index += 1;
      } else if (zero !== null && stop >= goal) {
        break;
      } else {
        for (const more of await this.#ask(stop)) this.#extents.push(more);
      }
    }
    return { offset, length: Math.min(stop, this.#end) - offset, zero };
  }

  #skipTo(offset: number): void {
    for (;;) {
      const extent = this.#extents[this.#first];
      if (extent === undefined) break;
      if (offset < this.#at + extent.length) return;
      this.#at += extent.length;
      this.#first += 1;
    }
    this.#extents = [];
    this.#first = 0;
    this.#at = offset;
  }

  /** Extents from `offset`. A device that fails to tell may still be read: then it counts as data. */
  async #ask(offset: number): Promise<Extent[]> {
    const unit = this.#device.geometry.minimum;
    const before = offset % unit;
    const start = offset - before;
    const request = makeRequest("extents", start, Math.ceil((this.#end - start) / unit) * unit);
    try {
      await this.#device.submit(request);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
    }
    const told = withoutStart(request.extents ?? [], before);
    return told.length > 0 ? told : [{ length: UNTOLD_BYTES, allocated: true, zero: false }];
  }
}

/** Extents without their first `count` bytes. */
function withoutStart(extents: readonly Extent[], count: number): Extent[] {
  const rest: Extent[] = [];
  let left = count;
  for (const extent of extents) {
    const cut = Math.min(left, extent.length);
    left -= cut;
    if (cut < extent.length) rest.push({ ...extent, length: extent.length - cut });
  }
  return rest;
}

/** Gives the event loop a turn now and then, and notices an abort: storage that never waits would not. */
export class Turns {
  readonly #clock: Clock;
  readonly #signal: AbortSignal | undefined;
  #lastUs: number;

  /** Takes clock and signal of a walk. */
  constructor(options: WalkOptions) {
    this.#clock = options.clock;
    this.#signal = options.signal;
    this.#lastUs = options.clock.now();
  }

  /** Called between pieces. Rejects with the signal's reason. */
  async next(): Promise<void> {
    this.#signal?.throwIfAborted();
    if (this.#clock.now() - this.#lastUs < COPY_TURN_US) return;
    await this.#clock.sleep(0);
    this.#signal?.throwIfAborted();
    this.#lastUs = this.#clock.now();
  }
}

/**
 * Does `work` on the items, `depth` at a time, in their order. After a failure no further item is
 * begun; rejects with the first failure once nothing is in flight.
 */
export async function inParallel<T>(
  items: AsyncGenerator<T>,
  depth: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const failures: unknown[] = [];
  const lane = async (): Promise<void> => {
    try {
      while (failures.length === 0) {
        const { done, value } = await items.next();
        if (done) return;
        await work(value);
      }
    } catch (error) {
      failures.push(error);
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  await items.return(undefined);
  if (failures.length > 0) throw failures[0];
}

/** Cuts a range at the multiples of `pieceBytes`. */
export function* cutUp(
  start: number,
  end: number,
  pieceBytes: number,
): Generator<[number, number]> {
  for (let at = start; at < end;) {
    const stop = Math.min(end, at - at % pieceBytes + pieceBytes);
    yield [at, stop];
    at = stop;
  }
}
