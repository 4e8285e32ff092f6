/**
 * Dirty bitmaps as metadata contexts: block status of one, of several at once, and of allocation beside
 * them, in both forms of replies, over the bytes of the protocol; and our own client against our server.
 *
 * @module
 */
import assert from "node:assert/strict";
import { makeRequest } from "../../lib/block/request.ts";
import type { Device } from "../../lib/block/device.ts";
import type { TargetBitmaps } from "../../lib/dirty_log/target_bitmaps.ts";
import { connectNbd, listExports } from "../../lib/nbd/client/connect.ts";
import type { Dial } from "../../lib/nbd/client/dial.ts";
import { openDirtyBitmap } from "../../lib/nbd/client/dirty_bitmap.ts";
import { exportInfoOf } from "../../lib/nbd/export_info.ts";
import { serveConnection } from "../../lib/nbd/server.ts";
import type { NbdUri } from "../../lib/nbd/uri.ts";
import { memoryPair } from "../../lib/stream/memory_pair.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { bitmapDisk, dirtyRanges, memoryDisk } from "../dirty_log/bitmap_fixtures.ts";
import { compact, digits, extended, hex, outputOf, ram, sessionFor, stateFor } from "./fixtures.ts";
import { type Answer, readReplies } from "./reply_reader.ts";
import { BLOCK_STATUS, EINVAL, PAYLOAD_LEN, REQ_ONE } from "./transmission_messages.ts";

const KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;
const BASE = 1, FINE = 2, COARSE = 3;

interface Disk {
  readonly device: Device;
  readonly bitmaps: TargetBitmaps;
}

function write(device: Device, offset: number, length = 1): void {
  void device.submit(makeRequest("write", offset, length, { data: new Uint8Array(length) }));
}

/** A disk of which some is written, with two bitmaps: "fine" has 512 bytes, "coarse" 64 KiB a region. */
async function twoBitmaps(size = MIB): Promise<Disk> {
  const disk = bitmapDisk(await memoryDisk(size));
  write(disk.device, 0, 4 * KIB);
  await disk.bitmaps.run({ action: "add", name: "fine", granularity: 512, persistent: false });
  await disk.bitmaps.run({ action: "add", name: "coarse", persistent: false });
  write(disk.device, 128 * KIB, 600);
  return disk;
}

/** The answer to one block status. */
function ask(
  device: Device,
  style: "structured" | "extended",
  offset: number,
  length: number,
  rest: { flags?: number; payload?: Uint8Array } = {},
): Answer {
  const session = sessionFor(device, style);
  const make = style === "extended" ? extended : compact;
  session.receive(make(BLOCK_STATUS, 7, offset, length, rest));
  const asked = { read: false, offset: BigInt(offset), length: BigInt(length) };
  const answer = readReplies(outputOf(session), style, () => asked).get(7n);
  assert.ok(answer !== undefined);
  return answer;
}

/** Descriptors as [length, flags]. */
function told(answer: Answer, context: number): number[][] {
  return (answer.status.get(context) ?? []).map(({ length, flags }) => [length, flags]);
}

for (const style of ["structured", "extended"] as const) {
  Deno.test(`block status tells bitmaps and allocation at once, in ${style} replies`, async () => {
    const { device } = await twoBitmaps();
    await using _ = device;
    const { contexts } = stateFor(device, style);
    assert.deepEqual(contexts.map(({ name }) => name), [
      "base:allocation",
      "qemu:dirty-bitmap:fine",
      "qemu:dirty-bitmap:coarse",
    ]);
    const answer = ask(device, style, 0, MIB);
    assert.deepEqual([...answer.status.keys()], [BASE, FINE, COARSE]);
    assert.deepEqual(told(answer, FINE), [[128 * KIB, 0], [1024, 1], [895 * KIB, 0]]);
    assert.deepEqual(told(answer, COARSE), [[128 * KIB, 0], [64 * KIB, 1], [832 * KIB, 0]]);
    assert.deepEqual(told(answer, BASE).reduce((sum, [length = 0]) => sum + length, 0), MIB);
  });

  Deno.test(`block status of a bitmap keeps to REQ_ONE, in ${style} replies`, async () => {
    const { device } = await twoBitmaps();
    await using _ = device;
    const one = { flags: REQ_ONE };
    assert.deepEqual(told(ask(device, style, 0, MIB, one), FINE), [[128 * KIB, 0]]);
    assert.deepEqual(told(ask(device, style, 128 * KIB + 100, 200, one), FINE), [[200, 1]]);
    assert.deepEqual(told(ask(device, style, 129 * KIB, 512, one), COARSE), [[512, 1]]);
  });

  Deno.test(`block status of a bitmap begins and ends anywhere, in ${style} replies`, async () => {
    const { device } = await twoBitmaps(MIB - 100);
    await using _ = device;
    const answer = ask(device, style, 128 * KIB + 1023, 2);
    assert.deepEqual(told(answer, FINE).slice(0, 2), [[1, 1], [895 * KIB - 100, 0]]);
    assert.deepEqual(told(ask(device, style, MIB - 101, 1), COARSE), [[1, 0]]);
  });

  Deno.test(`block status of a bitmap that is gone fails, in ${style} replies`, async () => {
    const { device, bitmaps } = await twoBitmaps();
    await using _ = device;
    const session = sessionFor(device, style);
    await bitmaps.run({ action: "remove", name: "fine" });
    const make = style === "extended" ? extended : compact;
    session.receive(make(BLOCK_STATUS, 7, 0, MIB));
    const asked = { read: false, offset: 0n, length: BigInt(MIB) };
    assert.equal(readReplies(outputOf(session), style, () => asked).get(7n)?.error, EINVAL);
  });
}

