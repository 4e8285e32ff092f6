/**
 * Opening a mirror: its legs, its log, and what both together mean.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError, toBlockError } from "../../lib/block/errors.ts";
import { REQUEST_BYTES_MAX } from "../../lib/block/limits.ts";
import type { Backend, Geometry, Management, MirrorStatus, Opened } from "../../lib/block/types.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { SECTOR_BYTES } from "../../lib/dirty_log/constants.ts";
import {
  checkRoom,
  type FoundLog,
  logBytes,
  readLog,
  readStart,
} from "../../lib/dirty_log/disk_layout.ts";
import { DiskStore } from "../../lib/dirty_log/disk_store.ts";
import { GroupSync } from "../../lib/dirty_log/group_sync.ts";
import { REGIONS_MAX } from "../../lib/dirty_log/limits.ts";
import { DirtyLog } from "../../lib/dirty_log/log.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { Leg, type LegSource } from "./leg.ts";
import { LegSet, type Witness } from "./leg_set.ts";
import { Mirror } from "./mirror.ts";
import { type Plan, planMirror, usualRegion } from "./plan.ts";
import { identitiesOf, type LegRecord } from "./record.ts";
import { forgetfulWitness, LogWitness } from "./witness.ts";

/** How a mirror is opened, its legs aside. */
export interface MirrorSettings {
  /** The file or block device of the log; undefined for one in memory. */
  readonly log?: string | undefined;
  /** Bytes of a region. */
  readonly regionBytes?: number | undefined;
  /** Bytes a second that are copied at most, 0 for no limit. */
  readonly rate: number;
  /** The leg that is right at first sync, from 1. */
  readonly source: number;
  /** All legs are equal at first sync. */
  readonly nosync: boolean;
  /** Nobody asks after this mirror when it was closed. */
  readonly volatile: boolean;
}

/** Bytes to which new log files are rounded up. */
const FILE_UNIT_BYTES = 4096;

function bad(reason: string): BlockError {
  return new BlockError("EINVAL", `Cannot open mirror: ${reason}`);
}

function checkRegionBytes(bytes: number, size: number): void {
  const isPower = Number.isInteger(Math.log2(bytes));
  if (!isPower || bytes < FILE_UNIT_BYTES || bytes > 2 ** 40) {
    throw bad(`the region size ${bytes} is no power of two from ${FILE_UNIT_BYTES} to 2^40 bytes`);
  }
  if (size / bytes <= REGIONS_MAX) return;
  throw bad(`regions of ${bytes} bytes would be more than ${REGIONS_MAX}, make them larger`);
}

/** Opens what can be opened; the others have an error. Throws UsageError, or EINVAL for legs that do not match. */
async function openLegs(legs: readonly Leg[], context: OpenContext): Promise<void> {
  const outcomes = await Promise.allSettled(legs.map((leg) => leg.open(null)));
  const failures = outcomes.map((each) => each.status === "rejected" ? each.reason : null);
  const usage = failures.find((each) => each instanceof UsageError);
  if (usage !== undefined) throw usage;
  legs.forEach((leg, at) => {
    if (failures[at] === null) return;
    leg.error = toBlockError(failures[at]);
    context.log.warn(`Mirror: ${leg.label} cannot be opened: ${leg.error.message}`);
  });
  const sizes = new Set(geometriesOf(legs).map(({ size }) => size));
  if (sizes.size > 1) {
    const list = legs.map((leg) => `${leg.label} has ${leg.device?.geometry.size ?? "none"}`);
    throw bad(`its legs have different sizes, and have to be equal: ${list.join(", ")}`);
  }
  const protectedLeg = legs.find((leg) => leg.device?.geometry.readOnly === true);
  if (protectedLeg !== undefined && !context.readOnly) {
    throw new BlockError("EROFS", `Cannot open mirror: ${protectedLeg.label} is read-only`);
  }
}

function geometriesOf(legs: readonly Leg[]): Geometry[] {
  return legs.flatMap(({ device }) => device === null ? [] : [device.geometry]);
}

/** The geometry of the mirror. Throws the first failure if no leg is open. */
function geometryOf(legs: readonly Leg[], readOnly: boolean): Geometry {
  const all = geometriesOf(legs);
  const [first] = all;
  if (first === undefined) throw legs[0]?.error ?? bad("it has no legs");
  return {
    size: first.size,
    minimum: Math.max(...all.map(({ minimum }) => minimum)),
    preferred: Math.max(...all.map(({ preferred }) => preferred)),
    maximum: REQUEST_BYTES_MAX,
    readOnly,
  };
}

