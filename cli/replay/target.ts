/**
 * What `dmu replay` replays on: a target of the running daemon, a spec or an NBD URI, or a simulated
 * dm-user device in front of a spec.
 *
 * @module
 */
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Registry } from "../../lib/block/registry.ts";
import { parseSpec, targetNameProblem } from "../../lib/block/spec.ts";
import { systemClock, systemRandom } from "../../lib/daemon/context.ts";
import { openDevice } from "../../lib/daemon/open_device.ts";
import { simulatedDmUser } from "../../lib/daemon/simulated_dm_user.ts";
import { withControl } from "../control.ts";
import { type CliIo, cliLog } from "../io.ts";
import { sizedLike } from "../setup.ts";

/** What stands before the spec that a simulated dm-user device is served from. */
const SIMULATED = "simulated-dm-user:";

/** How a target is found and opened. */
export interface ReplayTargetOptions {
  /** The kinds of backends. */
  readonly registry: Registry;
  /** Size in bytes of what is made for the replay; null if the trace does not tell. */
  readonly size: number | null;
  /** The control socket, as on the command line. */
  readonly control: string | undefined;
}

/** An open target. */
export interface OpenReplayTarget extends AsyncDisposable {
  /** Where requests go. */
  readonly device: Device;
  /** What it is, for a human. */
  readonly shown: string;
}

/** Opens what TARGET stands for. Throws UsageError and BlockError. */
export async function openReplayTarget(
  io: CliIo,
  text: string,
  options: ReplayTargetOptions,
): Promise<OpenReplayTarget> {
  if (targetNameProblem(text) === null) {
    return await openSpec(io, await uriOf(io, text, options.control), options);
  }
  if (!text.startsWith(SIMULATED)) return await openSpec(io, text, options);
  const below = await openSpec(io, text.slice(SIMULATED.length), options);
  const settings = { clock: systemClock, random: systemRandom };
  const front = simulatedDmUser(below.device, settings);
  const log = cliLog(io);
  const device = new Device(front, { name: text, clock: systemClock, log, flushAtEnd: false });
  return {
    device,
    shown: `a simulated dm-user device on ${below.shown}`,
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  };
}

async function openSpec(
  io: CliIo,
  text: string,
  { registry, size }: ReplayTargetOptions,
): Promise<OpenReplayTarget> {
  const parsed = parseSpec(text, { kinds: registry.kinds });
  const spec = size === null ? parsed : sizedLike(registry, parsed, size);
  const settings = { registry, log: cliLog(io), readOnly: false, flushAtEnd: false };
  const { device, close } = await openDevice(spec, settings);
  return { device, shown: spec.text, [Symbol.asyncDispose]: close };
}

/** The address of a target of the running daemon. */
async function uriOf(io: CliIo, name: string, control: string | undefined): Promise<string> {
  const { uris } = await withControl(io, control, (daemon) => daemon.target(name));
  const [uri] = uris;
  if (uri !== undefined) return uri;
  throw new BlockError(
    "ENOTCONN",
    `Cannot replay on ${name}: the daemon does not serve it over NBD`,
  );
}
