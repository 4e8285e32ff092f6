/**
 * Tests of lib/sys/file.ts on loop devices and on file systems that lack something. They need root.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { systemFiles } from "../../lib/sys/file.ts";
import type { FileOpenOptions, RawFile } from "../../lib/sys/file_access.ts";
import { mountTest, withLoopDevice, withMount } from "../support/mounts.ts";
import { needs, run, runOk, withTempDir } from "../support/tools.ts";

const PLAIN = { readOnly: false, direct: false, lock: true } as const;
const BLOCK = 4096, MIB = 1 << 20;

interface Loop {
  readonly device: string;
  /** The file behind the device. */
  readonly image: string;
}

/** Calls `fn` with an 8 MiB loop device. */
function withLoop(
  args: readonly string[],
  fn: (loop: Loop) => void | Promise<void>,
): Promise<void> {
  return withTempDir(async (folder) => {
    const image = join(folder, "image");
    await Deno.writeFile(image, new Uint8Array(0));
    await Deno.truncate(image, 8 * MIB);
    await withLoopDevice(image, args, (device) => fn({ device, image }));
  });
}

/** Calls `fn` with an open 8 MiB loop device. */
function withDevice(
  args: readonly string[],
  options: Partial<FileOpenOptions>,
  fn: (file: RawFile, loop: Loop) => void | Promise<void>,
): Promise<void> {
  return withLoop(args, async (loop) => {
    const file = systemFiles.open(loop.device, { ...PLAIN, ...options });
    try {
      await fn(file, loop);
    } finally {
      file.close();
    }
  });
}

function readOf(file: RawFile, offset: number, length: number): Uint8Array {
  const into = new Uint8Array(length).fill(0xee);
  file.read(into, offset);
  return into;
}

function isAll(bytes: Uint8Array, value: number): boolean {
  return bytes.every((byte) => byte === value);
}

await mountTest("a block device is known as one", () =>
  withDevice([], {}, (file) => {
    assert.equal(file.isBlockDevice, true);
    assert.equal(file.size(), 8 * MIB);
    assert.equal(file.allocated(), 8 * MIB);
    assert.equal(file.alignment, 1);
    assert.ok(file.blockSize >= 512);
    assert.equal(file.readOnly, false);
  }));

await mountTest(
  "a block device keeps what is written, at any offset",
  () =>
    withDevice([], {}, async (file, { image }) => {
      file.write(new Uint8Array(5000).fill(7), 12_345);
      assert.ok(isAll(readOf(file, 12_345, 5000), 7));
      assert.deepEqual([...readOf(file, 12_344, 2)], [0, 7]);
      file.flush();
      await file.flushAsync();
      assert.ok(isAll(Deno.readFileSync(image).subarray(12_345, 17_345), 7));
      assert.deepEqual(file.extents(0, MIB, 10), [{ length: MIB, data: true, allocated: true }]);
      file.readAhead(0, MIB);
    }),
);

await mountTest("a block device ends where it ends", () =>
  withDevice([], {}, (file) => {
    assert.throws(() => file.write(new Uint8Array(BLOCK), 8 * MIB), { code: "ENOSPC" });
    assert.throws(() => file.write(new Uint8Array(2 * BLOCK), 8 * MIB - BLOCK), { code: "ENOSPC" });
    assert.throws(() => file.truncate(MIB), { code: "EINVAL", message: /it is a block device$/ });
    assert.throws(() => file.allocate(0, BLOCK), { code: "EOPNOTSUPP" });
  }));

for (const call of ["punch", "zero"] as const) {
  await mountTest(`${call}() leaves zeroes on a block device`, () =>
    withDevice([], {}, (file) => {
      file.write(new Uint8Array(MIB).fill(1), 0);
      file[call](BLOCK, 4 * BLOCK);
      assert.ok(isAll(readOf(file, 0, BLOCK), 1));
      assert.ok(isAll(readOf(file, BLOCK, 4 * BLOCK), 0));
      assert.ok(isAll(readOf(file, 5 * BLOCK, MIB - 5 * BLOCK), 1));
    }));

  await mountTest(
    `${call}() of a part of a device's block is EOPNOTSUPP and changes nothing`,
    () =>
      withDevice(["--sector-size", "4096"], {}, (file) => {
        file.write(new Uint8Array(MIB).fill(1), 0);
        assert.throws(() => file[call](512, BLOCK), { code: "EOPNOTSUPP" });
        assert.throws(() => file[call](0, 512), { code: "EOPNOTSUPP" });
        assert.ok(isAll(readOf(file, 0, MIB), 1));
      }),
  );
}

await mountTest(
  "discard() gives back the whole blocks of a range",
  () =>
    withDevice(["--sector-size", "4096"], {}, (file, { image }) => {
      file.write(new Uint8Array(8 * MIB).fill(1), 0);
      file.flush();
      const before = Deno.statSync(image).blocks ?? 0;
      file.discard(100, 4 * MIB);
      const after = Deno.statSync(image).blocks ?? 0;
      assert.ok(before - after >= 4 * MIB / 512 - 16, `${before} ${after}`);
      assert.ok(isAll(readOf(file, 0, BLOCK), 1));
      assert.ok(isAll(readOf(file, 4 * MIB, BLOCK), 1));
      file.discard(100, 200);
      assert.ok(isAll(readOf(file, 0, BLOCK), 1));
    }),
);