function openLog(
  path: string,
  size: number,
  settings: MirrorSettings,
  context: OpenContext,
): RawFile {
  const { regionBytes = usualRegion(size) } = settings;
  const createSize = logBytes(Math.ceil(size / regionBytes), FILE_UNIT_BYTES);
  const { readOnly } = context;
  return context.files.open(path, {
    readOnly,
    direct: false,
    lock: true,
    ...(readOnly ? {} : { createSize }),
  });
}

/** Reads a log. Throws EINVAL for something else, which is not to be overwritten. */
function lookAt(file: RawFile): FoundLog {
  const unit = Math.max(SECTOR_BYTES, file.alignment);
  const found = readLog(file, REGIONS_MAX, unit);
  if (found.header.kind !== "new") return found;
  const start = readStart(file, Math.min(file.size(), 2 * 1024 * 1024));
  if (start.every((byte) => byte === 0)) return found;
  throw bad(`${file.path} is not empty, and no log`);
}

function makeRoom(file: RawFile, regions: number): void {
  const unit = Math.max(SECTOR_BYTES, file.alignment);
  if (!file.isBlockDevice && file.size() < logBytes(regions, unit)) {
    file.truncate(logBytes(regions, FILE_UNIT_BYTES));
  }
  checkRoom(file.path, file.size(), regions, unit);
}

function makeLog(
  file: RawFile | null,
  plan: Plan,
  size: number,
  context: OpenContext,
): DirtyLog {
  const regions = Math.ceil(size / plan.regionBytes);
  const log = new DirtyLog({
    name: "of the mirror",
    arguments: {
      type: file === null ? "core" : "disk",
      place: file?.path ?? null,
      sectors: Math.ceil(size / SECTOR_BYTES),
      regionSectors: plan.regionBytes / SECTOR_BYTES,
      regions,
      sync: plan.sync,
      blockOnError: false,
    },
    medium: file === null ? null : { store: new DiskStore(file, regions), label: file.path },
    reconnected: false,
    log: context.log,
    now_us: () => context.clock.now(),
  });
  log.resume(null);
  return log;
}

function randomId({ random }: OpenContext): string {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  return bytes.toHex();
}

/** The record that is gone on from: the legs are those of now. */
function recordOf(
  plan: Plan,
  identities: readonly string[],
  size: number,
  context: OpenContext,
): LegRecord {
  return {
    id: plan.record?.id ?? randomId(context),
    events: plan.record?.events ?? 0,
    size,
    regionBytes: plan.regionBytes,
    closed: false,
    legs: plan.legs.map(({ events, candidate }, at) => ({
      identity: identities[at] ?? "",
      events,
      candidate,
    })),
  };
}

/** After a crash one leg in sync counts; the others are copied to where the log is dirty. */
function chooseOne(legs: readonly Leg[], source: number): void {
  const inSync = legs.filter(({ state }) => state === "in-sync");
  const chosen = inSync.find(({ number }) => number === source) ?? inSync[0];
  for (const leg of inSync) {
    if (leg === chosen) continue;
    leg.state = "resync";
    leg.candidate = true;
  }
}

/** A mirror whose parts are all there. */
interface Assembled {
  readonly mirror: Mirror;
  readonly log: DirtyLog;
  readonly witness: Witness;
  readonly file: RawFile | null;
  readonly geometry: Geometry;
  readonly id: string | null;
}

async function assemble(
  legs: readonly Leg[],
  settings: MirrorSettings,
  context: OpenContext,
  geometry: Geometry,
  file: RawFile | null,
): Promise<Assembled> {
  const { size } = geometry;
  const { readOnly, clock, log: messages } = context;
  const found = file === null ? null : lookAt(file);
  const identities = identitiesOf(legs.map(({ source }) => source.identity));
  const plan = planMirror({
    path: file?.path ?? "",
    size,
    found,
    legs: legs.map(({ device }, at) => ({
      identity: identities[at] ?? "",
      open: device !== null,
    })),
    source: settings.source - 1,
    nosync: settings.nosync,
    regionBytes: settings.regionBytes ?? null,
  });
  for (const warning of plan.warnings) messages.warn(`Mirror: ${warning}`);
  legs.forEach((leg, at) => {
    leg.state = plan.legs[at]?.state ?? "failed";
    leg.candidate = plan.legs[at]?.candidate ?? false;
  });
  const regions = Math.ceil(size / plan.regionBytes);
  const kept = readOnly ? null : file;
  if (kept !== null) makeRoom(kept, regions);
  // What is opened to be read alone changes nothing, its log included: regions count as out of sync.
  const log = makeLog(kept, readOnly ? { ...plan, sync: "default" } : plan, size, context);
  const dirty = readOnly ? isDirty(found) : log.dirtyCount > 0;
  if (plan.crashed && dirty) chooseOne(legs, settings.source);
  const commits = new GroupSync(() => log.flushLater());
  const commit = (): Promise<void> => commits.sync();
  const record = recordOf(plan, identities, size, context);
  const trusts = ({ number }: Leg): boolean =>
    !readOnly && !settings.volatile && (settings.nosync || number === settings.source);
  const witness = kept === null
    ? forgetfulWitness(trusts)
    : new LogWitness({ log, commit, record });
  const legSet = new LegSet(legs, witness, messages);
  await legSet.settle();
  const mirror = new Mirror({
    legs: legSet,
    log,
    durable: kept !== null,
    commit,
    size,
    regionBytes: plan.regionBytes,
    readOnly,
    rate: settings.rate,
    clock,
    messages,
  });
  return { mirror, log, witness, file, geometry, id: kept === null ? null : record.id };
}

