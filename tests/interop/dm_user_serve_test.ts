/**
 * `dmu serve --dm-user` as the daemon of a dm-user target: the control device is a file of `dmu simulate`,
 * which blocks, counts and fails as the kernel's does. Data goes in and out through the simulated disk.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { canMount, withLoopDevice } from "../support/mounts.ts";
import {
  type DmuServer,
  fileHash,
  needs,
  run,
  runOk,
  sampleBytes,
  scriptProgram,
  startDmu,
  type ToolName,
  toolPath,
  withTempDir,
} from "../support/tools.ts";

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;
const MAIN = new URL("../../cli/main.ts", import.meta.url);

interface Bed {
  readonly folder: string;
  /** What daemons open is DIR/d. */
  readonly controls: string;
  readonly disk: string;
  /** Kills the simulator; the mount stays. */
  crash(): Promise<void>;
  /** Starts our daemon on a file, which is the same for all daemons of a test. */
  daemon(channels: number): Promise<DmuServer>;
}

function canSimulate(): boolean {
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
    return Deno.uid() === 0;
  } catch {
    return false;
  }
}

const able = canSimulate() && await canMount();

function simulatedTest(
  name: string,
  tools: readonly ToolName[],
  fn: (bed: Bed) => Promise<void>,
): void {
  const need = needs(...tools);
  const suffix = able ? need.suffix : " (skipped: needs root, /dev/fuse, losetup and mount)";
  Deno.test({
    name: name + suffix,
    ignore: !able || need.ignore,
    fn: async () => {
      need.require();
      await withBed(fn);
    },
  });
}

async function withBed(fn: (bed: Bed) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const mount = join(folder, "sim"), controls = join(mount, "dm-user");
    await using simulation = await startDmu([`d=${SIZE}`, "--mount", mount], {
      program: [...scriptProgram(MAIN), "simulate", "--json"],
    });
    const spec = `d=file:${join(folder, "image")}?size=${SIZE}`;
    let crashed = false;
    const crash = async (): Promise<void> => {
      crashed = true;
      await simulation.kill();
    };
    const bed: Bed = {
      folder,
      controls,
      disk: join(mount, "disk", "d"),
      crash,
      daemon: (channels) =>
        startDmu([spec, "--dm-user", "d", "--dm-user-dir", controls, "--channels", `${channels}`]),
    };
    try {
      await fn(bed);
    } finally {
      if (crashed) await runOk("umount", ["--lazy", mount]);
    }
    if (!crashed) await simulation.stop();
  });
}

async function sample(folder: string, name: string, length: number): Promise<string> {
  const path = join(folder, name);
  await Deno.writeFile(path, sampleBytes(length, name.length));
  return path;
}

function dd(from: string, to: string, ...operands: string[]): Promise<unknown> {
  return runOk("dd", [`if=${from}`, `of=${to}`, "conv=notrunc,fsync", ...operands]);
}

for (const channels of [1, 4]) {
  simulatedTest(
    `a dm-user disk with ${channels} channels keeps data; removal ends dmu serve`,
    [],
    async (bed) => {
      const { folder, controls, disk, daemon } = bed;
      await using server = await daemon(channels);
      assert.deepEqual(server.ready["endpoints"], []);
      assert.deepEqual(server.ready["dmUser"], [
        { name: "d", target: "d", channels, path: join(controls, "d") },
      ]);
      const data = await sample(folder, "data", 20 * MIB);
      await dd(data, disk, "bs=4M", "oflag=direct");
      await runOk("cmp", ["--bytes", `${20 * MIB}`, data, disk]);
      const many = await sample(folder, "many", 2 * MIB);
      // Several writers at once, so that messages come to all channels together.
      await Promise.all(
        [0, 1, 2, 3].map((part) =>
          dd(many, disk, "bs=64k", "oflag=direct", `seek=${16 * (24 + 4 * part)}`)
        ),
      );
      for (const part of [0, 1, 2, 3]) {
        const skip = `0:${(24 + 4 * part) * MIB}`;
        await runOk("cmp", ["--ignore-initial", skip, "--bytes", `${2 * MIB}`, many, disk]);
      }
      await Deno.remove(disk);
      const { code } = await server.ended;
      assert.equal(code, 0, server.stderr());
      assert.match(server.stderr(), /dm-user\/d is gone: its target was removed\n$/);
    },
  );
}

simulatedTest("ext4 lives on a loop device over a dm-user disk with 3 channels", [
  "mkfs.ext4",
  "e2fsck",
  "debugfs",
], async (bed) => {
  const { folder, disk, daemon } = bed;
  await using server = await daemon(3);
  const data = await sample(folder, "data", 9 * MIB + 17), at = join(folder, "mnt");
  await Deno.mkdir(at);
  await withLoopDevice(disk, ["--direct-io=on"], async (device) => {
    await runOk("mkfs.ext4", ["-q", device]);
    await runOk("mount", [device, at]);
    try {
      for (const name of ["a", "b", "c"]) await runOk("cp", [data, join(at, name)]);
      await runOk("sync", ["--file-system", at]);
      await Deno.remove(join(at, "b"));
    } finally {
      await runOk("umount", [at]);
    }
    await runOk("e2fsck", ["-f", "-n", device]);
  });
  await server.stop();
  const image = join(folder, "image");
  await runOk("e2fsck", ["-f", "-n", image]);
  await runOk("debugfs", ["-R", `dump /c ${join(folder, "c")}`, image]);
  assert.equal(await fileHash(join(folder, "c")), await fileHash(data));
});

