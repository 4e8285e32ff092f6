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
export class ReadAhead {
  readonly #ring: ReadRing;
  readonly #now_ms: () => number;
  /** Those that have memory, by tag, oldest first. */
  readonly #slots = new Map<number, Slot>();
  /** Those that somebody may get, by offset. */
  readonly #byOffset = new Map<number, Slot>();
  /** 1 for each unit of memory that is in use. */
  readonly #used: Uint8Array;
  #nextUnit = 0;
  #nextTag = 1;

  /** Takes over the ring. `now_ms` is the time from any beginning. */
  constructor(ring: ReadRing, now_ms: () => number) {
    this.#ring = ring;
    this.#now_ms = now_ms;
    this.#used = new Uint8Array(Math.floor(ring.memory.length / AHEAD_UNIT_BYTES));
  }

  /** Reads that are under way or wait to be asked for, void ones included. */
  get count(): number {
    return this.#slots.size;
  }

  /** Begins to read a range; does nothing if there is no room for it. It is submitted with the next `take`. */
  announce(offset: number, length: number): void {
    if (length > AHEAD_READ_BYTES_MAX || this.#byOffset.has(offset)) return;
    const units = Math.ceil(length / AHEAD_UNIT_BYTES);
    const unit = this.#makeRoom(units);
    if (unit < 0) return;
    this.#used.fill(1, unit, unit + units);
    const tag = this.#nextTag;
    this.#nextTag = tag % 0x7fff_ffff + 1;
    const begun_ms = this.#now_ms();
    const state = "under way";
    const slot: Slot = { tag, offset, length, unit, units, begun_ms, state, void: false };
    this.#slots.set(tag, slot);
    this.#byOffset.set(offset, slot);
    this.#ring.begin(tag, unit * AHEAD_UNIT_BYTES, length, offset);
  }

  /** Submits what was announced; fills `into` if its range was read ahead, waiting for it. False if it was not. */
  take(into: Uint8Array, offset: number): boolean {
    this.#ring.submit();
    const slot = this.#find(offset, into.length);
    if (slot === null) return false;
    // What is still under way is as new as a read that begins now.
    const stale = slot.state === "done" && this.#isStale(slot);
    while (slot.state === "under way") {
      this.#ring.wait();
      this.#reap();
    }
    const usable = slot.state === "done" && !stale;
    if (usable) {
      const at = slot.unit * AHEAD_UNIT_BYTES + offset - slot.offset;
      into.set(this.#ring.memory.subarray(at, at + into.length));
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

  /** Nothing that was read so far is given. */
  forget(): void {
    for (const slot of [...this.#byOffset.values()]) this.#drop(slot);
  }

  /** Waits for what is under way, and gives the ring back. Throws what waiting throws: the ring is kept then. */
  close(): void {
    this.forget();
    while (this.#ring.inFlight > 0) {
      this.#ring.wait();
      this.#reap();
    }
    this.#ring.close();
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
  #reap(): void {
    for (let done = this.#ring.next(); done !== null; done = this.#ring.next()) {
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
  #makeRoom(units: number): number {
    this.#reap();
    let unit = this.#findUnits(units);
    if (unit < 0) {
      for (const slot of [...this.#byOffset.values()]) if (this.#isStale(slot)) this.#drop(slot);
      unit = this.#findUnits(units);
    }
    return this.#ring.room > 0 ? unit : -1;
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
