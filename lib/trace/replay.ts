/**
 * Replay: the requests of a trace against a Device, in the order and with the concurrency that were
 * recorded, at the recorded pace or another.
 *
 * Order. A request is submitted when every request that had completed before it in the trace has
 * completed here: what followed from something still follows from it. What was in flight together is
 * in flight together, up to the depth that is allowed. A trace without completions does not say what
 * followed from what; there a request waits for those in flight that it overlaps, if either changes
 * data, so that the outcome is that of the order of the trace.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { Clock } from "../block/context.ts";
import { type Errno, errnoText, toBlockError } from "../block/errors.ts";
import { type Gate, makeRequest, type Operation, type Request } from "../block/request.ts";
import type { Maybe } from "../block/types.ts";
import type { CompleteEvent, SubmitEvent } from "./event.ts";
import {
  REPLAY_DEPTH,
  REPLAY_DEPTH_MAX,
  REPLAY_PENDING_MAX,
  REPLAY_SLEEP_MS_MAX,
  REPLAY_SPIN_US,
  REPLAY_TURN_US,
} from "./limits.ts";
import { digestOf } from "./record.ts";
import { type ReplayReport, ReplayTally } from "./replay_report.ts";
import type { TraceSource } from "./source.ts";
import { TraceError } from "./trace_error.ts";

/** What a trace is replayed on: a Device is one. */
export interface ReplayTarget {
  /** Its size now. */
  readonly geometry: { readonly size: number };
  /** Serves a request. */
  submit(request: Request): Maybe<void>;
}

/** Settings of a replay. */
export interface ReplayOptions {
  /** Opens the trace; once for each round. */
  readonly open: () => Promise<TraceSource>;
  /** Where requests go. */
  readonly target: ReplayTarget;
  /** Measures. */
  readonly clock: Clock;
  /** How many times as fast as recorded, above 0; "max" does not wait at all. 1 if not told. */
  readonly speed?: number | "max";
  /** Requests in flight at most, 1 to REPLAY_DEPTH_MAX; REPLAY_DEPTH if not told. */
  readonly depth?: number;
  /** How often the trace is replayed; 1 if not told. */
  readonly rounds?: number;
  /** What offsets are multiplied with, rounded down to whole SCALE_BLOCK_BYTES; 1 if not told. */
  readonly scale?: number;
  /** Compare reads with what was recorded, and outcomes too. */
  readonly verify?: boolean;
  /** The open file that requests belong to. */
  readonly gate?: Gate;
  /** Gives it up: the replay rejects with the signal's reason when nothing is in flight any more. */
  readonly signal?: AbortSignal;
  /** Called now and then, with how far this round is: time in the trace (µs), requests of all rounds. */
  readonly progress?: (timeUs: number, requests: number) => void;
}

/** Offsets that are scaled stay multiples of this, in bytes. */
export const SCALE_BLOCK_BYTES = 4096;

/** A request of the trace that is in flight, or done and not told of by the trace yet. */
interface Pending {
  readonly event: SubmitEvent;
  readonly offset: number;
  /** What a read gave: for comparing. */
  digest: number | null;
  errno: Errno | null;
  done: boolean;
  /** The trace has told of its completion. */
  told: boolean;
}

function changesData(operation: Operation): boolean {
  return operation === "write" || operation === "zero" || operation === "trim";
}

/** Replays a trace. Rejects with TraceError for one that cannot be read, RangeError for settings. */
export function replay(options: ReplayOptions): Promise<ReplayReport> {
  return new Replay(options).run();
}

class Replay {
  readonly #options: ReplayOptions;
  readonly #tally = new ReplayTally();
  readonly #speed: number;
  readonly #depth: number;
  /** By id, those of this round that are in flight or whose completion the trace has not told. */
  readonly #pending = new Map<number, Pending>();
  #inFlight = 0;
  #wake: (() => void) | null = null;
  /** Every write so far had its data in the trace: what is read can be compared. */
  #faithful = true;
  /** The trace tells when requests were done. */
  #completes = true;
  #plannedUs = 0;
  #roundStartUs = 0;
  #turnUs = 0;

