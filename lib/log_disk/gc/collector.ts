/**
 * Garbage collection of an attached disk, by its writer alone.
 *
 * What is live in objects that are mostly garbage is moved: the same data again, at the end of the log, as
 * extents that apply only where the map still points to the old place. Then a checkpoint is published
 * that covers the moves. It is the boundary: log objects up to it are not needed for recovery. Only then
 * are those objects deleted to which neither the map of that checkpoint nor a snapshot points; claims
 * that keep older writers out stay for ever. A crash anywhere leaves more objects than are needed, never
 * fewer, and the next round deletes what this one did not.
 *
 * Snapshots are taken and deleted between rounds (`exclusive`): each names the newest checkpoint and the
 * log behind it, and a round must not move that boundary under it.
 *
 * @module
 */
import type { ObjectStore } from "../../object_store/types.ts";
import type { Clock } from "../../block/context.ts";
import type { MapCopy, Run } from "../extent_map.ts";
import type { LineReader, Piece } from "../line_reader.ts";
import { CHECKPOINT_PREFIX, logKey, parseCheckpointKey } from "../names.ts";
import type { KnownObject } from "../object_table.ts";
import type { LogDisk } from "../log_disk.ts";
import { objectBytes } from "../log_object.ts";
import { type Needed, neededByAny } from "./needed.ts";
import { concernNone, listConcerns, listSnapshots } from "../snapshots.ts";
import type { SnapshotDescription } from "../description.ts";
import {
  DELETE_KEYS_MAX,
  MOVE_BYTES_MAX,
  MOVE_READ_BYTES,
  REPACK_LIVE_SHARE,
  SCAN_EXTENTS,
} from "./limits.ts";

/** What a Collector works with. */
export interface CollectorOptions {
  /** The disk, attached for writing. */
  readonly disk: LogDisk;
  /** Its objects. */
  readonly store: ObjectStore;
  /** Reads them. */
  readonly reader: LineReader;
  /** The log objects of this volume that a snapshot needs: those of its map, and those to make it from. */
  readonly neededBy: (snapshot: SnapshotDescription) => Promise<Needed>;
  /** Time, for turns of other work in long ones. */
  readonly clock: Clock;
  /** Gives up. */
  readonly signal: AbortSignal;
}

/** What a round has done. */
export interface CollectReport {
  /** Bytes of data that were moved. */
  readonly movedBytes: number;
  /** Log objects that were deleted, and their bytes. */
  readonly deletedObjects: number;
  readonly deletedBytes: number;
  /** Checkpoints that were deleted. */
  readonly deletedCheckpoints: number;
}

/** What all rounds have done. */
export interface CollectCounts extends CollectReport {
  /** Rounds that ended well. */
  readonly rounds: number;
}

/** Garbage in a volume. */
export interface Garbage {
  /** Bytes of data in its log objects. */
  readonly dataBytes: number;
  /** Those that the map does not point to. */
  readonly garbageBytes: number;
}

const NOTHING: CollectReport = {
  movedBytes: 0,
  deletedObjects: 0,
  deletedBytes: 0,
  deletedCheckpoints: 0,
};

/** How much garbage the objects of a volume have. Snapshots may need some of it. */
export function garbageOf(objects: Iterable<KnownObject>): Garbage {
  let dataBytes = 0, live = 0;
  for (const each of objects) {
    dataBytes += each.dataBytes;
    live += each.liveBytes;
  }
  return { dataBytes, garbageBytes: dataBytes - live };
}

function ownObjects({ tables }: MapCopy): Iterable<KnownObject> {
  return tables.get(0) ?? [];
}

/** A run of data of this volume that is to be moved: where on the disk, and where it is now. */
type MovedRun = Pick<Run, "offset" | "length" | "seq" | "at">;

