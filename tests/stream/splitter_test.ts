/** Tests of lib/stream/splitter.ts: frames are found wherever the bytes are cut. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import { BufferPool, type PooledBuffer } from "../../lib/block/pool.ts";
import { type FrameFormat, ProtocolError } from "../../lib/stream/frame.ts";
import {
  ASSEMBLY_EAGER_BYTES,
  ASSEMBLY_GROWTH,
  FRAMES_AFTER_BYTES_MAX,
  FRAMES_AFTER_MAX,
} from "../../lib/stream/limits.ts";
import { FrameSplitter } from "../../lib/stream/splitter.ts";
import { SeededRandom } from "../support/context.ts";
import { concat, frameOf, LENGTH_FORMAT } from "./echo_session.ts";

/** Lines that end in LF: the length is told only by the last byte. */
const LINE_FORMAT: FrameFormat = {
  headerLengthMin: 1,
  frameLengthMax: 64,
  frameLength(bytes: Uint8Array, start: number, end: number): number {
    const at = bytes.subarray(start, end).indexOf(10);
    return at + 1;
  },
};

/** Cuts `bytes` at these fractions of its length. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const at = places.map((place) => Math.floor(place * bytes.length)).sort((a, b) => a - b);
  return [0, ...at].map((start, i) => bytes.slice(start, at[i] ?? bytes.length));
}

function framesOf(splitter: FrameSplitter, chunks: readonly Uint8Array[]): number[][] {
  const frames: number[][] = [];
  for (const chunk of chunks) {
    splitter.push(chunk);
    while (splitter.next()) {
      frames.push([...splitter.bytes.subarray(splitter.start, splitter.end)]);
    }
  }
  return frames;
}

const payloads = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 });
const lines = fc.array(fc.uint8Array({ min: 11, maxLength: 62 }), { maxLength: 20 });
const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 40 });

for (
  const [name, format, sequences] of [
    ["length-prefixed frames", LENGTH_FORMAT, payloads.map((list) => list.map(frameOf))],
    ["lines", LINE_FORMAT, lines.map((list) => list.map((line) => Uint8Array.of(...line, 10)))],
  ] as const
) {
  Deno.test(`FrameSplitter gives the same ${name} for any cut`, () => {
    fc.assert(
      fc.property(sequences, cuts, (frames, places) => {
        const pool = new BufferPool({ poison: true });
        const splitter = new FrameSplitter(format, pool);
        const seen = framesOf(splitter, cut(concat(frames), places));
        assert.deepEqual(seen, frames.map((frame) => [...frame]));
        assert.equal(splitter.pending, 0);
        splitter.reset();
        assert.equal(pool.takenCount, 0);
      }),
      { seed: 2, numRuns: 300 },
    );
  });

  Deno.test(`FrameSplitter gives the same ${name} for single bytes`, () => {
    fc.assert(
      fc.property(sequences, (frames) => {
        const splitter = new FrameSplitter(format, new BufferPool({ poison: true }));
        const bytes = concat(frames);
        const seen = framesOf(splitter, [...bytes].map((byte) => Uint8Array.of(byte)));
        assert.deepEqual(seen, frames.map((frame) => [...frame]));
      }),
      { seed: 3, numRuns: 50 },
    );
  });

  Deno.test(`FrameSplitter remainder() and pending tell what is left of ${name}`, () => {
    fc.assert(
      fc.property(sequences, cuts, fc.nat(20), (frames, places, stop) => {
        const pool = new BufferPool({ poison: true });
        const splitter = new FrameSplitter(format, pool);
        const chunks = cut(concat(frames), places);
        let seen = 0;
        let given = 0;
        for (const chunk of chunks) {
          if (seen >= stop) break;
          given += chunk.length;
          splitter.push(chunk);
          while (seen < stop && splitter.next()) seen += 1;
        }
        const used = frames.slice(0, seen).reduce((sum, frame) => sum + frame.length, 0);
        assert.equal(splitter.pending, given - used);
        assert.deepEqual(splitter.remainder(), concat(frames).slice(used, given));
        splitter.reset();
        assert.equal(pool.takenCount, 0);
        assert.equal(splitter.pending, 0);
      }),
      { seed: 4, numRuns: 200 },
    );
  });
}

/** Fills rooms one after the other; how many bytes found a place. */
function putInto(rooms: readonly Uint8Array[], bytes: Uint8Array): number {
  let at = 0;
  for (const room of rooms) {
    const part = bytes.subarray(at, at + room.length);
    room.set(part);
    at += part.length;
  }
  return at;
}

