/**
 * What `dmu replay` and `dmu bench` send requests to: a target of the running daemon, a spec or an NBD
 * URI, or a simulated dm-user device in front of a spec.
 *
 * @module
 */
import type { Clock } from "../lib/block/context.ts";
import { Device } from "../lib/block/device.ts";
import { BlockError } from "../lib/block/errors.ts";
import type { Registry } from "../lib/block/registry.ts";
import { parseSpec, type Spec, targetNameProblem, withDefaultOption } from "../lib/block/spec.ts";
import { systemClock, systemRandom } from "../lib/daemon/context.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import { simulatedDmUser } from "../lib/daemon/simulated_dm_user.ts";
import { withControl } from "./control.ts";
import { type CliIo, cliLog } from "./io.ts";
import { hasOption, sizedLike } from "./setup.ts";

/** What stands before the spec that a simulated dm-user device is served from. */
const SIMULATED = "simulated-dm-user:";

/** The help of the argument. */
export const REQUEST_TARGET_HELP =
  "a target of the running daemon, a spec, an NBD URI, or simulated-dm-user:SPEC";

/** How a target is found and opened. */
export interface RequestTargetOptions {
  /** The kinds of backends. */
  readonly registry: Registry;
  /** Size in bytes of what is made for this; null if nobody can tell. */
  readonly size: number | null;
  /** Nothing is going to be written; false if left out. */
  readonly readOnly?: boolean;
  /** Connections of an NBD client, or channels of a simulated device; 1 if left out. */
  readonly connections?: number;
  /** Time; that of `systemClock` if left out. */
  readonly clock?: Clock;
  /** This thread has nothing else to do: calls may block it. */
  readonly mayBlock?: boolean;
}

/** A target as it is named, found. */
export interface FoundTarget {
  /** What is opened. */
  readonly spec: Spec;
  /** A simulated dm-user device is in front of it. */
  readonly simulated: boolean;
}

/** An open target. */
export interface OpenRequestTarget extends AsyncDisposable {
  /** Where requests go. */
  readonly device: Device;
  /** What is behind that: knows holes, which dm-user cannot tell. */
  readonly storage: Device;
  /** What it is, for a human. */
  readonly shown: string;
}

/**
 * Finds what TARGET stands for; `purpose` says what for ("replay on"). Throws UsageError, and BlockError
 * if the running daemon does not have it.
 */
export async function findRequestTarget(
  io: CliIo,
  text: string,
  purpose: string,
  registry: Registry,
  control: string | undefined,
): Promise<FoundTarget> {
  const { kinds } = registry;
  if (targetNameProblem(text) === null) {
    const uri = await uriOf(io, text, purpose, control);
    return { spec: parseSpec(uri, { kinds }), simulated: false };
  }
  const simulated = text.startsWith(SIMULATED);
  const rest = simulated ? text.slice(SIMULATED.length) : text;
  return { spec: parseSpec(rest, { kinds }), simulated };
}

/** Opens it. Throws UsageError and BlockError. */
export async function openRequestTarget(
  io: CliIo,
  found: FoundTarget,
  options: RequestTargetOptions,
): Promise<OpenRequestTarget> {
  const below = await openSpec(io, found, options);
  if (!found.simulated) return below;
  const { clock = systemClock, connections = 1 } = options;
  const settings = { clock, random: systemRandom, channels: connections };
  const front = simulatedDmUser(below.device, settings);
  const name = `${SIMULATED}${found.spec.text}`;
  const device = new Device(front, { name, clock, log: cliLog(io), flushAtEnd: false });
  return {
    device,
    storage: below.device,
    shown: `a simulated dm-user device on ${below.shown}`,
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  };
}

async function openSpec(
  io: CliIo,
  { spec: found, simulated }: FoundTarget,
  options: RequestTargetOptions,
): Promise<OpenRequestTarget> {
  const { registry, size, readOnly = false, connections = 1, clock, mayBlock = false } = options;
  const type = registry.find(found);
  const several = connections > 1 && !simulated && hasOption(type, "connections");
  const connected = several
    ? withDefaultOption({ ...found, uri: false, kind: type.name }, "connections", connections)
    : found;
  const spec = size === null ? connected : sizedLike(registry, connected, size);
  const { device, close } = await openDevice(spec, {
    ...{ registry, log: cliLog(io), readOnly, flushAtEnd: false, mayBlock },
    ...(clock === undefined ? {} : { clock }),
  });
  return { device, storage: device, shown: spec.text, [Symbol.asyncDispose]: close };
}

/** The address of a target of the running daemon. */
async function uriOf(
  io: CliIo,
  name: string,
  purpose: string,
  control: string | undefined,
): Promise<string> {
  const { uris } = await withControl(io, control, (daemon) => daemon.target(name));
  const [uri] = uris;
  if (uri !== undefined) return uri;
  throw new BlockError(
    "ENOTCONN",
    `Cannot ${purpose} ${name}: the daemon does not serve it over NBD`,
  );
}
