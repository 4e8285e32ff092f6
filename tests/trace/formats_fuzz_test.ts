/**
 * Damaged traces of every format: bytes changed, cut, doubled, swapped as on another machine. A reader
 * gives events that make sense, or a TraceError, in the time that the bytes take, and nothing else.
 *
 * @module
 */
import assert from "node:assert/strict";
import { OPERATIONS } from "../../lib/block/request.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { alibaba } from "../../lib/trace/formats/alibaba.ts";
import { formats } from "../../lib/trace/formats/mod.ts";
import { msrCambridge } from "../../lib/trace/formats/msr_cambridge.ts";
import { tencent } from "../../lib/trace/formats/tencent.ts";
import type { TraceFormat } from "../../lib/trace/source.ts";
import { TraceError } from "../../lib/trace/trace_error.ts";
import { complete, readAll, submit, told, writeAll } from "./format_support.ts";

const ROUNDS = 150;
const REQUESTS = 40;

/** Requests of whole sectors with data, each done before the next but one. */
function someEvents(random: SeededRandom): TraceEvent[] {
  const events: TraceEvent[] = [];
  for (let id = 1; id <= REQUESTS; id += 1) {
    const operation = random.pick(["read", "write", "flush", "trim", "zero"] as const);
    const length = operation === "flush" ? 0 : 512 * (1 + random.below(4));
    const offset = operation === "flush" ? 0 : 512 * random.below(1000);
    const payload = operation === "write" ? new Uint8Array(length) : null;
    if (payload !== null) random.fill(payload);
    events.push(submit(id * 100, id, { operation, offset, length, flags: 0, payload }));
    events.push(complete(id * 100 + random.below(90), id));
  }
  return events;
}

const LINES = new Map<TraceFormat, (at: number) => string>([
  [msrCambridge, (at) => `${128166372003061629n + BigInt(at)},usr,0,Read,${at * 512},512,99`],
  [alibaba, (at) => `${at},W,${at * 512},512,${1577808144360767 + at}`],
  [tencent, (at) => `${1538323200 + at},${at},8,1,${at}`],
]);

async function sampleOf(format: TraceFormat, random: SeededRandom): Promise<Uint8Array> {
  const line = LINES.get(format);
  if (line === undefined) {
    const info = { started_ms: 1_700_000_000_000, target: "disk", size: null, completes: true };
    return (await writeAll(format, info, someEvents(random))).bytes;
  }
  const lines = Array.from({ length: REQUESTS }, (_, at) => `${line(at)}\n`);
  return new TextEncoder().encode(lines.join(""));
}

const DAMAGES: readonly ((bytes: Uint8Array, random: SeededRandom) => Uint8Array)[] = [
  (bytes, random) => bytes.slice(0, random.below(bytes.length)),
  (bytes, random) => bytes.slice(random.below(bytes.length)),
  (bytes, random) => {
    const from = random.below(bytes.length), to = from + random.below(bytes.length - from);
    return Uint8Array.from([...bytes.subarray(0, to), ...bytes.subarray(from)]);
  },
  (bytes, random) => changed(bytes, random, 1, () => 1 << random.below(8)),
  (bytes, random) => changed(bytes, random, 20, () => 1 + random.below(255)),
  (bytes, random) => {
    const copy = bytes.slice(), from = random.below(copy.length);
    random.fill(copy.subarray(from, from + random.below(200)));
    return copy;
  },
  (bytes, random) => swapped(bytes, random.pick([2, 4, 8])),
  (bytes, random) => {
    const copy = bytes.slice(), from = random.below(copy.length);
    copy.fill(random.pick([0, 0x0a, 0x30, 0x39, 0xff]), from, from + random.below(300));
    return copy;
  },
];

function changed(
  bytes: Uint8Array,
  random: SeededRandom,
  count: number,
  by: () => number,
): Uint8Array {
  const copy = bytes.slice();
  for (let left = count; left > 0; left -= 1) {
    const at = random.below(copy.length);
    copy[at] = (copy[at] ?? 0) ^ by();
  }
  return copy;
}

/** As a machine of the other byte order would write numbers of that width. */
function swapped(bytes: Uint8Array, width: number): Uint8Array {
  return bytes.map((_, at) =>
    bytes[Math.min(bytes.length - 1, at - at % width + width - 1 - at % width)] ?? 0
  );
}

function assertSensible(event: TraceEvent, submitted: Set<number>): void {
  const text = told(event);
  assert.ok(Number.isFinite(event.timeUs) && event.timeUs >= 0, text);
  assert.ok(Number.isSafeInteger(event.id) && event.id > 0, text);
  if (event.kind === "complete") {
    assert.ok(submitted.has(event.id), `${text}: completed before it was submitted`);
    return;
  }
  submitted.add(event.id);
  const { operation, offset, length, flags, payload } = event;
  assert.ok(OPERATIONS.includes(operation), text);
  assert.ok(Number.isSafeInteger(offset) && offset >= 0 && length >= 0, text);
  assert.ok(Number.isSafeInteger(offset + length), text);
  assert.ok(flags >= 0 && flags < 8, text);
  if (payload !== null) assert.equal(payload.length, length, text);
}

for (const format of formats) {
  if (format.name === "native") continue; // its blocks have checksums: it has tests of its own
  Deno.test(`${format.name} stays sensible whatever is damaged`, async () => {
    const random = seededRandom(19);
    let refused = 0, understood = 0, noted = 0;
    for (let round = 0; round < ROUNDS; round += 1) {
      const damage = random.pick(DAMAGES);
      const bytes = damage(await sampleOf(format, random), random);
      try {
        const { events, source } = await readAll(format, bytes, { chunk: 1 + random.below(5000) });
        const submitted = new Set<number>();
        for (const event of events) assertSensible(event, submitted);
        understood += submitted.size;
        noted += source.notes.problemCount + source.notes.remarks.length;
      } catch (error) {
        if (!(error instanceof TraceError)) throw error;
        refused += 1;
      }
    }
    assert.ok(understood > ROUNDS && noted > 0 && refused > 0, `${understood} ${noted} ${refused}`);
  });

  Deno.test(`${format.name} does not take noise for a trace`, async () => {
    const random = seededRandom(23);
    for (const length of [0, 1, 3, 7, 100, 5000]) {
      const bytes = new Uint8Array(length);
      random.fill(bytes);
      assert.equal(format.detect(bytes), false);
      const read = readAll(format, bytes, { chunk: 64 });
      if (length === 0) await read.catch((error) => assert.ok(error instanceof TraceError));
      else if (length > 3) await assert.rejects(read, TraceError);
      else {
        const result = await read.catch((error) => error);
        if (!(result instanceof TraceError)) assert.equal(result.events.length, 0);
      }
    }
  });
}
