/** Tests of lib/stream/run_session.ts and memory_pair.ts: the streams driver under every kind of end. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import { BufferPool } from "../../lib/block/pool.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { memoryPair } from "../../lib/stream/memory_pair.ts";
import { runSession } from "../../lib/stream/run_session.ts";
import type { BytePair } from "../../lib/stream/session.ts";
import { concat, EchoSession, frameOf } from "./echo_session.ts";

const GOODBYE = frameOf(new Uint8Array(0));

async function readAll(readable: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of readable) parts.push(part);
  return concat(parts);
}

async function writeAll(pair: BytePair, bytes: Uint8Array, size: number): Promise<void> {
  const writer = pair.writable.getWriter();
  for (let start = 0; start < bytes.length; start += size) {
    await writer.write(bytes.subarray(start, start + size));
  }
  await writer.close();
}

/** Lets everything that can go on without new input go on. */
async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

Deno.test("runSession answers everything for any cut, sync or later, and frees all", async () => {
  const property = fc.asyncProperty(
    fc.array(fc.uint8Array({ maxLength: 200 }).filter((p) => p.length > 0), { maxLength: 20 }),
    fc.integer({ min: 1, max: 300 }),
    fc.integer({ min: 1, max: 500 }),
    fc.boolean(),
    async (payloads, size, bufferBytes, later) => {
      const pool = new BufferPool({ poison: true });
      const session = new EchoSession(pool, later ? { schedule: queueMicrotask } : {});
      const [server, client] = memoryPair({ bufferBytes, chunkBytesMax: size });
      const frames = payloads.map(frameOf);
      const run = runSession(server, session);
      const [, answer] = await Promise.all([
        writeAll(client, concat([...frames, GOODBYE]), size),
        readAll(client.readable),
      ]);
      await run;
      assert.deepEqual(answer, concat(frames));
      assert.deepEqual(session.ends, [undefined]);
      assert.equal(session.onWake, null);
      assert.equal(pool.takenCount, 0);
    },
  );
  await fc.assert(property, { seed: 7, numRuns: 150 });
});

