/**
 * Where `dmu copy` reads from when the source is a target of the running daemon, and what of it: all, or
 * what a dirty bitmap says. A copy that is to be relied on freezes the bitmap first, and drops what was
 * frozen when it has succeeded; if it fails, or is killed, that is merged back.
 *
 * @module
 */
import type { ChangeSource } from "../lib/block/copy.ts";
import { BlockError } from "../lib/block/errors.ts";
import { systemClock } from "../lib/daemon/context.ts";
import type { ControlClient } from "../lib/daemon/control_client.ts";
import { openDirtyBitmap } from "../lib/nbd/client/mod.ts";
import { NBD_SCHEMES, parseNbdUri } from "../lib/nbd/uri.ts";
import { UsageError } from "../lib/block/usage_error.ts";
import { checkBitmapName } from "./bitmap.ts";
import { checkName, patiently, withControl } from "./control.ts";
import type { CliIo } from "./io.ts";
import { printable } from "./safe_text.ts";

/** What a source that is a target of the running daemon begins with. */
const TARGET_PREFIX = "target:";

/** Which changes are wanted. */
export interface SinceOptions {
  /** The bitmap, or undefined for all of the source. */
  readonly since: string | undefined;
  /** Begin a point: what was copied counts as copied. */
  readonly advance: boolean;
  /** The control socket that was named. */
  readonly control: string | undefined;
}

/** A source that is found. */
export interface FoundSource {
  /** The spec to open. */
  readonly spec: string;
  /** What of it has changed; undefined for all. */
  readonly changes: ChangeSource | undefined;
  /** Bytes of it when the changes were asked for; undefined without them. */
  readonly size: number | undefined;
}

function mistake(reason: string, text: string): UsageError {
  return new UsageError(`Cannot copy: ${reason}`, { text, start: 0, end: text.length });
}

/**
 * Runs `use` with the source that `text` names. Throws UsageError for options that do not fit together,
 * BlockError for what the daemon or the server refuses.
 */
export async function withSource<T>(
  io: CliIo,
  text: string,
  options: SinceOptions,
  use: (source: FoundSource) => Promise<T>,
): Promise<T> {
  const { since, advance, control: place } = options;
  if (since !== undefined) checkBitmapName(since);
  if (!text.startsWith(TARGET_PREFIX)) {
    if (advance) {
      throw mistake("--advance is for a target of the running daemon, target:NAME", text);
    }
    return await withChanges(text, since, use);
  }
  if (advance && since === undefined) throw mistake("--advance goes with --since BITMAP", text);
  const name = checkName(text.slice(TARGET_PREFIX.length));
  return await withControl(io, place, async (control) => {
    const uri = await uriOf(control, name);
    const copy = (): Promise<T> => withChanges(uri, since, use);
    if (since === undefined || !advance) return await copy();
    return await atPoint(io, control, { target: name, bitmap: since }, copy);
  });
}

async function uriOf(control: ControlClient, name: string): Promise<string> {
  const { uris: [uri] } = await control.target(name);
  if (uri !== undefined) return uri;
  throw new BlockError(
    "EOPNOTSUPP",
    `Cannot copy target ${name}: it is not served over NBD; start the daemon with --nbd`,
  );
}

async function withChanges<T>(
  spec: string,
  since: string | undefined,
  use: (source: FoundSource) => Promise<T>,
): Promise<T> {
  if (since === undefined) return await use({ spec, changes: undefined, size: undefined });
  if (!NBD_SCHEMES.some((scheme) => spec.startsWith(`${scheme}:`))) {
    throw mistake("--since is for an NBD URI, or target:NAME", spec);
  }
  await using bitmap = await openDirtyBitmap(parseNbdUri(spec), since, { clock: systemClock });
  return await use({ spec, changes: bitmap, size: bitmap.size });
}

/** Runs `copy` between the beginning and the end of a point; see the top of the file. */
async function atPoint<T>(
  io: CliIo,
  control: ControlClient,
  { target, bitmap: name }: { readonly target: string; readonly bitmap: string },
  copy: () => Promise<T>,
): Promise<T> {
  const freezing = control.bitmap(target, { action: "freeze", name });
  await patiently(io, `operations on ${target} to finish`, freezing);
  let undo = (): Promise<unknown> => control.bitmap(target, { action: "merge", name });
  try {
    // If this program is killed the daemon merges: the connection is an open file that ends then.
    const minor = await control.self();
    const handle = await control.addOnexit(minor, `merge ${target} ${name}`);
    undo = () => control.removeOnexit(minor, handle, { fire: true });
    const result = await copy();
    await control.bitmap(target, { action: "drop", name });
    undo = () => control.removeOnexit(minor, handle);
    return result;
  } finally {
    await undo().catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      io.err(`dmu: cannot end the point of ${name}: ${printable(reason)}; look at dmu bitmap ls\n`);
    });
  }
}
