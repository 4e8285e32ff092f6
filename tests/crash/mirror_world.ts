/**
 * A mirror in a world that goes wrong by seeded chance, and a model that knows what it has promised.
 *
 * The fault model. Legs and log are files of a machine that forgets at a loss of power what was not
 * flushed, in any order and in part; the end of the process alone forgets nothing. A leg can fail: its
 * writes do nothing or half of what they should, its reads and flushes fail, it cannot be opened. Legs that
 * have failed are added again some time later. At least one leg that is in sync works all the time.
 *
 * What has to hold. A read gives the last value that was written and answered, or one that is being written.
 * After a loss of power it gives that of the last write that was made durable, or a later one; what was read
 * once stays. On the media all legs have the same in regions that the log calls clean, and legs that the log
 * calls in sync have every cell with a value that may be there. Once all was copied the legs are equal.
 *
 * @module
 */
import assert from "node:assert/strict";
import { file } from "../../backends/file.ts";
import type { LegSource } from "../../backends/mirror/leg.ts";
import { openMirror } from "../../backends/mirror/open.ts";
import { decodeRecord, identitiesOf, recordedState } from "../../backends/mirror/record.ts";
import type { Clock } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend, Opened } from "../../lib/block/types.ts";
import { readLog } from "../../lib/dirty_log/disk_layout.ts";
import { RegionBitmap } from "../../lib/dirty_log/region_bitmap.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { MemoryLog, SeededRandom, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

/** What a value is written to whole or not at all, in bytes. */
export const CELL_BYTES = 512;
/** Bytes of a region. */
export const REGION_BYTES = 16_384;
const REGIONS = 12;
/** Bytes of the mirror; the last region is short. */
export const SIZE: number = REGION_BYTES * REGIONS - 4 * CELL_BYTES;
const CELLS: number = SIZE / CELL_BYTES;
const CELLS_PER_WRITE = 8;
/** Turns of microtasks after which something that has to come has not come. */
const TURNS_MAX = 400_000;
/** Turns of microtasks between two that let timers fire. */
const TIMER_TURNS = 10_000;

/** A bug that is planted, to see that it is found. */
export type Bug =
  | "none"
  /** Flushes of a leg do nothing: regions are cleared before their data is safe. */
  | "clear before data is flushed"
  /** Marks get to the log when the write they are for is done. */
  | "mark after write"
  /** What is written down of a leg that failed gets lost. */
  | "drop is not durable"
  /** The log calls regions clean that are not: legs that lack them are read. */
  | "leg is read that is not in sync"
  /** A copy is written some time after it was said to be. */
  | "copy races a write"
  /** Marks are never flushed. */
  | "marks are not flushed";