  constructor(options: ReplayOptions) {
    const { speed = 1, depth = REPLAY_DEPTH, scale = 1 } = options;
    if (speed !== "max" && !(speed > 0)) throw new RangeError(`Cannot replay at speed ${speed}`);
    if (!(Number.isInteger(depth) && depth >= 1 && depth <= REPLAY_DEPTH_MAX)) {
      throw new RangeError(
        `Cannot replay at depth ${depth}: 1 to ${REPLAY_DEPTH_MAX} are possible`,
      );
    }
    if (!(scale > 0 && Number.isFinite(scale))) throw new RangeError(`Cannot scale by ${scale}`);
    this.#options = options;
    this.#speed = speed === "max" ? 0 : speed;
    this.#depth = depth;
  }

  async run(): Promise<ReplayReport> {
    const { clock, rounds = 1 } = this.#options;
    const startUs = this.#turnUs = clock.now();
    try {
      for (let round = 0; round < rounds; round += 1) await this.#round();
    } finally {
      await this.#until(() => this.#inFlight === 0);
    }
    return this.#tally.report(clock.now() - startUs, this.#plannedUs);
  }

  async #round(): Promise<void> {
    const { open, clock } = this.#options;
    const source = await open();
    this.#completes = source.info.completes;
    this.#roundStartUs = clock.now();
    let lastUs = 0;
    for await (const batch of source.batches()) {
      for (const event of batch) {
        if (event.kind === "submit") await this.#submit(event);
        else await this.#complete(event);
        lastUs = Math.max(lastUs, event.timeUs);
      }
      await this.#letOthersRun(lastUs);
    }
    await this.#until(() => this.#inFlight === 0);
    // Requests of which the trace has no end.
    for (const pending of this.#pending.values()) this.#failedUnlike(pending, null);
    this.#pending.clear();
    if (this.#speed > 0) this.#plannedUs += lastUs / this.#speed;
  }

  async #submit(event: SubmitEvent): Promise<void> {
    const { target, signal } = this.#options;
    signal?.throwIfAborted();
    if (this.#pending.has(event.id)) throw new TraceError(`request ${event.id} comes twice`);
    const offset = this.#scaled(event.offset);
    if (offset + event.length > target.geometry.size) {
      this.#tally.skipped += 1;
      return;
    }
    await this.#due(event.timeUs);
    const pending: Pending = {
      ...{ event, offset, digest: null, errno: null, done: false, told: false },
    };
    if (this.#inFlight > 0 && this.#mustWait(pending)) {
      await this.#until(() => !this.#mustWait(pending));
      signal?.throwIfAborted();
    }
    if (this.#speed > 0) {
      const { clock } = this.#options;
      this.#tally.late(clock.now() - this.#roundStartUs - event.timeUs / this.#speed);
    }
    this.#pending.set(event.id, pending);
    if (this.#pending.size > REPLAY_PENDING_MAX) this.#forgetOldest();
    this.#start(pending);
  }

  /** The trace has lost completions: those that are missed longest are not waited for any more. */
  #forgetOldest(): void {
    for (const [id, pending] of this.#pending) {
      if (!pending.done) continue;
      this.#failedUnlike(pending, null);
      this.#pending.delete(id);
      return;
    }
  }

  #start(pending: Pending): void {
    const { target, clock, gate } = this.#options;
    const { operation, length, flags } = pending.event;
    const data = this.#dataOf(pending.event);
    const request = makeRequest(operation, pending.offset, length, {
      flags,
      data,
      ...(gate === undefined ? {} : { gate }),
    });
    const startUs = clock.now();
    this.#tally.requests += 1;
    this.#inFlight += 1;
    const finish = (error: unknown): void => {
      pending.errno = error === null ? null : toBlockError(error).errno;
      if (operation === "read" && error === null && this.#options.verify === true) {
        pending.digest = digestOf(data);
      }
      this.#tally.done(operation, length, clock.now() - startUs, pending.errno);
      this.#finished(pending);
    };
    let outcome: Maybe<void>;
    try {
      outcome = target.submit(request);
    } catch (error) {
      return finish(error);
    }
    if (outcome === undefined) finish(null);
    else outcome.then(() => finish(null), finish);
  }

