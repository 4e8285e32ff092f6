/** Tests of the buffer pool. @module */
import assert from "node:assert/strict";
import { BufferPool, poolMemory, sharedPoolFigures, sumOfPools } from "../../lib/block/pool.ts";

Deno.test("BufferPool.take() gives exactly the length asked for", () => {
  const pool = new BufferPool();
  for (const length of [0, 1, 1023, 1024, 1025, 4096, 4112, 65_536, 1_000_003, 64 * 1024 * 1024]) {
    const buffer = pool.take(length);
    assert.equal(buffer.bytes.length, length);
    assert.ok(buffer.bytes.buffer.byteLength <= Math.max(1024, length * 1.25 + 1));
    buffer.release();
  }
  assert.equal(pool.takenCount, 0);
  assert.equal(pool.takenBytes, 0);
});

Deno.test("BufferPool.take() gives a released buffer again when one of its class is kept", () => {
  const pool = new BufferPool();
  const first = pool.take(5000);
  const memory = first.bytes.buffer;
  first.release();
  assert.ok(pool.keptBytes >= 5000);
  const second = pool.take(5050);
  assert.equal(second.bytes.buffer, memory);
  assert.equal(pool.keptBytes, 0);
  second.release();
});

Deno.test("BufferPool keeps no more than its bound when many buffers come back", () => {
  const pool = new BufferPool({ keptBytesMax: 64 * 1024 });
  const taken = Array.from({ length: 100 }, () => pool.take(4096));
  for (const buffer of taken) buffer.release();
  assert.ok(pool.keptBytes <= 64 * 1024);
  assert.equal(pool.takenCount, 0);
});

Deno.test("BufferPool.release() throws when called twice", () => {
  const buffer = new BufferPool().take(10);
  buffer.release();
  assert.throws(() => buffer.release(), /released before/);
});

Deno.test("BufferPool.release() poisons the bytes when told so", () => {
  const pool = new BufferPool({ poison: true });
  const buffer = pool.take(16);
  const { bytes } = buffer;
  bytes.fill(7);
  buffer.release();
  assert.ok(bytes.every((byte) => byte === 0xdb));
  assert.equal(pool.keptBytes, 0);
});

Deno.test("BufferPool.take() refuses a length that is none", () => {
  const pool = new BufferPool();
  for (const length of [-1, 1.5, NaN, 2 ** 31]) assert.throws(() => pool.take(length), RangeError);
});

Deno.test("BufferPool.scarce and awaitPlenty() tell when too much is out, and when it is back", () => {
  const pool = new BufferPool({ plentyBytesMax: 8192 });
  const calls: string[] = [];
  const first = pool.take(8192);
  assert.equal(pool.scarce, false);
  const second = pool.take(4096);
  const third = pool.take(4096);
  assert.equal(pool.scarce, true);
  const gone = (): number => calls.push("gone");
  pool.awaitPlenty(gone);
  pool.awaitPlenty(() => calls.push(`scarce: ${pool.scarce}`));
  pool.forget(gone);
  second.release();
  assert.deepEqual(calls, []);
  third.release();
  assert.deepEqual(calls, ["scarce: false"]);
  first.release();
  assert.deepEqual(calls, ["scarce: false"]);
});

Deno.test("sharedPoolFigures() and sumOfPools() tell what pools of several threads hold", () => {
  const memory = poolMemory();
  const pool = new BufferPool({ memory, plentyBytesMax: 10_000 }), other = new BufferPool();
  const seen = sharedPoolFigures(memory);
  const one = pool.take(4096), two = pool.take(8192), three = other.take(1024);
  assert.deepEqual([seen.takenCount, seen.takenBytes, seen.scarce], [2, 12_288, true]);
  const { takenCount, takenBytes, keptBytes, scarce } = sumOfPools([seen, other]);
  assert.deepEqual([takenCount, takenBytes, keptBytes, scarce], [3, 13_312, 0, true]);
  for (const buffer of [one, two, three]) buffer.release();
  assert.deepEqual([seen.takenCount, seen.takenBytes, seen.keptBytes], [0, 0, 12_288]);
  assert.equal(sumOfPools([seen, other]).scarce, false);
});

Deno.test("PooledBuffer.part() gives the bytes asked for, and the same view again", () => {
  const pool = new BufferPool();
  const buffer = pool.take(300_000);
  const { bytes } = buffer;
  for (let at = 0; at < bytes.length; at++) bytes[at] = at % 251;
  const check = (start: number, length: number): Uint8Array => {
    const part = buffer.part(start, length);
    assert.equal(part.length, length);
    assert.ok(part.every((byte, index) => byte === (start + index) % 251));
    return part;
  };
  const far = check(250_000, 4096), first = check(16, 4096);
  // Two that share a place in the list of those kept.
  check(17, 4096);
  check(16, 5000);
  assert.notEqual(check(16, 4096), first);
  assert.equal(check(250_000, 4096), far);
  assert.equal(check(300_000, 0).length, 0);
  for (const [start, length] of [[-1, 1], [0, 300_001], [299_999, 2]] as const) {
    assert.throws(() => buffer.part(start, length), RangeError);
  }
  buffer.release();
  const again = pool.take(299_000);
  assert.equal(again.part(250_000, 4096), far, "it went with its memory");
  again.release();
});
