/**
 * Tests of lib/sys/file.ts on real files: what opening refuses, data, holes, direct I/O, closing.
 * Locks are in file_lock_test.ts, block devices and other file systems in block_device_test.ts.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { systemFiles } from "../../lib/sys/file.ts";
import type { FileOpenOptions, RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { descriptorsOf } from "../support/descriptors.ts";
import { abilityTest } from "../support/mounts.ts";
import { runOk, withTempDir } from "../support/tools.ts";

const PLAIN = { readOnly: false, direct: false, lock: false } as const;
const BLOCK = 4096;
const MIB = 1 << 20;

/** Calls `fn` with a new file of `size` bytes in a folder of its own, and closes it. */
function withFile(
  size: number,
  fn: (file: RawFile, path: string) => void | Promise<void>,
  options: Partial<FileOpenOptions> = {},
): Promise<void> {
  return withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    const file = systemFiles.open(path, { ...PLAIN, createSize: size, ...options });
    try {
      await fn(file, path);
    } finally {
      file.close();
    }
  });
}

function bytesOf(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + (index >> 8) + seed) & 0xff);
}

function readOf(file: RawFile, offset: number, length: number): Uint8Array {
  const into = new Uint8Array(length).fill(0xee);
  file.read(into, offset);
  return into;
}

function flagsOf(descriptor: number): number {
  const info = Deno.readTextFileSync(`/proc/self/fdinfo/${descriptor}`);
  return parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? "", 8);
}

Deno.test("open() creates a file of the size, for its owner alone", () =>
  withFile(3 * MIB + 5, (file, path) => {
    const { size, mode } = Deno.statSync(path);
    assert.equal(size, 3 * MIB + 5);
    assert.equal((mode ?? 0) & 0o777, 0o600);
    assert.equal(file.size(), size);
    assert.equal(file.allocated(), 0);
    assert.equal(file.path, path);
    assert.equal(file.isBlockDevice, false);
    assert.equal(file.readOnly, false);
    assert.equal(file.alignment, 1);
    assert.ok(file.blockSize >= 512);
  }));

Deno.test("open() keeps a file that exists as it is", () =>
  withTempDir((folder) => {
    const path = join(folder, "disk.img");
    Deno.writeTextFileSync(path, "content");
    const file = systemFiles.open(path, { ...PLAIN, createSize: MIB });
    assert.equal(file.size(), 7);
    assert.equal(new TextDecoder().decode(readOf(file, 0, 7)), "content");
    file.close();
  }));

Deno.test("open() refuses what it cannot serve and leaves nothing open", () =>
  withTempDir(async (folder) => {
    const fifo = join(folder, "fifo");
    await runOk("mkfifo", [fifo]);
    const absent = join(folder, "absent");
    const below = join(folder, "no", "folder");
    const rows: [string, Partial<FileOpenOptions>, string, RegExp][] = [
      [absent, {}, "ENOENT", /^Cannot open .*absent: no such file or directory$/],
      [absent, { readOnly: true, createSize: 1 }, "ENOENT", /no such file/],
      [below, { createSize: 1 }, "ENOENT", /^Cannot create /],
      [absent, { createSize: -1 }, "EINVAL", /^Cannot create /],
      [folder, {}, "EISDIR", /it is a directory$/],
      [folder, { readOnly: true }, "EISDIR", /it is a directory$/],
      [fifo, {}, "ENOTBLK", /it is neither a file nor a block device$/],
      ["/dev/null", {}, "ENOTBLK", /it is neither a file nor a block device$/],
      ["a\0b", {}, "EINVAL", /NUL/],
    ];
    for (const [path, options, code, message] of rows) {
      const before = descriptorsOf(path);
      assert.throws(() => systemFiles.open(path, { ...PLAIN, ...options }), (error) => {
        assert.ok(error instanceof SystemError);
        assert.equal(error.code, code, error.message);
        assert.match(error.message, message);
        return true;
      });
      assert.deepEqual(descriptorsOf(path), before);
    }
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["fifo"]);
  }));

