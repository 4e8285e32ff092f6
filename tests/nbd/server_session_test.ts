/**
 * Tests of the flow of a server session: completions in any order, limits, and the ways to end.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { CONNECTION_BYTES_MAX, CONNECTION_REQUESTS_MAX } from "../../lib/block/limits.ts";
import type { Gate } from "../../lib/block/request.ts";
import { OUTPUT_BATCH_BYTES, STATUS_IN_FLIGHT_BYTES } from "../../lib/nbd/limits.ts";
import { NbdServerSession } from "../../lib/nbd/server_session.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import {
  assertSame,
  compact,
  deviceOver,
  digits,
  extentsFrom,
  hex,
  joined,
  outputOf,
  ram,
  type RamOptions,
  sessionFor,
  stateFor,
} from "./fixtures.ts";
import {
  BLOCK_STATUS,
  DISC,
  EIO,
  ESHUTDOWN,
  FLUSH,
  ramp,
  READ,
  WRITE,
} from "./transmission_messages.ts";

const KIB = 1024, MIB = 1 << 20;

interface Call {
  readonly verb: string;
  readonly offset: number;
  readonly done: () => void;
  readonly fail: (error: unknown) => void;
}

interface Held {
  readonly device: Device;
  readonly content: Uint8Array;
  /** Calls of the backend that are held back, in their order. */
  readonly held: Call[];
}

/** A device whose calls are done when the test says so. */
function heldDevice(options: RamOptions = {}, poison = true): Held {
  const held: Call[] = [];
  const { backend, content } = ram({
    ...options,
    before: (verb, offset) => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      held.push({ verb, offset, done: resolve, fail: reject });
      return promise;
    },
  });
  // The flush at the end of a Device is no request: nobody would let it finish.
  const flush = backend.flush;
  backend.flush = () => device.inFlight === 0 ? undefined : flush();
  const device = deviceOver(backend, poison);
  return { device, content, held };
}