/** Time that goes on whenever somebody waits for it. */
export class HastyClock implements Clock {
  #now_us = 0;
  #sleeps = 0;
  readonly #random: SeededRandom;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
  }

  now(): number {
    return this.#now_us += 3;
  }

  wall(): number {
    return this.#now_us / 1000;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const due_us = this.#now_us + ms * 1000;
    for (let turns = 20 + this.#random.below(60); turns > 0; turns -= 1) await Promise.resolve();
    // Whoever waits for ever must not keep a test from failing.
    this.#sleeps += 1;
    if (this.#sleeps % 64 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    signal?.throwIfAborted();
    this.#now_us = Math.max(this.#now_us, due_us);
  }
}

/** What of a leg fails now. */
interface Faults {
  open: boolean;
  write: boolean;
  read: boolean;
  flush: boolean;
}

/** What the model knows of a cell. */
interface Cell {
  /** Values that a read may give if nothing is being written. */
  now: Set<number>;
  /** Values that may be there after a loss of power. */
  kept: Set<number>;
  /** A write that is under way. */
  writing: number | null;
  /** Rises with each write. */
  version: number;
}

const noFaults = (): Faults => ({ open: false, write: false, read: false, flush: false });

/** See the top of the file. */
export class MirrorWorld {
  readonly random: SeededRandom;
  readonly log = new MemoryLog();
  readonly files: CrashFiles;
  readonly faults: Faults[];
  /** Operations that were answered well, answered with an error, and media that were looked at. */
  readonly counts = { done: 0, failed: 0, crashes: 0, drops: 0 };
  opened: Opened | null = null;
  readonly #bug: Bug;
  readonly #cells: Cell[];
  readonly #legs: number;
  /** Reads settle what a crash has left open: not if legs take over from each other. */
  readonly #strict: boolean;
  #value = 0;
  /** Buffers that clients write from: what comes from another one is a copy. */
  readonly #written = new WeakSet<ArrayBufferLike>();

  constructor(seed: number, bug: Bug, legs: number, strict: boolean) {
    this.random = new SeededRandom(seed);
    this.files = new CrashFiles({ seed: seed ^ 0x5bd1e995 });
    this.#bug = bug;
    this.#legs = legs;
    this.#strict = strict;
    this.faults = Array.from({ length: legs }, noFaults);
    this.#cells = Array.from({ length: CELLS }, () => ({
      now: new Set([0]),
      kept: new Set([0]),
      writing: null,
      version: 0,
    }));
  }

  chance(one: number): boolean {
    return this.random.below(one) === 0;
  }

  get backend(): Backend {
    assert.ok(this.opened !== null);
    return this.opened.backend;
  }

  status(): NonNullable<ReturnType<NonNullable<NonNullable<Opened["management"]>["mirror"]>>> {
    const status = this.opened?.management?.mirror?.();
    assert.ok(status !== undefined);
    return status;
  }

  /** The files of one life of the process, with the bug in them. */
  #processFiles(): FileAccess {
    const held: (() => void)[] = [];
    return {
      open: (path, options) => {
        const inner = this.files.open(path, options);
        if (path !== "/log") return inner;
        return this.#withBug(inner, held);
      },
    };
  }

  #withBug(inner: RawFile, held: (() => void)[]): RawFile {
    const bug = this.#bug;
    const write = (from: Uint8Array, offset: number): void => {
      const bytes = from.slice();
      const isNote = offset === 512 && bytes.length === 512;
      if (bug === "drop is not durable" && isNote) return;
      if (bug === "leg is read that is not in sync" && offset >= 1024) bytes.fill(0xff);
      if (bug === "mark after write" && offset >= 1024) {
        held.push(() => inner.write(bytes, offset));
      } else inner.write(bytes, offset);
    };
    const flushAsync = async (): Promise<void> => {
      if (bug === "marks are not flushed") return;
      if (bug === "mark after write") {
        // The answer comes first; what was held follows when a write has had its time.
        const late = held.splice(0);
        (async () => {
          for (let turns = 60; turns > 0; turns -= 1) await Promise.resolve();
          for (const each of late) each();
        })().catch(() => {});
        return;
      }
      await inner.flushAsync();
    };
    return new Proxy(inner, {
      get(target, name): unknown {
        if (name === "write") return write;
        if (name === "flushAsync") return flushAsync;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  #source(at: number, files: FileAccess): LegSource {
    const context = testContext({ files, mayBlock: false, log: this.log });
    const options = { path: `/leg${at}`, size: SIZE, direct: false, discard: true, lock: true };
    return {
      name: `file:/leg${at}`,
      identity: `file:/leg${at}`,
      open: async () => {
        if (this.faults[at]?.open) throw new BlockError("EIO", "Cannot open: the leg is away");
        const { backend } = await file.open(options, context);
        return { backend: this.#faulty(at, backend) };
      },
    };
  }

  #faulty(at: number, inner: Backend): Backend {
    const turns = async (): Promise<void> => {
      for (let left = this.random.below(8); left > 0; left -= 1) await Promise.resolve();
    };
    const check = (what: keyof Faults): void => {
      if (this.faults[at]?.[what]) {
        throw new BlockError("EIO", `Cannot ${what}: the leg has failed`);
      }
    };
    return {
      geometry: inner.geometry,
      capabilities: { synchronous: false, fua: false },
      read: async (into, offset) => {
        await turns();
        check("read");
        await inner.read(into, offset);
      },
      write: async (from, offset, options) => {
        const bytes = from.slice();
        const isCopy = !this.#written.has(from.buffer);
        if (this.#bug === "copy races a write" && isCopy) {
          turns().then(turns).then(turns).then(turns).then(() =>
            inner.write(bytes, offset, options)
          ).catch(() => {});
          return;
        }
        await turns();
        if (this.faults[at]?.write && this.chance(2)) {
          const half = Math.floor(from.length / CELL_BYTES / 2) * CELL_BYTES;
          if (half > 0) await inner.write(from.subarray(0, half), offset, options);
        }
        check("write");
        await inner.write(from, offset, options);
      },
      flush: async () => {
        check("flush");
        if (this.#bug === "clear before data is flushed" && at === 1) return;
        await inner.flush();
      },
      zero: async (offset, length, options) => {
        await turns();
        check("write");
        await inner.zero?.(offset, length, options);
      },
      trim: async (offset, length, options) => {
        await turns();
        check("write");
        await inner.trim?.(offset, length, options);
      },
      [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
    };
  }

  async open(): Promise<void> {
    const files = this.#processFiles();
    const clock = new HastyClock(this.random.uint32());
    const legs = Array.from({ length: this.#legs }, (_, at) => this.#source(at, files));
    this.opened = await openMirror(legs, {
      log: "/log",
      regionBytes: REGION_BYTES,
      rate: 0,
      source: 1,
      nosync: false,
      volatile: false,
    }, testContext({ files, clock, log: this.log, mayBlock: false, random: this.random }));
  }

  /** Writes or zeroes a run of cells that nobody else writes to; errors are the model's as well. */
  async write(
    start: number,
    count: number,
    how: "write" | "zero" | "trim",
    fua: boolean,
  ): Promise<void> {
    const cells = this.#cells.slice(start, start + count);
    const value = how === "write" ? this.#value += 1 : 0;
    for (const cell of cells) {
      assert.equal(cell.writing, null);
      cell.writing = value;
      cell.version += 1;
      cell.kept.add(value);
    }
    const offset = start * CELL_BYTES, length = count * CELL_BYTES;
    const { backend } = this;
    try {
      if (how === "zero") {
        await backend.zero?.(offset, length, { fua, mayTrim: this.chance(2), fastOnly: false });
      } else if (how === "trim") await backend.trim?.(offset, length, { fua });
      else {
        const words = new Uint32Array(length / 4).fill(value);
        this.#written.add(words.buffer);
        await backend.write(new Uint8Array(words.buffer), offset, { fua });
      }
      for (const cell of cells) {
        cell.now = new Set([value]);
        if (fua) cell.kept = new Set([value]);
      }
      this.counts.done += 1;
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
      for (const cell of cells) cell.now.add(value);
      this.counts.failed += 1;
    }
    for (const cell of cells) cell.writing = null;
  }

  async flush(): Promise<void> {
    const before = this.#cells.map(({ writing, version }) => writing === null ? version : -1);
    try {
      await this.backend.flush();
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
      this.counts.failed += 1;
      return;
    }
    this.#cells.forEach((cell, at) => {
      if (before[at] === cell.version) cell.kept = new Set(cell.now);
    });
    this.counts.done += 1;
  }

  async read(start: number, count: number): Promise<void> {
    const cells = this.#cells.slice(start, start + count);
    const before = cells.map(({ version, writing, now }) => ({
      version,
      allowed: new Set(writing === null ? now : [...now, writing]),
    }));
    const bytes = new Uint8Array(count * CELL_BYTES);
    try {
      await this.backend.read(bytes, start * CELL_BYTES);
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
      this.counts.failed += 1;
      return;
    }
    cells.forEach((cell, at) => {
      const known = before[at];
      if (known?.version !== cell.version || cell.writing !== null) return;
      const value = this.#valueOf(bytes, at);
      assert.ok(
        known.allowed.has(value),
        `cell ${start + at} reads ${value}, and may be ${[...known.allowed].join()}`,
      );
      if (this.#strict && known.allowed.size === cell.now.size) cell.now = new Set([value]);
    });
    this.counts.done += 1;
  }

  /** The value of a cell in bytes that begin with cells; fails if it is a mixture. */
  #valueOf(bytes: Uint8Array, at: number): number {
    const cell = bytes.subarray(at * CELL_BYTES, (at + 1) * CELL_BYTES);
    const view = new DataView(cell.buffer, cell.byteOffset, CELL_BYTES);
    const value = view.getUint32(0, true);
    for (let word = 4; word < CELL_BYTES; word += 4) {
      assert.equal(view.getUint32(word, true), value, "a cell is a mixture");
    }
    return value;
  }

  /** Ends the process, or the machine; what was under way ends with errors. */
  async crash(how: "kill" | "power", inFlight: readonly Promise<void>[]): Promise<void> {
    const { opened } = this;
    // What a cell may be is known of the moment of the crash.
    for (const cell of this.#cells) {
      const writing = cell.writing === null ? [] : [cell.writing];
      const left = how === "kill" ? new Set([...cell.now, ...writing]) : new Set(cell.kept);
      cell.now = left;
      cell.kept = new Set(how === "kill" ? [...cell.kept, ...left] : left);
    }
    this.files.crash(how === "kill" ? 1 : undefined);
    this.counts.crashes += 1;
    const frozen = this.#cells.map(({ now, kept }) => ({ now, kept }));
    this.opened = null;
    await Promise.all(inFlight);
    await Promise.allSettled([opened?.backend[Symbol.asyncDispose]()]);
    frozen.forEach((cell, at) => Object.assign(this.#cells[at] ?? {}, cell));
  }

  /** Looks at the media while nobody uses them. */
  checkMedia(): void {
    const content = (path: string): Uint8Array => {
      const inner = this.files.open(path, { readOnly: true, direct: false, lock: false });
      const bytes = new Uint8Array(inner.size());
      inner.read(bytes, 0);
      inner.close();
      return bytes;
    };
    const inner = this.files.open("/log", { readOnly: true, direct: false, lock: false });
    const found = readLog(inner, REGIONS, CELL_BYTES);
    inner.close();
    const note = decodeRecord(found.note);
    if (found.header.kind !== "log" || note.kind !== "record") return;
    const clean = new RegionBitmap(REGIONS);
    clean.load(found.bits, found.regions);
    const identities = identitiesOf(this.faults.map((_, at) => `file:/leg${at}`));
    const legs = this.faults.map((_, at) => content(`/leg${at}`));
    for (let region = 0; region < REGIONS; region += 1) {
      if (!clean.has(region)) continue;
      const [first, ...others] = legs.map((leg) =>
        leg.subarray(region * REGION_BYTES, (region + 1) * REGION_BYTES)
      );
      for (const other of others) {
        assert.deepEqual(other, first, `legs differ in region ${region}, which is clean`);
      }
    }
    legs.forEach((leg, at) => {
      const recorded = note.record.legs.find(({ identity }) => identity === identities[at]);
      if (recorded === undefined || recordedState(note.record, recorded) !== "in-sync") return;
      this.#cells.forEach(({ now }, cell) => {
        const value = this.#valueOf(leg, cell);
        assert.ok(
          now.has(value),
          `leg ${at} is in sync and has ${value} in cell ${cell}, not ${[...now].join()}`,
        );
      });
    });
  }

  /** Lets time pass until `what` is true. */
  async until(what: string, condition: () => boolean): Promise<void> {
    for (let turns = 0; !condition(); turns += 1) {
      assert.ok(turns < TURNS_MAX, `waited too long for ${what}: ${this.log.lines.at(-1)}`);
      // The clock uses a timer now and then, which microtasks alone would keep from firing.
      if (turns % TIMER_TURNS === TIMER_TURNS - 1) await new Promise((go) => setTimeout(go, 0));
      else await Promise.resolve();
    }
  }

  /** All legs work again, everything is copied: then all of them are equal, and as the model says. */
  async checkEqual(): Promise<void> {
    this.heal();
    const failed = (): boolean => this.status().legs.some(({ state }) => state === "failed");
    const clean = (): boolean => this.status().resync === null && this.status().dirty === 0;
    // What failed in the background before all was well again is found out a little later.
    for (let rounds = 0; rounds < 10 && (failed() || !clean()); rounds += 1) {
      await this.addMissing();
      await this.until("all to be copied and clean", () => failed() || clean());
    }
    assert.ok(clean() && !failed(), "legs go on failing");
    for (let start = 0; start < CELLS; start += CELLS_PER_WRITE) {
      await this.read(start, Math.min(CELLS_PER_WRITE, CELLS - start));
    }
    const { backend } = this;
    this.opened = null;
    await backend[Symbol.asyncDispose]();
    this.checkMedia();
  }

  heal(): void {
    this.faults.forEach((_, at) => this.faults[at] = noFaults());
  }

  async addMissing(): Promise<void> {
    for (const { leg, state } of this.status().legs) {
      if (state !== "failed" || this.faults[leg - 1]?.open) continue;
      await this.opened?.management?.addLeg?.(leg, this.chance(4));
    }
  }

  /** Some operation, begun; the cells of writes that are under way are left alone. */
  begin(): Promise<void> {
    const count = 1 + this.random.below(CELLS_PER_WRITE);
    const start = this.random.below(CELLS - count);
    const dice = this.random.below(20);
    if (dice < 2) return this.flush();
    if (dice < 8) return this.read(start, count);
    if (this.#cells.slice(start, start + count).some(({ writing }) => writing !== null)) {
      return this.read(start, count);
    }
    const how = dice < 17 ? "write" : dice < 19 ? "zero" : "trim";
    return this.write(start, count, how, this.chance(5));
  }

  /** Lets a leg fail if another one that works is in sync. */
  breakLeg(): void {
    const at = this.random.below(this.#legs);
    const others = this.status().legs.some(({ leg, state }) =>
      leg - 1 !== at && state === "in-sync" && this.#works(leg - 1)
    );
    const faults = this.faults[at];
    if (!others || faults === undefined) return;
    faults.open = this.chance(2);
    faults.write = !this.chance(4);
    faults.flush = this.chance(2);
    faults.read = this.chance(2);
    this.counts.drops += 1;
  }

  #works(at: number): boolean {
    return Object.values(this.faults[at] ?? {}).every((fault) => fault === false);
  }

  async turns(most: number): Promise<void> {
    for (let left = this.random.below(most); left > 0; left -= 1) await Promise.resolve();
  }
}
