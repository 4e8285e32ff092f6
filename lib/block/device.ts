/**
 * The Device: the one place between protocols and storage. It checks the gate, validates, counts,
 * taps, and gives the backend only what the contract promises; what a backend lacks is emulated or
 * refused here. Work that a backend does at once is done without a promise.
 *
 * @module
 */
import type { BitmapRun, DeviceBitmaps } from "./bitmaps.ts";
import type { Clock, Log } from "./context.ts";
import { emulate, type Emulated } from "./emulate.ts";
import { BlockError, hasErrno, toBlockError } from "./errors.ts";
import { BufferPool } from "./pool.ts";
import {
  QUICK_READS_MIN,
  SLOW_READ_BYTES_PER_US,
  SLOW_READ_US,
  SLOW_READ_WEIGHT,
  SLOW_READS_MAX,
  SLOW_READS_MIN,
  SLOW_SEND_US,
} from "./limits.ts";
import { FLAG_FAST_ONLY, FLAG_FUA, type Request, type StorageMap, type Tap } from "./request.ts";
import { Statistics } from "./statistics.ts";
import type { Backend, Geometry, Maybe, ReadsAhead } from "./types.ts";
import { validateGeometry, validateRequest } from "./validate.ts";

/** Settings of a Device. */
export interface DeviceOptions {
  /** The target's name, for messages. */
  readonly name: string;
  /** Measures latencies. */
  readonly clock: Clock;
  /** Gets the stack of whatever is thrown that has no errno. */
  readonly log: Log;
  /** Where buffers come from; a pool of its own if left out. */
  readonly pool?: BufferPool;
  /** Refuse what changes data even if the storage would take it. */
  readonly readOnly?: boolean;
  /** Where to count; counters of its own if left out. */
  readonly statistics?: Statistics;
  /** Flush when it is closed; true if left out. A replay does what its trace says and nothing more. */
  readonly flushAtEnd?: boolean;
}

/** What requests a Device can serve; a protocol advertises this and nothing more. */
export interface Features {
  /** Whatever changes data is refused. */
  readonly readOnly: boolean;
  /** trim does something. */
  readonly trim: boolean;
  /** zero is native; where it is not the Device writes zeroes. */
  readonly zero: boolean;
  /** cache does something. */
  readonly cache: boolean;
  /** extents tells holes; where it is not native everything is one allocated extent. */
  readonly extents: boolean;
  /** Names of the dirty bitmaps that an extents request can ask for. */
  readonly bitmaps: readonly string[];
  /** The size can be changed. */
  readonly resize: boolean;
  /** submit returns no promise, except while the size is being changed, or a bitmap is written. */
  readonly synchronous: boolean;
}

/**
 * A block device: `submit` is the only way to its storage.
 *
 * `submit` returns undefined when the request was done at once, else a promise; it throws, or the
 * promise rejects with, BlockError alone. The request's `data` belongs to the Device until then.
 */
export class Device implements AsyncDisposable {
  /** The target's name. */
  readonly name: string;
  /** Where protocols take their buffers. */
  readonly pool: BufferPool;
  /** What was counted so far. */
  readonly statistics: Statistics;
  /** Sees every request; null if nobody looks. */
  tap: Tap | null = null;
  /**
   * Hear of every change before the storage does; null for none. Set while nothing is in flight: see
   * `quietly`.
   */
  bitmaps: DeviceBitmaps | null = null;

  readonly #backend: Backend;
  readonly #emulated: Emulated;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #readOnly: boolean;
  readonly #flushAtEnd: boolean;
  #idleWaiters: (() => void)[] = [];
  #closing: Promise<void> | null = null;
  #hold: Promise<unknown> | null = null;
  /** Slow reads of late, weighed: see `wantsAhead`. */
  #slowReads = 0;
  /** Quick reads since the last slow one, counted while more slow ones are to be expected. */
  #quickReads = 0;

  /** Takes over `backend`, which it disposes at its own end. Throws EINVAL for an impossible geometry. */
  constructor(backend: Backend, options: DeviceOptions) {
    validateGeometry(backend.geometry, options.name);
    this.#backend = backend;
    this.#emulated = emulate(backend);
    this.name = options.name;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#readOnly = options.readOnly ?? false;
    this.#flushAtEnd = options.flushAtEnd ?? true;
    this.pool = options.pool ?? new BufferPool();
    this.statistics = options.statistics ?? new Statistics();
  }

