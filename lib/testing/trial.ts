/**
 * One run of one case: the storage under test with the model of what it ought to hold, and the verbs
 * that do to both the same.
 *
 * @module
 */
import type { Backend, Opened, ZeroOptions } from "../block/types.ts";
import { type BlockError, toBlockError } from "../block/errors.ts";
import { type FixedContent, Model } from "./model.ts";
import type { SeededRandom } from "./random.ts";
import { fit, type Range } from "./ranges.ts";
import { type Mode, Subject } from "./subject.ts";

/** Storage as an author's function opens it. */
export type Openable = Opened | Backend;

/** Settings of the kit with all defaults in place. */
export interface Settings {
  readonly seed: number;
  readonly steps: number;
  readonly windowBytes: number;
  readonly largestBytes: number;
  readonly fixedContent: FixedContent | null;
  readonly reopen: (() => Promise<Openable>) | null;
  readonly crash: (() => Promise<Openable>) | null;
}

/** Verbs and properties that a case cannot do without. */
export type Need =
  | "bytes"
  | "write"
  | "store"
  | "trim"
  | "native zero"
  | "zero"
  | "extents"
  | "cache"
  | "resize"
  | "read-only"
  | "reopen"
  | "crash"
  | "small maximum"
  | "fixed content";

/** One case, as the files in cases/ list them. */
export interface CaseDefinition {
  /** A sentence without a subject: "reads what was written". */
  readonly name: string;
  /** Where it runs; both if left out. */
  readonly modes?: readonly Mode[];
  /** It is skipped where one is missing. */
  readonly needs: readonly Need[];
  readonly run: (trial: Trial) => Promise<void>;
}

/** The backend of what was opened. */
export function backendOf(opened: Openable): Backend {
  return "backend" in opened ? opened.backend : opened;
}

/** The error that a call fails with; null if it works. A failed assertion goes through. */
export async function failureOf(call: () => Promise<unknown>): Promise<BlockError | null> {
  try {
    await call();
    return null;
  } catch (error) {
    if (error instanceof Error && error.name === "AssertionError") throw error;
    return toBlockError(error);
  }
}

/** A run of a case. */
export class Trial {
  /** The storage under test. */
  subject: Subject;
  /** What it ought to hold. */
  readonly model: Model;
  /** Chance of this case. */
  readonly random: SeededRandom;
  /** Settings of the kit. */
  readonly settings: Settings;
  readonly #mode: Mode;

  /** Starts with an opened backend. */
  constructor(backend: Backend, mode: Mode, random: SeededRandom, settings: Settings) {
    this.subject = new Subject(backend, mode);
    this.model = new Model(settings.fixedContent);
    this.random = random;
    this.settings = settings;
    this.#mode = mode;
  }

  /** Whether the storage and the settings have what a case needs. */
  has(need: Need): boolean {
    const { backend, geometry, device } = this.subject;
    const writable = !geometry.readOnly;
    switch (need) {
      case "bytes":
        return geometry.size > 0;
      case "write":
        return writable;
      case "store":
        return writable && this.settings.fixedContent === null;
      case "trim":
        return writable && backend.trim !== undefined;
      case "native zero":
        return writable && backend.zero !== undefined;
      case "zero":
        return writable && this.subject.hasZero;
      case "extents":
        return backend.extents !== undefined || device !== null;
      case "cache":
        return backend.cache !== undefined;
      case "resize":
        return writable && backend.resize !== undefined;
      case "read-only":
        return geometry.readOnly;
      case "reopen":
        return this.settings.reopen !== null;
      case "crash":
        return this.settings.crash !== null;
      case "small maximum":
        return geometry.maximum < Math.min(geometry.size, this.settings.largestBytes);
      case "fixed content":
        return this.settings.fixedContent !== null;
    }
  }

  /** Random bytes, none of them 0, so that zeroed ranges stand out. */
  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.random.fill(bytes);
    const view = new DataView(bytes.buffer);
    const words = length - length % 4;
    for (let at = 0; at < words; at += 4) view.setInt32(at, view.getInt32(at) | 0x01010101);
    for (let at = words; at < length; at += 1) bytes[at] = (bytes[at] ?? 0) | 1;
    return bytes;
  }

  /** Writes random bytes, in pieces if the range is longer than one write may be. */
  async write({ offset, length }: Range, fua = false): Promise<void> {
    const bytes = this.bytes(length);
    const durable = fua && this.subject.hasFua;
    const { maximum } = this.subject.geometry;
    for (let at = 0; at < length; at += maximum) {
      const piece = bytes.subarray(at, Math.min(at + maximum, length));
      await this.subject.write(piece, offset + at, durable);
    }
    this.model.write(bytes, offset);
  }

  /** Reads in pieces and compares with the model. */
  async verify({ offset, length }: Range, after: string): Promise<void> {
    const { maximum } = this.subject.geometry;
    for (let at = 0; at < length; at += maximum) {
      const actual = await this.subject.read(offset + at, Math.min(maximum, length - at));
      this.model.compare(actual, offset + at, after);
    }
  }

  /** A range with what is beside it. */
  around({ offset, length }: Range): Range {
    const { geometry } = this.subject;
    const margin = Math.max(geometry.minimum, 1024);
    const start = Math.max(offset - margin, 0);
    return fit(geometry, start, offset - start + length + margin) ?? { offset, length };
  }

  /** Compares everything that was ever written, up to the end of the device. */
  async verifyAll(after: string): Promise<void> {
    const { geometry } = this.subject;
    for (const run of this.model.knownRuns(Math.min(geometry.maximum, 2 ** 20))) {
      const range = fit(geometry, run.offset, run.length + geometry.minimum);
      if (range !== null) await this.verify(range, after);
    }
  }

  /** Zeroes. True if it was done; false if it was refused, as is allowed, and then nothing may change. */
  async zero({ offset, length }: Range, options: Partial<ZeroOptions> = {}): Promise<boolean> {
    const fua = options.fua === true && this.subject.hasFua;
    const failure = await failureOf(() => this.subject.zero(offset, length, { ...options, fua }));
    if (failure === null) {
      this.model.zero(offset, length);
      return true;
    }
    // Without fastOnly the Device makes up for it by writing zeroes.
    const mayRefuse = options.fastOnly === true || this.subject.device === null;
    if (failure.errno !== "EOPNOTSUPP" || !mayRefuse) throw failure;
    return false;
  }

  /** Trims. True if it was done; false if the storage cannot after all, and then nothing may change. */
  async trim({ offset, length }: Range, fua = false): Promise<boolean> {
    const durable = fua && this.subject.hasFua;
    const failure = await failureOf(() => this.subject.trim(offset, length, durable));
    if (failure === null) {
      this.model.forget(offset, length);
      return true;
    }
    if (failure.errno !== "EOPNOTSUPP") throw failure;
    return false;
  }

  /** Ends the storage and opens it again with `open`. */
  async replace(open: () => Promise<Openable>, disposeFirst: boolean): Promise<void> {
    await this.subject.settle();
    if (disposeFirst) await this.subject.dispose();
    this.subject = new Subject(backendOf(await open()), this.#mode);
  }
}