/** Gives bytes in every way there is, as a driver does, and takes the frames now and then. */
function receiveFrames(
  splitter: FrameSplitter,
  bytes: Uint8Array,
  random: SeededRandom,
): { frames: number[][]; adopted: number } {
  const frames: number[][] = [];
  let adopted = 0, used = 0, expected = 0;
  for (let at = 0; at < bytes.length;) {
    const rooms = splitter.rooms(random.uint32() % 4 > 0 ? expected : 0);
    const most = Math.min(bytes.length - at, 1 + random.uint32() % 1_000);
    if (rooms.length === 0) {
      splitter.push(bytes.slice(at, at += Math.min(most, 30)));
    } else {
      const count = putInto(rooms, bytes.subarray(at, at + most));
      const behind = splitter.filled(count);
      if (behind) assert.deepEqual(splitter.rooms(expected), [], "it has no room now");
      adopted += behind ? 1 : 0;
      at += count;
    }
    assert.equal(splitter.pending, at - used);
    assert.deepEqual(splitter.remainder(), bytes.slice(used, at));
    while (splitter.next()) {
      frames.push([...splitter.bytes.subarray(splitter.start, splitter.end)]);
      expected = splitter.end - splitter.start;
      used += expected;
    }
    assert.equal(splitter.pending, at - used);
    assert.deepEqual(splitter.remainder(), bytes.slice(used, at));
  }
  return { frames, adopted };
}

Deno.test("FrameSplitter gives the same frames from chunks, rooms and what comes behind them", () => {
  let adopted = 0;
  for (let seed = 1; seed <= 300; seed++) {
    const random = new SeededRandom(seed);
    const usual = random.uint32() % 300;
    const frames = Array.from({ length: 30 }, () => {
      const payload = new Uint8Array(random.uint32() % 3 > 0 ? usual : random.uint32() % 400);
      random.fill(payload);
      return frameOf(payload);
    });
    const pool = new BufferPool({ poison: true });
    const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
    const seen = receiveFrames(splitter, concat(frames), random);
    assert.deepEqual(seen.frames, frames.map((frame) => [...frame]));
    adopted += seen.adopted;
    splitter.reset();
    assert.equal(pool.takenCount, 0);
  }
  assert.ok(adopted > 1000, `only ${adopted} times something came behind a frame`);
});

Deno.test("FrameSplitter goes on in the rooms behind a frame, and gives back what was not used", () => {
  const pool = new BufferPool({ poison: true });
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frame = frameOf(new Uint8Array(100).fill(7));
  assert.deepEqual(splitter.rooms(), [], "there is nothing to go on with");
  splitter.push(frame.slice(0, 50));
  assert.equal(splitter.next(), false);
  assert.equal(splitter.rooms().length, 1);
  const rooms = splitter.rooms(frame.length);
  assert.equal(rooms.length, 1 + FRAMES_AFTER_MAX);
  assert.equal(pool.takenCount, 1 + FRAMES_AFTER_MAX);
  const input = concat([frame.slice(50), frame, frame.slice(0, 60)]);
  assert.equal(putInto(rooms, input), input.length);
  assert.ok(splitter.filled(input.length));
  assert.equal(pool.takenCount, 3);
  for (const room of rooms.slice(0, 2)) {
    assert.ok(splitter.next());
    assert.equal(splitter.bytes.buffer, room.buffer, "it was copied");
    assert.deepEqual(splitter.bytes.slice(splitter.start, splitter.end), frame);
  }
  assert.equal(splitter.next(), false);
  assert.equal(pool.takenCount, 1);
  const [rest] = splitter.rooms(frame.length);
  assert.equal(rest?.buffer, rooms[2]?.buffer, "it was copied");
  assert.equal(rest?.length, frame.length - 60);
  rest?.set(frame.subarray(60));
  assert.equal(splitter.filled(frame.length - 60), false);
  assert.equal(pool.takenCount, 1, "nothing came behind it");
  assert.ok(splitter.next());
  assert.deepEqual(splitter.bytes.slice(splitter.start, splitter.end), frame);
  assert.equal(splitter.next(), false);
  assert.equal(pool.takenCount, 0);
});

Deno.test("FrameSplitter has rooms for frames that were not begun", () => {
  const pool = new BufferPool({ poison: true });
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frame = frameOf(new Uint8Array(100).fill(9));
  const rooms = splitter.rooms(frame.length);
  assert.equal(rooms.length, FRAMES_AFTER_MAX);
  assert.equal(splitter.filled(0), false);
  assert.equal(pool.takenCount, 0, "nothing came");
  // What is no such frame is found all the same.
  const short = frameOf(new Uint8Array(3));
  const input = concat([short, frame, short]);
  assert.equal(putInto(splitter.rooms(frame.length), input), input.length);
  assert.ok(splitter.filled(input.length));
  for (const expected of [short, frame, short]) {
    assert.ok(splitter.next());
    assert.deepEqual(splitter.bytes.slice(splitter.start, splitter.end), expected);
  }
  assert.equal(splitter.next(), false);
  assert.equal(pool.takenCount, 0);
});

