/**
 * Checking a volume at rest: is everything there that the disk and its snapshots need, does it say what
 * it should, and what takes up room for nothing. Objects are immutable, so a volume that is in use can
 * be looked at too; what its writer does meanwhile is not seen, and garbage collection may look like loss.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import type { CheckReport, Progress, Repair } from "../../block/image.ts";
import { inLanes } from "../../block/maybe.ts";
import type { ObjectStore } from "../../object_store/types.ts";
import type { DiskContext } from "../context.ts";
import type { ExtentMap } from "../extent_map.ts";
import { DELETE_KEYS_MAX } from "../gc/limits.ts";
import { type Needed, neededByAny, neededBySnapshot } from "../gc/needed.ts";
import { type Inventory, takeInventory } from "../inventory.ts";
import { SCAN_READS } from "../limits.ts";
import { type Loaded, loadSnapshot, loadVolume, type Volume } from "../load.ts";
import {
  CHECK_BYTES,
  headerBytesOf,
  isLineIntact,
  lineCount,
  lineDataBytes,
  lineOffset,
  objectBytes,
} from "../log_object.ts";
import { logKey } from "../names.ts";
import { listLog, readLogHeader } from "../scan.ts";
import { concernNone, readSnapshot } from "../snapshots.ts";
import { CHECK_MESSAGES_MAX, CHECK_READS } from "./limits.ts";

/** What a check is to do. */
export interface VolumeCheckOptions {
  /** What is mended. */
  readonly repair: Repair;
  /** The data itself is read and verified too, not only the headers. */
  readonly deep: boolean;
  /** Told how many bytes or objects are done. */
  readonly progress: Progress;
}

/** A log object that something needs. */
interface NeededObject {
  readonly origin: number;
  readonly seq: number;
  readonly headerBytes: number;
  readonly dataBytes: number;
}

/** What was found so far. */
class Findings {
  readonly messages: string[] = [];
  corruptions = 0;
  corruptionsFixed = 0;

  damage(message: string): void {
    this.corruptions += 1;
    this.note(message);
  }

  note(message: string): void {
    if (this.messages.length < CHECK_MESSAGES_MAX) this.messages.push(message);
  }

  /** Runs `work`; what is damaged is a finding, and null. Other errors are the caller's. */
  async try<T>(work: () => Promise<T>): Promise<T | null> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof BlockError) || error.errno !== "EIO") throw error;
      this.damage(error.message);
      return null;
    }
  }
}

/** What the disk and its snapshots need. */
interface Wanted {
  readonly objects: Map<string, NeededObject>;
  readonly loaded: Loaded | null;
  /** What snapshots need; null if one of them cannot be read. */
  readonly needed: Needed | null;
}

/** Notes all objects that a map points to. */
function addMap(objects: Map<string, NeededObject>, map: ExtentMap): void {
  for (const [origin, table] of map.tables) {
    for (const { seq, headerBytes, dataBytes, liveBytes, permanent } of table) {
      if (liveBytes === 0 && !permanent) continue;
      objects.set(`${origin} ${seq}`, { origin, seq, headerBytes, dataBytes });
    }
  }
}

async function wantedOf(
  volume: Volume,
  inventory: Inventory,
  findings: Findings,
  context: DiskContext,
): Promise<Wanted> {
  const { origins: [own] } = volume, { signal } = context;
  const objects = new Map<string, NeededObject>(), needed: Needed[] = [];
  for (const { name, id } of own === undefined ? [] : inventory.snapshots) {
    await findings.try(async () => {
      const snapshot = own === undefined ? null : await readSnapshot(own.store, { name, id }, {
        signal,
      });
      if (snapshot === null) return;
      addMap(objects, (await loadSnapshot(volume, 0, snapshot, context)).map);
      needed.push(await neededBySnapshot(volume, snapshot, context));
    });
  }
  const isComplete = findings.corruptions === 0;
  const loaded = await findings.try(() => loadVolume(volume, context));
  if (loaded !== null) {
    addMap(objects, loaded.state.map);
    const [newest] = loaded.checkpoints;
    if (newest !== undefined && newest.key !== loaded.checkpoint?.key) {
      findings.damage(`${newest.key} is damaged; the checkpoint before it was used`);
    }
  }
  return { objects, loaded, needed: isComplete ? neededByAny(needed) : null };
}

/** Are all objects there that are needed, and of the right size? Gives those that are. */
async function checkPresence(
  volume: Volume,
  inventory: Inventory,
  objects: Iterable<NeededObject>,
  findings: Findings,
  { signal }: DiskContext,
): Promise<NeededObject[]> {
  const sizes = [new Map(inventory.log.map(({ seq, size }) => [seq, size]))];
  for (const { store } of volume.origins.slice(1)) sizes.push(await listLog(store, 0, signal));
  const present: NeededObject[] = [];
  for (const object of objects) {
    const { origin, seq, headerBytes, dataBytes } = object;
    const name = `${volume.origins[origin]?.store.name ?? origin}/${logKey(seq)}`;
    const size = sizes[origin]?.get(seq), expected = objectBytes(headerBytes, dataBytes);
    if (size === undefined) findings.damage(`${name} is missing`);
    else if (size !== expected) {
      findings.damage(`${name} has ${size} bytes in place of ${expected}`);
    } else present.push(object);
  }
  return present;
}

/** Does the header of an object say what the map says of it? */
async function checkHeader(
  store: ObjectStore,
  { seq, headerBytes, dataBytes }: NeededObject,
  signal: AbortSignal,
): Promise<void> {
  const header = await readLogHeader(store, seq, signal);
  const same = header !== null && headerBytesOf(header.extents) === headerBytes &&
    header.dataBytes === dataBytes;
  if (same) return;
  throw new BlockError("EIO", `${store.name}/${logKey(seq)} is not the object that the map means`);
}

