/**
 * What is qcow2's own: images made with all options, written with a random history, and then read by
 * QEMU; backing files; snapshots; compression; commit; opening what is damaged, dirty or in use.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { decodeHeader, encodeHeader } from "../../backends/qcow2/format/header.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend, Opened } from "../../lib/block/types.ts";
import { seededRandom } from "../../lib/testing/mod.ts";
import { MemoryLog } from "../support/context.ts";
import { interopTest, run, runOk, sampleBytes, withTempDir } from "../support/tools.ts";
import { type ImageWords, makeImage, openQcow2 } from "./live_images.ts";
import { qemuCheck } from "../support/qemu_image.ts";

const MIB = 2 ** 20;
const SIZE = 3 * MIB + 5 * 512;
const NO_FUA = { fua: false };

/** Writes, zeroes and trims at random to a disk of which `model` is a copy. */
class History {
  readonly #random: ReturnType<typeof seededRandom>;
  model: Uint8Array;

  constructor(seed: number, model: Uint8Array) {
    this.#random = seededRandom(seed);
    this.model = model;
  }

  async go(backend: Backend, steps: number, unit = 1): Promise<void> {
    for (let step = 0; step < steps; step += 1) await this.#step(backend, unit);
    await this.compare(backend);
  }

  async #step(backend: Backend, unit: number): Promise<void> {
    const random = this.#random, size = this.model.length;
    const start = random.below(size), offset = start - start % unit;
    const length = Math.min(unit * (1 + random.below(Math.ceil(60_000 / unit))), size - offset);
    const chance = random.below(10);
    if (chance < 7) {
      const from = random.oneIn(2)
        ? sampleBytes(length, random.uint32())
        : new Uint8Array(length).fill(random.uint32());
      await backend.write(from, offset, NO_FUA);
      this.model.set(from, offset);
    } else if (chance < 9) {
      try {
        await backend.zero?.(offset, length, {
          fua: false,
          mayTrim: chance === 7,
          fastOnly: false,
        });
      } catch (error) {
        if (!(error instanceof BlockError) || error.errno !== "EOPNOTSUPP") throw error;
        await backend.write(new Uint8Array(length), offset, NO_FUA);
      }
      this.model.fill(0, offset, offset + length);
    } else {
      await backend.trim?.(offset, length, NO_FUA);
      await backend.read(this.model.subarray(offset, offset + length), offset);
    }
  }

  async compare(backend: Backend): Promise<void> {
    const disk = new Uint8Array(this.model.length);
    await backend.read(disk, 0);
    assert.equal(Buffer.compare(disk, this.model), 0, "the disk differs from its model");
  }
}

async function close({ backend }: Opened): Promise<void> {
  await backend[Symbol.asyncDispose]();
}

/** QEMU finds the image good, and the same content in it. */
async function expectQemuAgrees(path: string, model: Uint8Array): Promise<void> {
  const { code, text } = await qemuCheck(path);
  assert.equal(code, 0, text);
  const raw = `${path}.model`;
  await Deno.writeFile(raw, model);
  await runOk("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", path, raw]);
}

const VARIANTS: readonly ImageWords[] = [
  {},
  { "cluster-size": "512", "refcount-bits": "64" },
  { "cluster-size": "4k", "refcount-bits": "1" },
  { "cluster-size": "2M", "refcount-bits": "8" },
  { compat: "0.10", "cluster-size": "1k" },
  { "extended-l2": "on", "cluster-size": "16k" },
  { "lazy-refcounts": "on" },
  { preallocation: "metadata", "cluster-size": "4k" },
  { preallocation: "falloc" },
  { preallocation: "full", "extended-l2": "on" },
  { "data-file": "external" },
  { "data-file": "external", "data-file-raw": "on" },
];

/** Names of files are relative for us; QEMU takes those of data files as they are. */
function inFolder(words: ImageWords, folder: string): ImageWords {
  const name = words["data-file"];
  return name === undefined ? words : { ...words, "data-file": join(folder, name) };
}

