/**
 * One dirty-region log: which regions of a mirror may differ between its legs. A region is marked
 * before it is written to and cleared when all legs have the same again; one that is out of sync is
 * copied first. With a store the marks outlive the machine: a region that may differ is never clean on
 * the medium once a `flush` has been answered. Clears are of no hurry: they wait for other writes to
 * their block, up to a number and a time.
 *
 * Pure but for its store. Errors are BlockError: EINVAL for a region that is not there, EIO if the
 * medium fails; the log then goes on in memory and each flush tries to write all of it again.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import type { DiskStore } from "./disk_store.ts";
import { CLEAR_HOLD_US, CLEARS_HELD_MAX } from "./limits.ts";
import { formatLogArguments, type LogArguments } from "./log_arguments.ts";
import { RegionBitmap } from "./region_bitmap.ts";

/** Where a disk log is. */
export interface LogMedium {
  /** What writes it. */
  readonly store: DiskStore;
  /** What status lines call it: the numbers of a device, or a path. */
  readonly label: string;
}

/** What a log works with. */
export interface DirtyLogOptions {
  /** The table's name for it, for messages. */
  readonly name: string;
  /** What the table says. */
  readonly arguments: LogArguments;
  /** Null for a log in memory. */
  readonly medium: LogMedium | null;
  /**
   * The kernel had this log before and its daemon was lost: nothing that was in memory alone is known
   * any more, whatever the table says.
   */
  readonly reconnected: boolean;
  /** Messages for a human. */
  readonly log: Log;
  /** Monotonic time in µs. */
  now_us(): number;
}

/** Where a log is in its life: made, in use, in use without recovery, not in use any more. */
export type LogPhase = "pending" | "active" | "halted" | "suspended";

/** State of a medium as status lines have it: alive, dead, or its flush failed. */
type MediumState = "A" | "D" | "F";

/** See the top of the file. */
export class DirtyLog {
  /** The table's arguments. */
  readonly arguments: LogArguments;
  readonly #options: DirtyLogOptions;
  readonly #clean: RegionBitmap;
  readonly #sync: RegionBitmap;
  #phase: LogPhase = "pending";
  #resumed = false;
  /** Regions that became clean since their block was written. */
  readonly #held = new Set<number>();
  #heldSince_us = 0;
  #search = 0;
  #recovering: number | null = null;
  #mediumState: MediumState = "A";
  #waitsForMedium = false;

  /** A log that nobody uses yet. */
  constructor(options: DirtyLogOptions) {
    this.#options = options;
    this.arguments = options.arguments;
    const { regions, sync, place } = options.arguments;
    this.#clean = new RegionBitmap(regions);
    this.#sync = new RegionBitmap(regions);
    if (place === null && sync === "nosync" && !options.reconnected) {
      this.#clean.fill(true);
      this.#sync.fill(true);
    }
  }

  /** Where it is in its life. */
  get phase(): LogPhase {
    return this.#phase;
  }

  /** It was in use once. */
  get wasResumed(): boolean {
    return this.#resumed;
  }

  /** Regions in sync. Of a disk log that nobody has resumed: 0. */
  get syncCount(): number {
    return this.#sync.count;
  }

  /** Regions that may differ between the legs. */
  get dirtyCount(): number {
    return this.arguments.regions - this.#clean.count;
  }

