/**
 * A daemon that knows nothing of dmu, a small C program, runs against simulated targets: data goes
 * through, ext4 lives on it, and it can be killed, stopped and started again at any time.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { withLoopDevice } from "../support/mounts.ts";
import { simulationTest } from "../support/simulation.ts";
import { fileHash, run, runFails, runOk, sampleBytes } from "../support/tools.ts";

const MIB = 1024 * 1024;

for (const mode of ["serve", "bytes"]) {
  // Four pages are enough to be cut at every byte: each of them costs the daemon a call.
  const size = mode === "bytes" ? 16 * 1024 : 8 * MIB;
  await simulationTest(`a C daemon (${mode}) keeps what dd writes`, {}, async (test) => {
    await using sim = await test.start(`disk=${size}`);
    const disk = sim.disk("disk"), data = join(test.folder, "data");
    await Deno.writeFile(data, sampleBytes(size, 1));
    const daemon = await test.daemon(sim.control("disk"), mode);
    await runOk("dd", [`if=${data}`, `of=${disk}`, "bs=64k", "conv=fsync"]);
    await runOk("cmp", [data, disk]);
    assert.equal(await fileHash(daemon.store), await fileHash(data));
    await sim.server.stop();
    assert.equal(await daemon.code(), 0, "removal ends a daemon");
  });
}

await simulationTest("a disk takes I/O at any byte, and keeps its size", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  const disk = sim.disk("disk");
  const daemon = await test.daemon(sim.control("disk"));
  const expected = sampleBytes(MIB, 2);
  await Deno.writeFile(disk, expected); // opens with O_TRUNC
  const file = await Deno.open(disk, { read: true, write: true });
  try {
    for (const [offset, length] of [[1, 1], [511, 2], [1000, 5000], [MIB - 7, 7]] as const) {
      const piece = sampleBytes(length, offset);
      expected.set(piece, offset);
      await file.seek(offset, Deno.SeekMode.Start);
      assert.equal(await file.write(piece), length);
    }
    await file.seek(MIB - 100, Deno.SeekMode.Start);
    assert.equal(await file.read(new Uint8Array(200)), 100);
    assert.equal(await file.read(new Uint8Array(200)), null);
    await assert.rejects(file.write(new Uint8Array(1)), /os error 28/); // ENOSPC
    await assert.rejects(file.truncate(512), /os error 22/); // EINVAL
  } finally {
    file.close();
  }
  assert.deepEqual(await Deno.readFile(disk), expected);
  assert.deepEqual(await Deno.readFile(daemon.store), expected);
  assert.equal((await Deno.stat(disk)).size, MIB);
});

await simulationTest("ext4 is made, filled, checked and unmounted over a loop device", {
  loop: true,
  tools: ["mkfs.ext4", "e2fsck"],
}, async (test) => {
  await using sim = await test.start("disk=48M", "--discard", "--write-zeroes");
  const mount = join(test.folder, "ext4");
  await Deno.mkdir(mount);
  const first = await test.daemon(sim.control("disk"));
  const names = Array.from({ length: 40 }, (_, index) => `file${index}`);
  const contentOf = (index: number): Uint8Array<ArrayBuffer> =>
    sampleBytes(index * index * 250 + index, index);
  await withLoopDevice(sim.disk("disk"), ["--direct-io=on"], async (device) => {
    await runOk("mkfs.ext4", ["-q", device]);
    await runOk("mount", [device, mount]);
    try {
      for (const [index, name] of names.entries()) {
        await Deno.writeFile(join(mount, name), contentOf(index));
      }
      await runOk("sync", ["-f", mount]);
      // The daemon is replaced while the file system is mounted and idle.
      assert.equal(await first.end("SIGTERM"), 3);
      await test.daemon(sim.control("disk"));
      for (const name of names.slice(30)) await Deno.remove(join(mount, name));
      await runOk("fstrim", [mount]);
    } finally {
      await runOk("umount", [mount]);
    }
    await runOk("e2fsck", ["-f", "-n", device]);
    await runOk("mount", ["-o", "ro", device, mount]);
    try {
      for (const [index, name] of names.slice(0, 30).entries()) {
        assert.deepEqual(await Deno.readFile(join(mount, name)), contentOf(index), name);
      }
    } finally {
      await runOk("umount", [mount]);
    }
  });
  await sim.server.stop();
  await runOk("e2fsck", ["-f", "-n", first.store]);
});

await simulationTest("a daemon killed in mid-write fails that write alone", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  const disk = sim.disk("disk"), data = join(test.folder, "data");
  await Deno.writeFile(data, sampleBytes(64 * 1024, 3));
  const write = (): ReturnType<typeof run> =>
    run("dd", [`if=${data}`, `of=${disk}`, "bs=64k", "oflag=direct", "conv=notrunc"]);
  const dying = await test.daemon(sim.control("disk"), "die");
  const failed = await write();
  assert.notEqual(failed.code, 0);
  assert.match(failed.stderr, /Input\/output error/);
  assert.equal(await dying.code(), 128 + 9);
  // What comes now is queued, and the next daemon gets it.
  const waiting = write();
  const next = await test.daemon(sim.control("disk"));
  assert.equal((await waiting).code, 0);
  await runOk("cmp", ["--bytes=65536", data, disk]);
  await runOk("cmp", ["--bytes=65536", data, next.store]);
});

await simulationTest("I/O outstanding at a killed daemon fails, and the rest goes on", {
  loop: true,
}, async (test) => {
  await using sim = await test.start("disk=4M");
  // losetup flushes and looks for partitions: somebody has to answer.
  const stalling = await test.daemon(sim.control("disk"), "stall");
  await withLoopDevice(sim.disk("disk"), ["--direct-io=on"], async (device) => {
    const writes = [0, 1, 2].map((at) =>
      run("dd", ["if=/dev/zero", `of=${device}`, "bs=4k", "count=1", `seek=${at}`, "oflag=direct"])
    );
    await stalling.said("stalled 3 times");
    await stalling.end("SIGKILL");
    for (const { code, stderr } of await Promise.all(writes)) {
      assert.notEqual(code, 0);
      assert.match(stderr, /Input\/output error/);
    }
    await test.daemon(sim.control("disk"));
    await runOk("dd", ["if=/dev/zero", `of=${device}`, "bs=1M", "count=4", "oflag=direct"]);
    await runOk("cmp", ["--bytes=4194304", "/dev/zero", device]);
  });
});

await simulationTest("a daemon that waits in read can be interrupted", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  const ticking = await test.daemon(sim.control("disk"), "ticks");
  await ticking.said("interrupted");
  // Nothing was consumed: it goes on.
  await runOk("dd", ["if=/dev/zero", `of=${sim.disk("disk")}`, "bs=4k", "count=4"]);
  assert.equal(await ticking.end("SIGTERM"), 3);
  const killed = await test.daemon(sim.control("disk"));
  assert.equal(await killed.end("SIGKILL"), 128 + 9);
});

await simulationTest("a program that waits for a disk without a daemon can be killed", {
  tools: [],
}, async (test) => {
  await using sim = await test.start("disk=1M");
  const child = new Deno.Command("dd", {
    args: [`if=${sim.disk("disk")}`, "bs=4k", "count=1"],
    stdout: "null",
    stderr: "null",
  }).spawn();
  // It is waiting once its message can be taken.
  const control = await Deno.open(sim.control("disk"), { read: true, write: true });
  try {
    assert.equal(await control.read(new Uint8Array(40)), 40);
    child.kill("SIGKILL");
    assert.equal((await child.status).signal, "SIGKILL");
  } finally {
    control.close();
  }
});

await simulationTest("SIGTERM unmounts: I/O that waits gets EIO", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  const stalling = await test.daemon(sim.control("disk"), "stall");
  const write = run("dd", ["if=/dev/zero", `of=${sim.disk("disk")}`, "bs=4k", "count=1"]);
  await stalling.said("stalled 1 times");
  await sim.server.stop();
  assert.match((await write).stderr, /Input\/output error/);
  assert.equal(await stalling.code(), 0, "its read gave ENOTBLK");
  const mounts = await Deno.readTextFile("/proc/self/mountinfo");
  assert.ok(!mounts.includes(sim.mount));
  await assert.rejects(
    Deno.stat(sim.mount),
    Deno.errors.NotFound,
    "the folder was made, and is gone",
  );
});

await simulationTest("umount from outside ends the program", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  await runOk("umount", [sim.mount]);
  assert.equal((await sim.server.ended).code, 0);
  assert.match(sim.server.stderr(), /was unmounted/);
});

await simulationTest("removing a disk file is dmsetup remove", {}, async (test) => {
  await using sim = await test.start("a=1M", "b=1M");
  const daemon = await test.daemon(sim.control("a"));
  const open = await Deno.open(sim.disk("a"));
  assert.match(await runFails("rm", [sim.disk("a")]), /busy/);
  open.close();
  assert.match(await runFails("rm", [sim.control("a")]), /not permitted/);
  await runOk("rm", [sim.disk("a")]);
  assert.equal(await daemon.code(), 0, "its read gave ENOTBLK");
  await assert.rejects(Deno.open(sim.control("a")), Deno.errors.NotFound);
  assert.deepEqual((await runOk("ls", [join(sim.mount, "dm-user")])).trim(), "b");
});

await simulationTest("a folder with something in it is not mounted on", {}, async (test) => {
  const mount = join(test.folder, "mount");
  await Deno.mkdir(mount);
  await Deno.writeTextFile(join(mount, "precious"), "");
  await assert.rejects(test.start("disk=1M"), /not empty, precious is in it/);
  assert.ok((await Deno.stat(join(mount, "precious"))).isFile);
});
