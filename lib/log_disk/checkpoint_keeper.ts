/**
 * Checkpoints while a disk is in use: made in the background when enough was written since the last one, so
 * that the time of an attach is bounded. The map is copied by reference at the end of an object,
 * and the checkpoint is published once that object is durable. Nothing waits for it.
 *
 * The two newest checkpoints stay, for one may turn out to be damaged, and so do those that snapshots name.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { type ObjectStore, StoreError } from "../object_store/types.ts";
import { type CheckpointState, encodeCheckpoint } from "./checkpoint.ts";
import type { DiskContext } from "./context.ts";
import { decodeSnapshot } from "./description.ts";
import type { ExtentMap } from "./extent_map.ts";
import {
  CHECKPOINT_AFTER_BYTES,
  CHECKPOINT_AFTER_OBJECTS,
  CHECKPOINT_AT_END_OBJECTS,
  CHECKPOINT_DATA_RATIO,
  CHECKPOINT_OBJECT_BYTES,
  CREATE_TRIES_MAX,
  CREATE_WAIT_MS,
} from "./limits.ts";
import { finish } from "./load.ts";
import { checkpointKey, SNAPSHOT_PREFIX } from "./names.ts";
import { listCheckpoints } from "./scan.ts";

/** What a checkpoint is made of, at the end of an object. */
export interface CheckpointSource {
  /** Seals what is open; says what the state is now. */
  begin(): CheckpointState;
  /** Done when that object is durable. */
  whenDurable(seq: number): Promise<void> | void;
}

/** When checkpoints are made. */
export interface CheckpointSettings {
  /** Bytes of data behind a checkpoint at which the next one is made. */
  readonly afterBytes: number;
  /** Objects behind a checkpoint at which the next one is made. */
  readonly afterObjects: number;
}

/** When checkpoints are made, if not told. */
export const CHECKPOINT_SETTINGS: CheckpointSettings = {
  afterBytes: CHECKPOINT_AFTER_BYTES,
  afterObjects: CHECKPOINT_AFTER_OBJECTS,
};

/** Keys of the checkpoints that snapshots need. Throws EIO for a snapshot that is damaged. */
async function neededBySnapshots(store: ObjectStore, signal: AbortSignal): Promise<Set<string>> {
  const needed = new Set<string>();
  for await (const { key } of store.list(SNAPSHOT_PREFIX, { signal })) {
    const bytes = await store.get(key, undefined, { signal });
    if (bytes === null) continue;
    const { checkpoint } = decodeSnapshot(bytes, `${store.name}/${key}`);
    if (checkpoint !== null) needed.add(checkpoint);
  }
  return needed;
}

/** Deletes the checkpoints that nobody needs any more: all but the two newest and those of snapshots. */
export async function pruneCheckpoints(store: ObjectStore, signal: AbortSignal): Promise<void> {
  // A snapshot names the newest checkpoint there is: none that is listed as an old one here.
  const old = (await listCheckpoints(store, signal)).slice(2);
  if (old.length === 0) return;
  const needed = await neededBySnapshots(store, signal);
  const keys = old.map(({ key }) => key).filter((key) => !needed.has(key));
  if (keys.length > 0) await store.delete(keys, { signal });
}

async function publish(
  store: ObjectStore,
  key: string,
  body: readonly Uint8Array<ArrayBuffer>[],
  { clock, signal }: DiskContext,
): Promise<void> {
  let waitMs = CREATE_WAIT_MS;
  for (let round = 0; round < CREATE_TRIES_MAX; round += 1) {
    try {
      // The name has our nonce: if it exists, it is this one.
      await store.create(key, body, { signal });
      return;
    } catch (error) {
      if (!(error instanceof StoreError) || error.kind !== "unclear") throw error;
    }
    await clock.sleep(waitMs, signal);
    waitMs *= 2;
  }
  throw new BlockError("EIO", `Cannot create ${store.name}/${key}: its outcome stays unclear`);
}

/** Makes the checkpoints of a disk that is open for writing. */
export class CheckpointKeeper {
  readonly #store: ObjectStore;
  readonly #map: ExtentMap;
  readonly #source: CheckpointSource;
  readonly #settings: CheckpointSettings;
  readonly #context: DiskContext;
  #objects: number;
  #bytes: number;
  #lastBytes: number;
  #lastSeq: number | null = null;
  #running: Promise<number> | null = null;

  /** `behind` is what an attach has replayed, `lastBytes` the size of the checkpoint it began with. */
  constructor(
    store: ObjectStore,
    map: ExtentMap,
    source: CheckpointSource,
    settings: CheckpointSettings,
    behind: { readonly objects: number; readonly bytes: number; readonly lastBytes: number },
    context: DiskContext,
  ) {
    this.#store = store;
    this.#map = map;
    this.#source = source;
    this.#settings = settings;
    this.#context = context;
    this.#objects = behind.objects;
    this.#bytes = behind.bytes;
    this.#lastBytes = behind.lastBytes;
  }

  /** An object was sealed: it may be time. */
  sealed(dataBytes: number): void {
    this.#objects += 1;
    this.#bytes += dataBytes;
    const { afterBytes, afterObjects } = this.#settings, last = this.#lastBytes;
    const isDue = this.#bytes >= Math.max(afterBytes, last * CHECKPOINT_DATA_RATIO) ||
      this.#objects >= Math.max(afterObjects, last / CHECKPOINT_OBJECT_BYTES);
    if (!isDue || this.#running !== null) return;
    // Not in the middle of what sealed it.
    queueMicrotask(() => this.#inBackground());
  }

  #inBackground(): void {
    if (this.#running !== null) return;
    this.make().catch((error: unknown) => {
      if (this.#context.signal.aborted) return;
      const reason = error instanceof Error ? error.message : String(error);
      this.#context.log.warn(`No checkpoint was made, the next one is due later: ${reason}`);
    });
  }

  /** The last object that the newest of these checkpoints includes; null if none was made. */
  get lastSeq(): number | null {
    return this.#lastSeq;
  }

  /** True if the next attach would have much to replay. */
  get isWorthwhile(): boolean {
    return this.#objects >= CHECKPOINT_AT_END_OBJECTS;
  }

  /** Makes a checkpoint of all that was written before the call; gives the last object that it includes. */
  async make(): Promise<number> {
    while (this.#running !== null) await this.#running.catch(() => {});
    const running = this.#make();
    this.#running = running;
    try {
      return await running;
    } finally {
      this.#running = null;
    }
  }

  /** Done when none is being made. */
  async settled(): Promise<void> {
    while (this.#running !== null) await this.#running.catch(() => {});
  }

  async #make(): Promise<number> {
    const state = this.#source.begin(), { seq } = state, map = this.#map.copy();
    if (seq === this.#lastSeq) return seq;
    this.#objects = 0;
    this.#bytes = 0;
    const isLong = map.extents > LONG_EXTENTS;
    const body = await finish(encodeCheckpoint(state, map), isLong, this.#context);
    await this.#source.whenDurable(seq);
    await publish(this.#store, checkpointKey(seq, state.nonce), body, this.#context);
    this.#lastSeq = seq;
    this.#lastBytes = body.reduce((sum, { length }) => sum + length, 0);
    await pruneCheckpoints(this.#store, this.#context.signal);
    return seq;
  }
}

/** Extents that are encoded at once: a few ms. */
const LONG_EXTENTS = 30_000;