  /** Size and I/O sizes now. */
  get geometry(): Geometry {
    const { geometry } = this.#backend;
    return this.#readOnly && !geometry.readOnly ? { ...geometry, readOnly: true } : geometry;
  }

  /** What it can serve now. */
  get features(): Features {
    const backend = this.#backend;
    const { readOnly } = this.geometry;
    return {
      readOnly,
      trim: backend.trim !== undefined && !readOnly,
      zero: backend.zero !== undefined && !readOnly,
      cache: backend.cache !== undefined,
      extents: backend.extents !== undefined,
      bitmaps: this.bitmaps?.names ?? NO_NAMES,
      resize: backend.resize !== undefined && !readOnly,
      synchronous: backend.capabilities.synchronous,
    };
  }

  /** Requests that are known of ahead cost less: see `willSubmit`. */
  get wantsAhead(): boolean {
    return this.readsAhead || this.bitmaps?.wantsAhead === true;
  }

  /**
   * Reads are slow at present, as they are when no cache has what they ask for, or always, and the storage
   * wants to know of several ahead: see Backend.willRead.
   */
  get readsAhead(): boolean {
    const backend = this.#backend;
    if (this.#slowReads <= SLOW_READS_MIN && !this.#alwaysAhead) return false;
    return backend.willRead !== undefined;
  }

  /** While reads are told ahead: the next one probably waits, so that nothing should wait for it. */
  get readsWait(): boolean {
    return this.#quickReads < QUICK_READS_MIN || this.#alwaysAhead;
  }

  get #alwaysAhead(): boolean {
    const { ahead } = this.#backend;
    return ahead !== undefined && ahead.cached !== true;
  }

