/**
 * The qcow2 backend against the contract: over many geometries on real files, which qemu-img has to find
 * good afterwards, and on files that forget at a crash what was not flushed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { Opened } from "../../lib/block/types.ts";
import { contractTests } from "../../lib/testing/mod.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { checkCopy, imageContext, type ImageWords, makeImage, openQcow2 } from "./live_images.ts";
import { qemuCheck } from "../support/qemu_image.ts";
import { needs } from "../support/tools.ts";

const MIB = 2 ** 20;
/** How hard the contract's cases try: there are many variants. */
const EFFORT = { steps: 100, largestBytes: MIB } as const;
/** A size that ends within a cluster, and within a subcluster. */
const SIZE = 5 * MIB + 3 * 512;

const GEOMETRIES: readonly (readonly [name: string, words: ImageWords])[] = [
  ["clusters of 512 bytes, 64-bit refcounts", { "cluster-size": "512", "refcount-bits": "64" }],
  ["clusters of 2 MiB, 1-bit refcounts", { "cluster-size": "2M", "refcount-bits": "1" }],
  ["version 2", { compat: "0.10" }],
  ["subclusters", { "extended-l2": "on" }],
  ["lazy refcounts", { "lazy-refcounts": "on", "cluster-size": "4k" }],
  ["subclusters preallocated", { preallocation: "metadata", "extended-l2": "on" }],
];

const qemu = needs("qemu-img");

/** Registers the contract's cases for new images in a folder that lives as long as a case. */
function contractOnFiles(name: string, words: ImageWords, mayBlock: boolean): void {
  let folder = "";
  const path = (): string => join(folder, "disk.qcow2");
  const cases = contractTests(name, async () => {
    folder = await Deno.makeTempDir({ prefix: "dmu-test-" });
    await makeImage(path(), SIZE, words);
    return await openQcow2(path(), {}, { mayBlock });
  }, {
    ...EFFORT,
    reopen: () => openQcow2(path(), {}, { mayBlock }),
    cleanUp: async () => {
      try {
        if (qemu.ignore) return;
        const { code, text } = await qemuCheck(path());
        assert.equal(code, 0, text);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
  for (const { name, run } of cases) Deno.test(name, run);
}

/** Registers the contract's cases for files that forget at a crash what was not flushed. */
function contractOnCrashFiles(name: string, words: ImageWords, mayBlock: boolean): void {
  let files = new CrashFiles({ seed: 1 });
  const openNow = (): Promise<Opened> => openQcow2("disk", {}, { files, mayBlock });
  const cases = contractTests(name, async () => {
    files = new CrashFiles({ seed: 1 });
    await makeImage("disk", SIZE, words, { files });
    return await openNow();
  }, {
    ...EFFORT,
    reopen: openNow,
    crash: () => {
      files.crash();
      return openNow();
    },
    cleanUp: async () => {
      if (qemu.ignore) return;
      const { code, text } = await checkCopy(files, "disk");
      // After a crash clusters may be lost, but nothing may be wrong.
      assert.ok(code === 0 || code === 3 && files.crashes > 0, text);
    },
  });
  for (const { name, run } of cases) Deno.test(name, run);
}

for (const [name, words] of GEOMETRIES) contractOnCrashFiles(`qcow2 (${name})`, words, true);
contractOnFiles("qcow2 (real files, flushes later)", {}, false);

Deno.test("qcow2 is synchronous only where it may block", async () => {
  const files = new CrashFiles({ seed: 1 });
  await makeImage("disk", MIB, {}, { files });
  const { backend } = await openQcow2("disk", {}, { files, mayBlock: false });
  assert.equal(backend.capabilities.synchronous, false);
  assert.ok(backend.flush() instanceof Promise);
  await backend[Symbol.asyncDispose]();
  assert.ok(imageContext().mayBlock);
});
