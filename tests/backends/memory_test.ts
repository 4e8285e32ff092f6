/**
 * The memory backend: the contract, and what is its own: memory given back, huge sizes, the limit.
 *
 * @module
 */
import assert from "node:assert/strict";
import { memory, type MemoryOptions } from "../../backends/memory.ts";
import { SPARSE_BYTES_MAX } from "../../lib/block/limits.ts";
import { PAGE_BYTES } from "../../lib/block/page_arena.ts";
import { type ContractOptions, contractTests, testContext } from "../../lib/testing/mod.ts";
import type { Backend, Extent, Opened } from "../../lib/block/types.ts";

const PIB = 2 ** 50;
const NO_FUA = { fua: false };

function open(size: number, limit: number = SPARSE_BYTES_MAX): Promise<Opened> {
  const options: MemoryOptions = { size, limit };
  return memory.open(options, testContext());
}

function allocated(opened: Opened): unknown {
  return opened.management?.describe?.().allocated;
}

function resident(opened: Opened): number {
  return Number(opened.management?.describe?.().resident);
}

function extents(backend: Backend, offset: number, length: number): Extent[] {
  const found = backend.extents?.(offset, length);
  assert.ok(found !== undefined && !(found instanceof Promise));
  return found;
}

const SIZES: readonly (readonly [string, number, ContractOptions])[] = [
  ["12,345,678 bytes", 12_345_678, { seed: 1 }],
  ["1 byte", 1, { seed: 2 }],
  ["empty", 0, { seed: 3 }],
  ["1 PiB", PIB, { seed: 4 }],
  ["2^53 - 1 bytes", Number.MAX_SAFE_INTEGER, { seed: 5, largestBytes: 2 ** 20 }],
];

for (const [text, size, options] of SIZES) {
  for (const { name, run } of contractTests(`memory (${text})`, () => open(size), options)) {
    Deno.test(name, run);
  }
}

for (
  const { name, run } of contractTests(
    "memory (read-only)",
    () => memory.open({ size: 2 ** 22, limit: SPARSE_BYTES_MAX }, testContext({ readOnly: true })),
  )
) Deno.test(name, run);

Deno.test("memory gives pages back when they are trimmed", async () => {
  const opened = await open(256 * 2 ** 20);
  const { backend } = opened;
  const chunk = new Uint8Array(2 ** 20).fill(1);
  for (let at = 0; at < backend.geometry.size; at += chunk.length) backend.write(chunk, at, NO_FUA);
  assert.equal(allocated(opened), 256 * 2 ** 20);
  const rss = Deno.memoryUsage().rss;
  backend.trim?.(2 ** 20, 200 * 2 ** 20, NO_FUA);
  assert.equal(allocated(opened), 56 * 2 ** 20);
  assert.ok(resident(opened) <= 96 * 2 ** 20, `resident ${resident(opened)}`);
  assert.ok(
    rss - Deno.memoryUsage().rss > 100 * 2 ** 20,
    `the process had ${rss} bytes and has ${Deno.memoryUsage().rss}`,
  );
  backend.trim?.(0, backend.geometry.size, NO_FUA);
  assert.equal(allocated(opened), 0);
  assert.equal(resident(opened), 0);
  await backend[Symbol.asyncDispose]();
});

Deno.test("memory frees whole pages and zeroes parts of pages when trimmed", async () => {
  const opened = await open(8 * PAGE_BYTES);
  const { backend } = opened;
  backend.write(new Uint8Array(8 * PAGE_BYTES).fill(7), 0, NO_FUA);
  backend.trim?.(PAGE_BYTES + 1, 3 * PAGE_BYTES, NO_FUA);
  assert.equal(allocated(opened), 6 * PAGE_BYTES);
  const bytes = new Uint8Array(8 * PAGE_BYTES).fill(9);
  backend.read(bytes, 0);
  const wrong = bytes.findIndex((byte, at) =>
    byte !== (at > PAGE_BYTES && at <= 4 * PAGE_BYTES ? 0 : 7)
  );
  assert.equal(wrong, -1);
  await backend[Symbol.asyncDispose]();
});