for (const words of VARIANTS) {
  interopTest(
    `qcow2 makes images that QEMU reads: ${JSON.stringify(words)}`,
    ["qemu-img"],
    () =>
      withTempDir(async (folder) => {
        const path = join(folder, "disk.qcow2");
        await makeImage(path, SIZE, inFolder(words, folder));
        assert.equal((await qemuCheck(path)).code, 0);
        const history = new History(1, new Uint8Array(SIZE));
        for (let life = 0; life < 2; life += 1) {
          const opened = await openQcow2(path);
          await history.go(opened.backend, 120);
          await close(opened);
        }
        await expectQemuAgrees(path, history.model);
        if (words["data-file-raw"] !== "on") return;
        const raw = await Deno.readFile(join(folder, "external"));
        assert.equal(Buffer.compare(raw, history.model), 0, "the data file is no raw image");
      }),
  );
}

const COMPRESSED: readonly ImageWords[] = [
  {},
  { "compression-type": "zstd", "cluster-size": "4k" },
  { "cluster-size": "512", "refcount-bits": "1" },
  { "extended-l2": "on" },
];

for (const words of COMPRESSED) {
  interopTest(
    `qcow2 compresses whole clusters: ${JSON.stringify(words)}`,
    ["qemu-img"],
    () =>
      withTempDir(async (folder) => {
        const path = join(folder, "disk.qcow2");
        await makeImage(path, SIZE, words);
        const history = new History(2, new Uint8Array(SIZE));
        for (const unit of [1, 0]) {
          const opened = await openQcow2(path, { compress: "on" });
          await history.go(opened.backend, 100, unit || opened.backend.geometry.preferred);
          await close(opened);
        }
        await expectQemuAgrees(path, history.model);
        const { code, stdout } = await run("qemu-img", ["check", "--output=json", path]);
        assert.equal(code, 0);
        assert.ok(JSON.parse(stdout)["compressed-clusters"] > 0);
      }),
  );
}

for (const words of [{}, { "cluster-size": "512" }, { "extended-l2": "on" }, { compat: "0.10" }]) {
  interopTest(
    `qcow2 keeps snapshots: ${JSON.stringify(words)}`,
    ["qemu-img"],
    () =>
      withTempDir(async (folder) => {
        const path = join(folder, "disk.qcow2");
        await makeImage(path, SIZE, words);
        const history = new History(3, new Uint8Array(SIZE));
        const kept = new Map<string, Uint8Array>();
        let opened = await openQcow2(path);
        for (const name of ["one", "two", "three"]) {
          await history.go(opened.backend, 30);
          await opened.management?.createSnapshot?.(name);
          kept.set(name, history.model.slice());
        }
        await history.go(opened.backend, 30);
        await close(opened);
        assert.equal((await qemuCheck(path)).code, 0);
        await runOk("qemu-img", ["snapshot", "-a", "two", path]);
        history.model = kept.get("two")?.slice() ?? history.model;
        opened = await openQcow2(path);
        await history.go(opened.backend, 30);
        await opened.management?.deleteSnapshot?.("1");
        kept.delete("one");
        await history.go(opened.backend, 30);
        await opened.management?.applySnapshot?.("three");
        history.model = kept.get("three")?.slice() ?? history.model;
        await history.go(opened.backend, 30);
        const names = (await opened.management?.snapshots?.() ?? []).map(({ name }) => name);
        assert.deepEqual(names, ["two", "three"]);
        await close(opened);
        await expectQemuAgrees(path, history.model);
        for (const [name, model] of kept) {
          const shown = await openQcow2(path, { snapshot: name });
          assert.ok(shown.backend.geometry.readOnly);
          await new History(0, model).compare(shown.backend);
          await close(shown);
        }
      }),
  );
}

Deno.test("qcow2's snapshots have names of their own, and have to be there", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.qcow2");
    await makeImage(path, MIB, { "refcount-bits": "1" });
    const opened = await openQcow2(path), { backend, management } = opened;
    assert.throws(() => management?.applySnapshot?.("none"), { errno: "ENOENT" });
    await management?.createSnapshot?.("empty");
    assert.throws(() => management?.createSnapshot?.("empty"), { errno: "EEXIST" });
    assert.throws(() => management?.createSnapshot?.(""), { errno: "EINVAL" });
    await backend.write(new Uint8Array(512).fill(1), 0, NO_FUA);
    assert.throws(() => management?.createSnapshot?.("full"), { errno: "EINVAL", message: /wide/ });
    await backend.write(new Uint8Array(512).fill(2), 512, NO_FUA);
    await close(opened);
    await assert.rejects(openQcow2(path, { snapshot: "none" }), { errno: "ENOENT" });
  }));