Deno.test("a run of 6 GiB takes one wide descriptor, and a compact one stops short", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(8 * GIB));
  await using _ = device;
  await bitmaps.run({ action: "add", name: "b", granularity: MIB, persistent: false });
  await device.submit(makeRequest("zero", GIB, 6 * GIB));
  assert.deepEqual(told(ask(device, "extended", 0, 8 * GIB), 2), [[GIB, 0], [6 * GIB, 1], [
    GIB,
    0,
  ]]);
  const compactly = told(ask(device, "structured", GIB, 3 * GIB), 2);
  assert.deepEqual(compactly, [[4 * GIB - 64 * KIB, 1]]);
});

Deno.test("the payload form of block status picks the bitmaps that it names", async () => {
  const { device } = await twoBitmaps();
  await using _ = device;
  const payload = hex(digits(MIB, 64) + digits(COARSE, 32));
  const answer = ask(device, "extended", 0, payload.length, { flags: PAYLOAD_LEN, payload });
  assert.deepEqual([...answer.status.keys()], [COARSE]);
  assert.deepEqual(told(answer, COARSE), [[128 * KIB, 0], [64 * KIB, 1], [832 * KIB, 0]]);
});

Deno.test("storage without extents still tells its bitmaps", async () => {
  const { backend, calls } = ram();
  const { device, bitmaps } = bitmapDisk(backend);
  await using _ = device;
  await bitmaps.run({ action: "add", name: "b", persistent: false });
  write(device, 0);
  assert.deepEqual(exportInfoOf(device).contexts, ["qemu:dirty-bitmap:b"]);
  calls.length = 0;
  assert.deepEqual(told(ask(device, "structured", 0, MIB), 1), [[64 * KIB, 1], [960 * KIB, 0]]);
  assert.deepEqual(calls, []);
});

const URI: NbdUri = {
  address: { kind: "unix", path: "in-memory" },
  tls: false,
  exportName: "disk",
  tlsVerifyPeer: true,
};

function dialTo(device: Device, served: Promise<unknown>[]): Dial {
  return () => {
    const [mine, theirs] = memoryPair();
    const exports = new Map([["disk", exportInfoOf(device)]]);
    const table = { exports, defaultExport: "disk", stopping: false };
    served.push(serveConnection(theirs, { exports: table, open: () => ({ device }) }));
    return Promise.resolve({
      pair: mine,
      encrypt: () => Promise.reject(new Error("no TLS here")),
      close: () => {
        mine.writable.close().catch(() => {});
        mine.readable.cancel().catch(() => {});
      },
    });
  };
}

Deno.test("openDirtyBitmap() reads a bitmap over many answers", async () => {
  const { device, bitmaps } = bitmapDisk(await memoryDisk(256 * MIB));
  await using _ = device;
  await bitmaps.run({ action: "add", name: "b", granularity: 512, persistent: false });
  for (let at = 0; at < 70_000; at += 1) write(device, at * 2048);
  const served: Promise<unknown>[] = [];
  const dial = dialTo(device, served);
  {
    const { exports: [listed] } = await listExports(URI, { clock: testClock, dial });
    assert.deepEqual(listed?.contexts, ["base:allocation", "qemu:dirty-bitmap:b"]);
    await Promise.allSettled(served.splice(0));
    await using reader = await openDirtyBitmap(URI, "b", { clock: testClock, dial });
    assert.equal(reader.size, 256 * MIB);
    const found: [number, number][] = [];
    let answers = 0;
    for (let at = 0; at < reader.size; answers += 1) {
      for (const { length, dirty } of await reader.runs(at, reader.size - at)) {
        if (dirty) found.push([at, at + length]);
        at += length;
      }
    }
    assert.ok(answers > 1);
    assert.deepEqual(found, await dirtyRanges(device, "b"));
  }
  await Promise.all(served);
});

Deno.test("openDirtyBitmap() says that an export has no such bitmap", async () => {
  const { device } = bitmapDisk(await memoryDisk(MIB));
  await using _ = device;
  const served: Promise<unknown>[] = [];
  const dial = dialTo(device, served);
  await assert.rejects(openDirtyBitmap(URI, "b", { clock: testClock, dial }), {
    errno: "ENOENT",
    message: /the export "disk" has no metadata context qemu:dirty-bitmap:b/,
  });
  {
    await using connection = await connectNbd(URI, { clock: testClock, dial });
    assert.equal(connection.negotiated.size, MIB);
  }
  await Promise.all(served);
});