Deno.test("FrameSplitter has rooms up to the limit, and none where memory is scarce", () => {
  const pool = new BufferPool({ plentyBytesMax: 2 * FRAMES_AFTER_BYTES_MAX });
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  for (const length of [100, FRAMES_AFTER_BYTES_MAX / 4, FRAMES_AFTER_BYTES_MAX]) {
    const bytes = splitter.rooms(length).reduce((sum, { length }) => sum + length, 0);
    assert.equal(bytes, Math.min(FRAMES_AFTER_BYTES_MAX, FRAMES_AFTER_MAX * length));
    splitter.filled(0);
    const more = pool.take(3 * FRAMES_AFTER_BYTES_MAX);
    assert.deepEqual(splitter.rooms(length), []);
    more.release();
    assert.equal(pool.takenCount, 0);
  }
  assert.deepEqual(splitter.rooms(FRAMES_AFTER_BYTES_MAX + 1), []);
});

Deno.test("FrameSplitter setFormat() keeps what has come behind a frame", () => {
  const pool = new BufferPool({ poison: true });
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frame = frameOf(new Uint8Array(20));
  splitter.push(frame.slice(0, 10));
  assert.equal(splitter.next(), false);
  const input = Uint8Array.of(...frame.subarray(10), 65, 66, 10);
  splitter.filled(putInto(splitter.rooms(frame.length), input));
  assert.ok(splitter.next());
  splitter.setFormat(LINE_FORMAT);
  assert.ok(splitter.next());
  assert.deepEqual([...splitter.bytes.subarray(splitter.start, splitter.end)], [65, 66, 10]);
  splitter.reset();
  assert.equal(pool.takenCount, 0);
});

Deno.test("FrameSplitter does not copy a frame that is inside a chunk", () => {
  const pool = new BufferPool();
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const chunk = concat([frameOf(new Uint8Array(10)), frameOf(new Uint8Array(20))]);
  splitter.push(chunk);
  for (const [start, end] of [[0, 14], [14, 38]]) {
    assert.ok(splitter.next());
    assert.equal(splitter.bytes, chunk);
    assert.deepEqual([splitter.start, splitter.end], [start, end]);
    assert.equal(splitter.takeBuffer(), null);
  }
  assert.equal(splitter.next(), false);
  assert.equal(pool.takenCount, 0);
});

Deno.test("FrameSplitter takeBuffer() makes the caller the owner of an assembled frame", () => {
  const pool = new BufferPool({ poison: true });
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frames = [frameOf(new Uint8Array([1, 2])), frameOf(new Uint8Array([3, 4]))];
  const taken: PooledBuffer[] = [];
  for (const byte of concat(frames)) {
    splitter.push(Uint8Array.of(byte));
    if (!splitter.next()) continue;
    const buffer = splitter.takeBuffer();
    assert.ok(buffer !== null);
    assert.equal(splitter.takeBuffer(), null);
    taken.push(buffer);
  }
  assert.deepEqual(taken.map((buffer) => [...buffer.bytes]), frames.map((frame) => [...frame]));
  splitter.reset();
  assert.equal(pool.takenCount, 2);
  taken.forEach((buffer) => buffer.release());
});

Deno.test("FrameSplitter next() throws ProtocolError when a frame is too long", () => {
  const long = new Uint8Array(4);
  new DataView(long.buffer).setUint32(0, LENGTH_FORMAT.frameLengthMax + 1);
  const whole = new Uint8Array(20);
  new DataView(whole.buffer).setUint32(0, 20);
  const rows: [string, FrameFormat, Uint8Array[]][] = [
    ["announced in one chunk", LENGTH_FORMAT, [long]],
    ["announced in pieces", LENGTH_FORMAT, [long.slice(0, 3), long.slice(3)]],
    ["whole in one chunk", { ...LENGTH_FORMAT, frameLengthMax: 19 }, [whole]],
    ["without an end", LINE_FORMAT, [new Uint8Array(64)]],
    ["without an end, in pieces", LINE_FORMAT, [new Uint8Array(40), new Uint8Array(24)]],
  ];
  for (const [name, format, chunks] of rows) {
    const pool = new BufferPool();
    const splitter = new FrameSplitter(format, pool);
    assert.throws(() => framesOf(splitter, chunks), (error) => {
      assert.ok(error instanceof ProtocolError, name);
      assert.match(error.message, /^Cannot take a frame of \d+ bytes: the limit is \d+$/);
      return true;
    });
    splitter.reset();
    assert.equal(pool.takenCount, 0, name);
  }
});

