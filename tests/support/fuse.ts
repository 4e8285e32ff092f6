/**
 * A target as a file, through nbdfuse. Needs more than a package: a kernel with /dev/fuse and the right
 * to mount, which containers often lack; so a test with it is skipped there, in CI too.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Collector, ended, killQuietly, within } from "./process.ts";
import { needs, runOk, type ToolName, toolPath } from "./tools.ts";

/** Time that mounting and unmounting may take, in ms. */
const MOUNT_MS_MAX = 20_000;

/** What this machine lacks for mounting with nbdfuse besides the program; null if nothing. */
export const FUSE_LACK: string | null = (() => {
  if (Deno.uid() !== 0) return "root";
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return null;
  } catch {
    return "/dev/fuse";
  }
})();

/** Registers a test that mounts with nbdfuse. */
export function fuseTest(name: string, tools: readonly ToolName[], fn: () => Promise<void>): void {
  const need = needs("nbdfuse", ...tools);
  const suffix = FUSE_LACK === null ? need.suffix : ` (skipped: needs ${FUSE_LACK})`;
  Deno.test({
    name: name + suffix,
    ignore: need.ignore || FUSE_LACK !== null,
    fn: async () => {
      need.require();
      await fn();
    },
  });
}

async function appears(folder: string, name: string, ends: Promise<unknown>): Promise<boolean> {
  using watcher = Deno.watchFs(folder);
  let over = false;
  ends.then(() => {
    if (!over) watcher.close();
  });
  const there = (): boolean => {
    const entry = [...Deno.readDirSync(folder)].find((each) => each.name === name);
    return entry !== undefined && Deno.statSync(join(folder, name)).size > 0;
  };
  if (!there()) {
    for await (const _ of watcher) if (there()) break;
  }
  over = true;
  return there();
}

/** A file that is the device behind a URI. Disposing unmounts it, for which nobody may use it. */
export interface FuseFile extends AsyncDisposable {
  readonly path: string;
  /** SIGKILL: whatever uses the file, however, fails from now on. */
  kill(): Promise<void>;
}

/** Mounts the device behind `uri` as a file; `folder` is made and mounted on, and stays. */
export async function mountFuseFile(folder: string, uri: string): Promise<FuseFile> {
  const pids = `${folder}.pids`;
  await Deno.mkdir(folder);
  await Deno.mkdir(pids);
  const path = join(folder, "disk");
  const child = new Deno.Command(toolPath("nbdfuse"), {
    args: ["-P", join(pids, "pid"), path, uri],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const said = new Collector(child.stderr);
  let killed = false;
  const over = async (): Promise<void> => {
    await child.status;
    await said.done;
  };
  const file: FuseFile = {
    path,
    async kill(): Promise<void> {
      if (killed) return;
      killed = true;
      killQuietly(child, "SIGKILL");
      await over();
      await runOk("umount", ["--lazy", folder]);
    },
    async [Symbol.asyncDispose](): Promise<void> {
      if (killed) return;
      killQuietly(child, "SIGTERM"); // it unmounts
      if (await ended(child, MOUNT_MS_MAX) === null) killQuietly(child, "SIGKILL");
      await over();
    },
  };
  const mounted = await within(appears(pids, "pid", child.status), MOUNT_MS_MAX);
  if (mounted === true) return file;
  await file[Symbol.asyncDispose]();
  assert.fail(`nbdfuse has not mounted\n${said.text()}`);
}

/** Calls `fn` with the path of a file that is the device behind `uri`; `folder` is made and mounted on. */
export async function withFuseFile(
  folder: string,
  uri: string,
  fn: (file: string) => Promise<void>,
): Promise<void> {
  await using file = await mountFuseFile(folder, uri);
  await fn(file.path);
}