  /**
   * Begins or goes on: the bits of a disk log are read. `before` is a log of the same mirror that this
   * one replaces: what is not clean there is not clean here. Throws EIO if the medium failed; the log
   * is then not in use, see `waitsForMedium`. Nothing for a log that is in use.
   */
  resume(before: DirtyLog | null): void {
    if (this.#phase === "active") return;
    this.#search = 0;
    this.#recovering = null;
    if (this.#phase !== "halted") this.#takeUp(before);
    this.#phase = "active";
    this.#resumed = true;
  }

  /**
   * The medium could not be read or written when the log was resumed. Nothing may be said of any region
   * then: of one that is called out of sync the kernel writes one leg, and the medium may call it clean.
   */
  get waitsForMedium(): boolean {
    return this.#waitsForMedium;
  }

  #takeUp(before: DirtyLog | null): void {
    const { medium, reconnected } = this.#options;
    const first = !this.#resumed;
    if (medium !== null) return this.#readDisk(medium, first);
    if (first && before !== null) this.#takeDirty(before);
    if (first && reconnected) {
      this.#warn("it was kept in memory by a daemon that is gone: all regions are dirty");
    }
  }

  #readDisk({ store }: LogMedium, first: boolean): void {
    this.#held.clear();
    this.#waitsForMedium = true;
    try {
      this.#load(store, first);
      this.#sync.fill(false);
      this.#sync.load(this.#clean.bytes, this.#clean.regions);
      store.rewrite(this.#clean);
    } catch (error) {
      this.#clean.fill(false);
      this.#sync.fill(false);
      throw this.#failed("D", error);
    }
    this.#mediumState = "A";
    this.#waitsForMedium = false;
  }

  #load(store: DiskStore, first: boolean): void {
    const { sync } = this.arguments;
    const found = store.load();
    this.#clean.fill(false);
    if (found.header.kind === "damaged") {
      this.#warn(`its header is damaged, ${found.header.reason}: all regions are dirty`);
      return;
    }
    const fresh = first && !this.#options.reconnected;
    if (fresh && sync === "sync") return;
    this.#clean.load(found.bits, found.regions);
    // What the medium has no bits for is clean only if the table vouches for it.
    if (fresh && sync === "nosync") this.#clean.fill(true, found.regions);
    else if (this.#options.reconnected && found.header.kind === "new") {
      this.#warn("its medium has no log any more: all regions are dirty");
    }
  }

