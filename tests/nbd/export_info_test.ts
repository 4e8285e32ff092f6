/**
 * Tests of what the server tells of an export.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import { exportInfoOf, transmissionFlags } from "../../lib/nbd/export_info.ts";
import { deviceOver, extentsFrom, makeExport, ram } from "./fixtures.ts";

const NOTHING = { structured: false, extended: false, contexts: [] };
const BASE = [{ id: 1, name: "base:allocation" }];

Deno.test("exportInfoOf() tells what the device can do and nothing more", async () => {
  await using able = deviceOver(ram({ size: 65536, extents: extentsFrom([["d", 65536]]) }).backend);
  assert.deepEqual(exportInfoOf(able, { description: "all of it" }), {
    name: "disk",
    description: "all of it",
    size: 65536,
    readOnly: false,
    minimum: 1,
    preferred: 4096,
    maximum: 64 << 20,
    canTrim: true,
    canZero: true,
    canCache: true,
    multiConn: true,
    rotational: false,
    tlsRequired: false,
    contexts: ["base:allocation"],
  });
  const plain = ram({ minimum: 512, preferred: 65536, without: ["trim", "zero", "cache"] });
  await using bare = deviceOver(plain.backend);
  const info = exportInfoOf(bare, { name: "bare", tlsRequired: true, rotational: true });
  assert.deepEqual(
    { ...info, size: 0 },
    {
      ...makeExport("bare", { size: 0, minimum: 512, preferred: 65536, canTrim: false }),
      canCache: false,
      rotational: true,
      tlsRequired: true,
      contexts: [],
    },
  );
  assert.deepEqual(structuredClone(info), info);
});

Deno.test("exportInfoOf() offers no changes where the device or its owner wants none", async () => {
  await using fixed = deviceOver(ram({ readOnly: true }).backend);
  await using shown = deviceOver(ram().backend);
  for (const info of [exportInfoOf(fixed), exportInfoOf(shown, { readOnly: true })]) {
    assert.deepEqual([info.readOnly, info.canTrim, info.canZero], [true, false, false]);
    // HAS_FLAGS, READ_ONLY, FLUSH, FUA, MULTI_CONN, CACHE
    assert.equal(transmissionFlags(info, NOTHING), 0x050f);
  }
});

Deno.test("exportInfoOf() refuses texts that NBD cannot carry", async () => {
  await using device = deviceOver(ram().backend);
  for (const text of ["a\0b", "é".repeat(2049), "x".repeat(4097), "\ud800"]) {
    for (const settings of [{ name: text }, { description: text }]) {
      assert.throws(
        () => exportInfoOf(device, settings),
        (error) => error instanceof BlockError && error.errno === "EINVAL",
      );
    }
  }
  assert.equal(exportInfoOf(device, { name: "é".repeat(2048) }).name.length, 2048);
});

Deno.test("transmissionFlags() depends on what was negotiated", () => {
  const info = makeExport("disk");
  const rows = [
    [NOTHING, 0x0d6d],
    [{ ...NOTHING, structured: true }, 0x0ded],
    [{ ...NOTHING, extended: true }, 0x0ded],
    [{ ...NOTHING, structured: true, contexts: BASE }, 0x0ded],
    [{ ...NOTHING, extended: true, contexts: BASE }, 0x1ded],
  ] as const;
  for (const [terms, flags] of rows) assert.equal(transmissionFlags(info, terms), flags);
  // ROTATIONAL is bit 4; without MULTI_CONN bit 8 is clear.
  const slow = makeExport("slow", { rotational: true, multiConn: false });
  assert.equal(transmissionFlags(slow, NOTHING), 0x0c7d);
});
