/**
 * The file backend: the contract on real files, cached and direct, and on files that forget; and what
 * is its own: holes, sizes, flushing on the spot or later, a flush that failed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { file, type FileOptions } from "../../backends/file.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import { parseOptions } from "../../lib/block/options.ts";
import { FLAG_FAST_ONLY, FLAG_MAY_TRIM, makeRequest } from "../../lib/block/request.ts";
import type { Backend, Opened } from "../../lib/block/types.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import type { FileAccess, RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { contractTests } from "../../lib/testing/mod.ts";
import { ManualClock, MemoryLog, testContext } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { abilityTest, canMount, mountTest, withLoopDevice, withMount } from "../support/mounts.ts";
import { withTempDir } from "../support/tools.ts";

const MIB = 2 ** 20, BLOCK = 4096;
const DEFAULTS = { direct: false, discard: true, lock: true } as const;
const NO_FUA = { fua: false };
/** How hard the contract's cases try: real disks are slow and there are many variants. */
const EFFORT = { steps: 150, largestBytes: MIB } as const;

function open(
  path: string,
  options: Partial<FileOptions> = {},
  context: Partial<OpenContext> = {},
): Promise<Opened> {
  return file.open(
    { path, ...DEFAULTS, ...options },
    testContext({ files: systemFiles, ...context }),
  );
}

/** Calls `fn` with a backend over a new file. */
function withBackend(
  options: Partial<FileOptions>,
  fn: (opened: Opened, path: string) => void | Promise<void>,
  context: Partial<OpenContext> = {},
): Promise<void> {
  return withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    const opened = await open(path, { size: 4 * MIB, ...options }, context);
    try {
      await fn(opened, path);
    } finally {
      await opened.backend[Symbol.asyncDispose]();
    }
  });
}

function makeDevice(backend: Backend): Device {
  return new Device(backend, { name: "test", clock: new ManualClock(), log: new MemoryLog() });
}

function readOf(backend: Backend, offset: number, length: number): Uint8Array {
  const into = new Uint8Array(length).fill(0xee);
  backend.read(into, offset);
  return into;
}

function isAll(bytes: Uint8Array, value: number): boolean {
  return bytes.every((byte) => byte === value);
}

/** Registers the contract's cases for new files in a folder that lives as long as a case. */
function contractOnFiles(
  name: string,
  options: Partial<FileOptions>,
  context: Partial<OpenContext> = {},
): void {
  let folder = "", count = 0;
  const path = (): string => join(folder, `${count}.img`);
  const cases = contractTests(name, async () => {
    folder = await Deno.makeTempDir({ prefix: "dmu-test-" });
    count += 1;
    return await open(path(), { size: 4 * MIB, ...options }, context);
  }, {
    ...EFFORT,
    reopen: () => open(path(), options, context),
    cleanUp: () => Deno.remove(folder, { recursive: true }),
  });
  for (const { name, run } of cases) Deno.test(name, run);
}

contractOnFiles("file", {});
contractOnFiles("file (flushes later)", {}, { mayBlock: false });
contractOnFiles("file (odd size)", { size: 3 * MIB + 517 });
contractOnFiles("file (tiny)", { size: 1 });

const directWorks = await withTempDir(async (folder) => {
  const opened = await open(join(folder, "probe"), { size: MIB, direct: true }).catch(() => null);
  await opened?.backend[Symbol.asyncDispose]();
  return opened !== null;
});
if (directWorks) contractOnFiles("file (direct)", { direct: true });

/** Registers the contract's cases for files that forget at a crash what was not flushed. */
function contractOnCrashFiles(name: string, mayBlock: boolean): void {
  let files = new CrashFiles({ seed: 1 });
  const openNow = (): Promise<Opened> => open("disk", { size: MIB }, { files, mayBlock });
  const cases = contractTests(name, () => {
    files = new CrashFiles({ seed: 1 });
    return openNow();
  }, {
    ...EFFORT,
    reopen: openNow,
    crash: () => {
      files.crash();
      return openNow();
    },
  });
  for (const { name, run } of cases) Deno.test(name, run);
}

contractOnCrashFiles("file (crashing)", true);
contractOnCrashFiles("file (crashing, flushes later)", false);

Deno.test("file's options have the defaults that are safe", () => {
  const options = parseOptions(file.options, new Map([["path", "disk.img"]]), {
    action: "open file",
  });
  assert.deepEqual({ size: undefined, ...options }, {
    path: "disk.img",
    size: undefined,
    ...DEFAULTS,
  });
});

Deno.test("file fails to open with the errno and the path", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "absent");
    await assert.rejects(open(path), { code: "ENOENT", message: /absent: no such file/ });
    await assert.rejects(open(folder), { code: "EISDIR" });
    const first = await open(path, { size: MIB });
    await assert.rejects(open(path), { code: "EAGAIN", message: /in use/ });
    const second = await open(path, { lock: false });
    await second.backend[Symbol.asyncDispose]();
    await first.backend[Symbol.asyncDispose]();
    await (await open(path)).backend[Symbol.asyncDispose]();
  }));

