/**
 * Loop devices and small file systems for tests, and what the file system of temporary folders can do.
 * Where something is missing (root, a kernel that lets it) a test is skipped and says so.
 *
 * @module
 */
import { join } from "node:path";
import { systemFiles } from "../../lib/sys/file.ts";
import { run, runOk, withTempDir } from "./tools.ts";

const NEED = "(skipped: needs root, losetup and mount)";

let possible: Promise<boolean> | null = null;

async function tryAll(): Promise<boolean> {
  if (Deno.uid() !== 0) return false;
  try {
    await withTempDir((folder) => withMount(folder, "ramfs", [], () => {}));
    await withTempDir(async (folder) => {
      const path = join(folder, "disk");
      await Deno.writeFile(path, new Uint8Array(1 << 20));
      await withLoopDevice(path, [], () => {});
    });
    return true;
  } catch {
    return false;
  }
}

/** True if this machine lets tests have loop devices and mounts. */
export function canMount(): Promise<boolean> {
  possible ??= tryAll();
  return possible;
}

/** Registers a test that uses loop devices or mounts. */
export async function mountTest(name: string, fn: () => void | Promise<void>): Promise<void> {
  const ignore = !await canMount();
  Deno.test({ name: ignore ? `${name} ${NEED}` : name, ignore, fn });
}

/** Calls `fn` with a loop device over the file `path`; `args` are those of losetup. */
export async function withLoopDevice(
  path: string,
  args: readonly string[],
  fn: (device: string) => void | Promise<void>,
): Promise<void> {
  const device = (await runOk("losetup", ["--find", "--show", ...args, path])).trim();
  try {
    await fn(device);
  } finally {
    await runOk("losetup", ["--detach", device]);
  }
}

/** Calls `fn` while a new file system is mounted on `folder`; `args` are those of mount. */
export async function withMount(
  folder: string,
  type: string,
  args: readonly string[],
  fn: () => void | Promise<void>,
): Promise<void> {
  await runOk("mount", ["-t", type, ...args, "none", folder]);
  try {
    await fn();
  } finally {
    const { code } = await run("umount", [folder]);
    if (code !== 0) await runOk("umount", ["--lazy", folder]);
  }
}

/** What not every file system can do: bypass the page cache, zero without writing. */
export type Ability = "direct I/O" | "zero range";

function tryAbility(folder: string, ability: Ability): boolean {
  const options = { readOnly: false, lock: false, createSize: 4096 } as const;
  try {
    const direct = ability === "direct I/O";
    const file = systemFiles.open(join(folder, "probe"), { ...options, direct });
    try {
      if (!direct) file.zero(0, 4096);
    } finally {
      file.close();
    }
    return true;
  } catch {
    return false;
  }
}

/** Registers a test that needs an ability of the file system of temporary folders. */
export async function abilityTest(
  name: string,
  ability: Ability,
  fn: () => void | Promise<void>,
): Promise<void> {
  const ignore = !await withTempDir((folder) => tryAbility(folder, ability));
  Deno.test({ name: ignore ? `${name} (skipped: needs ${ability} in TMPDIR)` : name, ignore, fn });
}