Deno.test("open() keeps its descriptor from child processes", () =>
  withFile(BLOCK, (_file, path) => {
    const descriptors = descriptorsOf(path);
    assert.equal(descriptors.length, 1);
    assert.notEqual(flagsOf(descriptors[0] ?? -1) & 0o2_000_000, 0);
  }));

Deno.test("read() gives what write() stored, at any offset and length", () =>
  withFile(MIB, (file) => {
    for (const [offset, length] of [[0, 1], [1, 511], [4095, 2], [12_345, 70_001], [MIB - 1, 1]]) {
      const data = bytesOf(length ?? 0, offset);
      file.write(data, offset ?? 0);
      assert.deepEqual(readOf(file, offset ?? 0, data.length), data);
    }
    assert.equal(file.size(), MIB);
  }));

Deno.test("read() and write() take views in the middle of a buffer, and none at all", () =>
  withFile(BLOCK, (file) => {
    const memory = bytesOf(300);
    file.write(memory.subarray(100, 200), 50);
    const into = new Uint8Array(300);
    file.read(into.subarray(7, 107), 50);
    assert.deepEqual(into.subarray(7, 107), memory.subarray(100, 200));
    assert.ok(into.subarray(0, 7).every((byte) => byte === 0));
    assert.ok(into.subarray(107).every((byte) => byte === 0));
    file.write(new Uint8Array(0), 0);
    file.read(new Uint8Array(0), 0);
  }));

Deno.test("read() gives zeroes past the end of the file", () =>
  withFile(1000, (file) => {
    file.write(new Uint8Array(1000).fill(1), 0);
    const across = readOf(file, 900, 200);
    assert.ok(across.subarray(0, 100).every((byte) => byte === 1));
    assert.ok(across.subarray(100).every((byte) => byte === 0));
    assert.ok(readOf(file, 5000, 100).every((byte) => byte === 0));
  }));

Deno.test("read() and write() reach far offsets", () =>
  withFile(0, (file) => {
    const far = 2 ** 42 + 12_345;
    file.write(Uint8Array.of(1, 2, 3), far);
    assert.equal(file.size(), far + 3);
    assert.deepEqual([...readOf(file, far - 1, 5)], [0, 1, 2, 3, 0]);
    assert.deepEqual(file.extents(0, far - BLOCK * 4, 10), [
      { length: far - BLOCK * 4, data: false, allocated: false },
    ]);
  }));

Deno.test("a file that is open for reading cannot be changed", () =>
  withFile(BLOCK, (_file, path) => {
    const file = systemFiles.open(path, { ...PLAIN, readOnly: true });
    assert.equal(file.readOnly, true);
    assert.throws(() => file.write(Uint8Array.of(1), 0), { name: "SystemError", code: "EBADF" });
    assert.throws(() => file.truncate(1), SystemError);
    file.flush();
    file.close();
  }));

Deno.test("extents() tells data from holes", () =>
  withFile(16 * BLOCK, (file) => {
    file.write(bytesOf(BLOCK), 2 * BLOCK);
    file.write(bytesOf(2 * BLOCK), 8 * BLOCK);
    const hole = (blocks: number): unknown => ({
      length: blocks * BLOCK,
      data: false,
      allocated: false,
    });
    const data = (blocks: number): unknown => ({
      length: blocks * BLOCK,
      data: true,
      allocated: true,
    });
    const rows: [number, number, number, unknown[]][] = [
      [0, 16, 100, [hole(2), data(1), hole(5), data(2), hole(6)]],
      [0, 16, 2, [hole(2), data(1)]],
      [0, 1, 100, [hole(1)]],
      [2, 1, 100, [data(1)]],
      [9, 7, 100, [data(1), hole(6)]],
      [10, 6, 100, [hole(6)]],
      [14, 10, 100, [hole(10)]],
      [100, 1, 100, [hole(1)]],
    ];
    for (const [start, count, countMax, expected] of rows) {
      assert.deepEqual(file.extents(start * BLOCK, count * BLOCK, countMax), expected);
    }
    assert.deepEqual(file.extents(2 * BLOCK + 100, 200, 10), [{
      length: 200,
      data: true,
      allocated: true,
    }]);
  }));