for (const format of ["raw", "qcow2"]) {
  interopTest(
    `qcow2 stands on a ${format} file, and is committed into it`,
    ["qemu-img"],
    () =>
      withTempDir(async (folder) => {
        const base = join(folder, "base"), top = join(folder, "top");
        const content = sampleBytes(MIB + 512, 7);
        if (format === "raw") await Deno.writeFile(base, content);
        else {
          await makeImage(base, content.length);
          const below = await openQcow2(base);
          await below.backend.write(content, 0, NO_FUA);
          await close(below);
        }
        await makeImage(top, SIZE, { "backing-file": "base", "cluster-size": "16k" });
        const model = new Uint8Array(SIZE);
        model.set(content);
        const history = new History(4, model);
        const opened = await openQcow2(top);
        await history.go(opened.backend, 60);
        await opened.backend.flush();
        await opened.management?.commit?.();
        await history.compare(opened.backend);
        await history.go(opened.backend, 20);
        await close(opened);
        await expectQemuAgrees(top, history.model);
        assert.equal((await run("qemu-img", ["check", "-f", format, base])).code === 2, false);
      }),
  );
}

Deno.test("qcow2 refuses chains that lead back, and reads zeroes past the end of a backing file", () =>
  withTempDir(async (folder) => {
    const path = (name: string): string => join(folder, name);
    await makeImage(path("a"), MIB);
    await makeImage(path("b"), 2 * MIB, { "backing-file": "a", "backing-fmt": "qcow2" });
    const top = await openQcow2(path("b"));
    const into = new Uint8Array(2 * MIB).fill(1);
    await top.backend.read(into, 0);
    assert.ok(into.every((byte) => byte === 0));
    assert.deepEqual(await top.backend.extents?.(0, 2 * MIB), [
      { length: 2 * MIB, allocated: false, zero: true },
    ]);
    await close(top);
    await Deno.remove(path("a"));
    await Deno.copyFile(path("b"), path("a"));
    await assert.rejects(openQcow2(path("b")), { errno: "ELOOP", message: /lead back/ });
  }));

Deno.test("qcow2 finds out the format of a backing file, and warns", () =>
  withTempDir(async (folder) => {
    const base = join(folder, "base"), top = join(folder, "top");
    await Deno.writeFile(base, new Uint8Array(MIB));
    await makeImage(top, null, { "backing-file": "base" });
    const bytes = await Deno.readFile(top);
    const header = decodeHeader(bytes, top);
    assert.equal(header.size, MIB);
    bytes.set(encodeHeader({ ...header, backingFormat: null }));
    await Deno.writeFile(top, bytes);
    const log = new MemoryLog();
    await close(await openQcow2(top, {}, { log, readOnly: true }));
    assert.ok(log.lines.some((line) => /format of .*base.*looks like raw/.test(line)));
  }));

Deno.test("qcow2 counts refcounts anew after a crash with lazy refcounts", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.qcow2"), copy = join(folder, "copy.qcow2");
    await makeImage(path, MIB, { "lazy-refcounts": "on" });
    const opened = await openQcow2(path);
    await opened.backend.write(new Uint8Array(512).fill(9), 4096, NO_FUA);
    await opened.backend.flush();
    await Deno.copyFile(path, copy);
    await close(opened);
    const log = new MemoryLog();
    const again = await openQcow2(copy, {}, { log });
    assert.ok(log.lines.some((line) => /counted anew/.test(line)));
    const into = new Uint8Array(512);
    await again.backend.read(into, 4096);
    assert.ok(into.every((byte) => byte === 9));
    await close(again);
  }));