/** Lets everything that promises have set off happen. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

function simpleReply(cookie: number, error = 0, data = ""): string {
  return "67446698" + digits(error, 32) + digits(cookie, 64) + data;
}

Deno.test("NbdServerSession answers in the order in which requests are done", async () => {
  const { device, held } = heldDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  let wakes = 0;
  session.onWake = () => wakes += 1;
  session.receive(joined([0, 1, 2].map((n) => compact(READ, n, n * 4, 4))));
  assert.equal(session.inFlight, 3);
  assert.equal(session.takeOutput(), null);
  held[2]?.done();
  await turns();
  assertSame(outputOf(session), hex(simpleReply(2, 0, ramp(8, 4))));
  held[0]?.fail(new BlockError("EIO"));
  held[1]?.done();
  await turns();
  assertSame(outputOf(session), hex(simpleReply(0, EIO) + simpleReply(1, 0, ramp(4, 4))));
  assert.equal(wakes, 3);
  assert.equal(session.inFlight, 0);
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession keeps the payload of a write until it is done", async () => {
  const { device, held, content } = heldDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  const write = compact(WRITE, 1, 0, 4096, { payload: new Uint8Array(4096).fill(0xa5) });
  // Cut in the middle, so that the payload is put together in a pooled buffer.
  session.receive(write.slice(0, 2000));
  session.receive(write.slice(2000));
  session.receive(compact(READ, 2, 8192, 1));
  assert.equal(held.length, 2);
  const taken = device.pool.takenCount;
  held[0]?.done();
  await turns();
  assert.deepEqual(content.slice(0, 4096), new Uint8Array(4096).fill(0xa5));
  assert.equal(device.pool.takenCount, taken - 1);
  held[1]?.done();
  await turns();
  assertSame(outputOf(session), hex(simpleReply(1) + simpleReply(2, 0, "00")));
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession takes CONNECTION_REQUESTS_MAX requests at a time", async () => {
  const { device, held } = heldDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  const count = CONNECTION_REQUESTS_MAX + 10;
  session.receive(joined(Array.from({ length: count }, (_, n) => compact(READ, n, n, 1))));
  assert.equal(held.length, CONNECTION_REQUESTS_MAX);
  assert.equal(session.ready, false);
  for (const call of held.splice(0, 4)) call.done();
  await turns();
  assert.equal(session.inFlight, CONNECTION_REQUESTS_MAX);
  assert.equal(session.ready, false);
  for (let round = 0; round < 2; round++) {
    for (const call of held.splice(0)) call.done();
    await turns();
  }
  assert.equal(session.ready, true);
  assert.equal(outputOf(session).length, count * 17);
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession takes CONNECTION_BYTES_MAX bytes at a time", async (t) => {
  const rows = [["reads", READ], ["writes", WRITE]] as const;
  for (const [what, type] of rows) {
    await t.step(what, async () => {
      const { device, held } = heldDevice({ size: 2 ** 40, content: new Uint8Array(0) }, false);
      await using _device = device;
      const session = sessionFor(device, "simple");
      const length = CONNECTION_BYTES_MAX / 4;
      const payload = type === WRITE ? new Uint8Array(length) : new Uint8Array(0);
      for (let n = 0; n < 5; n++) session.receive(compact(type, n, 0, length, { payload }));
      assert.equal(held.length, 4);
      assert.equal(session.ready, false);
      held[0]?.fail(new BlockError("EIO"));
      await turns();
      assert.equal(held.length, 5);
      for (const call of held) call.fail(new BlockError("EIO"));
      await turns();
      assert.equal(session.ready, true);
      assert.equal(outputOf(session).length, 5 * 16);
      session.end(undefined);
      assert.equal(device.pool.takenCount, 0);
    });
  }
});

Deno.test("NbdServerSession counts the memory of block status in flight", async () => {
  const { device, held } = heldDevice({ extents: extentsFrom([["d", MIB]]) });
  await using _device = device;
  const session = sessionFor(device, "structured");
  const count = CONNECTION_BYTES_MAX / STATUS_IN_FLIGHT_BYTES;
  const ask = (_: unknown, n: number): Uint8Array => compact(BLOCK_STATUS, n, 0, 512);
  session.receive(joined(Array.from({ length: count + 1 }, ask)));
  assert.equal(held.length, count);
  assert.equal(session.ready, false);
  held[0]?.done();
  await turns();
  assert.equal(held.length, count + 1);
  for (const call of held) call.done();
  await turns();
  assert.equal(session.ready, true);
  session.end(undefined);
});

Deno.test("NbdServerSession serves no faster than its replies leave", async () => {
  const { backend, calls } = ram();
  await using device = deviceOver(backend, false);
  const session = sessionFor(device, "simple");
  const count = 64, length = OUTPUT_BATCH_BYTES / 8;
  session.receive(joined(Array.from({ length: count }, (_, n) => compact(READ, n, 0, length))));
  assert.equal(calls.length, 8);
  assert.equal(session.ready, false);
  const first = session.takeOutput();
  assert.equal(calls.length, 8);
  let wakes = 0;
  session.onWake = () => wakes += 1;
  first?.release();
  assert.equal(wakes, 1);
  let bytes = first?.bytes.length ?? 0;
  bytes += outputOf(session).length;
  assert.equal(bytes, count * (16 + length));
  assert.equal(calls.length, count);
  assert.equal(session.ready, true);
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession finishes after DISC when all is answered", async () => {
  const { device, held } = heldDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  session.receive(joined([compact(READ, 1, 0, 2), compact(DISC, 2, 0, 0), compact(READ, 3, 0, 1)]));
  assert.equal(held.length, 1);
  assert.equal(session.ready, false);
  assert.equal(session.finished, false);
  session.receive(compact(READ, 4, 0, 1));
  held[0]?.done();
  await turns();
  assert.equal(session.finished, true);
  assertSame(outputOf(session), hex(simpleReply(1, 0, "0001")));
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession.end() leaves requests in flight to finish and sends nothing", async () => {
  const { device, held } = heldDevice({
    extents: extentsFrom([["h", 32 * KIB], ["d", 992 * KIB]]),
  });
  await using _device = device;
  const session = sessionFor(device, "structured");
  const write = compact(WRITE, 1, 0, 4096, { payload: new Uint8Array(4096) });
  session.receive(write.slice(0, 50));
  session.receive(joined([
    write.slice(50),
    compact(READ, 2, 0, 512),
    compact(READ, 3, 0, 512),
    compact(FLUSH, 4, 0, 0),
    compact(READ, 5, 0, 64 * KIB),
    compact(BLOCK_STATUS, 6, 0, 512),
    compact(WRITE, 7, 0, 4096).slice(0, 20),
  ]));
  assert.deepEqual(held.map(({ verb }) => verb), [
    "write",
    "read",
    "read",
    "flush",
    "extents",
    "extents",
  ]);
  session.end(new Error("the connection was lost"));
  assert.equal(session.finished, false);
  assert.equal(session.takeOutput(), null);
  held.forEach((call, index) => index === 1 ? call.fail(new BlockError("EIO")) : call.done());
  await turns();
  assert.equal(session.finished, true);
  assert.equal(session.takeOutput(), null);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession.stop() answers what is in flight and refuses what waits", async () => {
  const { device, held } = heldDevice();
  await using _device = device;
  const session = sessionFor(device, "simple");
  let wakes = 0;
  session.onWake = () => wakes += 1;
  const count = CONNECTION_REQUESTS_MAX;
  session.receive(joined(Array.from({ length: count }, (_, n) => compact(READ, n, 0, 1))));
  held.pop()?.done();
  await turns();
  assertSame(outputOf(session), hex(simpleReply(count - 1, 0, "00")));
  session.stop();
  assert.equal(wakes, 2);
  assert.equal(session.ready, false);
  assert.equal(session.finished, false);
  for (const call of held) call.done();
  await turns();
  assert.equal(session.finished, true);
  assert.equal(outputOf(session).length, 17 * (count - 1));
  session.end(undefined);

  const late = sessionFor(device, "simple");
  late.stop();
  assert.equal(late.finished, true);
  late.receive(compact(READ, 1, 0, 1));
  assert.equal(late.takeOutput(), null);
});

Deno.test("NbdServerSession.stop() refuses requests that had to wait", async () => {
  const { backend, calls } = ram();
  await using device = deviceOver(backend, false);
  for (const sentBefore of [true, false]) {
    calls.length = 0;
    const session = sessionFor(device, "simple");
    session.receive(joined(Array.from({ length: 6 }, (_, n) => compact(READ, n, 0, MIB))));
    assert.equal(calls.length, 4);
    const outputs = [1, 2, 3, 4].map(() => session.takeOutput());
    if (sentBefore) outputs.forEach((out) => out?.release());
    session.stop();
    if (!sentBefore) outputs.forEach((out) => out?.release());
    // Where there is no room for an answer the connection ends without one.
    const refused = simpleReply(4, ESHUTDOWN) + simpleReply(5, ESHUTDOWN);
    assertSame(outputOf(session), hex(sentBefore ? refused : ""));
    assert.equal(session.finished, true);
    assert.equal(calls.length, 4);
    session.end(undefined);
  }
});

Deno.test("NbdServerSession tells ESHUTDOWN when access is taken away or the device closes", async () => {
  const { backend, calls } = ram();
  const device = deviceOver(backend);
  let open = true;
  let inside = 0;
  const gate: Gate = {
    id: 7,
    enter: () => open && (inside += 1) > 0,
    leave: () => void (inside -= 1),
  };
  const session = sessionFor(device, "simple", {}, gate);
  session.receive(compact(READ, 1, 0, 1));
  open = false;
  session.receive(compact(READ, 2, 0, 1));
  open = true;
  assertSame(outputOf(session), hex(simpleReply(1, 0, "00") + simpleReply(2, ESHUTDOWN)));
  assert.equal(inside, 0);
  await device[Symbol.asyncDispose]();
  session.receive(compact(WRITE, 3, 0, 1, { payload: new Uint8Array(1) }));
  assertSame(outputOf(session), hex(simpleReply(3, ESHUTDOWN)));
  assert.deepEqual(calls, ["read 0+1", "flush 0+0"]);
  session.end(undefined);
});

Deno.test("NbdServerSession keeps a protocol error that shows late", async () => {
  await using device = deviceOver(ram().backend, false);
  const session = sessionFor(device, "simple");
  const reads = Array.from({ length: 5 }, (_, n) => compact(READ, n, 0, MIB));
  session.receive(joined([...reads, new Uint8Array(28)]));
  assert.ok(!(session.failure instanceof ProtocolError));
  assert.equal(outputOf(session).length, 5 * (16 + MIB));
  assert.match(String(session.failure), /^ProtocolError: /);
  assert.equal(session.finished, true);
  assert.equal(session.ready, false);
  session.end(undefined);
  assert.equal(session.finished, true);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession starts with what came behind the handshake", async () => {
  await using device = deviceOver(ram().backend);
  const state = stateFor(device, "simple");
  const unread = compact(READ, 1, 0, 1);
  const session = new NbdServerSession({
    device,
    gate: { id: 1, enter: () => true, leave: () => {} },
    state,
    unread: unread.slice(0, 10),
  });
  assert.equal(session.ready, false);
  let wakes = 0;
  session.onWake = () => wakes += 1;
  assert.equal(session.takeOutput(), null);
  assert.equal(session.ready, true);
  assert.equal(wakes, 1);
  session.receive(unread.slice(10));
  assertSame(outputOf(session), hex(simpleReply(1, 0, "00")));
  session.end(undefined);
});

Deno.test("NbdServerSession reads around holes when extents and reads are done later", async () => {
  const { device, held } = heldDevice({
    extents: extentsFrom([["d", 16 * KIB], ["h", 16 * KIB], ["d", 992 * KIB]]),
  });
  await using _device = device;
  const session = sessionFor(device, "structured");
  const ask = (cookie: number): void => session.receive(compact(READ, cookie, 0, 64 * KIB));
  const head = (cookie: number, flags: number, type: number, length: number): string =>
    "668e33ef" + digits(flags, 16) + digits(type, 16) + digits(cookie, 64) + digits(length, 32);

  ask(1);
  held.shift()?.done();
  await turns();
  assert.deepEqual(held.map(({ verb, offset }) => [verb, offset]), [
    ["read", 0],
    ["read", 32 * KIB],
  ]);
  assert.equal(session.inFlight, 1);
  held.pop()?.done();
  await turns();
  assert.equal(session.takeOutput(), null);
  held.pop()?.done();
  await turns();
  assertSame(
    outputOf(session),
    hex(
      head(1, 0, 1, 8 + 16 * KIB) + digits(0, 64) + ramp(0, 16 * KIB) +
        head(1, 0, 2, 12) + digits(16 * KIB, 64) + digits(16 * KIB, 32) +
        head(1, 1, 1, 8 + 32 * KIB) + digits(32 * KIB, 64) + ramp(32 * KIB, 32 * KIB),
    ),
  );

  // One of the reads fails: nothing but the error is told, and not before the other one is done.
  ask(2);
  held.shift()?.done();
  await turns();
  held.shift()?.fail(new BlockError("EIO", "Cannot read: bad sector"));
  await turns();
  assert.equal(session.takeOutput(), null);
  held.shift()?.done();
  await turns();
  const text = new TextEncoder().encode("Cannot read: bad sector").toHex();
  assertSame(
    outputOf(session),
    hex(head(2, 1, 0x8001, 29) + digits(EIO, 32) + digits(23, 16) + text),
  );

  // Looking for holes fails: the read is done as a whole.
  ask(3);
  held.shift()?.fail(new BlockError("EIO"));
  await turns();
  held.shift()?.done();
  await turns();
  assertSame(
    outputOf(session),
    hex(head(3, 1, 1, 8 + 64 * KIB) + digits(0, 64) + ramp(0, 64 * KIB)),
  );
  session.end(undefined);
  assert.equal(device.pool.takenCount, 0);
});

Deno.test("NbdServerSession shows a trace each read as the client sent it", async () => {
  const { backend, calls } = ram({ extents: extentsFrom([["h", MIB]]) });
  await using device = deviceOver(backend);
  const session = sessionFor(device, "structured");
  device.tap = { submitted: () => 1, completed: () => {} };
  session.receive(compact(READ, 1, 0, 64 * KIB));
  device.tap = null;
  session.receive(compact(READ, 2, 0, 64 * KIB));
  assert.deepEqual(calls, ["read 0+65536", "extents 0+65536"]);
  session.end(undefined);
});

Deno.test("NbdServerSession lets go of chunks and arenas when it is idle", async () => {
  await using device = deviceOver(ram().backend, false);
  const session = sessionFor(device, "simple");
  session.receive(compact(READ, 1, 0, 4096));
  outputOf(session);
  assert.equal(device.pool.takenCount, 0);
  session.end(undefined);
});
