/** Tests of lib/stream/reply_queue.ts: what is done is sent once, what is pending holds up nobody. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import { BufferPool } from "../../lib/block/pool.ts";
import { ARENA_BYTES, ARENA_REPLY_BYTES_MAX } from "../../lib/stream/limits.ts";
import { type Reply, ReplyQueue } from "../../lib/stream/reply_queue.ts";
import type { OutputBuffer } from "../../lib/stream/session.ts";

function bytesOf(output: OutputBuffer | null): number[] | null {
  return output === null ? null : [...output.bytes];
}

Deno.test("ReplyQueue packs the replies of a batch into one output", () => {
  const pool = new BufferPool({ poison: true });
  const queue = new ReplyQueue(pool);
  queue.append(Uint8Array.of(1, 2));
  const reply = queue.reserve(3);
  reply.bytes.set([3, 4, 5]);
  reply.done();
  queue.append(Uint8Array.of(6));
  assert.equal(queue.unsentBytes, 6);
  const output = queue.takeOutput();
  assert.deepEqual(bytesOf(output), [1, 2, 3, 4, 5, 6]);
  assert.equal(queue.takeOutput(), null);
  assert.equal(queue.unsentBytes, 6);
  assert.equal(pool.takenCount, 1);
  output?.release();
  assert.equal(queue.unsentBytes, 0);
  assert.equal(pool.takenCount, 0);
});

Deno.test("ReplyQueue sends what is done around a reply that is pending", () => {
  const pool = new BufferPool({ poison: true });
  const queue = new ReplyQueue(pool);
  queue.append(Uint8Array.of(1));
  const late = queue.reserve(2);
  queue.append(Uint8Array.of(4));
  const outputs = [queue.takeOutput(), queue.takeOutput()];
  assert.deepEqual(outputs.map(bytesOf), [[1], [4]]);
  assert.equal(queue.takeOutput(), null);
  assert.equal(queue.pendingCount, 1);
  outputs.forEach((output) => output?.release());
  assert.equal(pool.takenCount, 1);
  late.bytes.set([2, 3]);
  late.done();
  const last = queue.takeOutput();
  assert.deepEqual(bytesOf(last), [2, 3]);
  last?.release();
  assert.equal(pool.takenCount, 0);
});

Deno.test("ReplyQueue cancel() and shrink() leave nothing of what is not sent", () => {
  const queue = new ReplyQueue(new BufferPool({ poison: true }));
  const first = queue.reserve(4);
  const second = queue.reserve(4);
  const third = queue.reserve(4);
  first.bytes.set([1, 2, 3, 4]);
  first.shrink(2);
  assert.equal(first.bytes.length, 2);
  second.cancel();
  third.bytes.set([5, 6, 7, 8]);
  third.shrink(3);
  const fourth = queue.reserve(1);
  fourth.bytes[0] = 9;
  for (const reply of [first, third, fourth]) reply.done();
  const sent = [queue.takeOutput(), queue.takeOutput()];
  assert.deepEqual(sent.map(bytesOf), [[1, 2], [5, 6, 7, 9]]);
  assert.equal(queue.unsentBytes, 6);
  sent.forEach((output) => output?.release());
  assert.equal(queue.unsentBytes, 0);
});

Deno.test("ReplyQueue gives a long reply a buffer of its own", () => {
  const pool = new BufferPool();
  const queue = new ReplyQueue(pool);
  const long = queue.reserve(ARENA_REPLY_BYTES_MAX + 1);
  queue.append(Uint8Array.of(1));
  assert.equal(pool.takenCount, 2);
  assert.notEqual(long.bytes.length, ARENA_BYTES);
  long.cancel();
  assert.equal(pool.takenCount, 1);
  queue.takeOutput()?.release();
  assert.equal(pool.takenCount, 0);
});

Deno.test("ReplyQueue throws when a reply or an output is finished twice", () => {
  const queue = new ReplyQueue(new BufferPool());
  const reply = queue.reserve(2);
  assert.throws(() => reply.shrink(3), /Cannot shrink/);
  assert.throws(() => reply.shrink(0), /Cannot shrink/);
  reply.done();
  assert.throws(() => reply.done(), /finished before/);
  assert.throws(() => reply.cancel(), /finished before/);
  assert.throws(() => reply.shrink(1), /Cannot shrink/);
  const output = queue.takeOutput();
  output?.release();
  assert.throws(() => output?.release(), /released before/);
  assert.throws(() => queue.reserve(0), RangeError);
  queue.close();
  assert.throws(() => queue.reserve(1), /closed/);
});

Deno.test("ReplyQueue loses no byte and no buffer in any order of calls", () => {
  const step = fc.record({
    verb: fc.nat(5),
    length: fc.integer({ min: 1, max: 90 }),
    pick: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), fc.boolean(), (steps, closing) => {
      const pool = new BufferPool({ poison: true });
      const queue = new ReplyQueue(pool, { arenaBytes: 256 });
      const pending: { reply: Reply; id: number }[] = [];
      const outputs: OutputBuffer[] = [];
      const expected = new Map<number, number>();
      const sent = new Map<number, number>();
      let id = 0;
      const release = (output: OutputBuffer): void => {
        for (const byte of output.bytes) sent.set(byte, (sent.get(byte) ?? 0) + 1);
        output.release();
      };
      const send = (reply: Reply, by: number): void => {
        reply.bytes.fill(by);
        expected.set(by, reply.bytes.length);
        reply.done();
      };
      for (const { verb, length, pick } of steps) {
        if (verb === 0) pending.push({ reply: queue.reserve(length), id: id++ });
        if (verb === 1) {
          queue.append(new Uint8Array(length).fill(id));
          expected.set(id++, length);
        }
        const [chosen] = verb >= 2 && verb <= 3
          ? pending.splice(pick % (pending.length || 1), 1)
          : [];
        if (chosen !== undefined && verb === 2) {
          chosen.reply.shrink(Math.min(length, chosen.reply.bytes.length));
          send(chosen.reply, chosen.id);
        }
        if (chosen !== undefined && verb === 3) chosen.reply.cancel();
        if (verb === 4) outputs.push(...[queue.takeOutput()].filter((output) => output !== null));
        if (verb === 5) outputs.splice(0).forEach(release);
      }
      if (closing) queue.close();
      for (const { reply, id: by } of pending) send(reply, by);
      for (let output = queue.takeOutput(); output !== null; output = queue.takeOutput()) {
        assert.ok(!closing);
        outputs.push(output);
      }
      outputs.forEach(release);
      if (!closing) assert.deepEqual([...sent].sort(), [...expected].sort());
      assert.equal(queue.unsentBytes, 0);
      assert.equal(queue.pendingCount, 0);
      assert.equal(pool.takenCount, 0);
    }),
    { seed: 5, numRuns: 400 },
  );
});

Deno.test("ReplyQueue open() makes room that is sent, given back or filled later", () => {
  const pool = new BufferPool({ poison: true });
  const queue = new ReplyQueue(pool);
  const fill = (length: number, byte: number): void => {
    const room = queue.open(length);
    room.fill(byte, queue.openStart, queue.openStart + length);
  };
  fill(3, 1);
  queue.commit();
  fill(2, 9);
  queue.drop();
  assert.equal(queue.unsentBytes, 3);
  fill(2, 2);
  const late = queue.keep();
  assert.equal(queue.pendingCount, 1);
  fill(1, 3);
  queue.commit();
  const first = queue.takeOutput(), second = queue.takeOutput();
  assert.deepEqual([first?.bytes.join(), second?.bytes.join()], ["1,1,1", "3"]);
  late.bytes.fill(4);
  late.done();
  const third = queue.takeOutput();
  assert.equal(third?.bytes.join(), "4,4");
  for (const output of [first, second, third]) output?.release();
  assert.deepEqual([queue.unsentBytes, pool.takenCount], [0, 0]);
  queue.open(5);
  queue.drop();
  assert.deepEqual([queue.unsentBytes, pool.takenCount], [0, 0]);
  assert.throws(() => queue.commit(), /none was opened/);
});
