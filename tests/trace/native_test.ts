/**
 * The native trace format: what is written is read again, whatever was cut off or damaged.
 *
 * @module
 */
import assert from "node:assert/strict";
import { OPERATIONS } from "../../lib/block/request.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import type { TraceEvent, TraceInfo } from "../../lib/trace/event.ts";
import { formats } from "../../lib/trace/formats/mod.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { BLOCK_BYTES } from "../../lib/trace/limits.ts";
import { encodeHeader, VERSION } from "../../lib/trace/native.ts";
import { digestOf } from "../../lib/trace/record.ts";
import { eventsOf, TraceNotes, type TraceSource } from "../../lib/trace/source.ts";

const INFO: TraceInfo = {
  started_ms: 1_700_000_000_123,
  target: "disk",
  size: 2 ** 40,
  completes: true,
};

function randomEvents(seed: number, count: number): TraceEvent[] {
  const random = seededRandom(seed);
  return Array.from({ length: count }, (_, index): TraceEvent => {
    const timeUs = index * 3 + random.below(1000) / 1000, id = 1 + (index >> 1);
    const payload = random.oneIn(4) ? new Uint8Array(random.below(5000)) : null;
    if (payload !== null) random.fill(payload);
    const digest = random.oneIn(3) ? digestOf(payload ?? new Uint8Array(7)) : null;
    if (index % 2 === 1) {
      const errno = random.oneIn(5) ? random.pick(["EIO", "ENOSPC", "ESHUTDOWN"] as const) : null;
      return { kind: "complete", timeUs, id, errno, digest, payload };
    }
    return {
      ...{ kind: "submit", timeUs, id, connection: random.below(2 ** 32), digest, payload },
      ...{ operation: random.pick(OPERATIONS), flags: random.below(8) },
      ...{ offset: random.below(2 ** 53 - 1), length: random.below(2 ** 40) },
    };
  });
}

async function written(events: readonly TraceEvent[], batch = 1000): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  async function* batches(): AsyncGenerator<readonly TraceEvent[]> {
    for (let at = 0; at < events.length; at += batch) yield events.slice(at, at + batch);
  }
  assert.ok(native.write !== undefined);
  for await (const part of native.write(INFO, batches(), new TraceNotes())) parts.push(part);
  return new Uint8Array(await new Blob(parts.map((part) => new Uint8Array(part))).arrayBuffer());
}

function inChunks(bytes: Uint8Array, size: number): ReadableStream<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
  return ReadableStream.from(chunks);
}

async function readBack(
  bytes: Uint8Array,
  chunk = 100_000,
): Promise<{ events: TraceEvent[]; source: TraceSource }> {
  const source = await native.read(inChunks(bytes, chunk));
  return { events: await Array.fromAsync(eventsOf(source)), source };
}

Deno.test("native.read() gives the events that native.write() got, however they are cut", async () => {
  const events = randomEvents(1, 3000);
  const bytes = await written(events);
  for (const chunk of [61, 4096, 1 << 20]) {
    const { events: found, source } = await readBack(bytes, chunk);
    assert.deepEqual(source.info, INFO);
    assert.deepEqual(found, events);
    assert.deepEqual([source.notes.problemCount, source.notes.remarks], [0, []]);
  }
  assert.ok(bytes.length > 3 * BLOCK_BYTES, "several blocks were meant");
  assert.equal(formats.find(({ detect }) => detect(bytes)), native);
});

Deno.test("native.read() drops a torn end and says so", async () => {
  const events = randomEvents(2, 2000);
  const bytes = await written(events);
  const random = seededRandom(3);
  for (let round = 0; round < 50; round += 1) {
    const length = encodeHeader(INFO).length +
      random.below(bytes.length - encodeHeader(INFO).length);
    const { events: found, source } = await readBack(bytes.slice(0, length));
    assert.deepEqual(found, events.slice(0, found.length));
    const torn = source.notes.remarks.length > 0;
    if (!torn) assert.ok(length < bytes.length && found.length < events.length);
    else assert.match(source.notes.remarks.join(), /torn at byte \d+: \d+ bytes were dropped/);
  }
});

Deno.test("native.read() never gives an event that was not written, whatever is damaged", async () => {
  const events = randomEvents(4, 1500);
  const bytes = await written(events);
  const byKey = new Map(events.map((event) => [`${event.kind} ${event.id}`, event]));
  const random = seededRandom(5);
  let told = 0;
  for (let round = 0; round < 100; round += 1) {
    const damaged = bytes.slice();
    const at = encodeHeader(INFO).length + random.below(bytes.length - encodeHeader(INFO).length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << random.below(8));
    const { events: found, source } = await readBack(damaged);
    for (const event of found) assert.deepEqual(event, byKey.get(`${event.kind} ${event.id}`));
    assert.ok(found.length < events.length);
    told += source.notes.problemCount + source.notes.remarks.length;
  }
  assert.equal(told, 100);
});

Deno.test("native.read() refuses what is no trace, or one of a newer version", async () => {
  const header = encodeHeader(INFO);
  const newer = header.slice();
  newer[8] = VERSION + 1;
  const wrong = header.slice();
  wrong[30] = (wrong[30] ?? 0) ^ 1;
  const rows: [Uint8Array, RegExp][] = [
    [new Uint8Array(0), /cut off in its header/],
    [header.slice(0, 30), /cut off in its header/],
    [new Uint8Array(100), /does not begin as a native trace/],
    [newer, /its version is 2, known is 1, it was written by a newer dmu/],
    [wrong, /checksum of its description/],
  ];
  for (const [bytes, message] of rows) {
    await assert.rejects(native.read(inChunks(bytes, 1000)), message);
  }
});
