/**
 * What is read of a file ahead of those that ask for it, where no page cache does that: ranges are
 * announced, the reads of all that were announced are under way together, and whoever reads one of them
 * then waits for that one alone.
 *
 * What was read ahead is given once, and never after the range was changed: a change makes it void, also
 * while it is under way. The memory of a read that is void is used again only when the kernel is done
 * with it.
 *
 * @module
 */
import type { AheadNews, FileAhead } from "./file_access.ts";
import type { ReadRing } from "./io_uring.ts";
import { AHEAD_MS_MAX, AHEAD_READ_BYTES_MAX, AHEAD_UNIT_BYTES } from "./limits.ts";

/** "under way": the kernel has it; "done": its data are there; "failed": they are not. */
type State = "under way" | "done" | "failed";

interface Slot {
  readonly tag: number;
  readonly offset: number;
  readonly length: number;
  /** Its first unit of memory, and how many it has. */
  readonly unit: number;
  readonly units: number;
  readonly begun_ms: number;
  state: State;
  /** Nobody gets it any more. */
  void: boolean;
}

/** The reads ahead of one file. */
export class ReadAhead implements FileAhead {
  /** See FileAhead. */
  readonly cached = false;
  readonly #open: () => ReadRing | null;
  readonly #now_ms: () => number;
  /** Null if there is none to be had; undefined before it is needed. */
  #ring: ReadRing | null | undefined;
  /** Those that have memory, by tag, oldest first. */
  readonly #slots = new Map<number, Slot>();
  /** Those that somebody may get, by offset. */
  readonly #byOffset = new Map<number, Slot>();
  /** 1 for each unit of memory that is in use. */
  #used = new Uint8Array(0);
  #nextUnit = 0;
  #nextTag = 1;

  /** `open` gives a ring at the first announcement, or null if there is none. `now_ms` is any clock. */
  constructor(open: () => ReadRing | null, now_ms: () => number) {
    this.#open = open;
    this.#now_ms = now_ms;
  }

  /** Reads that are under way or wait to be asked for, void ones included. */
  get count(): number {
    return this.#slots.size;
  }

  /** See FileAhead. */
  get news(): AheadNews | null {
    return this.#ring ?? null;
  }