Deno.test("memory shows exactly the pages that were written as allocated", async () => {
  const { backend } = await open(PIB);
  backend.write(new Uint8Array(1), 5 * PAGE_BYTES + 3, NO_FUA);
  backend.write(new Uint8Array(2 * PAGE_BYTES), 2 ** 45, NO_FUA);
  backend.zero?.(PIB - 1, 1, { fua: false, mayTrim: false, fastOnly: false });
  const hole = (length: number): Extent => ({ length, allocated: false, zero: true });
  const data = (length: number): Extent => ({ length, allocated: true, zero: false });
  assert.deepEqual(extents(backend, 0, PIB), [
    hole(5 * PAGE_BYTES),
    data(PAGE_BYTES),
    hole(2 ** 45 - 6 * PAGE_BYTES),
    data(2 * PAGE_BYTES),
    hole(PIB - 2 ** 45 - 3 * PAGE_BYTES),
    { length: PAGE_BYTES, allocated: true, zero: true },
  ]);
  assert.deepEqual(extents(backend, 6 * PAGE_BYTES - 1, 3), [data(1), hole(2)]);
  await backend[Symbol.asyncDispose]();
});

Deno.test("memory bounds the extents of one call", async () => {
  const opened = await open(2 ** 34);
  const { backend } = opened;
  const byte = new Uint8Array(1);
  for (let at = 0; at < 2 ** 32; at += 2 * PAGE_BYTES) backend.write(byte, at, NO_FUA);
  const found = extents(backend, 0, 2 ** 34);
  assert.equal(found.length, 2 ** 16);
  assert.equal(found.reduce((sum, extent) => sum + extent.length, 0), 2 ** 31);
  await backend[Symbol.asyncDispose]();
});

Deno.test("memory fails with ENOSPC past its limit and serves what it has", async () => {
  const opened = await open(PIB, 4 * PAGE_BYTES);
  const { backend } = opened;
  const page = new Uint8Array(PAGE_BYTES).fill(3);
  for (let index = 0; index < 4; index += 1) backend.write(page, index * 2 ** 40, NO_FUA);
  const full = { name: "BlockError", errno: "ENOSPC" };
  const keep = { fua: false, mayTrim: false, fastOnly: false };
  assert.throws(() => backend.write(page, 2 ** 48, NO_FUA), full);
  assert.throws(() => backend.zero?.(2 ** 48, 1, keep), full);
  assert.throws(() => backend.zero?.(0, PIB, keep), full);
  const bytes = new Uint8Array(PAGE_BYTES);
  backend.read(bytes, 3 * 2 ** 40);
  assert.deepEqual(bytes, page);
  backend.write(page.fill(4), 2 ** 40, NO_FUA);
  backend.trim?.(2 ** 40, PAGE_BYTES, NO_FUA);
  backend.write(page, 2 ** 48, NO_FUA);
  assert.equal(allocated(opened), 4 * PAGE_BYTES);
  await backend[Symbol.asyncDispose]();
});

Deno.test("memory keeps room for what was zeroed without mayTrim", async () => {
  const opened = await open(2 ** 30, 4 * PAGE_BYTES);
  const { backend } = opened;
  backend.zero?.(0, 4 * PAGE_BYTES, { fua: false, mayTrim: false, fastOnly: false });
  assert.equal(resident(opened), 0);
  const page = new Uint8Array(PAGE_BYTES).fill(3);
  assert.throws(() => backend.write(page, 8 * PAGE_BYTES, NO_FUA), { errno: "ENOSPC" });
  for (let index = 0; index < 4; index += 1) backend.write(page, index * PAGE_BYTES, NO_FUA);
  assert.equal(allocated(opened), 4 * PAGE_BYTES);
  await backend[Symbol.asyncDispose]();
});