await abilityTest(
  "extents() tells reserved storage from holes",
  "zero range",
  () =>
    withFile(16 * MIB, (file) => {
      file.zero(MIB, MIB);
      file.write(bytesOf(BLOCK), MIB + BLOCK);
      file.flush();
      const zero = (length: number, allocated: boolean): unknown => ({
        length,
        data: false,
        allocated,
      });
      assert.deepEqual(file.extents(0, 16 * MIB, 10), [
        zero(MIB, false),
        zero(BLOCK, true),
        { length: BLOCK, data: true, allocated: true },
        zero(MIB - 2 * BLOCK, true),
        zero(14 * MIB, false),
      ]);
      assert.deepEqual(file.extents(MIB + 5, 10, 10), [zero(10, true)]);
    }),
);

await abilityTest(
  "extents() finds reserved storage however scattered",
  "zero range",
  () =>
    withFile(4 * MIB, (file) => {
      for (let at = 0; at < 4 * MIB; at += 2 * BLOCK) file.zero(at, BLOCK);
      const found = file.extents(0, 4 * MIB, 10_000);
      assert.equal(found.length, 4 * MIB / BLOCK);
      assert.ok(
        found.every(({ length, data, allocated }, index) =>
          length === BLOCK && !data && allocated === (index % 2 === 0)
        ),
      );
    }),
);

Deno.test("punch() gives back storage and leaves zeroes", () =>
  withFile(MIB, (file) => {
    file.write(bytesOf(MIB).fill(9), 0);
    file.flush();
    const before = file.allocated();
    file.punch(BLOCK * 4 + 100, BLOCK * 64);
    assert.ok(file.allocated() <= before - BLOCK * 63, `${before} ${file.allocated()}`);
    assert.equal(file.size(), MIB);
    const found = readOf(file, BLOCK * 4, BLOCK * 65);
    assert.ok(found.subarray(0, 100).every((byte) => byte === 9));
    assert.ok(found.subarray(100, 100 + BLOCK * 64).every((byte) => byte === 0));
    assert.ok(found.subarray(100 + BLOCK * 64).every((byte) => byte === 9));
  }));

Deno.test("discard() gives back storage", () =>
  withFile(MIB, (file) => {
    file.write(bytesOf(MIB), 0);
    file.flush();
    file.discard(0, MIB);
    assert.equal(file.allocated(), 0);
    assert.equal(file.size(), MIB);
  }));

await abilityTest(
  "zero() leaves zeroes and keeps storage",
  "zero range",
  () =>
    withFile(MIB, (file) => {
      file.write(bytesOf(MIB).fill(9), 0);
      file.flush();
      const before = file.allocated();
      file.zero(10, MIB - 20);
      assert.ok(file.allocated() >= before);
      const found = readOf(file, 0, MIB);
      assert.ok(found.subarray(10, MIB - 10).every((byte) => byte === 0));
      assert.deepEqual([found[9], found[MIB - 10]], [9, 9]);
      file.punch(0, MIB);
      file.zero(0, MIB);
      assert.ok(file.allocated() >= MIB);
    }),
);

Deno.test("allocate() reserves storage, changes no data, and makes the file longer", () =>
  withFile(MIB, (file) => {
    file.write(Uint8Array.of(5), 1000);
    file.allocate(0, 2 * MIB);
    assert.ok(file.allocated() >= 2 * MIB);
    assert.equal(file.size(), 2 * MIB);
    assert.deepEqual([...readOf(file, 999, 3)], [0, 5, 0]);
  }));

Deno.test("truncate() makes a file longer and shorter", () =>
  withFile(BLOCK, (file) => {
    file.write(bytesOf(BLOCK).fill(3), 0);
    file.truncate(100);
    assert.equal(file.size(), 100);
    file.truncate(MIB);
    assert.equal(file.size(), MIB);
    assert.deepEqual([...readOf(file, 99, 2)], [3, 0]);
  }));

Deno.test("readAhead() takes any range", () =>
  withFile(MIB, (file) => {
    file.readAhead(0, MIB);
    file.readAhead(10 * MIB, 1);
  }));

