/** Image tools of raw files: creating, mapping and resizing them, and what they refuse. @module */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import type { ImageContext, MapEntry, ResizeOptions } from "../../lib/block/image.ts";
import { rawImage } from "../../lib/block/raw_image.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { testContext } from "../../lib/testing/mod.ts";
import { interopTest, runOk, withTempDir } from "../support/tools.ts";

const MIB = 2 ** 20;

function imageContext(different: Partial<ImageContext> = {}): ImageContext {
  return { ...testContext(), files: systemFiles, progress: () => {}, ...different };
}

function mapOf(path: string): Promise<MapEntry[]> {
  return Array.fromAsync(rawImage.map?.({ path }, imageContext()) ?? []);
}

async function resize(path: string, size: number, options: ResizeOptions): Promise<void> {
  await rawImage.resize?.({ path }, size, options, imageContext());
}

async function makeFile(
  path: string,
  parts: readonly [number, number][],
  size: number,
): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  await file.truncate(size);
  for (const [offset, length] of parts) {
    await file.seek(offset, Deno.SeekMode.Start);
    await file.write(new Uint8Array(length).fill(7));
  }
  await file.sync();
}

Deno.test("rawImage.create() reserves storage as told", async () => {
  await withTempDir(async (folder) => {
    const used = new Map<string, number>();
    for (const preallocation of ["off", "falloc", "full"] as const) {
      const path = `${folder}/${preallocation}`;
      const seen: number[] = [];
      const context = imageContext({ progress: (done) => seen.push(done) });
      await rawImage.create(
        { path },
        { size: 3 * MIB, replace: false },
        { preallocation },
        context,
      );
      const { virtualSize, actualSize } = await rawImage.info({ path }, context);
      assert.equal(virtualSize, 3 * MIB);
      used.set(preallocation, actualSize ?? -1);
      assert.deepEqual(seen.at(-1), preallocation === "off" ? undefined : 3 * MIB);
    }
    assert.equal(used.get("off"), 0);
    assert.ok((used.get("falloc") ?? 0) >= 3 * MIB);
    assert.ok((used.get("full") ?? 0) >= 3 * MIB);
    assert.ok((await mapOf(`${folder}/full`)).every(({ data }) => data), "zeroes were written");
  });
});

Deno.test("rawImage.create() leaves what is there unless it is to be replaced", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/a`;
    const options = { preallocation: "off" } as const;
    for (const length of [0, 512]) {
      await Deno.writeFile(path, new Uint8Array(length).fill(9));
      await assert.rejects(
        rawImage.create({ path }, { size: MIB, replace: false }, options, imageContext()),
        (error) => error instanceof BlockError && error.errno === "EEXIST",
      );
      assert.deepEqual(await Deno.readFile(path), new Uint8Array(length).fill(9));
    }
    await rawImage.create({ path }, { size: MIB, replace: true }, options, imageContext());
    assert.deepEqual(await Deno.readFile(path), new Uint8Array(MIB));
  });
});

Deno.test("rawImage.create() ends at the abort of its context", async () => {
  await withTempDir(async (folder) => {
    const stop = new AbortController();
    const reason = new BlockError("EINTR", "Cannot go on: stopped");
    const context = imageContext({ signal: stop.signal, progress: () => stop.abort(reason) });
    const made = rawImage.create(
      { path: `${folder}/a` },
      { size: 64 * MIB, replace: false },
      { preallocation: "full" },
      context,
    );
    await assert.rejects(made, reason);
  });
});

Deno.test("rawImage.resize() grows, and shrinks only if data may be cut off", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/a`;
    await makeFile(path, [[0, 4096]], MIB);
    await resize(path, 2 * MIB, { shrink: false, preallocation: "full" });
    assert.deepEqual(
      (await mapOf(path)).map(({ start, length, data }) => [start, length, data]),
      [[0, 4096, true], [4096, MIB - 4096, false], [MIB, MIB, true]],
    );
    await assert.rejects(
      resize(path, MIB, { shrink: false, preallocation: "off" }),
      /cuts off data/,
    );
    assert.equal((await Deno.stat(path)).size, 2 * MIB);
    await resize(path, 4096, { shrink: true, preallocation: "off" });
    assert.deepEqual(await Deno.readFile(path), new Uint8Array(4096).fill(7));
    await assert.rejects(
      resize(path, MIB, { shrink: false, preallocation: "metadata" }),
      /a raw image has no metadata/,
    );
    assert.equal((await Deno.stat(path)).size, 4096);
  });
});

interopTest("rawImage.map() shows what qemu-img map shows", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/a`;
    await makeFile(path, [[0, 4096], [8192, 65_536], [MIB - 4096, 4096]], 2 * MIB);
    const text = await runOk("qemu-img", ["map", "-f", "raw", "--output=json", path]);
    const theirs: unknown = JSON.parse(text);
    const ours = (await mapOf(path)).map(({ compressed: _, filename: __, ...rest }) => rest);
    assert.equal(ours.length, 6);
    assert.deepEqual(ours, theirs);
  });
});