for (const channels of [1, 4]) {
  simulatedTest(
    `fio verifies what it wrote to a dm-user disk with ${channels} channels`,
    ["fio"],
    async ({ folder, disk, daemon }) => {
      await using server = await daemon(channels);
      const result = await run("fio", [
        ...["--name=verify", "--ioengine=libaio", "--direct=1", "--iodepth=16", "--fsync=64"],
        ...[`--filename=${disk}`, "--size=32M", "--bsrange=4k-256k", "--blockalign=4k"],
        ...["--rw=randwrite", "--randseed=7", "--verify=crc32c", "--verify_fatal=1"],
        ...["--do_verify=1", "--output-format=json"],
      ], { cwd: folder });
      assert.equal(result.code, 0, result.stdout + result.stderr);
      const [job] = JSON.parse(result.stdout.slice(result.stdout.indexOf("{"))).jobs;
      assert.equal(job.read.io_bytes, 32 * MIB, "not all was verified");
      await server.stop();
    },
  );
}

/** Resolves when something is written to a file that is there. */
async function written(path: string): Promise<void> {
  using watcher = Deno.watchFs(path);
  for await (const event of watcher) if (event.kind === "modify") return;
}

simulatedTest(
  "a dmu serve that is killed in mid-write leaves the disk to the next one",
  [],
  async (bed) => {
    const { folder, disk, daemon } = bed;
    const data = await sample(folder, "data", 32 * MIB);
    let failed = 0;
    for (let round = 0; round < 3; round++) {
      await using server = await daemon(2);
      const busy = written(join(folder, "image"));
      const writing = run("dd", [`if=${data}`, `of=${disk}`, "bs=256k", "conv=notrunc,fsync"]);
      await busy;
      await server.kill();
      // What nobody has read waits for this one; what was read and not answered has failed.
      await using next = await daemon(1);
      const { code } = await writing;
      failed += code;
      await dd(data, disk, "bs=1M");
      await runOk("cmp", ["--bytes", `${32 * MIB}`, data, disk]);
      await next.stop();
    }
    assert.ok(failed <= 3);
  },
);

simulatedTest(
  "SIGTERM in mid-write fails nothing: what was read is answered, the next one goes on",
  [],
  async (bed) => {
    const { folder, disk, daemon } = bed;
    const data = await sample(folder, "data", 48 * MIB);
    await using first = await daemon(2);
    const busy = written(join(folder, "image"));
    const writing = dd(data, disk, "bs=64k", "oflag=direct");
    await busy;
    await first.stop();
    await using second = await daemon(2);
    await writing;
    await runOk("cmp", ["--bytes", `${48 * MIB}`, data, disk]);
    await second.stop();
    assert.equal(second.stderr(), "");
  },
);

simulatedTest(
  "an answer that the kernel does not take costs one channel, which is opened again",
  ["python3-libnbd"],
  async (bed) => {
    const { folder, controls, disk, daemon } = bed;
    await using server = await daemon(1);
    const data = await sample(folder, "data", MIB);
    await dd(data, disk, "bs=64k", "oflag=direct");
    // Through the daemon's own descriptor, as a fault in it would: an answer to nothing.
    const fds = [...Deno.readDirSync(`/proc/${server.pid}/fd`)].map(({ name }) => name);
    const mine = fds.find((fd) => {
      try {
        return Deno.readLinkSync(`/proc/${server.pid}/fd/${fd}`) === join(controls, "d");
      } catch {
        return false;
      }
    });
    assert.ok(mine !== undefined);
    await runOk(toolPath("python3-libnbd"), ["-c", STEAL_AND_WRITE, `${server.pid}`, mine]);
    // Fails, since it is answered on a channel that is poisoned; the next one is not.
    await run("dd", [`if=${data}`, `of=${disk}`, "bs=4k", "count=1", "oflag=direct"]);
    await dd(data, disk, "bs=64k", "oflag=direct");
    await runOk("cmp", ["--bytes", `${MIB}`, data, disk]);
    assert.match(
      server.stderr(),
      /Channel 1 of .* ended, what it had not answered has failed: Cannot write to/,
    );
    assert.match(server.stderr(), /Channel 1 of .* is open again/);
    await server.stop();
  },
);

simulatedTest(
  "dmu serve says what ended its channel when the kernel's side dies, and ends",
  [],
  async ({ controls, crash, daemon }) => {
    await using server = await daemon(1);
    await crash();
    const { code } = await server.ended;
    const lines = server.stderr().trimEnd().split("\n");
    assert.equal(code, 1);
    assert.match(lines[0] ?? "", /^dmu: Channel 1 of .* has failed: Cannot read /);
    assert.equal(lines.at(-2), `dmu: ${join(controls, "d")} is not served any more`);
    assert.equal(lines.at(-1), "dmu: Cannot go on: no dm-user channel works any more");
  },
);

/** pidfd_getfd(2) of a descriptor of another process, then a write of 40 bytes with an unknown seq. */
const STEAL_AND_WRITE = `
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pidfd = os.pidfd_open(int(sys.argv[1]))
fd = libc.syscall(438, pidfd, int(sys.argv[2]), 0)
assert fd >= 0, ctypes.get_errno()
assert os.write(fd, b"\\xff" * 40) == 40
`;