Deno.test("runSession sends what is ready when the input ends, then ends the session once", async () => {
  const pool = new BufferPool({ poison: true });
  const session = new EchoSession(pool);
  const [server, client] = memoryPair();
  const frame = frameOf(Uint8Array.of(1, 2, 3));
  const run = runSession(server, session);
  await writeAll(client, concat([frame, frame.slice(0, 5)]), 100);
  assert.deepEqual(await readAll(client.readable), frame);
  await run;
  assert.deepEqual(session.ends, [undefined]);
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession puts many small outputs into one write", async () => {
  const pool = new BufferPool({ poison: true });
  const writes: number[] = [];
  const outputs = [10, 20, 30_000, 40, 16_384, 16_384, 16_384, 16_384, 1].map((length, i) => {
    const buffer = pool.take(length);
    buffer.bytes.fill(i);
    return buffer;
  });
  const received: Uint8Array[] = [];
  await runSession({
    readable: new ReadableStream(),
    writable: new WritableStream({
      write(chunk): void {
        writes.push(chunk.length);
        received.push(chunk.slice());
      },
    }),
  }, {
    onWake: null,
    ready: true,
    get finished(): boolean {
      return outputs.length === 0;
    },
    receive(): void {},
    takeOutput: () => outputs.shift() ?? null,
    end(): void {},
  });
  assert.deepEqual(writes, [30, 30_000, 40 + 3 * 16_384, 16_385]);
  const order = concat(received).filter((byte, i, all) => byte !== all[i - 1]);
  assert.deepEqual([...order], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession stops reading while the session is not ready: a slow reader bounds what is held", async () => {
  const pool = new BufferPool({ poison: true });
  const session = new EchoSession(pool, { unsentMax: 2_000 });
  const bufferBytes = 1_000;
  const [server, client] = memoryPair({ bufferBytes });
  const run = runSession(server, session);
  const frame = frameOf(new Uint8Array(496).fill(5));
  const count = 100;
  const written = writeAll(client, concat([...Array(count).fill(frame), GOODBYE]), 500);
  await settle();
  assert.ok(session.frames < 20, `${session.frames} frames were taken with nobody reading`);
  assert.ok(session.unsentPeak <= 2_500, `${session.unsentPeak} bytes unsent`);
  const [answer] = await Promise.all([readAll(client.readable), written, run]);
  assert.equal(answer.length, count * frame.length);
  assert.ok(session.unsentPeak <= 2_500);
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession releases a buffer only when its write is done", async () => {
  const pool = new BufferPool({ poison: true });
  const gate = Promise.withResolvers<void>();
  const seen: Uint8Array[] = [];
  const [server, client] = memoryPair();
  const writable = new WritableStream<Uint8Array>({
    async write(chunk): Promise<void> {
      await gate.promise;
      seen.push(chunk.slice());
    },
  });
  const run = runSession({ readable: server.readable, writable }, new EchoSession(pool));
  const frame = frameOf(new Uint8Array(20_000).fill(3));
  await writeAll(client, concat([frame, GOODBYE]), frame.length);
  await settle();
  assert.equal(pool.takenCount, 1);
  gate.resolve();
  await run;
  assert.deepEqual(concat(seen), frame);
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession rejects with the session's ProtocolError and stops both ways", async () => {
  const pool = new BufferPool({ poison: true });
  const session = new EchoSession(pool);
  const [server, client] = memoryPair();
  const run = runSession(server, session);
  const writing = writeAll(client, concat([frameOf(Uint8Array.of(1)), new Uint8Array(4)]), 100);
  await assert.rejects(run, ProtocolError);
  await writing.catch(() => {});
  assert.equal(session.ends.length, 1);
  assert.ok(session.ends[0] instanceof ProtocolError);
  await assert.rejects(readAll(client.readable), ProtocolError);
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession rejects when the peer stops reading, or its stream fails", async () => {
  const rows: [string, (client: BytePair) => Promise<void>][] = [
    ["cancelled", (client) => client.readable.cancel()],
    ["aborted", (client) => client.writable.abort(new Error("gone"))],
  ];
  for (const [name, breakIt] of rows) {
    const pool = new BufferPool({ poison: true });
    const session = new EchoSession(pool);
    const [server, client] = memoryPair();
    const run = runSession(server, session);
    const outcome = assert.rejects(run, Error, name);
    await breakIt(client);
    const writer = client.writable.getWriter();
    await writer.write(frameOf(new Uint8Array(9))).catch(() => {});
    await outcome;
    assert.equal(session.ends.length, 1);
    assert.equal(pool.takenCount, 0);
  }
});

Deno.test("runSession waits for work in flight before it settles, when aborted too", async () => {
  const pool = new BufferPool({ poison: true });
  const waiting: (() => void)[] = [];
  const session = new EchoSession(pool, { schedule: (answer) => waiting.push(answer) });
  const [server, client] = memoryPair();
  const abort = new AbortController();
  let settled = false;
  const run = runSession(server, session, { signal: abort.signal }).finally(() => settled = true);
  const outcome = assert.rejects(run, /enough/);
  const writer = client.writable.getWriter();
  await writer.write(frameOf(new Uint8Array(100)));
  await settle();
  assert.equal(waiting.length, 1);
  abort.abort(new Error("enough"));
  await settle();
  assert.equal(session.ends.length, 1);
  assert.equal(settled, false);
  waiting.forEach((answer) => answer());
  await outcome;
  assert.equal(pool.takenCount, 0);
});

Deno.test("runSession frees everything and ends once when aborted at any point", async () => {
  const property = fc.asyncProperty(
    fc.nat(400),
    fc.integer({ min: 1, max: 700 }),
    fc.integer({ min: 1, max: 3_000 }),
    fc.boolean(),
    fc.boolean(),
    async (turns, size, bufferBytes, later, reads) => {
      const pool = new BufferPool({ poison: true });
      const session = new EchoSession(pool, {
        unsentMax: 3_000,
        ...(later ? { schedule: (answer: () => void): void => queueMicrotask(answer) } : {}),
      });
      const [server, client] = memoryPair({ bufferBytes });
      const abort = new AbortController();
      let outcome: unknown = "resolved";
      const run = runSession(server, session, { signal: abort.signal })
        .catch((error) => outcome = error);
      const frames = Array.from({ length: 12 }, (_, i) => frameOf(new Uint8Array(i * 50 + 1)));
      const writing = writeAll(client, concat([...frames, GOODBYE]), size).catch(() => {});
      const reading = reads ? readAll(client.readable).catch(() => null) : Promise.resolve(null);
      for (let i = 0; i < turns; i++) await Promise.resolve();
      const reason = new Error("enough");
      abort.abort(reason);
      await run;
      await Promise.all([writing, reading]);
      assert.ok(outcome === reason || outcome === "resolved");
      if (!reads) assert.equal(outcome, reason);
      assert.equal(session.ends.length, 1);
      assert.equal(pool.takenCount, 0);
      assert.ok(!server.readable.locked && !server.writable.locked);
    },
  );
  await fc.assert(property, { seed: 8, numRuns: 200 });
});

Deno.test("runSession does nothing but end the session when it was aborted before", async () => {
  const session = new EchoSession(new BufferPool());
  const [server, client] = memoryPair();
  const run = runSession(server, session, { signal: AbortSignal.abort(new Error("too late")) });
  await assert.rejects(run, /too late/);
  assert.equal(session.ends.length, 1);
  await assert.rejects(readAll(client.readable), /too late/);
});

Deno.test("runSession turns a session that throws into a failed run", async () => {
  for (const broken of ["takeOutput", "receive", "end"] as const) {
    const session = new EchoSession(new BufferPool());
    session[broken] = (): never => {
      throw new Error(`bug in ${broken}`);
    };
    const [server, client] = memoryPair();
    // A session whose end throws cannot count its ends.
    const finished = (): boolean => broken === "end" || session.ends.length > 0;
    Object.defineProperty(session, "finished", { get: finished });
    const run = runSession(server, session);
    const outcome = assert.rejects(run, new Error(`bug in ${broken}`));
    const writer = client.writable.getWriter();
    await writer.write(frameOf(new Uint8Array(1))).catch(() => {});
    await outcome;
  }
});

Deno.test("memoryPair write() waits for room and copies what it takes", async () => {
  const [left, right] = memoryPair({ bufferBytes: 10 });
  const writer = left.writable.getWriter();
  const bytes = new Uint8Array(8).fill(1);
  await writer.write(bytes);
  bytes.fill(2);
  let done = false;
  const second = writer.write(bytes).then(() => done = true);
  await settle();
  assert.equal(done, false);
  const reader = right.readable.getReader();
  assert.deepEqual((await reader.read()).value, new Uint8Array(8).fill(1));
  await second;
  assert.deepEqual((await reader.read()).value, new Uint8Array(8).fill(2));
  await writer.close();
  assert.equal((await reader.read()).done, true);
});