Deno.test("FrameSplitter takes a frame of exactly the limit", () => {
  const format = { ...LENGTH_FORMAT, frameLengthMax: 20 };
  const frame = frameOf(new Uint8Array(16));
  for (const at of [0, 1, 4, 5, 19]) {
    const splitter = new FrameSplitter(format, new BufferPool());
    assert.equal(framesOf(splitter, [frame.slice(0, at), frame.slice(at)]).length, 1);
  }
  const line = new Uint8Array(64).fill(65).with(63, 10);
  for (const at of [0, 1, 32, 63]) {
    const splitter = new FrameSplitter(LINE_FORMAT, new BufferPool());
    assert.equal(framesOf(splitter, [line.slice(0, at), line.slice(at)]).length, 1);
  }
});

Deno.test("FrameSplitter pins little for a long frame that is announced and not sent", () => {
  const pool = new BufferPool();
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frame = frameOf(new Uint8Array(LENGTH_FORMAT.frameLengthMax - 4).fill(7));
  const step = 100_000;
  for (let start = 0; start < frame.length; start += step) {
    splitter.push(frame.slice(start, start + step));
    const arrived = Math.min(frame.length, start + step);
    const whole = splitter.next();
    assert.equal(whole, arrived === frame.length);
    // Size classes of the pool round up by at most a quarter.
    const bound = Math.max(ASSEMBLY_EAGER_BYTES, arrived * ASSEMBLY_GROWTH) * 1.25;
    assert.ok(pool.takenBytes <= bound, `${pool.takenBytes} bytes pinned after ${arrived}`);
    assert.equal(pool.takenCount, 1);
  }
  assert.deepEqual(splitter.bytes.subarray(splitter.start, splitter.end), frame);
  splitter.reset();
  assert.equal(pool.takenCount, 0);
});

Deno.test("FrameSplitter setFormat() goes on with the next byte in another format", () => {
  const bytes = concat([
    frameOf(new Uint8Array([9, 9])),
    new TextEncoder().encode("one\ntwo\n"),
    frameOf(new Uint8Array([8])),
  ]);
  for (let size = 1; size <= bytes.length; size++) {
    const pool = new BufferPool({ poison: true });
    const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
    const seen: number[] = [];
    for (let start = 0; start < bytes.length; start += size) {
      splitter.push(bytes.slice(start, start + size));
      while (splitter.next()) {
        seen.push(splitter.end - splitter.start);
        splitter.setFormat(seen.length === 1 || seen.length === 2 ? LINE_FORMAT : LENGTH_FORMAT);
      }
    }
    assert.deepEqual(seen, [6, 4, 4, 5], `chunks of ${size}`);
    splitter.reset();
    assert.equal(pool.takenCount, 0);
  }
});

Deno.test("FrameSplitter setFormat() judges a frame anew that was begun", () => {
  const splitter = new FrameSplitter(LENGTH_FORMAT, new BufferPool());
  splitter.push(new TextEncoder().encode("\0\0\0\x20\nab\n"));
  assert.equal(splitter.next(), false);
  splitter.setFormat(LINE_FORMAT);
  assert.ok(splitter.next());
  assert.equal(splitter.end - splitter.start, 5);
  assert.ok(splitter.next());
  assert.equal(splitter.pending, 0);
});

Deno.test("FrameSplitter push() throws when the chunk before is not used up", () => {
  const splitter = new FrameSplitter(LENGTH_FORMAT, new BufferPool());
  splitter.push(concat([frameOf(new Uint8Array(1)), frameOf(new Uint8Array(1))]));
  assert.ok(splitter.next());
  assert.throws(() => splitter.push(new Uint8Array(1)), /not used up/);
});

Deno.test("FrameSplitter detach() keeps what it needs when the chunk's memory is used again", () => {
  const pool = new BufferPool();
  const splitter = new FrameSplitter(LENGTH_FORMAT, pool);
  const frames = [frameOf(new Uint8Array([1, 2])), frameOf(new Uint8Array([3]))];
  const chunk = concat(frames);
  splitter.push(chunk);
  assert.equal(splitter.next(), true);
  splitter.detach();
  chunk.fill(255);
  assert.equal(splitter.next(), true);
  assert.deepEqual(splitter.bytes.subarray(splitter.start, splitter.end), frames[1]);
  assert.equal(splitter.next(), false);
  splitter.detach();
  assert.equal(splitter.pending, 0);
});
