/**
 * Contexts for tests: a clock that moves when told, a log that remembers, a seeded random source.
 *
 * @module
 */
import type { Clock, Log, OpenContext, Random } from "../../lib/block/context.ts";
import type { FileAccess } from "../../lib/sys/file_access.ts";

/** A clock that stands still until `advance`. */
export class ManualClock implements Clock {
  #nowUs = 0;
  #sleepers: { dueUs: number; wake: () => void }[] = [];

  now(): number {
    return this.#nowUs;
  }

  wall(): number {
    return this.#nowUs / 1000;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.#sleepers.push({ dueUs: this.#nowUs + ms * 1000, wake: resolve });
    });
  }

  /** Moves time by `us` µs and wakes whoever is due. */
  advance(us: number): void {
    this.#nowUs += us;
    const due = this.#sleepers.filter((sleeper) => sleeper.dueUs <= this.#nowUs);
    this.#sleepers = this.#sleepers.filter((sleeper) => sleeper.dueUs > this.#nowUs);
    for (const sleeper of due) sleeper.wake();
  }
}

/** A log that keeps its lines as "level: message". */
export class MemoryLog implements Log {
  readonly lines: string[] = [];
  error(message: string, cause?: unknown): void {
    this.lines.push(`error: ${message}${cause instanceof Error ? ` (${cause.message})` : ""}`);
  }
  warn(message: string): void {
    this.lines.push(`warn: ${message}`);
  }
  info(message: string): void {
    this.lines.push(`info: ${message}`);
  }
  debug(message: string): void {
    this.lines.push(`debug: ${message}`);
  }
}

/** mulberry32: the same seed gives the same numbers. */
export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  uint32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** An integer from 0 to `bound` - 1. */
  below(bound: number): number {
    return Math.floor(this.uint32() / 2 ** 32 * bound);
  }

  fill(into: Uint8Array): void {
    for (let index = 0; index < into.length; index += 1) into[index] = this.uint32() & 0xff;
  }
}

/** Files for contexts of backends that must not touch any. */
const NO_FILES: FileAccess = {
  open(path): never {
    throw new Error(`A test without files opened ${path}`);
  },
};

/** A context for `open`; what is not given is a still clock, a memory log, seed 1 and no files. */
export function testContext(rest: Partial<OpenContext> = {}): OpenContext {
  return {
    clock: new ManualClock(),
    random: new SeededRandom(1),
    files: NO_FILES,
    log: new MemoryLog(),
    signal: new AbortController().signal,
    readOnly: false,
    mayBlock: true,
    ...rest,
  };
}
