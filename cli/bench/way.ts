/**
 * The way from `dmu bench` to its target: raw sockets where that is possible, else a Device.
 *
 * @module
 */
import { measureAllocation } from "../../lib/block/allocation.ts";
import type { Clock } from "../../lib/block/context.ts";
import type { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Registry } from "../../lib/block/registry.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { formatSize, spellSize } from "../../lib/block/size.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { largestOf, unitOf } from "../../lib/bench/block_sizes.ts";
import { runOnDevice } from "../../lib/bench/device_load.ts";
import { LOAD_DISK_BYTES } from "../../lib/bench/limits.ts";
import type { Load } from "../../lib/bench/load.ts";
import { flushNbd, type NbdWire, openNbdWire, runOverNbd } from "../../lib/bench/nbd_load.ts";
import type { LoadRunOptions } from "../../lib/bench/turn.ts";
import { type NbdUri, parseNbdUri } from "../../lib/nbd/uri.ts";
import type { CliIo } from "../io.ts";
import { type FoundTarget, type OpenRequestTarget, openRequestTarget } from "../request_target.ts";
import { hasOption } from "../setup.ts";
import type { BenchPlan } from "./options.ts";

/** Longest look for data in a target before it is taken for one that has some, in ms. */
const EMPTY_CHECK_MS_MAX = 5_000;

/** A target that loads can be run on. */
export interface BenchWay extends AsyncDisposable {
  /** What it is, for a human. */
  readonly shown: string;
  /** How requests get there, for a human. */
  readonly how: string;
  /** Bytes of it that are used. */
  readonly size: number;
  /** Connections for which requests are counted: what `Load` wants to know. */
  readonly connections: number;
  /** Runs a load to its end. */
  run(load: Load, depth: number, options: LoadRunOptions): Promise<void>;
  /** Makes durable what was written. */
  flush(options: LoadRunOptions): Promise<void>;
}

/** How to open it. */
export interface BenchWayOptions {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Write although it holds data. */
  readonly overwrite: boolean;
}

/** The address, if raw sockets lead there. */
function plainUri({ spec, simulated }: FoundTarget, registry: Registry): NbdUri | null {
  if (simulated || !spec.uri || registry.find(spec).name !== "nbd") return null;
  const uri = parseNbdUri(spec.argument);
  return uri.tls ? null : uri;
}

/** The part of the device that is used. Throws UsageError if the load does not fit it. */
function usedSize(device: Device, plan: BenchPlan): number {
  const { size, minimum, maximum } = device.geometry;
  const { blockSizes } = plan;
  const largest = largestOf(blockSizes), unit = unitOf(blockSizes);
  if (plan.size !== null && plan.size > size) {
    throw new UsageError(
      `Cannot use ${formatSize(plan.size)} of ${device.name}: it has ${formatSize(size)}`,
    );
  }
  const used = plan.size ?? size;
  const problem = unit % minimum !== 0
    ? `its blocks have ${minimum} bytes`
    : largest > maximum
    ? `its largest request is ${spellSize(maximum)}`
    : largest > used
    ? `${formatSize(used)} hold no block of ${spellSize(largest)}`
    : null;
  if (problem !== null) {
    throw new UsageError(`Cannot use this block size on ${device.name}: ${problem}`);
  }
  return used;
}

/** Throws BlockError unless the load may write. */
async function checkWritable(
  device: Device,
  clock: Clock,
  overwrite: boolean,
): Promise<void> {
  const { name, features, geometry } = device;
  if (features.readOnly) throw new BlockError("EROFS", `Cannot write to ${name}: it is read-only`);
  if (overwrite) return;
  const reason = !features.extents
    ? "it may hold data"
    : await holdsNothing(device, clock, geometry.size)
    ? null
    : "it holds data";
  if (reason === null) return;
  throw new BlockError(
    "EEXIST",
    `Cannot write to ${name}: ${reason}; --overwrite says that they are not needed`,
  );
}

async function holdsNothing(device: Device, clock: Clock, size: number): Promise<boolean> {
  const { examined, data } = await measureAllocation(device, clock, EMPTY_CHECK_MS_MAX);
  return data === 0 && examined === size;
}

/** Opens the target and looks whether the load fits it. Throws UsageError and BlockError. */
export async function openBenchWay(
  io: CliIo,
  found: FoundTarget,
  plan: BenchPlan,
  options: BenchWayOptions,
): Promise<BenchWay> {
  const { registry, clock } = options;
  const writes = plan.readShare < 1 && plan.verify !== "only";
  const uri = plainUri(found, registry);
  const { connections } = plan;
  const several = uri !== null || found.simulated ||
    hasOption(registry.find(found.spec), "connections");
  if (connections > 1 && !several) {
    throw new UsageError(
      "Cannot use --connections here: a spec is opened in this process, without connections",
    );
  }
  const target = await openRequestTarget(io, found, {
    ...{ registry, clock, readOnly: !writes, mayBlock: true },
    size: plan.size ?? LOAD_DISK_BYTES,
    connections: uri === null ? connections : 1,
  });
  let size: number;
  try {
    size = usedSize(target.device, plan);
    if (writes) await checkWritable(target.storage, clock, options.overwrite);
  } catch (error) {
    await target[Symbol.asyncDispose]();
    throw error;
  }
  if (uri === null) return deviceWay(target, size, connections);
  const { shown } = target;
  // Some servers have one client at a time.
  await target[Symbol.asyncDispose]();
  return await nbdWay(uri, shown, size, connections, options);
}

function deviceWay(target: OpenRequestTarget, size: number, connections: number): BenchWay {
  const { device, shown } = target;
  return {
    ...{ shown, size, connections: 1 },
    how: "in this process",
    run: (load, depth, options) => runOnDevice(device, load, depth * connections, options),
    flush: async () => await device.submit(makeRequest("flush")),
    [Symbol.asyncDispose]: () => target[Symbol.asyncDispose](),
  };
}

async function nbdWay(
  uri: NbdUri,
  shown: string,
  size: number,
  connections: number,
  options: LoadRunOptions,
): Promise<BenchWay> {
  const wires: NbdWire[] = [];
  const close = (): Promise<void> => {
    for (const wire of wires) wire.close();
    return Promise.resolve();
  };
  try {
    for (let count = 0; count < connections; count += 1) {
      wires.push(await openNbdWire(uri, options));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    ...{ shown, size, connections },
    how: "over NBD",
    run: (load, depth, settings) => runOverNbd(wires, load, depth, settings),
    flush: (settings) => flushNbd(wires, settings),
    [Symbol.asyncDispose]: close,
  };
}