  #takeDirty(before: DirtyLog): void {
    const scale = before.arguments.regionSectors / this.arguments.regionSectors;
    for (const { start, count } of before.#clean.runs(false)) {
      const end = Math.min(this.arguments.regions, Math.ceil((start + count) * scale));
      for (let region = Math.floor(start * scale); region < end; region += 1) {
        this.#clean.delete(region);
        this.#sync.delete(region);
      }
    }
  }

  /** No recovery is to be begun any more. */
  presuspend(): void {
    if (this.#phase === "active") this.#phase = "halted";
  }

  /** It is not used any more: everything is written. Throws EIO if that fails. */
  postsuspend(): void {
    if (this.#phase === "pending" || this.#phase === "suspended") return;
    this.#phase = "suspended";
    this.#recovering = null;
    this.writeOut();
  }

  /** Makes everything durable, clears as well. Throws EIO. */
  writeOut(): void {
    const { medium } = this.#options;
    if (medium === null || !this.#resumed) return;
    const { store } = medium;
    this.#onMedium(() => {
      if (store.unknown) return;
      store.write(this.#held, this.#clean, true);
      this.#held.clear();
    });
    this.#syncMedium(store);
  }

  /** True if the legs are known to have the same in a region. Throws EINVAL. */
  isClean(region: number): boolean {
    this.#check(region);
    return this.#clean.has(region);
  }

  /** True if all legs have a region, so that any may be read. Throws EINVAL. */
  inSync(region: number): boolean {
    this.#check(region);
    return this.#sync.has(region);
  }

  /**
   * Regions are about to be written to. Survives the end of this daemon when it returns, and that of the
   * machine after `flush`. Throws EINVAL, having done nothing, and EIO.
   */
  mark(regions: readonly number[]): void {
    for (const region of regions) this.#check(region);
    for (const region of regions) {
      this.#clean.delete(region);
      this.#held.delete(region);
    }
    const { medium } = this.#options;
    if (medium === null) return;
    const { store } = medium;
    // The flush that follows may reach another daemon, so what is answered here has to be out of here.
    if (store.unknown) return this.#syncMedium(store);
    this.#onMedium(() => {
      const toWrite = regions.filter((region) => store.mayBeClean(region));
      store.write(toWrite, this.#clean, true);
    });
  }

  /** The legs have the same in these regions again; those out of sync stay dirty. Throws EINVAL. */
  clear(regions: readonly number[]): void {
    for (const region of regions) this.#check(region);
    for (const region of regions) {
      if (!this.#sync.has(region) || !this.#clean.add(region)) continue;
      if (this.#options.medium === null) continue;
      if (this.#held.size === 0) this.#heldSince_us = this.#options.now_us();
      this.#held.add(region);
    }
  }

  /** Makes all marks durable. Throws EIO: then nothing may be written to the regions that were marked. */
  flush(): void {
    const { medium } = this.#options;
    if (medium === null) return;
    this.#syncMedium(medium.store);
    this.settle();
  }

  /** As `flush`, without keeping this thread: covers the marks of before the call. One at a time. */
  async flushLater(): Promise<void> {
    const { medium } = this.#options;
    if (medium === null) return;
    const { store } = medium;
    if (store.unknown) this.#syncMedium(store);
    else {
      await store.syncLater().catch((error: unknown) => {
        throw this.#failed("F", error);
      });
    }
    this.settle();
  }

  /** Leaves a note on the medium, see `DiskStore.writeNote`; durable after `flush`. Throws EIO. */
  writeNote(note: Uint8Array): void {
    const { medium } = this.#options;
    if (medium !== null) this.#onMedium(() => medium.store.writeNote(note));
  }

  /** A leg has come that has what was clean alone: all other regions are out of sync, and are copied. */
  loseSync(): void {
    this.#sync.load(this.#clean.bytes, this.#clean.regions);
    this.#search = 0;
    this.#recovering = null;
  }

  /** A leg has come of which nothing is known: all regions are dirty and out of sync, durably. Throws EIO. */
  dirtyAll(): void {
    this.#clean.fill(false);
    this.loseSync();
    this.#held.clear();
    const { medium } = this.#options;
    if (medium !== null) this.#onMedium(() => medium.store.rewrite(this.#clean));
  }

  /** Writes clears that have waited for long enough, or all if `now`. Never throws. */
  settle(now = false): void {
    const { medium, now_us } = this.#options;
    if (medium === null || this.#held.size === 0 || medium.store.unknown) return;
    const due = now || this.#held.size >= CLEARS_HELD_MAX ||
      now_us() - this.#heldSince_us >= CLEAR_HOLD_US;
    if (!due) return;
    const held = [...this.#held];
    this.#held.clear();
    try {
      this.#onMedium(() => medium.store.write(held, this.#clean, false));
    } catch {
      // It was logged; the next flush writes everything again and tells the kernel.
    }
  }

  /** The next region to be copied, or null if there is none now. The same again until it is settled. */
  resyncWork(): number | null {
    if (this.#phase !== "active") return null;
    if (this.#recovering !== null) return this.#recovering;
    const region = this.#sync.nextClear(this.#search);
    this.#search = Math.min(this.arguments.regions, region + 1);
    if (region === this.arguments.regions) return null;
    this.#recovering = region;
    return region;
  }

  /**
   * A region was copied to all legs, or a leg lacks it. The latter is durable when this returns. Throws
   * EINVAL, EIO.
   */
  setRegionSync(region: number, inSync: boolean): void {
    this.#check(region);
    if (this.#recovering === region) this.#recovering = null;
    if (inSync) {
      this.#sync.add(region);
      return;
    }
    this.#sync.delete(region);
    this.mark([region]);
    this.flush();
  }

  /** What dm shows behind the mirror's own status. */
  statusInfo(): string {
    const { type } = this.arguments, { medium } = this.#options;
    if (medium === null) return `1 ${type}`;
    return `3 ${type} ${medium.label.replaceAll(" ", "\\ ")} ${this.#mediumState}`;
  }

  /** The log's part of a table line. */
  statusTable(): string {
    return formatLogArguments(this.arguments);
  }

  #check(region: number): void {
    const { regions } = this.arguments;
    if (region >= 0 && region < regions) return;
    const { name } = this.#options;
    throw new BlockError("EINVAL", `Cannot find region ${region} of ${name}: it has ${regions}`);
  }

  #syncMedium(store: DiskStore): void {
    if (store.unknown) {
      // All of it goes out, and with it every clear.
      this.#onMedium(() => store.rewrite(this.#clean), "F");
      this.#held.clear();
      this.#mediumState = "A";
    } else {
      this.#onMedium(() => store.sync(), "F");
    }
  }

  #onMedium(action: () => void, state: MediumState = "D"): void {
    try {
      action();
    } catch (error) {
      throw this.#failed(state, error);
    }
  }

  #failed(state: MediumState, error: unknown): BlockError {
    const before = this.#mediumState;
    this.#mediumState = state;
    const reason = error instanceof Error ? error.message : String(error);
    const message = `Cannot keep the log ${this.#options.name}: ${reason}`;
    if (before === "A") this.#options.log.error(message, error);
    return new BlockError("EIO", message, { cause: error });
  }

  #warn(reason: string): void {
    this.#options.log.warn(`Log ${this.#options.name}: ${reason}`);
  }
}