  /**
   * Where a range lies in memory that is the storage (see Backend.memoryMap), for a read with `located` that is
   * submitted right now, and is then done at once; null if reads have to fill memory. Whoever looks at
   * requests looks at their data too.
   */
  locate(offset: number, length: number): number | null {
    const { memoryMap: map, geometry } = this.#backend;
    if (map === undefined || map === null) return null;
    if (this.tap !== null || this.#hold !== null || this.#closing !== null) return null;
    if (offset + length > geometry.size || length > geometry.maximum) return null;
    // What is not in memory is better read ahead.
    if (this.#slowReads > SLOW_READS_MIN || !map.has(offset, length)) return null;
    return map.address + offset;
  }

  /** The memory that `locate` spoke of. */
  get map(): StorageMap {
    const { memoryMap } = this.#backend;
    if (memoryMap === undefined || memoryMap === null) {
      throw new Error(`Cannot find the memory of ${this.name}: its storage is none`);
    }
    return memoryMap;
  }

  /** What was located was sent, `length` bytes in `latencyUs` µs: whether it was in memory. */
  noteSent(latencyUs: number, length: number): void {
    this.#noteRead(latencyUs, length, SLOW_SEND_US);
  }

  /** A request is going to be submitted, behind others. Never fails; what is no range is ignored. */
  willSubmit(operation: "read" | "write", offset: number, length: number): void {
    const { size, minimum, maximum, readOnly } = this.#backend.geometry;
    if (length < 1 || length > maximum || offset + length > size) return;
    if (offset % minimum !== 0 || length % minimum !== 0) return;
    if (operation === "write") {
      if (!readOnly) this.bitmaps?.willChange(offset, length);
    } else if (this.readsAhead) this.#backend.willRead?.(offset, length);
  }

  /**
   * All that are known are told. The time that it took is not that of the read that comes next: it would
   * look slow, and the telling would never end.
   */
  toldAhead(): void {
    this.#clock.now();
  }

  /** A read waits for its turn until the storage has what it asks for: it would have been slow. */
  noteParked(): void {
    this.#noteSlow();
  }

  /** What became of ranges of `willRead`; null if the storage does not tell. */
  get ahead(): ReadsAhead | null {
    return this.#backend.ahead ?? null;
  }

  /** Requests that have entered and are not done. */
  get inFlight(): number {
    return this.statistics.inFlight;
  }

  /**
   * Serves one request. Errno: ESHUTDOWN once it is being closed, ENODEV if access was revoked, what
   * validateRequest says, EOPNOTSUPP for what the storage cannot do, and what the storage reports.
   */
  submit(request: Request): Maybe<void> {
    if (this.#closing !== null) {
      throw new BlockError("ESHUTDOWN", `Cannot ${request.operation}: ${this.name} is closing`);
    }
    if (this.#hold !== null) return this.#hold.then(() => this.submit(request));
    if (!request.gate.enter()) {
      throw new BlockError("ENODEV", `Cannot ${request.operation}: access was revoked`);
    }
    const clock = this.#clock;
    const startUs = clock.recent === undefined ? clock.now() : clock.recent();
    const token = this.tap === null ? 0 : this.tap.submitted(request, startUs);
    this.statistics.inFlight += 1;
    let marked: Maybe<void>, outcome: Maybe<void>;
    try {
      validateRequest(request, this.geometry);
      marked = this.bitmaps === null ? undefined : this.#mark(this.bitmaps, request);
      outcome = marked === undefined
        ? this.#dispatch(request)
        : marked.then(() => this.#dispatch(request));
    } catch (error) {
      throw this.#failed(request, token, startUs, error);
    }
    if (outcome === undefined) {
      this.#done(request, token, startUs, null);
      return undefined;
    }
    return this.#later(request, token, startUs, outcome, marked !== undefined);
  }

  /** Resolves when no request is in flight. */
  idle(): Promise<void> {
    if (this.statistics.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  /**
   * Changes the size (bytes). What is in flight finishes first; what comes meanwhile waits.
   * Errno: EOPNOTSUPP if the storage cannot, EROFS, EINVAL for a size that does not fit its blocks.
   */
  resize(size: number): Promise<void> {
    return this.quietly(() => this.#resizeIdle(size));
  }

  /**
   * Runs `work` at a moment at which nothing is in flight: what has entered finishes first, what comes
   * meanwhile waits. Only `flush` can be used then, which makes durable what was written. Rejects with
   * what `work` throws.
   */
  async quietly<T>(work: (flush: () => Maybe<void>) => Maybe<T>): Promise<T> {
    while (this.#hold !== null) await this.#hold;
    const flush = (): Maybe<void> => this.geometry.readOnly ? undefined : this.#backend.flush();
    const held = this.idle().then(() => work(flush));
    this.#hold = held.catch(() => {});
    try {
      return await held;
    } finally {
      this.#hold = null;
    }
  }

  async #resizeIdle(size: number): Promise<void> {
    const { geometry } = this;
    if (this.#backend.resize === undefined) {
      throw new BlockError(
        "EOPNOTSUPP",
        `Cannot resize ${this.name}: its storage has a fixed size`,
      );
    }
    if (geometry.readOnly) throw new BlockError("EROFS", `Cannot resize ${this.name}: read-only`);
    validateGeometry({ ...geometry, size }, this.name);
    this.bitmaps?.checkSize(size);
    try {
      await this.#backend.resize(size);
    } catch (error) {
      throw this.#explain(error, "resize");
    }
    if (this.#backend.geometry.size !== size) {
      throw new BlockError("EIO", `Cannot resize ${this.name}: the storage kept its size`);
    }
    await this.bitmaps?.resized(size);
  }

  /** Refuses new requests, waits for those in flight, flushes, and disposes the backend. Once. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#hold !== null) await this.#hold;
    await this.idle();
    try {
      if (this.#flushAtEnd && !this.geometry.readOnly) await this.#backend.flush();
    } catch (error) {
      throw this.#explain(error, "flush");
    } finally {
      await this.#backend[Symbol.asyncDispose]();
    }
  }

  /** Notes a change before the storage hears of it, unless the storage is known to refuse it. */
  #mark(bitmaps: DeviceBitmaps, { operation, offset, length, flags }: Request): Maybe<void> {
    const backend = this.#backend;
    const changes = operation === "write" ||
      (operation === "trim" && backend.trim !== undefined) ||
      (operation === "zero" && (backend.zero !== undefined || (flags & FLAG_FAST_ONLY) === 0));
    return changes ? bitmaps.changing(offset, length) : undefined;
  }

  #dispatch(request: Request): Maybe<void> {
    const backend = this.#backend;
    const { offset, length } = request;
    switch (request.operation) {
      case "read":
        if (request.located === true) return undefined;
        return length <= backend.geometry.maximum
          ? backend.read(request.data, offset)
          : this.#emulated.readSplit(request.data, offset);
      case "write":
        return (request.flags & FLAG_FUA) === 0 && length <= backend.geometry.maximum
          ? backend.write(request.data, offset, NOT_FUA)
          : this.#emulated.write(request.data, offset, (request.flags & FLAG_FUA) !== 0);
      case "flush":
        return this.geometry.readOnly ? undefined : backend.flush();
      case "trim":
        return this.#emulated.trim(offset, length, (request.flags & FLAG_FUA) !== 0);
      case "zero":
        return this.#emulated.zero(offset, length, request.flags);
      case "cache":
        return this.#emulated.cache(offset, length);
      case "extents":
        if (request.bitmap === undefined) return this.#emulated.extents(request);
        request.runs = this.#runs(request.bitmap, offset, length);
        return undefined;
    }
  }

  #runs(bitmap: string, offset: number, length: number): BitmapRun[] {
    if (this.bitmaps === null) {
      throw new BlockError("EINVAL", `Cannot find bitmap ${bitmap}: ${this.name} has none`);
    }
    return this.bitmaps.runs(bitmap, offset, length);
  }

  /** `mayWait`: something else than the storage had a reason to wait. */
  async #later(
    request: Request,
    token: number,
    startUs: number,
    outcome: Promise<void>,
    mayWait: boolean,
  ): Promise<void> {
    try {
      await outcome;
      if (!mayWait && this.#backend.capabilities.synchronous) {
        throw new Error(
          `The backend of ${this.name} says it is synchronous but returned a promise`,
        );
      }
    } catch (error) {
      throw this.#failed(request, token, startUs, error);
    }
    this.#done(request, token, startUs, null);
  }

  #failed(request: Request, token: number, startUs: number, error: unknown): BlockError {
    const explained = this.#explain(error, request.operation);
    // It may have been announced, and have failed before the storage heard of it.
    if (request.operation === "read") this.#backend.ahead?.forget();
    this.#done(request, token, startUs, explained);
    return explained;
  }

  #done(request: Request, token: number, startUs: number, error: BlockError | null): void {
    const endUs = this.#clock.now();
    const counters = this.statistics[request.operation];
    counters.record(request.length, endUs - startUs, error !== null);
    if (request.operation === "read") this.#noteRead(endUs - startUs, request.length, SLOW_READ_US);
    if (this.tap !== null && token !== 0) {
      this.tap.completed(token, request, error?.errno ?? null, endUs);
    }
    this.statistics.inFlight -= 1;
    request.gate.leave();
    if (this.statistics.inFlight === 0 && this.#idleWaiters.length > 0) {
      const waiters = this.#idleWaiters;
      this.#idleWaiters = [];
      for (const wake of waiters) wake();
    }
  }

  /** Slow reads count for several quick ones: with several ahead only the first of them is slow. */
  #noteRead(latencyUs: number, length: number, patienceUs: number): void {
    const limitUs = patienceUs + length / SLOW_READ_BYTES_PER_US;
    if (latencyUs > limitUs) this.#noteSlow();
    else if (this.#slowReads > 0) {
      this.#slowReads -= 1;
      this.#quickReads += 1;
    }
  }

  #noteSlow(): void {
    this.#slowReads = Math.min(SLOW_READS_MAX, this.#slowReads + SLOW_READ_WEIGHT);
    this.#quickReads = 0;
  }

  #explain(error: unknown, verb: string): BlockError {
    if (!hasErrno(error)) {
      this.#log.error(`${this.name}: a bug in its storage ended a ${verb}`, error);
    }
    return toBlockError(error);
  }
}

const NOT_FUA = { fua: false } as const;
const NO_NAMES: readonly string[] = [];
