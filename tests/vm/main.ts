/**
 * `deno task test:vm`: real mirrors of a real kernel with logs kept by `dmu log serve`, in a virtual
 * machine that needs no KVM. Fetches Debian's kernel, busybox and dmsetup, installs nothing, makes an
 * initramfs of them and of the Deno that runs this, and boots it twice: the first machine ends in the
 * middle of its writes, the second one finds the disks that it left. Needs qemu-system-x86_64 and apt.
 *
 * `--short` leaves out what takes long. `--unpacked DIR` keeps the packages there for the next time. Ends
 * in the line "N passed, N failed"; exit code 0 only if all is well.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Collector, ended, killQuietly } from "../support/process.ts";
import { runOk, withTempDir } from "../support/tools.ts";
import { librariesOf, namesIn, unpacked, unpackPackages } from "./packages.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const HERE = fileURLToPath(new URL("./", import.meta.url));
const PROGRAM = fileURLToPath(new URL("./program.ts", import.meta.url));
/** Time in ms for one machine, without KVM and on a slow host. */
const MACHINE_MS_MAX = 1_800_000;
/** Memory of the machine in MiB. */
const MEMORY_MIB = 1536;
/** Bytes of the disks: two legs and a log. */
const DISK_BYTES: readonly number[] = [32 << 20, 32 << 20, 1 << 20];
/** Units of processor time in /proc, see proc(5). */
const TICKS_PER_SECOND = 100;
/** In the order in which they are loaded; what is missing is built into the kernel. */
const MODULES = [
  ...["virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev"],
  ...["virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk"],
  ...["dax/dax", "md/dm-mod", "md/dm-log", "md/dm-region-hash", "md/dm-mirror"],
  "md/dm-log-userspace",
];
/** Needs its parameters. */
const RAM_DISKS = "block/brd";

function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}

function place(root: string, from: string, to: string): void {
  const target = join(root, to);
  Deno.mkdirSync(dirname(target), { recursive: true });
  Deno.copyFileSync(from, target);
}

function placeModules(root: string, packages: string): void {
  const [version = ""] = namesIn(join(packages, "lib/modules"));
  const drivers = join(packages, "lib/modules", version, "kernel/drivers");
  for (const name of [...MODULES, RAM_DISKS]) {
    const folder = join(drivers, dirname(name)), base = name.slice(name.indexOf("/") + 1);
    const found = namesIn(folder).find((each) => each.startsWith(`${base}.ko`));
    if (found !== undefined) place(root, join(folder, found), `modules/${found}`);
  }
  const order = MODULES.map((name) => `${name.slice(name.indexOf("/") + 1)}\n`).join("");
  Deno.writeTextFileSync(join(root, "modules/order"), order);
}

async function makeRoot(root: string, packages: string): Promise<void> {
  for (const name of ["dev", "proc", "sys", "tmp", "modules", "bin", "checks"]) {
    Deno.mkdirSync(join(root, name), { recursive: true });
  }
  placeModules(root, packages);
  place(root, unpacked(packages, "busybox"), "bin/busybox");
  Deno.symlinkSync("busybox", join(root, "bin/sh"));
  for (const path of [Deno.execPath(), unpacked(packages, "dmsetup")]) {
    place(root, path, `bin/${path === Deno.execPath() ? "deno" : "dmsetup"}`);
    for (const { from, to } of await librariesOf(path, packages)) place(root, from, to);
  }
  for (const name of namesIn(HERE).filter((each) => each.endsWith(".sh"))) {
    place(root, join(HERE, name), name === "init.sh" ? "init" : `checks/${name}`);
  }
  Deno.chmodSync(join(root, "init"), 0o755);
  const args = [
    "bundle",
    "--quiet",
    "--minify",
    "--platform",
    "deno",
    "--output",
    join(root, "dmu.js"),
  ];
  await runOk(Deno.execPath(), [...args, PROGRAM], { cwd: ROOT });
}

async function pack(root: string, packages: string, into: string): Promise<void> {
  const busybox = unpacked(packages, "busybox");
  const command = '(cd "$1" && find . | "$2" cpio -o -H newc 2>/dev/null) | gzip -1 >"$3"';
  await runOk("sh", ["-c", command, "sh", root, busybox, into]);
}

/** A machine that boots. */
interface Machine {
  readonly kernel: string;
  readonly initrd: string;
  readonly disks: readonly string[];
  readonly profile: "short" | "long";
}

/** Processor time in seconds that a process has taken: a busy host makes the clock no measure. */
function cpuSeconds(pid: number): string {
  const [, after = ""] = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ");
  const [user = 0, system = 0] = after.split(" ").slice(11, 13).map(Number);
  return ((user + system) / TICKS_PER_SECOND).toFixed(1);
}

/** Runs a file of checks in a machine of its own; gives what it printed. */
async function boot(machine: Machine, checks: string): Promise<string[]> {
  const { kernel, initrd, disks, profile } = machine;
  const parameters = `console=ttyS0 quiet panic=-1 dmu.checks=${checks} dmu.profile=${profile}`;
  const child = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", String(MEMORY_MIB)],
      ...["-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"],
      ...disks.flatMap((path) => ["-drive", `file=${path},format=raw,if=virtio`]),
      ...["-kernel", kernel, "-initrd", initrd, "-append", parameters],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const print = (line: string): void => {
    if (/^(ok|not ok) /.test(line)) say(`${line} (${cpuSeconds(child.pid)} s)\n`);
  };
  const out = new Collector(child.stdout, (line) => print(line.replace(/\r$/, "")));
  const err = new Collector(child.stderr);
  if (await ended(child, MACHINE_MS_MAX) === null) killQuietly(child, "SIGKILL");
  await Promise.all([out.done, err.done, child.status]);
  return (out.text() + err.text()).replaceAll("\r", "").split("\n");
}

/** How many lines say so; a machine that has not said "done" counts as one failure more. */
function count(lines: readonly string[]): { readonly passed: number; readonly failed: number } {
  const passed = lines.filter((line) => line.startsWith("ok ")).length;
  const failed = lines.filter((line) => line.startsWith("not ok ")).length;
  const whole = lines.includes("done");
  if (failed > 0 || !whole) say(`${lines.join("\n")}\n`);
  return { passed, failed: failed + (whole && passed > 0 ? 0 : 1) };
}

const { values } = parseArgs({
  options: { short: { type: "boolean", default: false }, unpacked: { type: "string" } },
});
const code = await withTempDir(async (folder) => {
  const packages = values.unpacked ?? join(folder, "packages");
  await unpackPackages(packages);
  const root = join(folder, "root"), initrd = join(folder, "initrd.gz");
  await makeRoot(root, packages);
  await pack(root, packages, initrd);
  const image = namesIn(join(packages, "boot")).find((name) => name.startsWith("vmlinuz-"));
  const disks = DISK_BYTES.map((bytes, index) => {
    const path = join(folder, `disk${index}`);
    Deno.writeFileSync(path, new Uint8Array(0));
    Deno.truncateSync(path, bytes);
    return path;
  });
  const profile = values.short ? "short" : "long";
  const machine: Machine = {
    kernel: join(packages, "boot", image ?? ""),
    initrd,
    disks,
    profile,
  };
  let passed = 0, failed = 0;
  for (const checks of ["mirrors", "after_crash"]) {
    const counted = count(await boot(machine, checks));
    passed += counted.passed;
    failed += counted.failed;
  }
  say(`${passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
});
Deno.exit(code);
