/**
 * A target: an open backend behind its Device, under a name.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { Device } from "../block/device.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { BufferPool, PoolFigures } from "../block/pool.ts";
import type { Registry } from "../block/registry.ts";
import type { Management, Maybe, Opened } from "../block/types.ts";
import type { Statistics } from "../block/statistics.ts";
import type { BitmapFacts } from "../dirty_log/dirty_bitmap.ts";
import { type BitmapCommand, TargetBitmaps } from "../dirty_log/target_bitmaps.ts";
import { type ExportInfo, exportInfoOf } from "../nbd/export_info.ts";
import { bitmapFolder } from "./bitmap_folder.ts";
import type { TargetConfig } from "./config.ts";
import { systemContext } from "./context.ts";
import { GIVE_UP_MS } from "./limits.ts";
import type { Clock, OpenContext } from "../block/context.ts";
import { Recorder } from "../trace/recorder.ts";

/** Who moves the bytes of a target: the event loop of the main thread, or a thread of the target's own. */
export type DriverName = "streams" | "blocking";

/** A Device as it is seen from any thread. */
export type TargetDevice = Pick<
  Device,
  "name" | "geometry" | "features" | "statistics" | "inFlight" | "submit" | "resize"
>;

/** An open target. */
export interface Target {
  /** What it was opened from. */
  readonly config: TargetConfig;
  /** Who moves its bytes. */
  readonly driver: DriverName;
  /** The way to its storage. */
  readonly device: TargetDevice;
  /** What its own pool of buffers holds; null if it uses that of the daemon. */
  readonly buffers: PoolFigures | null;
  /** Verbs for an administrator, if the storage has any. */
  readonly management: Management | null;
  /** Its dirty bitmaps; how much is marked is as of the last `bitmap` if its home is another thread. */
  readonly bitmaps: readonly BitmapFacts[];
  /** Does something to its dirty bitmaps; see TargetBitmaps.run. */
  bitmap(command: BitmapCommand): Promise<BitmapFacts[]>;
  /** What NBD clients see of it, as of now. */
  exportInfo(): ExportInfo;
  /**
   * It is going to be closed: if it is not within GIVE_UP_MS, storage that waits for something gives up, and
   * what waits for it fails. Slow storage is not cut off. Only the first call counts.
   */
  beginClose(): void;
  /** Finishes what is in flight, flushes and closes the storage. Throws BlockError if that fails. */
  close(): Promise<void>;
}

/** A target whose home is this thread. */
export interface LocalTarget extends Target {
  readonly device: Device;
}

/** What a target is opened with. */
export interface TargetSurroundings {
  readonly registry: Registry;
  readonly pool: BufferPool;
  readonly log: OpenContext["log"];
  /** Gives up opening when it aborts; does nothing to a target that is open. */
  readonly giveUp: AbortSignal;
  /** This thread may block, and serves nothing else; false if left out. */
  readonly mayBlock?: boolean;
  /** Where to count; counters of its own if left out. */
  readonly statistics?: Statistics;
  /** Measures time; the clock of the system if left out. */
  readonly clock?: Clock;
}

/** Opens a target in this thread. Throws UsageError for a wrong spec, BlockError for what cannot be opened. */
export async function openTarget(
  config: TargetConfig,
  surroundings: TargetSurroundings,
): Promise<LocalTarget> {
  const { registry, pool, log, giveUp, mayBlock = false, statistics, clock } = surroundings;
  const prepared = registry.prepare(config.spec);
  const filters = (config.filters ?? []).map((spec) => registry.prepareFilter(spec));
  const teardown = new AbortController();
  const context = systemContext({
    log,
    signal: teardown.signal,
    readOnly: config.readOnly,
    mayBlock,
    ...(clock === undefined ? {} : { clock }),
  });
  const open = async (): Promise<Opened> => {
    let { opened } = await prepared.open(context);
    for (const wrap of filters) opened = await wrapped(opened, (next) => wrap(next, context));
    return opened;
  };
  const onGiveUp = (): void => teardown.abort(giveUp.reason);
  giveUp.addEventListener("abort", onGiveUp);
  const opening = open().finally(() => giveUp.removeEventListener("abort", onGiveUp));
  const opened = await opening.catch((error: unknown) => {
    if (error instanceof BlockError) {
      const message = `Cannot open target ${config.name}: ${error.message}`;
      throw new BlockError(error.errno, message, { cause: error });
    }
    throw error;
  });
  const device = await deviceOf(opened.backend, {
    name: config.name,
    clock: context.clock,
    log,
    pool,
    ...(statistics === undefined ? {} : { statistics }),
  });
  const bitmaps = await bitmapsOf(config, device, context);
  const recorder = await recorderOf(config, device, context);
  const closed = new AbortController();
  let givingUp: Promise<void> | null = null;
  const giveUpLater = async (): Promise<void> => {
    try {
      await context.clock.sleep(GIVE_UP_MS, closed.signal);
    } catch {
      return; // it was closed before
    }
    log.warn(`Target ${config.name} is to be closed: what waits for its storage is given up`);
    teardown.abort(new BlockError("ESHUTDOWN", `${config.name} is being closed`));
  };
  return {
    config,
    driver: mayBlock ? "blocking" : "streams",
    device,
    buffers: null,
    management: opened.management === undefined
      ? null
      : marking(opened.management, device, bitmaps),
    get bitmaps() {
      return bitmaps.facts;
    },
    bitmap: (command) => bitmaps.run(command),
    exportInfo: () => exportInfoOf(device, config),
    beginClose: () => void (givingUp ??= giveUpLater()),
    close: async (): Promise<void> => {
      givingUp ??= giveUpLater();
      try {
        await device[Symbol.asyncDispose]();
      } catch (error) {
        throw toBlockError(error);
      } finally {
        bitmaps.close();
        await endTrace(recorder, log);
        closed.abort();
        await givingUp;
        teardown.abort(new BlockError("ESHUTDOWN", `${config.name} is closed`));
      }
    },
  };
}

