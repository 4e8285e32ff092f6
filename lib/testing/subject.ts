/**
 * What is under test: a backend, called directly or through a Device. Every call is watched for what
 * the contract says of any call: buffers are left alone after it and around it, errors have an errno,
 * nothing returns a promise that was promised not to.
 *
 * @module
 */
import assert from "node:assert/strict";
import { firstDifference } from "../block/compare.ts";
import { Device } from "../block/device.ts";
import { hasErrno } from "../block/errors.ts";
import { EXTENTS_PER_CALL_MAX } from "../block/limits.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  makeRequest,
  NO_DATA,
  type Operation,
} from "../block/request.ts";
import type { Backend, Extent, Geometry, Maybe, ZeroOptions } from "../block/types.ts";
import { allAre } from "./bytes.ts";
import { collectedLog, testClock } from "./context.ts";

/** How a case reaches the storage. */
export type Mode = "direct" | "device";

/** Bytes around each buffer that nobody may touch. */
const GUARD_BYTES = 64;
/** What guards and the buffers of reads are filled with before a call. */
const FILLER = 0xa5;
/** What every buffer is filled with after its call. */
const POISON = 0xdb;
/** Buffers of this size and more are checked at once and not kept: they are few and dear. */
const KEPT_BYTES_MAX = 256 * 1024;
/** Buffers kept for the check at the end. */
const KEPT_COUNT_MAX = 512;

const PLAIN: ZeroOptions = { fua: false, mayTrim: false, fastOnly: false };

/** A buffer with guards, seen from its caller. */
interface Guarded {
  readonly whole: Uint8Array;
  readonly bytes: Uint8Array;
}

function guarded(length: number): Guarded {
  const whole = new Uint8Array(length + 2 * GUARD_BYTES).fill(FILLER);
  return { whole, bytes: whole.subarray(GUARD_BYTES, GUARD_BYTES + length) };
}

function flagsOf(options: ZeroOptions): number {
  return (options.fua ? FLAG_FUA : 0) | (options.mayTrim ? FLAG_MAY_TRIM : 0) |
    (options.fastOnly ? FLAG_FAST_ONLY : 0);
}

/** Storage under test. Ranges given to it have to fit the device and its alignment. */
export class Subject {
  /** The backend itself. */
  readonly backend: Backend;
  /** The Device in front of it; null if it is called directly. */
  readonly device: Device | null;
  readonly #log = collectedLog();
  readonly #kept: Guarded[] = [];

