/**
 * A target as a file, through nbdfuse. Needs more than a package: a kernel with /dev/fuse and the right
 * to mount, which containers often lack; so a test with it is skipped there, in CI too.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Collector, ended, killQuietly, within } from "./process.ts";
import { needs, type ToolName, toolPath } from "./tools.ts";

/** Time that mounting and unmounting may take, in ms. */
const MOUNT_MS_MAX = 20_000;

const WHY_NOT: string | null = (() => {
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
  const suffix = WHY_NOT === null ? need.suffix : ` (skipped: needs ${WHY_NOT})`;
  Deno.test({
    name: name + suffix,
    ignore: need.ignore || WHY_NOT !== null,
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

/** Calls `fn` with the path of a file that is the device behind `uri`; `folder` is made and mounted on. */
export async function withFuseFile(
  folder: string,
  uri: string,
  fn: (file: string) => Promise<void>,
): Promise<void> {
  const pids = `${folder}.pids`;
  await Deno.mkdir(folder);
  await Deno.mkdir(pids);
  const child = new Deno.Command(toolPath("nbdfuse"), {
    args: ["-P", join(pids, "pid"), join(folder, "disk"), uri],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const said = new Collector(child.stderr);
  try {
    const mounted = await within(appears(pids, "pid", child.status), MOUNT_MS_MAX);
    assert.ok(mounted === true, `nbdfuse has not mounted\n${said.text()}`);
    await fn(join(folder, "disk"));
  } finally {
    killQuietly(child, "SIGTERM"); // it unmounts
    if (await ended(child, MOUNT_MS_MAX) === null) killQuietly(child, "SIGKILL");
    await child.status;
    await said.done;
  }
}