for (const sector of [512, 4096]) {
  await mountTest(
    `direct I/O on a device with blocks of ${sector} bytes`,
    () =>
      withDevice(["--sector-size", String(sector)], { direct: true }, (file) => {
        assert.equal(file.alignment, sector);
        const data = new Uint8Array(3 * sector + 1).fill(5).subarray(1);
        file.write(data, sector);
        assert.deepEqual(readOf(file, sector, 3 * sector), data);
        assert.throws(() => file.read(new Uint8Array(sector), sector / 2), { code: "EINVAL" });
      }),
  );
}

await mountTest(
  "a writer claims a block device for itself",
  () =>
    withDevice([], {}, async (_file, { device }) => {
      const message = /it is mounted or in use by the system$/;
      assert.throws(() => systemFiles.open(device, PLAIN), { code: "EBUSY", message });
      const readOnly = { ...PLAIN, readOnly: true };
      assert.throws(() => systemFiles.open(device, readOnly), { code: "EAGAIN" });
      systemFiles.open(device, { ...PLAIN, lock: false }).close();
      const mkfs = needs("mkfs.ext4");
      if (!mkfs.ignore) assert.notEqual((await run("mkfs.ext4", ["-q", device])).code, 0);
    }),
);

await mountTest(
  "a mounted block device is not opened for writing",
  () =>
    withLoop([], async ({ device }) => {
      if (needs("mkfs.ext4").ignore) return;
      await runOk("mkfs.ext4", ["-q", device]);
      await withTempDir(async (folder) => {
        await runOk("mount", [device, folder]);
        try {
          assert.throws(() => systemFiles.open(device, PLAIN), { code: "EBUSY" });
          systemFiles.open(device, { ...PLAIN, readOnly: true }).close();
        } finally {
          await runOk("umount", [folder]);
        }
      });
    }),
);

await mountTest(
  "a read-only block device is opened read-only or not at all",
  () =>
    withLoop(["--read-only"], ({ device }) => {
      assert.throws(() => systemFiles.open(device, PLAIN), { message: /open it read-only$/ });
      const file = systemFiles.open(device, { ...PLAIN, readOnly: true });
      assert.equal(file.readOnly, true);
      assert.ok(isAll(readOf(file, 0, BLOCK), 0));
      file.close();
    }),
);

await mountTest(
  "a file on a read-only file system is opened read-only or not at all",
  () =>
    withTempDir((folder) =>
      withMount(folder, "tmpfs", [], async () => {
        const path = join(folder, "disk.img");
        systemFiles.open(path, { ...PLAIN, createSize: MIB }).close();
        await runOk("mount", ["-o", "remount,ro", folder]);
        assert.throws(() => systemFiles.open(path, PLAIN), {
          code: "EROFS",
          message: /it cannot be written, open it read-only$/,
        });
        const file = systemFiles.open(path, { ...PLAIN, readOnly: true });
        assert.ok(isAll(readOf(file, 0, BLOCK), 0));
        file.close();
        const other = join(folder, "other.img");
        assert.throws(() => systemFiles.open(other, { ...PLAIN, createSize: MIB }), {
          code: "EROFS",
        });
      })
    ),
);

await mountTest(
  "a full file system gives ENOSPC",
  () =>
    withTempDir((folder) =>
      withMount(folder, "tmpfs", ["-o", "size=1m"], () => {
        const file = systemFiles.open(join(folder, "disk.img"), { ...PLAIN, createSize: 4 * MIB });
        file.write(new Uint8Array(MIB / 2).fill(1), 0);
        assert.throws(() => file.write(new Uint8Array(MIB).fill(1), MIB / 2), {
          code: "ENOSPC",
          message: /^Cannot write .*disk\.img: no space left on device$/,
        });
        assert.throws(() => file.allocate(0, 2 * MIB), { code: "ENOSPC" });
        file.discard(0, 4 * MIB);
        file.write(new Uint8Array(MIB / 2).fill(1), 3 * MIB);
        file.close();
      })
    ),
);

await mountTest(
  "where a file system cannot, punch and zero are EOPNOTSUPP, discard does nothing",
  () =>
    withTempDir((folder) =>
      withMount(folder, "ramfs", [], () => {
        const file = systemFiles.open(join(folder, "disk.img"), { ...PLAIN, createSize: MIB });
        file.write(new Uint8Array(MIB).fill(1), 0);
        for (const call of ["punch", "zero", "allocate"] as const) {
          assert.throws(() => file[call](0, BLOCK), { code: "EOPNOTSUPP" });
        }
        file.discard(0, BLOCK);
        assert.ok(isAll(readOf(file, 0, MIB), 1));
        assert.deepEqual(file.extents(BLOCK, BLOCK, 10), [{
          length: BLOCK,
          data: true,
          allocated: true,
        }]);
        file.close();
      })
    ),
);

await mountTest(
  "where a file system cannot, direct I/O is refused with that reason",
  () =>
    withTempDir((folder) =>
      withMount(folder, "ramfs", [], () => {
        const path = join(folder, "disk.img");
        assert.throws(() => systemFiles.open(path, { ...PLAIN, direct: true, createSize: MIB }), {
          code: "EINVAL",
          message: /its file system has no direct I\/O$/,
        });
      })
    ),
);
