/**
 * Decoding of requests: each row is a request as linux/fuse.h lays it out.
 *
 * @module
 */
import assert from "node:assert/strict";
import { decodeRequest } from "../../lib/fuse/requests.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { fields, readArguments, request } from "./fuse_bytes.ts";

const DATA = Uint8Array.of(1, 2, 3);

const ROWS: readonly (readonly [opcode: number, body: Uint8Array | string, expected: object])[] = [
  [1, "disk", { kind: "lookup", name: "disk" }],
  [1, "k\u00e4se", { kind: "lookup", name: "k\u00e4se" }],
  [2, fields([8, 1]), { kind: "forget" }],
  [3, fields([4, 0], [4, 0], [8, 0]), { kind: "getattr" }],
  [
    4,
    fields([4, 0x48], [4, 0], [8, 5], [8, 2 ** 40], ...Array<[8, number]>(8).fill([8, 0])),
    { kind: "setattr", valid: 0x48, size: 2 ** 40 },
  ],
  [10, "gone", { kind: "unlink", name: "gone" }],
  [14, fields([4, 0o100002], [4, 0]), { kind: "open", flags: 0o100002 }],
  [
    15,
    readArguments(7, 2 ** 33, 4096, 0o4000),
    { kind: "read", handle: 7, offset: 2 ** 33, size: 4096, flags: 0o4000 },
  ],
  [17, new Uint8Array(), { kind: "statfs" }],
  [18, fields([8, 7], [4, 0], [4, 0], [8, 0]), { kind: "release", handle: 7 }],
  [20, fields([8, 7], [4, 1], [4, 0]), { kind: "fsync", handle: 7, dataOnly: true }],
  [20, fields([8, 7], [4, 0], [4, 0]), { kind: "fsync", handle: 7, dataOnly: false }],
  [22, fields([4, 0], [4, 0]), { kind: "unknown" }],
  [25, fields([8, 7], [8, 0], [8, 0]), { kind: "flush", handle: 7 }],
  [
    26,
    fields(
      [4, 7],
      [4, 45],
      [4, 131072],
      [4, 0x7fff],
      [4, 1],
      ...Array<[4, number]>(11).fill([4, 0]),
    ),
    { kind: "init", major: 7, minor: 45, readAheadMax: 131072, flags: 0x7fff },
  ],
  [27, fields([4, 0], [4, 0]), { kind: "opendir", flags: 0 }],
  [28, readArguments(0, 2, 4096), { kind: "readdir", handle: 0, offset: 2, size: 4096, flags: 0 }],
  [29, fields([8, 0], [4, 0], [4, 0], [8, 0]), { kind: "releasedir", handle: 0 }],
  [34, fields([4, 4], [4, 0]), { kind: "unknown" }],
  [36, fields([8, 12]), { kind: "interrupt", interrupted: 12 }],
  [38, new Uint8Array(), { kind: "destroy" }],
  [39, new Uint8Array(32), { kind: "ioctl", handle: 0 }],
  [42, fields([4, 1], [4, 0], [8, 2], [8, 1]), { kind: "forget" }],
  [
    43,
    fields([8, 7], [8, 4096], [8, 2 ** 32], [4, 3], [4, 0]),
    { kind: "fallocate", handle: 7, offset: 4096, length: 2 ** 32, mode: 3 },
  ],
  [
    44,
    readArguments(0, 0, 100),
    { kind: "readdirplus", handle: 0, offset: 0, size: 100, flags: 0 },
  ],
  [4096, new Uint8Array(8), { kind: "unknown" }],
];

for (const [opcode, body, expected] of ROWS) {
  const { kind } = { kind: "", ...expected };
  Deno.test(`decodeRequest() gives ${kind} for opcode ${opcode}`, () => {
    const header = { opcode, unique: 2 ** 40 + 2, node: 9, uid: 10, gid: 20, pid: 30 };
    const bytes = request(opcode, 2 ** 40 + 2, 9, body);
    assert.deepEqual(decodeRequest(bytes), { ...header, ...expected });
  });
}

Deno.test("decodeRequest() gives the data of a WRITE without copying", () => {
  const bytes = request(16, 2, 9, readArguments(7, 512, 3, 1), DATA);
  const decoded = decodeRequest(bytes);
  assert.ok(decoded.kind === "write");
  assert.deepEqual([decoded.handle, decoded.offset, decoded.flags], [7, 512, 1]);
  assert.deepEqual(decoded.data, DATA);
  assert.equal(decoded.data.buffer, bytes.buffer);
});

const BROKEN: readonly (readonly [what: string, bytes: Uint8Array<ArrayBuffer>])[] = [
  ["less than a header", new Uint8Array(39)],
  ["a length that is not that of the bytes", request(17, 2, 1).fill(41, 0, 1)],
  ["arguments that are cut off", request(15, 2, 1, new Uint8Array(39))],
  ["more data than there are", request(16, 2, 1, readArguments(7, 0, 4), DATA)],
  ["a name without an end", request(1, 2, 1, Uint8Array.of(65))],
];

for (const [what, bytes] of BROKEN) {
  Deno.test(`decodeRequest() throws ProtocolError for ${what}`, () => {
    assert.throws(() => decodeRequest(bytes), ProtocolError);
  });
}