/** Reads all data of an object. Throws EIO for a line that is damaged. */
async function checkData(
  store: ObjectStore,
  volume: string,
  { seq, headerBytes, dataBytes }: NeededObject,
  signal: AbortSignal,
): Promise<void> {
  const bytes = await store.get(logKey(seq), undefined, { signal });
  for (let line = 0; line < lineCount(dataBytes); line += 1) {
    const start = lineOffset(headerBytes, line);
    const end = start + lineDataBytes(dataBytes, line) + CHECK_BYTES;
    const stored = bytes?.subarray(start, end);
    if (stored !== undefined && isLineIntact(stored, volume, seq, line)) continue;
    throw new BlockError(
      "EIO",
      `${store.name}/${logKey(seq)}: line ${line} of its data is damaged`,
    );
  }
}

async function checkObjects(
  volume: Volume,
  objects: readonly NeededObject[],
  findings: Findings,
  { deep, progress }: VolumeCheckOptions,
  { signal }: DiskContext,
): Promise<void> {
  const workOf = ({ headerBytes, dataBytes }: NeededObject): number =>
    deep ? objectBytes(headerBytes, dataBytes) : 1;
  const total = objects.reduce((sum, each) => sum + workOf(each), 0);
  let done = 0;
  await inLanes(objects, deep ? CHECK_READS : SCAN_READS, async (object) => {
    const origin = volume.origins[object.origin];
    if (origin === undefined) return;
    await findings.try(async () => {
      await checkHeader(origin.store, object, signal);
      if (deep) await checkData(origin.store, origin.volume, object, signal);
    });
    done += workOf(object);
    progress(done, total);
  });
}

/** Objects behind the end of the log are what a crash leaves, unless one before them was lost. */
function noteBehindEnd({ log }: Inventory, loaded: Loaded | null, findings: Findings): void {
  if (loaded === null) return;
  const { seq: end } = loaded.state;
  const behind = log.filter(({ seq }) => seq > end).length;
  if (behind === 0) return;
  findings.note(
    `${behind} log objects are behind the end of the log (${
      logKey(end)
    }), as a crash leaves them; ` +
      "if the disk was closed properly, the object before them was lost",
  );
}

/** Keys that take up room for nothing, and that garbage collection never meets. */
function leaksOf(inventory: Inventory, { loaded, needed }: Wanted): string[] {
  const leaks = inventory.probes.map(({ key }) => key);
  leaks.push(...concernNone(inventory.clones.map(({ key }) => key), inventory.snapshots));
  if (loaded === null || needed === null) return leaks;
  const { state } = loaded, table = state.map.objects(0);
  for (const { key, seq } of inventory.log) {
    // What is behind the log's end may be on its way.
    if (seq <= state.seq && table.get(seq) === null && !needed.has(seq)) leaks.push(key);
  }
  return leaks;
}

/**
 * Checks a volume, and mends what it is asked to: leaks are deleted; with "all", also checkpoints that
 * are damaged, if the disk is whole without them. Throws ENOENT if there is no volume, and StoreError.
 */
export async function checkVolume(
  volume: Volume,
  options: VolumeCheckOptions,
  context: DiskContext,
): Promise<CheckReport> {
  const { repair } = options, { signal } = context;
  const [own] = volume.origins;
  if (own === undefined) throw new RangeError("A volume has no store");
  const findings = new Findings();
  const inventory = await takeInventory(own.store, { signal });
  for (const { key } of inventory.others) findings.note(`${key} is none of a volume's objects`);
  const wanted = await wantedOf(volume, inventory, findings, context);
  const present = await checkPresence(
    volume,
    inventory,
    wanted.objects.values(),
    findings,
    context,
  );
  await checkObjects(volume, present, findings, options, context);
  noteBehindEnd(inventory, wanted.loaded, findings);
  const leaks = leaksOf(inventory, wanted);
  for (const key of leaks) findings.note(`${key} is needed by nothing`);
  if (repair !== "none") await deleteKeys(own.store, leaks, signal);
  if (repair === "all") await dropDamaged(own.store, wanted.loaded, findings, signal);
  const mended = repair === "none" ? 0 : leaks.length;
  return {
    filename: own.store.name,
    format: "log",
    unit: "object",
    checkErrors: 0,
    corruptions: findings.corruptions,
    corruptionsFixed: findings.corruptionsFixed,
    leaks: leaks.length - mended,
    leaksFixed: mended,
    totalClusters: inventory.log.length,
    allocatedClusters: [...wanted.objects.values()].filter(({ origin }) => origin === 0).length,
    messages: findings.messages,
  };
}

/** Deletes checkpoints that were passed by because they are damaged, since the log made up for them. */
async function dropDamaged(
  store: ObjectStore,
  loaded: Loaded | null,
  findings: Findings,
  signal: AbortSignal,
): Promise<void> {
  if (loaded === null) return;
  const used = loaded.checkpoints.findIndex(({ key }) => key === loaded.checkpoint?.key);
  const damaged = loaded.checkpoints.slice(0, used < 0 ? undefined : used);
  await deleteKeys(store, damaged.map(({ key }) => key), signal);
  const mended = Math.min(damaged.length, findings.corruptions);
  findings.corruptions -= mended;
  findings.corruptionsFixed += mended;
}

/** Deletes any number of objects. */
export async function deleteKeys(
  store: ObjectStore,
  keys: readonly string[],
  signal: AbortSignal,
  progress: Progress = () => {},
): Promise<void> {
  for (let first = 0; first < keys.length; first += DELETE_KEYS_MAX) {
    const some = keys.slice(first, first + DELETE_KEYS_MAX);
    await store.delete(some, { signal });
    progress(first + some.length, keys.length);
  }
}