function isDirty(found: FoundLog | null): boolean {
  if (found === null || found.header.kind !== "log") return true;
  const { bits, regions } = found;
  const rest = regions & 7;
  return bits.some((byte, at) =>
    byte !== (at === bits.length - 1 && rest !== 0 ? (1 << rest) - 1 : 0xff)
  );
}

function backendOf({ mirror, geometry, file, log }: Assembled): Backend {
  const devices = mirror.legs.present.flatMap(({ device }) => device === null ? [] : [device]);
  const all = (verb: "trim" | "zero" | "cache" | "extents"): boolean =>
    devices.every(({ features }) => features[verb] || geometry.readOnly);
  const close = async (): Promise<void> => {
    const equal = await mirror.close();
    try {
      if (!geometry.readOnly) {
        log.writeOut();
        if (equal) await mirror.legs.writeClosed();
      }
    } finally {
      await Promise.all(mirror.legs.all.map((leg) => leg.close()));
      file?.close();
    }
  };
  let closing: Promise<void> | null = null;
  return {
    geometry,
    capabilities: { synchronous: false, fua: true },
    read: (into, offset) => mirror.read(into, offset),
    write: (from, offset, { fua }) => mirror.write(from, offset, fua),
    flush: () => mirror.flush(),
    ...(all("zero")
      ? { zero: (offset, length, options) => mirror.zero(offset, length, options) }
      : {}),
    ...(all("zero") && all("trim")
      ? { trim: (offset, length, { fua }) => mirror.trim(offset, length, fua) }
      : {}),
    ...(all("cache") ? { cache: (offset, length) => mirror.cache(offset, length) } : {}),
    ...(all("extents") ? { extents: (offset, length) => mirror.extents(offset, length) } : {}),
    [Symbol.asyncDispose]: () => closing ??= close(),
  };
}

function managementOf({ mirror, log, witness, file, id, geometry }: Assembled): Management {
  const { legs } = mirror;
  const { regions, regionSectors } = log.arguments;
  const status = (): MirrorStatus => ({
    id,
    log: file?.path ?? null,
    events: witness.events,
    regionBytes: regionSectors * SECTOR_BYTES,
    regions,
    inSync: legs.inResync.length === 0 ? regions : log.syncCount,
    dirty: log.dirtyCount,
    resync: mirror.resync.status,
    legs: legs.all.map((leg) => leg.status),
  });
  return {
    describe: () => ({
      legs: `${legs.inSync.length} of ${legs.all.length} in sync`,
      log: file?.path ?? "in memory",
      region: regionSectors * SECTOR_BYTES,
      dirty: log.dirtyCount,
    }),
    mirror: status,
    ...(geometry.readOnly ? {} : {
      addLeg: (leg, full) => mirror.addLeg(leg, full),
      dropLeg: (leg) => mirror.dropLeg(leg),
    }),
  };
}

/** Opens a mirror over legs. Throws UsageError or BlockError. */
export async function openMirror(
  sources: readonly LegSource[],
  settings: MirrorSettings,
  context: OpenContext,
): Promise<Opened> {
  if (settings.source > sources.length) {
    throw bad(`its source is leg ${settings.source}, and there are ${sources.length}`);
  }
  const { clock, log } = context;
  const legs = sources.map((source, at) => new Leg(at + 1, source, { clock, log }));
  let file: RawFile | null = null;
  try {
    await openLegs(legs, context);
    const geometry = geometryOf(legs, context.readOnly);
    if (settings.regionBytes !== undefined) checkRegionBytes(settings.regionBytes, geometry.size);
    if (settings.log !== undefined) file = openLog(settings.log, geometry.size, settings, context);
    const assembled = await assemble(legs, settings, context, geometry, file);
    const opened = { backend: backendOf(assembled), management: managementOf(assembled) };
    if (!context.readOnly) assembled.mirror.resync.kick();
    return opened;
  } catch (error) {
    await Promise.all(legs.map((leg) => leg.close()));
    file?.close();
    throw error;
  }
}