  /** Takes over `backend`. */
  constructor(backend: Backend, mode: Mode) {
    this.backend = backend;
    this.device = mode === "direct"
      ? null
      : new Device(backend, { name: "contract", clock: testClock, log: this.#log });
  }

  /** Size and I/O sizes now. */
  get geometry(): Geometry {
    return this.backend.geometry;
  }

  /** Longest read or write that can be asked for. */
  get longest(): number {
    return Math.min(this.geometry.maximum, this.geometry.size);
  }

  /** FUA can be asked for. */
  get hasFua(): boolean {
    return this.device !== null || this.backend.capabilities.fua;
  }

  /** Zero can be asked for: the Device writes zeroes where there is none. */
  get hasZero(): boolean {
    return this.device !== null || this.backend.zero !== undefined;
  }

  /** Reads; the bytes are the caller's own. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const buffer = guarded(length);
    let result = NO_DATA;
    await this.#call(
      "read",
      offset,
      length,
      0,
      buffer.bytes,
      (backend) => backend.read(buffer.bytes, offset),
      () => {
        result = buffer.bytes.slice();
        this.#retire(buffer, `read(${length} bytes at ${offset})`);
      },
    );
    return result;
  }

  /** Writes a copy of `bytes`. */
  async write(bytes: Uint8Array, offset: number, fua = false): Promise<void> {
    const buffer = guarded(bytes.length);
    buffer.bytes.set(bytes);
    const what = `write(${bytes.length} bytes at ${offset})`;
    await this.#call(
      "write",
      offset,
      bytes.length,
      fua ? FLAG_FUA : 0,
      buffer.bytes,
      (backend) => backend.write(buffer.bytes, offset, { fua }),
      () => {
        const changed = firstDifference(buffer.bytes, bytes) >= 0;
        this.#retire(buffer, what);
        assert.ok(!changed, `${what} changed the buffer it was given`);
      },
    );
  }

  /** Makes durable what was written. */
  async flush(): Promise<void> {
    await this.#call("flush", 0, 0, 0, undefined, (backend) => backend.flush());
  }

  /** Trims. */
  async trim(offset: number, length: number, fua = false): Promise<void> {
    await this.#call("trim", offset, length, fua ? FLAG_FUA : 0, undefined, (backend) => {
      assert.ok(backend.trim !== undefined);
      return backend.trim(offset, length, { fua });
    });
  }

  /** Zeroes. */
  async zero(offset: number, length: number, different: Partial<ZeroOptions> = {}): Promise<void> {
    const options = { ...PLAIN, ...different };
    await this.#call("zero", offset, length, flagsOf(options), undefined, (backend) => {
      assert.ok(backend.zero !== undefined);
      return backend.zero(offset, length, options);
    });
  }

  /** Prefetches. */
  async cache(offset: number, length: number): Promise<void> {
    await this.#call("cache", offset, length, 0, undefined, (backend) => {
      assert.ok(backend.cache !== undefined);
      return backend.cache(offset, length);
    });
  }

  /** The answer to one call, checked for all that the contract says of an answer. */
  async extentsOnce(offset: number, length: number): Promise<Extent[]> {
    let answer: Extent[] = [];
    if (this.device === null) {
      answer = await this.#watch("extents", () => {
        assert.ok(this.backend.extents !== undefined);
        return this.backend.extents(offset, length);
      });
    } else {
      const request = makeRequest("extents", offset, length);
      await this.#watch("extents", () => this.device?.submit(request));
      answer = request.extents ?? [];
    }
    this.#checkExtents(answer, offset, length);
    return answer;
  }

  /** All extents of a range, cut to it; at most `callsMax` calls, so a tail may be missing. */
  async extents(offset: number, length: number, callsMax = 64): Promise<Extent[]> {
    const end = offset + length;
    const all: Extent[] = [];
    let at = offset;
    for (let calls = 0; at < end && calls < callsMax; calls += 1) {
      for (const extent of await this.extentsOnce(at, end - at)) {
        const cut = Math.min(extent.length, end - at);
        if (cut > 0) all.push({ ...extent, length: cut });
        at += cut;
      }
    }
    return all;
  }

  /** Changes the size. */
  async resize(size: number): Promise<void> {
    await this.#watch("resize", () => {
      if (this.device !== null) return this.device.resize(size);
      assert.ok(this.backend.resize !== undefined);
      return this.backend.resize(size);
    });
    assert.equal(this.geometry.size, size, `geometry.size after resize(${size})`);
  }

  /** Lets late work happen, then checks that no buffer was touched after its call. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 2; turn += 1) await new Promise((resolve) => setTimeout(resolve, 0));
    for (const { whole } of this.#kept) {
      assert.ok(
        allAre(whole, POISON),
        "a buffer was written to after the call it was given to was done",
      );
    }
    const bug = this.#log.lines.find((line) => line.level === "error");
    if (bug !== undefined) {
      assert.fail(`the Device reported a bug: ${bug.message}: ${String(bug.cause)}`);
    }
  }

  /** Ends it. */
  async dispose(): Promise<void> {
    if (this.device !== null) await this.device[Symbol.asyncDispose]();
    else await this.backend[Symbol.asyncDispose]();
  }

  #call(
    operation: Operation,
    offset: number,
    length: number,
    flags: number,
    data: Uint8Array | undefined,
    direct: (backend: Backend) => Maybe<void>,
    done: () => void = () => {},
  ): Promise<void> {
    const { device } = this;
    if (device === null) return this.#watch(operation, () => direct(this.backend), done);
    const rest = data === undefined ? { flags } : { flags, data };
    const request = makeRequest(operation, offset, length, rest);
    return this.#watch(operation, () => device.submit(request), done);
  }

  /**
   * Makes a call, checks how it ends, and runs `done` in the very moment in which it is done, be it
   * well or not: from then on buffers are the caller's.
   */
  async #watch<T>(verb: string, call: () => Maybe<T>, done: () => void = () => {}): Promise<T> {
    let finished = false;
    try {
      const outcome = call();
      if (outcome instanceof Promise) this.#expectMayPromise(verb, outcome);
      const result = outcome instanceof Promise ? await outcome : outcome;
      finished = true;
      done();
      if (verb !== "extents") assert.equal(result, undefined, `what ${verb} returned`);
      return result;
    } catch (error) {
      if (!finished) done();
      if (error instanceof assert.AssertionError || hasErrno(error)) throw error;
      throw new assert.AssertionError({
        message: `${verb} failed with an error that has no errno: ${String(error)}`,
        actual: error,
        operator: "hasErrno",
      });
    }
  }

  #expectMayPromise(verb: string, outcome: Promise<unknown>): void {
    if (!this.backend.capabilities.synchronous) return;
    if (verb === "resize" && this.device !== null) return;
    outcome.catch(() => {});
    assert.fail(`${verb} returned a promise, although capabilities.synchronous is true`);
  }

  #checkExtents(answer: readonly Extent[], offset: number, length: number): void {
    const { size, minimum } = this.geometry;
    const what = `extents(${length} bytes at ${offset})`;
    assert.ok(answer.length >= 1, `${what} gave none`);
    assert.ok(answer.length <= EXTENTS_PER_CALL_MAX, `${what} gave ${answer.length}`);
    let at = offset;
    for (const extent of answer) {
      assert.ok(at < offset + length, `${what} gave one that begins past the range, at ${at}`);
      assert.ok(
        Number.isSafeInteger(extent.length) && extent.length >= 1,
        `${what} gave a length of ${extent.length}`,
      );
      assert.equal(extent.length % minimum, 0, `${what} gave a length that is not aligned`);
      assert.equal(typeof extent.allocated, "boolean", `${what}: allocated`);
      assert.equal(typeof extent.zero, "boolean", `${what}: zero`);
      at += extent.length;
    }
    assert.ok(at <= size, `${what} reached ${at}, past the end of the device at ${size}`);
  }

  /** Checks the guards, overwrites the buffer and keeps it for `settle`. */
  #retire(buffer: Guarded, what: string): void {
    const { whole, bytes } = buffer;
    const intact = allAre(whole.subarray(0, GUARD_BYTES), FILLER) &&
      allAre(whole.subarray(GUARD_BYTES + bytes.length), FILLER);
    assert.ok(intact, `${what} touched memory outside its buffer`);
    whole.fill(POISON);
    if (bytes.length >= KEPT_BYTES_MAX) return;
    if (this.#kept.length >= KEPT_COUNT_MAX) this.#kept.shift();
    this.#kept.push(buffer);
  }
}

/** Fails unless all bytes of a range read as zero; reads at most `bytesMax` of it, from both ends. */
export async function expectZero(
  subject: Subject,
  offset: number,
  length: number,
  after: string,
  bytesMax: number,
): Promise<void> {
  const { minimum } = subject.geometry;
  const piece = Math.min(subject.longest, Math.max(minimum, bytesMax - bytesMax % minimum));
  const starts = length <= piece ? [offset] : [offset, offset + length - piece];
  for (const start of starts) {
    const bytes = await subject.read(start, Math.min(piece, length));
    assert.ok(
      allAre(bytes, 0),
      `${bytes.length} bytes at ${start} are not all zero after ${after}`,
    );
  }
}
