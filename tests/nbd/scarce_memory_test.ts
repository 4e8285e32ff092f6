/** Tests of what a server session does while memory is scarce. @module */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { SCARCE_CONNECTION_BYTES } from "../../lib/block/limits.ts";
import { BufferPool, type PooledBuffer } from "../../lib/block/pool.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { assertSame, compact, digits, hex, joined, outputOf, ram, sessionFor } from "./fixtures.ts";
import { DISC, ramp, READ, WRITE } from "./transmission_messages.ts";

const KIB = 1024;
const LONG = SCARCE_CONNECTION_BYTES + 1;

function simpleReply(cookie: number, data = ""): string {
  return "67446698" + digits(0, 32) + digits(cookie, 64) + data;
}

/** A device whose pool is scarce while the buffer is out. */
function scarceDevice(): { readonly device: Device; readonly hog: PooledBuffer } {
  const pool = new BufferPool({ plentyBytesMax: 512 * KIB, poison: true });
  const hog = pool.take(1024 * KIB);
  const clock = new ManualClock();
  const device = new Device(ram().backend, { name: "disk", clock, log: new MemoryLog(), pool });
  return { device, hog };
}

Deno.test("NbdServerSession lets a long read wait while memory is scarce, in its order", async () => {
  const { device, hog } = scarceDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  let wakes = 0;
  session.onWake = () => wakes += 1;
  const small = compact(READ, 1, 0, 4);
  session.receive(joined([small, compact(READ, 2, 0, LONG), compact(READ, 3, 8, 4)]));
  assertSame(outputOf(session), hex(simpleReply(1, ramp(0, 4))));
  assert.equal(session.ready, false);
  assert.equal(outputOf(session).length, 0);
  wakes = 0;
  hog.release();
  assert.equal(wakes, 1);
  const output = outputOf(session);
  assert.equal(output.length, 16 + LONG + 16 + 4);
  assertSame(output.slice(16 + LONG), hex(simpleReply(3, ramp(8, 4))));
  assert.equal(session.ready, true);
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession serves writes and small reads while memory is scarce", async () => {
  const { device, hog } = scarceDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  const payload = new Uint8Array(LONG);
  session.receive(compact(WRITE, 1, 0, LONG, { payload }));
  assertSame(outputOf(session), hex(simpleReply(1)));
  for (let cookie = 2; cookie < 10; cookie += 1) {
    session.receive(compact(READ, cookie, 0, 4 * KIB));
    assert.equal(outputOf(session).length, 16 + 4 * KIB);
  }
  // Replies that nobody takes count earlier than they do otherwise.
  const many = Array.from({ length: 100 }, (_, cookie) => compact(READ, cookie, 0, 16 * KIB));
  session.receive(joined(many));
  assert.equal(session.ready, false);
  assert.ok(device.pool.takenBytes < 1024 * KIB + 3 * SCARCE_CONNECTION_BYTES);
  assert.equal(outputOf(session).length, 100 * (16 + 16 * KIB));
  assert.equal(session.ready, true);
  session.end(undefined);
  hog.release();
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession ends while a read waits for memory", async () => {
  for (const how of ["stop", "end"] as const) {
    const { device, hog } = scarceDevice();
    await using _device = device;
    const session = sessionFor(device, "simple");
    session.receive(joined([compact(READ, 1, 0, LONG), compact(DISC, 2, 0, 0)]));
    assert.equal(session.finished, false);
    if (how === "stop") session.stop();
    else session.end(undefined);
    assert.equal(session.finished, true);
    // What is not served is refused, if there is anybody to hear it.
    if (how === "stop") assert.equal(outputOf(session).toHex().slice(8, 16), "0000006c");
    let wakes = 0;
    session.onWake = () => wakes += 1;
    hog.release();
    assert.equal(wakes, 0);
    session.end(undefined);
    assert.equal(device.pool.takenCount, 0);
  }
});