Deno.test("file has the geometry of its file", () =>
  withBackend({ size: 12_345 }, ({ backend }) => {
    const { size, minimum, preferred, readOnly } = backend.geometry;
    assert.equal(size, 12_345);
    assert.equal(minimum, 1);
    assert.ok(preferred >= BLOCK && Number.isInteger(Math.log2(preferred)));
    assert.equal(readOnly, false);
    assert.deepEqual(backend.capabilities, { synchronous: true, fua: false });
  }));

Deno.test("file opens read-only what is wanted read-only, with other readers", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    await Deno.writeFile(path, new Uint8Array(MIB).fill(6), { mode: 0o400 });
    const readers = await Promise.all([1, 2].map(() => open(path, {}, { readOnly: true })));
    for (const { backend } of readers) {
      assert.equal(backend.geometry.readOnly, true);
      assert.ok(isAll(readOf(backend, 0, BLOCK), 6));
    }
    await assert.rejects(open(path), { code: "EAGAIN" });
    for (const { backend } of readers) await backend[Symbol.asyncDispose]();
  }));

await abilityTest(
  "file refuses direct I/O on a file that has a piece of a block",
  "direct I/O",
  () =>
    withTempDir(async (folder) => {
      const path = join(folder, "disk.img");
      const wanted = { errno: "EINVAL", message: /size 1000 is not a multiple of the \d+ bytes/ };
      await assert.rejects(open(path, { size: 1000, direct: true }), wanted);
      await (await open(path)).backend[Symbol.asyncDispose]();
    }),
);

await abilityTest(
  "file has the block size as its minimum with direct I/O",
  "direct I/O",
  () =>
    withBackend({ direct: true }, ({ backend }) => {
      assert.ok(backend.geometry.minimum >= 512);
      assert.equal(backend.geometry.preferred % backend.geometry.minimum, 0);
    }),
);

Deno.test("file gives storage back when it is trimmed", () =>
  withBackend({}, async ({ backend, management }) => {
    const allocated = (): number => Number(management?.describe?.().allocated);
    backend.write(new Uint8Array(4 * MIB).fill(1), 0, NO_FUA);
    await backend.flush();
    assert.ok(allocated() >= 4 * MIB);
    backend.trim?.(MIB, 2 * MIB, NO_FUA);
    assert.ok(allocated() < 3 * MIB, `${allocated()}`);
    backend.zero?.(0, MIB, { fua: false, mayTrim: true, fastOnly: true });
    assert.ok(allocated() < 2 * MIB, `${allocated()}`);
    assert.ok(isAll(readOf(backend, 0, MIB), 0));
    assert.deepEqual(await backend.extents?.(0, 4 * MIB), [
      { length: 3 * MIB, allocated: false, zero: true },
      { length: MIB, allocated: true, zero: false },
    ]);
  }));

await abilityTest(
  "file keeps storage when it is told to, or zeroed without mayTrim",
  "zero range",
  () =>
    withTempDir(async (folder) => {
      for (const discard of [true, false]) {
        const path = join(folder, `${discard}.img`);
        const { backend, management } = await open(path, { size: 4 * MIB, discard });
        assert.equal(backend.trim !== undefined, discard);
        backend.write(new Uint8Array(4 * MIB).fill(1), 0, NO_FUA);
        await backend.flush();
        backend.zero?.(0, 2 * MIB, { fua: false, mayTrim: !discard, fastOnly: true });
        assert.ok(Number(management?.describe?.().allocated) >= 4 * MIB);
        assert.deepEqual(await backend.extents?.(0, 4 * MIB), [
          { length: 2 * MIB, allocated: true, zero: true },
          { length: 2 * MIB, allocated: true, zero: false },
        ]);
        // Only now: zeroes that were read into the page cache count as data.
        assert.ok(isAll(readOf(backend, 0, 2 * MIB), 0));
        await backend[Symbol.asyncDispose]();
      }
    }),
);

Deno.test("file grows and shrinks", () =>
  withBackend({}, ({ backend }, path) => {
    backend.write(new Uint8Array(4 * MIB).fill(1), 0, NO_FUA);
    backend.resize?.(MIB + 3);
    assert.equal(backend.geometry.size, MIB + 3);
    assert.equal(Deno.statSync(path).size, MIB + 3);
    backend.resize?.(2 * MIB);
    assert.ok(isAll(readOf(backend, MIB + 3, MIB - 3), 0));
  }));

Deno.test("file describes itself", () =>
  withBackend({}, ({ management }, path) => {
    assert.deepEqual(management?.describe?.(), {
      path,
      kind: "regular file",
      size: 4 * MIB,
      allocated: 0,
      direct: false,
      lock: true,
    });
  }));