  /** Data of a write: those of the trace, or else bytes that tell where and by what they were written. */
  #dataOf(event: SubmitEvent): Uint8Array {
    const { operation, length, payload, id } = event;
    if (operation !== "read" && operation !== "write") return new Uint8Array(0);
    if (operation === "read") return new Uint8Array(length);
    // Ours to give away: the batch that it came in is not used again.
    if (payload !== null) return payload;
    this.#faithful = false;
    return new Uint8Array(length).fill(id & 0xff);
  }

  #finished(pending: Pending): void {
    pending.done = true;
    this.#inFlight -= 1;
    if (pending.told || !this.#completes) this.#pending.delete(pending.event.id);
    if (!this.#completes) this.#failedUnlike(pending, null);
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** What came after this in the trace may follow from it: so it has to be done here as well. */
  async #complete(complete: CompleteEvent): Promise<void> {
    const pending = this.#pending.get(complete.id);
    if (pending === undefined) return;
    if (!pending.done) await this.#until(() => pending.done);
    pending.told = true;
    this.#pending.delete(complete.id);
    const { event } = pending;
    this.#tally.recorded(event.operation, complete.timeUs - event.timeUs);
    this.#failedUnlike(pending, complete.errno);
    if (this.#options.verify === true) this.#compare(pending, complete);
  }

  /** Counts a request that failed, unless the recording says that it did. */
  #failedUnlike({ event, offset, errno }: Pending, recorded: Errno | null): void {
    if (errno === null || recorded !== null) return;
    const { id, operation, length } = event;
    this.#tally.failure({ id, operation, offset, length, what: errnoText(errno) });
  }

  #compare(pending: Pending, complete: CompleteEvent): void {
    const { event: { id, operation, length }, offset, errno, digest } = pending;
    const differs = (what: string): void =>
      this.#tally.mismatch({ id, operation, offset, length, what });
    if (errno !== complete.errno) {
      const name = (value: Errno | null): string => value ?? "success";
      return differs(`it ended in ${name(errno)}, recorded is ${name(complete.errno)}`);
    }
    if (operation !== "read" || errno !== null || length === 0) return;
    if (complete.digest === null || !this.#faithful) {
      this.#tally.unverifiable += 1;
      return;
    }
    this.#tally.verified += 1;
    if (digest !== complete.digest) differs("it read other data than were recorded");
  }

  /** True while a request cannot be submitted. */
  #mustWait({ event, offset }: Pending): boolean {
    if (this.#inFlight >= this.#depth) return true;
    const end = offset + event.length;
    for (const other of this.#pending.values()) {
      if (other.done) continue;
      const { operation, length } = other.event;
      if (!changesData(operation) && !changesData(event.operation)) continue;
      if (other.offset < end && offset < other.offset + length) return true;
    }
    return false;
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#wake = resolve);
  }

  /** Waits until a time of the trace. Timers are coarse: the last bit is spent in turns of the loop. */
  async #due(timeUs: number): Promise<void> {
    if (this.#speed === 0) return;
    const { clock, signal, progress } = this.#options;
    const dueUs = this.#roundStartUs + timeUs / this.#speed;
    for (let leftUs = dueUs - clock.now(); leftUs > 0; leftUs = dueUs - clock.now()) {
      const sleep_ms = Math.floor((leftUs - REPLAY_SPIN_US) / 1000);
      if (sleep_ms <= 0) {
        await turn();
        continue;
      }
      progress?.(timeUs - leftUs * this.#speed, this.#tally.requests);
      await clock.sleep(Math.min(sleep_ms, REPLAY_SLEEP_MS_MAX), signal);
    }
  }

  /** A target that is done at once would never let the event loop run. */
  async #letOthersRun(timeUs: number): Promise<void> {
    const { clock, progress, signal } = this.#options;
    signal?.throwIfAborted();
    progress?.(timeUs, this.#tally.requests);
    if (clock.now() - this.#turnUs < REPLAY_TURN_US) return;
    await turn();
    this.#turnUs = clock.now();
  }

  #scaled(offset: number): number {
    const { scale = 1 } = this.#options;
    if (scale === 1) return offset;
    const within = offset % SCALE_BLOCK_BYTES;
    return Math.floor((offset - within) * scale / SCALE_BLOCK_BYTES) * SCALE_BLOCK_BYTES + within;
  }
}

/** One turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => resolve()));
}
