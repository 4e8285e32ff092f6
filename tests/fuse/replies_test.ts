/**
 * Encoding of replies, byte for byte as linux/fuse.h lays them out.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  encodeAttributes,
  encodeEntry,
  encodeFolder,
  encodeInit,
  encodeOpen,
  encodeStatfs,
  encodeStatus,
  encodeWritten,
} from "../../lib/fuse/replies.ts";
import { type Field, fields, u32, u64 } from "./fuse_bytes.ts";

const UNIQUE = 2 ** 33 + 4;
const FILE = { node: 5, size: 2 ** 33 + 1, mode: 0o100600, uid: 1, gid: 2, time: 1_700_000_000 };
const FOLDER = { ...FILE, node: 1, size: 0, mode: 0o040755 };

function headed(...body: readonly Field[]): Uint8Array {
  const data = fields(...body);
  const header = fields([4, 16 + data.length], [4, 0], [8, UNIQUE]);
  return Uint8Array.from([...header, ...data]);
}

/** struct fuse_attr of FILE. */
const ATTR: readonly Field[] = [
  [8, 5],
  [8, 2 ** 33 + 1],
  [8, 2 ** 24 + 1],
  ...Array<Field>(3).fill([8, 1_700_000_000]),
  ...Array<Field>(3).fill([4, 0]),
  [4, 0o100600],
  [4, 1], // links
  [4, 1],
  [4, 2],
  [4, 0],
  [4, 4096],
  [4, 0],
];

const ROWS: readonly (readonly [string, Uint8Array, Uint8Array])[] = [
  ["status 0", encodeStatus(UNIQUE, 0), headed()],
  [
    "an error",
    encodeStatus(UNIQUE, -15),
    fields([4, 16], [4, 0xffff_fff1], [8, UNIQUE]),
  ],
  [
    "INIT",
    encodeInit(UNIQUE, { readAheadMax: 65536, flags: 0x408021 }),
    headed(
      [4, 7],
      [4, 38],
      [4, 65536],
      [4, 0x408021],
      [2, 256],
      [2, 192],
      [4, 1 << 20],
      [4, 1],
      [2, 256],
      [2, 0],
      ...Array<Field>(8).fill([4, 0]),
    ),
  ],
  ["OPEN", encodeOpen(UNIQUE, 3, 21), headed([8, 3], [4, 21], [4, 0])],
  ["WRITE", encodeWritten(UNIQUE, 40), headed([4, 40], [4, 0])],
  ["GETATTR", encodeAttributes(UNIQUE, FILE), headed([8, 3600], [4, 0], [4, 0], ...ATTR)],
  [
    "LOOKUP",
    encodeEntry(UNIQUE, FILE),
    headed([8, 5], [8, 0], [8, 0], [8, 3600], [4, 0], [4, 0], ...ATTR),
  ],
  [
    "STATFS",
    encodeStatfs(UNIQUE, 4),
    headed(
      ...Array<Field>(3).fill([8, 0]),
      [8, 4],
      [8, 0],
      [4, 4096],
      [4, 255],
      [4, 4096],
      ...Array<Field>(7).fill([4, 0]),
    ),
  ],
];

for (const [what, actual, expected] of ROWS) {
  Deno.test(`the reply: ${what}`, () => assert.deepEqual(new Uint8Array(actual), expected));
}

const ENTRIES = [
  { name: ".", attributes: FOLDER },
  { name: "..", attributes: FOLDER },
  { name: "disk", attributes: FILE },
  { name: "12345678", attributes: FILE },
];

Deno.test("encodeFolder() gives names, numbers and types, padded to 8 bytes", () => {
  const bytes = encodeFolder(UNIQUE, ENTRIES, 2, 4096, false);
  const disk = [...fields([8, 5], [8, 3], [4, 4], [4, 8]), ...new TextEncoder().encode("disk")];
  const other = [
    ...fields([8, 5], [8, 4], [4, 8], [4, 8]),
    ...new TextEncoder().encode("12345678"),
  ];
  const header = fields([4, 16 + 32 + 32], [4, 0], [8, UNIQUE]);
  assert.deepEqual([...bytes], [...header, ...disk, 0, 0, 0, 0, ...other]);
});

Deno.test("encodeFolder() gives what fits, and nothing at the end", () => {
  for (
    const [first, size, length] of [[0, 63, 32], [0, 64, 64], [0, 31, 0], [4, 4096, 0]] as const
  ) {
    assert.equal(encodeFolder(UNIQUE, ENTRIES, first, size, false).length, 16 + length);
  }
});

Deno.test("encodeFolder() looks names up for READDIRPLUS, but not . and ..", () => {
  const bytes = encodeFolder(UNIQUE, ENTRIES, 0, 4096, true).subarray(16);
  const starts = [0, 160, 320, 480];
  assert.equal(bytes.length, 640);
  assert.deepEqual(starts.map((at) => u64(bytes, at)), [0, 0, 5, 5], "nodes");
  assert.deepEqual(starts.map((at) => u64(bytes, at + 128)), [1, 1, 5, 5], "inodes");
  assert.deepEqual(starts.map((at) => u32(bytes, at + 128 + 20)), [4, 4, 8, 8], "types");
});