  /** See FileAhead. It is submitted with the next `look` or `take`. */
  announce(offset: number, length: number): void {
    if (length > AHEAD_READ_BYTES_MAX || this.#byOffset.has(offset)) return;
    const ring = this.#ring === undefined ? this.#openRing() : this.#ring;
    if (ring === null) return;
    const units = Math.ceil(length / AHEAD_UNIT_BYTES);
    const unit = this.#makeRoom(ring, units);
    if (unit < 0) return;
    this.#used.fill(1, unit, unit + units);
    const tag = this.#nextTag;
    this.#nextTag = tag % 0x7fff_ffff + 1;
    const begun_ms = this.#now_ms();
    const state = "under way";
    const slot: Slot = { tag, offset, length, unit, units, begun_ms, state, void: false };
    this.#slots.set(tag, slot);
    this.#byOffset.set(offset, slot);
    ring.begin(tag, unit * AHEAD_UNIT_BYTES, length, offset);
  }

  /** See FileAhead. */
  isUnderWay(offset: number, length: number): boolean {
    return this.#byOffset.size > 0 && this.#find(offset, length)?.state === "under way";
  }

  /** See FileAhead. */
  look(wait: boolean): void {
    const ring = this.#ring;
    if (ring === null || ring === undefined || ring.inFlight === 0) return;
    if (wait) ring.wait();
    else ring.submit();
    this.#reap(ring);
  }

  /** Submits what was announced; fills `into` if its range was read ahead, waiting for it. False if it was not. */
  take(into: Uint8Array, offset: number): boolean {
    const ring = this.#ring;
    if (ring === null || ring === undefined) return false;
    ring.submit();
    const slot = this.#find(offset, into.length);
    if (slot === null) return false;
    // What is still under way is as new as a read that begins now.
    const stale = slot.state === "done" && this.#isStale(slot);
    while (slot.state === "under way") {
      ring.wait();
      this.#reap(ring);
    }
    const usable = slot.state === "done" && !stale;
    if (usable) {
      const at = slot.unit * AHEAD_UNIT_BYTES + offset - slot.offset;
      into.set(ring.memory.subarray(at, at + into.length));
    }
    // Parts of a range are asked for in their order.
    if (!usable || offset + into.length === slot.offset + slot.length) this.#drop(slot);
    return usable;
  }

  /** A range is going to be changed: nothing that was read of it before is given. */
  invalidate(offset: number, length: number): void {
    if (this.#byOffset.size === 0) return;
    for (const slot of [...this.#byOffset.values()]) {
      if (slot.offset < offset + length && offset < slot.offset + slot.length) this.#drop(slot);
    }
  }

  /** See FileAhead. */
  forget(): void {
    for (const slot of [...this.#byOffset.values()]) this.#drop(slot);
  }

  /** Waits for what is under way, and gives the ring back. Throws what waiting throws: the ring is kept then. */
  close(): void {
    const ring = this.#ring;
    this.#ring = null;
    this.forget();
    if (ring === null || ring === undefined) return;
    while (ring.inFlight > 0) {
      ring.wait();
      this.#reap(ring);
    }
    ring.close();
  }

  #openRing(): ReadRing | null {
    const ring = this.#open();
    this.#ring = ring;
    this.#used = new Uint8Array(Math.floor((ring?.memory.length ?? 0) / AHEAD_UNIT_BYTES));
    return ring;
  }

  /** What was announced and has all of a range. */
  #find(offset: number, length: number): Slot | null {
    const same = this.#byOffset.get(offset);
    if (same !== undefined && same.length >= length) return same;
    for (const slot of this.#byOffset.values()) {
      const has = slot.offset <= offset && offset + length <= slot.offset + slot.length;
      if (has) return slot;
    }
    return null;
  }

  /** Takes all completions that are there. */
  #reap(ring: ReadRing): void {
    for (let done = ring.next(); done !== null; done = ring.next()) {
      const slot = this.#slots.get(done.tag);
      if (slot === undefined) throw new Error(`Cannot find the read ${done.tag}: it was not begun`);
      // One that ends early is read again: it ends at the end of the file, or for a reason that shows.
      slot.state = done.result === slot.length ? "done" : "failed";
      if (slot.void) this.#free(slot);
    }
  }

  /** Nobody gets it any more; its memory is free as soon as the kernel does not need it. */
  #drop(slot: Slot): void {
    this.#byOffset.delete(slot.offset);
    slot.void = true;
    if (slot.state !== "under way") this.#free(slot);
  }

  #free({ tag, unit, units }: Slot): void {
    this.#slots.delete(tag);
    this.#used.fill(0, unit, unit + units);
  }

  /** Nobody has asked for it in time. */
  #isStale({ begun_ms }: Slot): boolean {
    return this.#now_ms() - begun_ms > AHEAD_MS_MAX;
  }

  /** The first of so many free units, or -1. Only what is stale gives way: the oldest is asked for next. */
  #makeRoom(ring: ReadRing, units: number): number {
    this.#reap(ring);
    let unit = this.#findUnits(units);
    if (unit < 0) {
      for (const slot of [...this.#byOffset.values()]) if (this.#isStale(slot)) this.#drop(slot);
      unit = this.#findUnits(units);
    }
    return ring.room > 0 ? unit : -1;
  }

  /** So many free units in a row, from where the last ones were found on; -1 if there are none. */
  #findUnits(units: number): number {
    const used = this.#used;
    for (const [from, end] of [[this.#nextUnit, used.length], [0, used.length]] as const) {
      for (let start = from; start + units <= end;) {
        const taken = used.subarray(start, start + units).lastIndexOf(1);
        if (taken < 0) {
          this.#nextUnit = start + units;
          return start;
        }
        start += taken + 1;
      }
    }
    return -1;
  }
}
