/**
 * `deno task test:vm`: real mirrors of a real kernel with logs kept by `dmu log serve`, in a virtual
 * machine that needs no KVM. Takes Debian's kernel, busybox, dmsetup and the Deno that runs this, makes an
 * initramfs of them, and counts the lines of tests/vm/init.sh. Needs qemu-system-x86, busybox-static and
 * dmsetup; the kernel's package is fetched unless `--kernel DIR` says where it was unpacked. Exit code 0
 * only if all is well.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Collector, ended, killQuietly } from "../support/process.ts";
import { runOk, withTempDir } from "../support/tools.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** Time in ms for the machine; without KVM it takes one or two minutes. */
const MACHINE_MS_MAX = 360_000;
/** Memory of the machine in MiB. */
const MEMORY_MIB = 1536;
const MODULES = [
  "drivers/dax/dax",
  "drivers/md/dm-mod",
  "drivers/md/dm-log",
  "drivers/md/dm-region-hash",
  "drivers/md/dm-mirror",
  "drivers/md/dm-log-userspace",
  "drivers/block/brd",
];
/** Commands of busybox that init.sh uses. */
const APPLETS = [
  ...["sh", "mount", "insmod", "grep", "usleep", "dd", "cmp", "sync", "cat", "kill", "poweroff"],
];

/** The kernel's package, unpacked. */
async function fetchKernel(folder: string): Promise<string> {
  const depends = await runOk("apt-cache", ["depends", "linux-image-amd64"]);
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (name === undefined) {
    throw new Error("Cannot find the package of a kernel: apt-cache has none");
  }
  await runOk("apt-get", ["download", "-q", name], { cwd: folder, timeoutMs: 300_000 });
  const [file] = [...Deno.readDirSync(folder)].filter((each) => each.name.endsWith(".deb"));
  await runOk("dpkg", ["-x", join(folder, file?.name ?? ""), join(folder, "kernel")]);
  return join(folder, "kernel");
}

/** Libraries that a program loads, with their paths. */
async function librariesOf(program: string): Promise<string[]> {
  const listed = await runOk("ldd", [program]);
  return [...listed.matchAll(/^\s*(?:\S+ => )?(\/\S+) \(/gm)].map(([, path = ""]) => path);
}

function place(root: string, from: string, to: string): void {
  const target = join(root, to);
  Deno.mkdirSync(join(target, ".."), { recursive: true });
  Deno.copyFileSync(from, target);
}

async function makeRoot(root: string, kernel: string): Promise<void> {
  for (const name of ["dev", "proc", "sys", "tmp", "modules", "bin"]) {
    Deno.mkdirSync(join(root, name), { recursive: true });
  }
  const [version] = [...Deno.readDirSync(join(kernel, "lib/modules"))];
  const modules = join(kernel, "lib/modules", version?.name ?? "", "kernel");
  for (const name of MODULES) {
    const folder = join(modules, name, "..");
    const base = name.slice(name.lastIndexOf("/") + 1);
    // What is missing is built into the kernel; if not, the machine says so.
    const found = [...readFolder(folder)].find((each) => each.startsWith(`${base}.ko`));
    if (found !== undefined) place(root, join(folder, found), `modules/${found}`);
  }
  const which = async (name: string): Promise<string> => (await runOk("which", [name])).trim();
  const dmsetup = await which("dmsetup");
  place(root, await which("busybox"), "bin/busybox");
  for (const name of APPLETS) Deno.symlinkSync("busybox", join(root, "bin", name));
  for (const [path, name] of [[Deno.execPath(), "deno"], [dmsetup, "dmsetup"]] as const) {
    place(root, path, `bin/${name}`);
    for (const library of await librariesOf(path)) place(root, library, library);
  }
  place(root, join(ROOT, "tests/vm/init.sh"), "init");
  Deno.chmodSync(join(root, "init"), 0o755);
  const args = ["bundle", "--quiet", "--platform", "deno", "--output", join(root, "dmu.js")];
  await runOk(Deno.execPath(), [...args, join(ROOT, "cli/main.ts")], { cwd: ROOT });
}

function readFolder(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
}

async function boot(kernel: string, initrd: string): Promise<string> {
  const image = readFolder(join(kernel, "boot")).find((name) => name.startsWith("vmlinuz-"));
  const child = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-accel", "tcg", "-cpu", "max", "-m", String(MEMORY_MIB), "-nographic", "-no-reboot"],
      ...["-kernel", join(kernel, "boot", image ?? ""), "-initrd", initrd],
      ...["-append", "console=ttyS0 quiet panic=-1"],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const print = (line: string): void => {
    if (/^(ok|not ok) /.test(line)) Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
  };
  const out = new Collector(child.stdout, (line) => print(line.replace(/\r$/, "")));
  const err = new Collector(child.stderr);
  if (await ended(child, MACHINE_MS_MAX) === null) killQuietly(child, "SIGKILL");
  await Promise.all([out.done, err.done, child.status]);
  return out.text() + err.text();
}

const { values } = parseArgs({ options: { kernel: { type: "string" } } });
const code = await withTempDir(async (folder) => {
  const kernel = values.kernel ?? await fetchKernel(folder);
  const root = join(folder, "root"), initrd = join(folder, "initrd.gz");
  await makeRoot(root, kernel);
  const pack =
    `cd '${root}' && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >'${initrd}'`;
  await runOk("sh", ["-c", pack]);
  const lines = (await boot(kernel, initrd)).replaceAll("\r", "").split("\n");
  const passed = lines.filter((line) => line.startsWith("ok ")).length;
  const failed = lines.filter((line) => line.startsWith("not ok ")).length;
  const whole = lines.includes("done");
  const text = `${passed} passed, ${failed + (whole ? 0 : 1)} failed\n`;
  if (failed > 0 || !whole) Deno.stdout.writeSync(new TextEncoder().encode(lines.join("\n")));
  Deno.stdout.writeSync(new TextEncoder().encode(text));
  return whole && failed === 0 && passed > 0 ? 0 : 1;
});
Deno.exit(code);