/** Which storage a target is about, as 32 bytes: what a bitmap says of another one means nothing. */
function identityOf({ spec, filters = [] }: TargetConfig): Uint8Array {
  const layers = [spec, ...filters].map(({ text }) => text);
  return createHash("sha256").update(JSON.stringify(layers)).digest();
}

/** Takes up the bitmaps of a target, and makes those that it has to have. Closes the device if that fails. */
async function bitmapsOf(
  config: TargetConfig,
  device: Device,
  { files, log, mayBlock }: OpenContext,
): Promise<TargetBitmaps> {
  const { name: target, bitmapFolder: top, bitmaps: wanted = [] } = config;
  const folder = top === undefined ? null : bitmapFolder(top, target, files);
  const identity = identityOf(config);
  const bitmaps = new TargetBitmaps({ device, folder, identity, mayBlock, log });
  try {
    bitmaps.load();
    for (const each of wanted) {
      if (bitmaps.names.includes(each.name)) continue;
      // Nobody knows what has changed before: a backup that relies on it copies all.
      await bitmaps.run({ action: "add", ...each, persistent: true, marked: true });
    }
  } catch (error) {
    bitmaps.close();
    await device[Symbol.asyncDispose]();
    const { errno, message } = toBlockError(error);
    throw new BlockError(errno, `Cannot open target ${target}: ${message}`, { cause: error });
  }
  device.bitmaps = bitmaps;
  return bitmaps;
}

/** The same verbs; of those that change data past the Device bitmaps hear: all counts as changed. */
function marking(management: Management, device: Device, bitmaps: TargetBitmaps): Management {
  const marked: { -readonly [V in keyof Management]: Management[V] } = { ...management };
  const around = async (verb: () => Maybe<void>): Promise<void> => {
    if (bitmaps.names.length === 0) return await verb();
    await device.quietly(async () => {
      await bitmaps.markAll();
      await verb();
    });
  };
  const { applySnapshot, reset, crash } = management;
  if (applySnapshot !== undefined) {
    marked.applySnapshot = (name) => around(() => applySnapshot.call(management, name));
  }
  if (reset !== undefined) marked.reset = () => around(() => reset.call(management));
  if (crash !== undefined) marked.crash = () => around(() => crash.call(management));
  return marked;
}

/** Begins the trace of a target, if it is to have one. Closes the device if that fails. */
async function recorderOf(
  { name, trace }: TargetConfig,
  device: Device,
  { clock, log }: OpenContext,
): Promise<Recorder | null> {
  if (trace === undefined) return null;
  const { size } = device.geometry;
  const info = { started_ms: clock.wall(), target: name, size, completes: true };
  try {
    const recorder = await Recorder.start({ ...trace, info, clock, log });
    device.tap = recorder.tap;
    return recorder;
  } catch (error) {
    await device[Symbol.asyncDispose]();
    throw error;
  }
}

async function endTrace(recorder: Recorder | null, log: OpenContext["log"]): Promise<void> {
  if (recorder === null) return;
  await recorder[Symbol.asyncDispose]();
  const { broken, path, counts: { events, lost } } = recorder;
  // What is wrong was told by the recorder.
  if (!broken && lost === 0) log.info(`The trace ${path} has ${events} events`);
}

/** One layer more. */
async function wrapped(
  below: Opened,
  wrap: (next: Opened["backend"]) => Promise<Opened>,
): Promise<Opened> {
  const { backend, management } = await wrap(below.backend).catch(async (error: unknown) => {
    await below.backend[Symbol.asyncDispose]();
    throw error;
  });
  const verbs = stacked(below.management, management);
  return { backend, ...(verbs === undefined ? {} : { management: verbs }) };
}

/**
 * The verbs of a layer over those of the layers below. A layer that holds data of its own hides verbs on
 * the data below, which would not be those of the target; one that only tells facts adds them.
 */
function stacked(
  below: Management | undefined,
  own: Management | undefined,
): Management | undefined {
  if (below === undefined || own === undefined) return own ?? below;
  const describe = (): ReturnType<NonNullable<Management["describe"]>> => ({
    ...below.describe?.(),
    ...own.describe?.(),
  });
  const holdsData = Object.keys(own).some((verb) => verb !== "describe");
  return holdsData ? { ...own, describe } : { ...below, describe };
}

async function deviceOf(
  backend: ConstructorParameters<typeof Device>[0],
  options: ConstructorParameters<typeof Device>[1],
): Promise<Device> {
  try {
    return new Device(backend, options);
  } catch (error) {
    await backend[Symbol.asyncDispose]();
    throw error;
  }
}