/** Garbage collection. */
export class Collector {
  readonly #options: CollectorOptions;
  /** What snapshots need, by their key and content: they never change. */
  readonly #needed = new Map<string, Needed>();
  #last: Promise<unknown> = Promise.resolve();
  #counts: CollectCounts = { ...NOTHING, rounds: 0 };

  /** Nothing is done yet. */
  constructor(options: CollectorOptions) {
    this.#options = options;
  }

  /** What all rounds have done. */
  get counts(): CollectCounts {
    return this.#counts;
  }

  /** Runs `work` while no round and no other such work runs, in the order of the calls. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work, work);
    this.#last = done.catch(() => {});
    return done;
  }

  /**
   * One round. `progress` is told how many of the bytes to move are moved. Throws what the disk and the
   * store throw; then nothing is lost, and the next round goes on.
   */
  collect(progress: (done: number, total: number) => void = () => {}): Promise<CollectReport> {
    return this.exclusive(() => this.#collect(progress));
  }

  async #collect(progress: (done: number, total: number) => void): Promise<CollectReport> {
    const { disk, store, signal } = this.#options;
    const concerns = await listConcerns(store, { signal });
    const snapshots = await listSnapshots(store, { signal });
    const left = concernNone(concerns, snapshots);
    if (left.length > 0) await store.delete(left, { signal });
    const needed = await this.#neededByAll(snapshots);
    const map = disk.map.copy();
    const victims = victimsOf(map, needed, disk.durableSeq);
    const hasDead = [...ownObjects(map)].some((each) => isDead(each, needed));
    if (victims.size === 0 && !hasDead) return NOTHING;
    const movedBytes = await this.#moveAll(map, victims, progress);
    // What is dead before the checkpoint is dead in it; what dies later may come back by a crash.
    const dead = [...disk.map.objects(0)].filter((each) => isDead(each, needed));
    const boundary = await disk.checkpoint();
    // Older checkpoints first: without the objects that follow them they would be a trap.
    const deletedCheckpoints = await this.#deleteCheckpoints(boundary, snapshots);
    const deleted = await this.#delete(dead.filter(({ seq }) => seq <= boundary));
    const report = { movedBytes, deletedCheckpoints, ...deleted };
    const before = this.#counts;
    this.#counts = {
      rounds: before.rounds + 1,
      movedBytes: before.movedBytes + movedBytes,
      deletedObjects: before.deletedObjects + report.deletedObjects,
      deletedBytes: before.deletedBytes + report.deletedBytes,
      deletedCheckpoints: before.deletedCheckpoints + report.deletedCheckpoints,
    };
    return report;
  }

  async #neededByAll(snapshots: readonly SnapshotDescription[]): Promise<Needed> {
    const known = new Map<string, Needed>();
    for (const snapshot of snapshots) {
      const key = JSON.stringify(snapshot);
      const needed = this.#needed.get(key) ??
        await this.#options.neededBy(snapshot);
      known.set(key, needed);
    }
    this.#needed.clear();
    for (const [key, needed] of known) this.#needed.set(key, needed);
    return neededByAny([...known.values()]);
  }

  /** Moves what is live in the victims. Gives its bytes. */
  async #moveAll(
    map: MapCopy,
    victims: ReadonlyMap<number, KnownObject>,
    progress: (done: number, total: number) => void,
  ): Promise<number> {
    const { clock, signal } = this.#options;
    let total = 0, done = 0;
    for (const { liveBytes } of victims.values()) total += liveBytes;
    let batch: MovedRun[] = [], bytes = 0, scanned = 0;
    const move = async (): Promise<void> => {
      await this.#moveBatch(batch, victims);
      done += bytes;
      batch = [];
      bytes = 0;
      progress(done, total);
    };
    for (const { kind, origin, offset, length, seq, at } of map.runs()) {
      scanned += 1;
      if (scanned % SCAN_EXTENTS === 0) await clock.sleep(0, signal);
      if (kind !== "data" || origin !== 0 || !victims.has(seq)) continue;
      for (let from = 0; from < length; from += MOVE_READ_BYTES) {
        const part = Math.min(MOVE_READ_BYTES, length - from);
        batch.push({ offset: offset + from, length: part, seq, at: at + from });
        bytes += part;
        if (bytes >= MOVE_READ_BYTES) await move();
      }
    }
    if (batch.length > 0) await move();
    return done;
  }

  async #moveBatch(
    batch: readonly MovedRun[],
    victims: ReadonlyMap<number, KnownObject>,
  ): Promise<void> {
    const { disk, reader, signal } = this.#options;
    signal.throwIfAborted();
    const pieces = batch.map(({ seq, at, length }): Piece => {
      const { headerBytes = 0, dataBytes = 0 } = victims.get(seq) ?? {};
      return { origin: 0, seq, headerBytes, dataBytes, at, into: new Uint8Array(length) };
    });
    await reader.read(pieces);
    for (const [index, { offset, seq, at }] of batch.entries()) {
      const piece = pieces[index];
      if (piece !== undefined) await disk.relocate(piece.into, offset, { origin: 0, seq, at });
    }
  }

  /** Deletes log objects that nobody needs. */
  async #delete(
    dead: readonly KnownObject[],
  ): Promise<{ deletedObjects: number; deletedBytes: number }> {
    const { disk, store, reader, signal } = this.#options;
    let deletedBytes = 0;
    for (let first = 0; first < dead.length; first += DELETE_KEYS_MAX) {
      const some = dead.slice(first, first + DELETE_KEYS_MAX);
      await store.delete(some.map(({ seq }) => logKey(seq)), { signal });
      for (const { seq, headerBytes, dataBytes } of some) {
        reader.forget?.(0, seq);
        disk.map.objects(0).forget(seq);
        deletedBytes += objectBytes(headerBytes, dataBytes);
      }
    }
    return { deletedObjects: dead.length, deletedBytes };
  }

  /** Deletes checkpoints before this one, but for those that snapshots are made from. */
  async #deleteCheckpoints(
    boundary: number,
    snapshots: readonly SnapshotDescription[],
  ): Promise<number> {
    const { store, signal } = this.#options;
    const kept = new Set(snapshots.map(({ checkpoint }) => checkpoint));
    const old: string[] = [];
    for await (const { key } of store.list(CHECKPOINT_PREFIX, { signal })) {
      const seq = parseCheckpointKey(key)?.seq ?? boundary;
      if (seq < boundary && !kept.has(key)) old.push(key);
    }
    if (old.length > 0) await store.delete(old, { signal });
    return old.length;
  }
}

