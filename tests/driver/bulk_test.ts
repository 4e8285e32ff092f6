/** Long payloads under the blocking driver: they are received to where they belong. @module */
import assert from "node:assert/strict";
import { BULK_FRAME_BYTES_MIN } from "../../lib/nbd/limits.ts";
import { assertSame, compact, deviceOver, joined, ram, sessionFor } from "../nbd/fixtures.ts";
import { READ, WRITE } from "../nbd/transmission_messages.ts";
import { SeededRandom } from "../support/context.ts";
import { withLoop } from "./loop_bed.ts";

const KIB = 1024;

/** Puts what fits, up to `most` bytes, into rooms one after the other; how much that was. */
function putInto(rooms: readonly Uint8Array[], input: Uint8Array, most: number): number {
  let at = 0;
  for (const room of rooms) {
    const part = input.subarray(at, Math.min(most, at + room.length));
    room.set(part);
    at += part.length;
  }
  return at;
}

Deno.test("NbdServerSession has long payloads received where they belong", async () => {
  const disk = ram();
  await using device = deviceOver(disk.backend);
  const session = sessionFor(device, "simple");
  const random = new SeededRandom(5);
  const expected = disk.content.slice();
  assert.deepEqual(session.inputRooms(), []);
  for (let round = 0; round < 40; round++) {
    const length = BULK_FRAME_BYTES_MIN + random.uint32() % (200 * KIB);
    const offset = random.uint32() % (disk.content.length - length);
    const payload = new Uint8Array(length).fill(round + 1);
    expected.set(payload, offset);
    const request = compact(WRITE, round, offset, length, { payload });
    let at = 1 + random.uint32() % 5_000;
    session.receive(request.slice(0, at));
    session.releaseInput();
    while (at < request.length) {
      const rooms = session.inputRooms();
      if (rooms.length === 0) {
        assert.ok(at < 28, `there is no room behind ${at} bytes`);
        session.receive(request.slice(at, at += 1));
        session.releaseInput();
        continue;
      }
      assert.equal(rooms.length, 1, "the request before was another one");
      assert.ok((rooms[0]?.length ?? 0) <= request.length - at, "the room is too long");
      const count = putInto(rooms, request.subarray(at), 1 + random.uint32() % (64 * KIB));
      session.receivedInto(count);
      at += count;
    }
    assert.deepEqual(session.inputRooms(), []);
    const output = session.takeOutput();
    assert.equal(output?.bytes.length, 16);
    output?.release();
  }
  assertSame(disk.content, expected);
  assert.equal(session.receivedBytes, 40 * 28 + sumOf(disk.calls));
  session.end(undefined);
});

Deno.test("NbdServerSession expects more of the long requests that came, and no other ones", async () => {
  const disk = ram();
  await using device = deviceOver(disk.backend);
  const session = sessionFor(device, "simple");
  const long = compact(WRITE, 1, 0, 64 * KIB, { payload: new Uint8Array(64 * KIB).fill(3) });
  session.receive(long.slice());
  assert.deepEqual(session.inputRooms(), [], "one is no stream");
  session.receive(long.slice());
  const rooms = session.inputRooms();
  assert.ok(rooms.length > 1 && rooms.every(({ length }) => length === long.length));
  session.receivedInto(0);
  assert.equal(device.pool.takenCount, 1, "rooms are kept that nothing came into");
  // The stream ends with a short request.
  session.receivedInto(putInto(session.inputRooms(), compact(READ, 2, 0, 512), Infinity));
  assert.equal(session.requestCount, 3);
  assert.deepEqual(session.inputRooms(), []);
  session.end(undefined);
});

/** Requests as a client with many under way sends them: mostly long writes of one size, and what they store. */
function manyRequests(random: SeededRandom, expected: Uint8Array<ArrayBuffer>): Uint8Array[] {
  return Array.from({ length: 60 }, (_, cookie) => {
    const kind = random.uint32() % 10;
    const length = kind < 7 ? 100 * KIB : 1 + random.uint32() % (kind < 9 ? 150 * KIB : 2 * KIB);
    const offset = random.uint32() % (expected.length - length);
    if (kind === 9 && cookie % 2 === 0) return compact(READ, cookie, offset, 512);
    const payload = new Uint8Array(length).fill(cookie + 1);
    expected.set(payload, offset);
    return compact(WRITE, cookie, offset, length, { payload });
  });
}

Deno.test("NbdServerSession has what comes behind a long payload received where it belongs too", async () => {
  let behind = 0;
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const disk = ram();
    await using device = deviceOver(disk.backend);
    const session = sessionFor(device, "simple");
    const expected = disk.content.slice();
    const input = joined(manyRequests(random, expected));
    for (let at = 0; at < input.length;) {
      const most = 1 + random.uint32() % (500 * KIB);
      const rooms = session.inputRooms();
      if (rooms.length === 0) {
        session.receive(input.slice(at, at += Math.min(most, input.length - at)));
        session.releaseInput();
      } else {
        const count = putInto(rooms, input.subarray(at), most);
        behind += count > (rooms[0]?.length ?? 0) ? 1 : 0;
        session.receivedInto(count);
        at += count;
      }
      session.takeOutput()?.release();
    }
    assert.equal(session.receivedBytes, input.length);
    assert.equal(session.requestCount, 60);
    assertSame(disk.content, expected);
    session.end(undefined);
    assert.equal(device.pool.takenCount, 0);
  }
  assert.ok(behind > 200, `only ${behind} times something came behind a payload`);
});

Deno.test("SessionLoop stores what a client sends without waiting for replies", async () => {
  const disk = ram();
  await withLoop(({ loop, connect }) => {
    const { client } = connect();
    for (let seed = 1; seed <= 10; seed++) {
      const random = new SeededRandom(seed);
      const expected = disk.content.slice();
      const requests = manyRequests(random, expected);
      const reads = requests.filter(({ length }) => length === 28).length;
      let done = client.send(joined(requests));
      let got = 0;
      for (let turns = 0; !done || got < 60 * 16 + reads * 512; turns++) {
        assert.ok(turns < 100_000, `only ${got} bytes of replies came`);
        loop.turn();
        got += client.take();
        done = client.send(new Uint8Array(0));
      }
      assertSame(disk.content, expected);
    }
  }, { device: deviceOver(disk.backend) });
});

/** Bytes of the writes among calls: "write 7+512". */
function sumOf(calls: readonly string[]): number {
  return calls.reduce((sum, call) => sum + Number(/^write \d+\+(\d+)/.exec(call)?.[1] ?? 0), 0);
}