/** Real files whose flushes fail once, the `failing`-th time. */
function filesThatFail(failing: number): FileAccess {
  let flushes = 0;
  const count = (): void => {
    flushes += 1;
    if (flushes === failing) throw new SystemError("ENOSPC", "flush", "disk", "no space left");
  };
  return {
    open(path, options): RawFile {
      const real = systemFiles.open(path, options);
      real.flush = count;
      real.flushAsync = (): Promise<void> => Promise.try(count);
      return real;
    },
  };
}

for (const mayBlock of [true, false]) {
  Deno.test(`file does not promise anything after a failed flush, mayBlock ${mayBlock}`, () =>
    withBackend({}, async ({ backend }) => {
      const flush = async (): Promise<void> => await backend.flush();
      await flush();
      await assert.rejects(flush, { name: "BlockError", errno: "ENOSPC" });
      await assert.rejects(flush, { name: "BlockError", errno: "ENOSPC" });
      backend.write(Uint8Array.of(1), 0, NO_FUA);
      assert.deepEqual([...readOf(backend, 0, 1)], [1]);
    }, { mayBlock, files: filesThatFail(2) }));
}

Deno.test("file flushes on the spot only where it may block", () =>
  withTempDir(async (folder) => {
    for (const mayBlock of [true, false]) {
      const { backend } = await open(join(folder, "disk.img"), { size: MIB }, { mayBlock });
      assert.equal(backend.capabilities.synchronous, mayBlock);
      const outcome = backend.flush();
      assert.equal(outcome instanceof Promise, !mayBlock);
      await outcome;
      await backend[Symbol.asyncDispose]();
    }
  }));

await mountTest(
  "a Device makes up for what the file system of a file lacks",
  () =>
    withTempDir((folder) =>
      withMount(folder, "ramfs", [], async () => {
        const { backend } = await open(join(folder, "disk.img"), { size: 3 * MIB });
        const device = makeDevice(backend);
        backend.write(new Uint8Array(3 * MIB).fill(1), 0, NO_FUA);
        device.submit(makeRequest("trim", 0, MIB));
        for (const flags of [0, FLAG_MAY_TRIM]) {
          const fast = makeRequest("zero", 0, MIB, { flags: flags | FLAG_FAST_ONLY });
          assert.throws(() => device.submit(fast), { errno: "EOPNOTSUPP" });
          assert.ok(isAll(readOf(backend, 0, 3 * MIB), 1));
          device.submit(makeRequest("zero", 100, 2 * MIB, { flags }));
          assert.ok(isAll(readOf(backend, 100, 2 * MIB), 0));
          assert.deepEqual([...readOf(backend, 99, 2)], [1, 0]);
          backend.write(new Uint8Array(3 * MIB).fill(1), 0, NO_FUA);
        }
        await device[Symbol.asyncDispose]();
      })
    ),
);

await mountTest(
  "file passes on that the file system is full",
  () =>
    withTempDir((folder) =>
      withMount(folder, "tmpfs", ["-o", "size=1m"], async () => {
        const { backend } = await open(join(folder, "disk.img"), { size: 4 * MIB });
        const device = makeDevice(backend);
        const data = new Uint8Array(2 * MIB);
        const write = makeRequest("write", 0, data.length, { data });
        assert.throws(() => device.submit(write), { name: "BlockError", errno: "ENOSPC" });
        device.submit(makeRequest("trim", 0, 4 * MIB));
        device.submit(makeRequest("write", MIB, 4096, { data: data.subarray(0, 4096) }));
        await device[Symbol.asyncDispose]();
      })
    ),
);

/** Registers the contract's cases for a loop device. */
function contractOnDevice(name: string, sector: number, options: Partial<FileOptions>): void {
  // A case disposes its backend before the device goes away, so each runs inside its own device.
  let device = "";
  const cases = contractTests(name, () => open(device, options), {
    ...EFFORT,
    reopen: () => open(device, options),
  });
  for (const { name, run } of cases) {
    Deno.test(name, () =>
      withTempDir(async (folder) => {
        const image = join(folder, "image");
        await Deno.writeFile(image, new Uint8Array(0));
        await Deno.truncate(image, 4 * MIB);
        await withLoopDevice(image, ["--sector-size", String(sector)], (path) => {
          device = path;
          return run();
        });
      }));
  }
}

if (await canMount()) {
  contractOnDevice("file (block device)", 512, {});
  contractOnDevice("file (block device, direct)", 4096, { direct: true });
}

await mountTest(
  "file describes a block device, which has a fixed size",
  () =>
    withTempDir(async (folder) => {
      const image = join(folder, "image");
      await Deno.writeFile(image, new Uint8Array(MIB));
      await withLoopDevice(image, [], async (device) => {
        const { backend, management } = await open(device);
        assert.equal(management?.describe?.().kind, "block device");
        assert.equal(backend.resize, undefined);
        assert.equal(backend.geometry.size, MIB);
        await backend[Symbol.asyncDispose]();
      });
    }),
);
