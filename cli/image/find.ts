/**
 * Which image a command works on: FILE is a path, whose kind is read off its beginning unless told, or
 * a spec. And the surroundings of that work: progress on a terminal, signals that end it.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { IMAGE_HEAD_BYTES, type ImageContext } from "../../lib/block/image.ts";
import type { AnyBackendType, PreparedImage, Registry } from "../../lib/block/registry.ts";
import { parseSize } from "../../lib/block/size.ts";
import { encodeSpecText, parseSpec, type Spec } from "../../lib/block/spec.ts";
import { suggest, UsageError } from "../../lib/block/usage_error.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { openDevice } from "../../lib/daemon/open_device.ts";
import type { Management } from "../../lib/block/types.ts";
import { type CliIo, cliLog } from "../io.ts";
import { startProgress } from "../progress.ts";

/** Help of the argument FILE. */
export const FILE_HELP = "path of an image, or a spec as in qcow2:FILE";
/** Help of `--kind`. */
export const KIND_HELP = "kind of the image, instead of what its first bytes say";

/** The kind of that name, or whose format has that name ("raw" is what files are). */
function kindNamed(registry: Registry, name: string): AnyBackendType {
  const able = registry.backends.filter(({ image }) => image !== undefined);
  const found = able.find((type) => type.name === name) ??
    able.find(({ image }) => image?.format === name);
  if (found !== undefined) return found;
  const names = able.map((type) => type.name);
  throw new UsageError(
    `Cannot work on kind "${name}": it has no image tools; ${suggest(name, names)}`,
  );
}

/** The first bytes of a file: IMAGE_HEAD_BYTES, or all it has. */
function readHead(path: string, { files }: OpenContext): Uint8Array {
  const file = files.open(path, { readOnly: true, direct: false, lock: false });
  try {
    const head = new Uint8Array(Math.min(IMAGE_HEAD_BYTES, file.size()));
    file.read(head, 0);
    return head;
  } finally {
    file.close();
  }
}

/** The spec of the file at `path`. */
function fileSpec(registry: Registry, kind: string, path: string): Spec {
  return parseSpec(`${kind}:${encodeSpecText(path)}`, { kinds: registry.kinds });
}

/** True if `text` is a spec rather than a path: it begins with a kind or scheme that there is. */
function isSpec(registry: Registry, text: string): boolean {
  const word = /^([A-Za-z][\w+.-]*):/.exec(text)?.[1];
  if (word === undefined) return false;
  return registry.backends.some(({ name, schemes = [] }) =>
    name === word || schemes.includes(word) && text.startsWith(`${word}://`)
  );
}

/** The image that `text` names and that need not be there yet. Throws UsageError. */
export function newImage(
  registry: Registry,
  text: string,
  kind: string | undefined,
): PreparedImage {
  if (kind !== undefined) {
    return registry.prepareImage(fileSpec(registry, kindNamed(registry, kind).name, text));
  }
  if (isSpec(registry, text)) return registry.prepareImage(parseSpec(text, registry));
  throw new UsageError(
    `Cannot create ${text}: its kind is missing, as in --kind qcow2 or qcow2:${text}`,
  );
}

/** The image that `text` names. Throws UsageError, and SystemError if the file cannot be read. */
export function findImage(
  registry: Registry,
  text: string,
  kind: string | undefined,
  context: OpenContext,
): PreparedImage {
  if (kind !== undefined || isSpec(registry, text)) return newImage(registry, text, kind);
  const type = registry.detectImage(readHead(text, context));
  return registry.prepareImage(fileSpec(registry, type?.name ?? "file", text));
}

/** Runs `work` with a progress line named `what`; a signal aborts its context, a second one ends all. */
export async function withImageContext<T>(
  io: CliIo,
  what: string,
  readOnly: boolean,
  work: (context: ImageContext) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  const removeHandler = io.onStopSignal(() => {
    if (stop.signal.aborted) io.exitNow(1);
    stop.abort(new BlockError("EINTR", `Cannot finish the ${what}: it was interrupted`));
  });
  const bar = startProgress(io, what);
  try {
    const context = systemContext({ log: cliLog(io), readOnly, signal: stop.signal });
    return await work({ ...context, progress: (done, total) => bar.update(done, total) });
  } finally {
    bar.clear();
    removeHandler();
  }
}

/** Help of `--force` where it goes past `refuseInUse`. */
export const FORCE_HELP = "do it though the image is in use, or was not closed";

/**
 * Throws EBUSY if somebody has the image open, or has not closed it, and its kind cannot find that out
 * when it opens it. `what` is what was to be done.
 */
export async function refuseInUse(
  what: string,
  { spec, disk, tools }: PreparedImage,
  force: boolean,
  context: ImageContext,
): Promise<void> {
  if (force || tools.inUse === undefined) return;
  const reason = await tools.inUse(disk, context);
  if (reason === null) return;
  throw new BlockError(
    "EBUSY",
    `Cannot ${what} ${spec.text}: ${reason}; --force goes on, and whoever has it open loses it`,
  );
}

/** Opens an image for its management verbs. `signal` gives up waiting. */
export async function withManagement<T>(
  io: CliIo,
  registry: Registry,
  { spec }: PreparedImage,
  signal: AbortSignal,
  use: (management: Management) => Promise<T>,
): Promise<T> {
  await using open = await openDevice(spec, { registry, log: cliLog(io), readOnly: false, signal });
  return await use(open.opened.management ?? {});
}

/** The error of a verb that a kind does not have. */
export function cannot(verb: string, { spec, type }: PreparedImage): UsageError {
  return new UsageError(`Cannot ${verb} ${spec.argument}: ${type.name} images do not have that`);
}

/** A size in bytes. Throws UsageError. */
export function sizeArgument(text: string): number {
  const bytes = parseSize(text);
  if (typeof bytes === "number") return bytes;
  throw new UsageError(`The size ${bytes.problem}`, { text, start: 0, end: text.length });
}