/** True for an object that can go: nothing of it is live, and nobody needs it. */
function isDead({ seq, liveBytes, permanent, headerBytes }: KnownObject, needed: Needed): boolean {
  // Without a header it is not written yet.
  return liveBytes === 0 && headerBytes > 0 && !permanent && !needed.has(seq);
}

/** Objects of which some is live, but little: the emptiest first, as many as one round moves. */
function victimsOf(
  map: MapCopy,
  needed: Needed,
  lastSeq: number,
): ReadonlyMap<number, KnownObject> {
  const found: KnownObject[] = [];
  for (const each of ownObjects(map)) {
    const { liveBytes, dataBytes, headerBytes, seq } = each;
    if (liveBytes === 0 || headerBytes === 0 || seq > lastSeq || needed.has(seq)) continue;
    if (liveBytes < dataBytes * REPACK_LIVE_SHARE) found.push(each);
  }
  found.sort((a, b) => a.liveBytes / a.dataBytes - b.liveBytes / b.dataBytes || a.seq - b.seq);
  const victims = new Map<number, KnownObject>();
  let bytes = 0;
  for (const each of found) {
    bytes += each.liveBytes;
    if (bytes > MOVE_BYTES_MAX && victims.size > 0) break;
    victims.set(each.seq, each);
  }
  return victims;
}