Deno.test("flush() and flushAsync() end well", () =>
  withFile(MIB, async (file) => {
    file.write(bytesOf(BLOCK), 0);
    file.flush();
    file.write(bytesOf(BLOCK), BLOCK);
    await Promise.all([file.flushAsync(), file.flushAsync()]);
  }));

Deno.test("after close() every call throws EBADF, and closing again does nothing", () =>
  withFile(BLOCK, async (file, path) => {
    file.close();
    assert.deepEqual(descriptorsOf(path), []);
    const calls: (() => unknown)[] = [
      () => file.size(),
      () => file.allocated(),
      () => file.read(new Uint8Array(1), 0),
      () => file.write(new Uint8Array(1), 0),
      () => file.flush(),
      () => file.punch(0, 1),
      () => file.zero(0, 1),
      () => file.allocate(0, 1),
      () => file.discard(0, 1),
      () => file.extents(0, 1, 1),
      () => file.readAhead(0, 1),
      () => file.truncate(0),
    ];
    for (const call of calls) assert.throws(call, { code: "EBADF" }, String(call));
    await assert.rejects(file.flushAsync(), { code: "EBADF" });
    file.close();
  }));

Deno.test("close() waits with the descriptor for a flush in another thread", () =>
  withFile(MIB, async (file, path) => {
    file.write(bytesOf(MIB), 0);
    const flushes = [file.flushAsync(), file.flushAsync()];
    file.close();
    assert.throws(() => file.size(), { code: "EBADF" });
    assert.equal(descriptorsOf(path).length, 1);
    await Promise.all(flushes);
    assert.deepEqual(descriptorsOf(path), []);
  }));

const DIRECT = { direct: true } as const;

await abilityTest(
  "direct I/O moves data of any memory in whole blocks",
  "direct I/O",
  () =>
    withFile(4 * MIB, (file, path) => {
      const { alignment } = file;
      assert.ok(alignment >= 512 && alignment <= BLOCK && BLOCK % alignment === 0);
      const direct = Deno.build.arch === "aarch64" ? 0o200_000 : 0o40_000;
      assert.notEqual(flagsOf(descriptorsOf(path)[0] ?? -1) & direct, 0);
      const memory = bytesOf(3 * MIB + 1);
      for (const [offset, length] of [[0, alignment], [alignment * 3, 2 * MIB + alignment]]) {
        const data = memory.subarray(1, 1 + (length ?? 0));
        file.write(data, offset ?? 0);
        const into = new Uint8Array(data.length + 3).subarray(3);
        file.read(into, offset ?? 0);
        assert.deepEqual(into, data);
      }
      file.flush();
      file.readAhead(0, MIB);
      const cached = systemFiles.open(path, PLAIN);
      assert.equal(readOf(cached, alignment * 3, 1)[0], memory[1]);
      cached.close();
    }, DIRECT),
);

await abilityTest(
  "direct I/O refuses a range that is not aligned",
  "direct I/O",
  () =>
    withFile(MIB, (file) => {
      assert.throws(() => file.read(new Uint8Array(file.alignment), 1), {
        code: "EINVAL",
        message: /direct I\/O is in whole blocks of \d+ bytes$/,
      });
      assert.throws(() => file.write(new Uint8Array(file.alignment), 1), { code: "EINVAL" });
      assert.throws(() => file.write(new Uint8Array(1), 0), { code: "EINVAL" });
    }, DIRECT),
);

await abilityTest(
  "direct I/O gives zeroes past the end of the file",
  "direct I/O",
  () =>
    withFile(1000, (file, path) => {
      Deno.writeFileSync(path, new Uint8Array(1000).fill(1));
      const found = readOf(file, 0, 3 * BLOCK);
      assert.ok(found.subarray(0, 1000).every((byte) => byte === 1));
      assert.ok(found.subarray(1000).every((byte) => byte === 0));
      assert.ok(readOf(file, 10 * BLOCK, BLOCK).every((byte) => byte === 0));
    }, DIRECT),
);