Deno.test("qcow2 marks an image that contradicts itself, and writes nothing to it any more", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.qcow2");
    await makeImage(path, MIB);
    const opened = await openQcow2(path);
    await opened.backend.write(new Uint8Array(512).fill(1), 0, NO_FUA);
    await close(opened);
    const file = await Deno.open(path, { read: true, write: true });
    const bytes = await Deno.readFile(path);
    const view = new DataView(bytes.buffer);
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0xffffffffffff00n);
    // The first cluster of the disk is said to be where the refcount table is.
    const entry = new Uint8Array(8);
    new DataView(entry.buffer).setBigUint64(0, 1n << 63n | 0x10000n);
    await file.seek(l2, Deno.SeekMode.Start);
    await file.write(entry);
    file.close();
    const damaged = await openQcow2(path);
    assert.throws(() => damaged.backend.write(new Uint8Array(512), 0, NO_FUA), { errno: "EIO" });
    assert.throws(() => damaged.backend.flush(), { errno: "EIO" });
    await close(damaged);
    await assert.rejects(openQcow2(path), { errno: "EROFS", message: /damaged/ });
    await close(await openQcow2(path, {}, { readOnly: true }));
  }));

Deno.test("qcow2 refuses an image that is in use", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.qcow2");
    await makeImage(path, MIB);
    const first = await openQcow2(path);
    await assert.rejects(openQcow2(path), { code: "EAGAIN" });
    await close(first);
    await close(await openQcow2(path));
  }));

interface MapRow {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly data: boolean;
}

/**
 * Which bytes are data, and which are zero: neighbours that are the same put together. Zeroes that have
 * clusters are allocated for us, and no data for qemu-img: there are no data among zeroes here.
 */
function merged(rows: readonly MapRow[]): MapRow[] {
  const all: MapRow[] = [];
  for (const { start, length, zero, data: told } of rows) {
    const data = told && !zero;
    const last = all.at(-1);
    if (last !== undefined && last.zero === zero && last.data === data) {
      all[all.length - 1] = { ...last, length: last.length + length };
    } else all.push({ start, length, zero, data });
  }
  return all;
}

for (const words of [{}, { "extended-l2": "on" }, { compat: "0.10", "cluster-size": "4k" }]) {
  interopTest(
    `qcow2 gives the extents of qemu-img map: ${JSON.stringify(words)}`,
    ["qemu-img"],
    () =>
      withTempDir(async (folder) => {
        const base = join(folder, "base"), top = join(folder, "top");
        await Deno.writeFile(base, new Uint8Array());
        await Deno.truncate(base, 2 * MIB);
        const file = await Deno.open(base, { write: true });
        await file.seek(300_000, Deno.SeekMode.Start);
        await file.write(sampleBytes(200_000, 5));
        file.close();
        await makeImage(top, SIZE, { ...words, "backing-file": "base" });
        const opened = await openQcow2(top);
        const model = new Uint8Array(SIZE);
        await opened.backend.read(model, 0);
        await new History(6, model).go(opened.backend, 25);
        await opened.backend.flush();
        const rows: MapRow[] = [];
        let start = 0;
        for (const { length, allocated, zero } of await opened.backend.extents?.(0, SIZE) ?? []) {
          rows.push({ start, length, zero, data: allocated });
          start += length;
        }
        await close(opened);
        const map: MapRow[] = JSON.parse(await runOk("qemu-img", ["map", "--output=json", top]));
        assert.deepEqual(merged(rows), merged(map));
      }),
  );
}

interopTest(
  "qcow2 gets by with a small cache while flushes are under way",
  ["qemu-img"],
  () =>
    withTempDir(async (folder) => {
      const path = join(folder, "disk.qcow2");
      // 512 bytes of L2 entries map 32 KiB of the disk; the cache has a quarter of what all of it needs.
      await makeImage(path, 16 * MIB, { "cluster-size": "512" });
      const opened = await openQcow2(path, { "cache-size": "64k" }, { mayBlock: false });
      const history = new History(8, new Uint8Array(16 * MIB));
      const pending: unknown[] = [];
      for (let round = 0; round < 40; round += 1) {
        await history.go(opened.backend, 10);
        pending.push(opened.backend.flush());
      }
      await Promise.all(pending);
      await close(opened);
      await expectQemuAgrees(path, history.model);
    }),
);
