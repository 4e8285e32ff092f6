/**
 * Recording: the ring loses nothing that it took, the recorder writes what passed its Device.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { SparseMemory } from "../../lib/block/sparse_memory.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { collectedLog } from "../../lib/testing/context.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { digestOf, recordLength, RecordReader } from "../../lib/trace/record.ts";
import { type DataKept, Recorder } from "../../lib/trace/recorder.ts";
import { RingConsumer, ringMemory, RingProducer } from "../../lib/trace/ring.ts";
import { eventsOf, type TraceSource } from "../../lib/trace/source.ts";
import { withTempDir } from "../support/tools.ts";

function event(id: number, bytes: number): TraceEvent {
  const payload = bytes === 0 ? null : new Uint8Array(bytes).fill(id);
  return { kind: "complete", timeUs: id / 8, id, errno: null, digest: null, payload };
}

Deno.test("RingConsumer gets all that RingProducer has not counted as lost, in order", () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const random = seededRandom(seed);
    const memory = ringMemory(4096);
    const producer = new RingProducer(memory), consumer = new RingConsumer(memory);
    const put: TraceEvent[] = [], found: TraceEvent[] = [];
    let refused = 0;
    for (let id = 1; id <= 2000; id += 1) {
      if (!random.oneIn(20)) {
        const next = event(id, random.below(300));
        if (producer.put(next)) put.push(next);
        else refused += 1;
      } else {
        const run = consumer.next(recordLength, 1 + random.below(2000));
        if (run === null) continue;
        const reader = new RecordReader(run.records.slice());
        for (let each = reader.next(); each !== null; each = reader.next()) found.push(each);
        consumer.release();
      }
    }
    for (let run = consumer.next(recordLength, 4096); run !== null;) {
      const reader = new RecordReader(run.records.slice());
      for (let each = reader.next(); each !== null; each = reader.next()) found.push(each);
      consumer.release();
      run = consumer.next(recordLength, 4096);
    }
    assert.ok(refused > 0 && put.length > 200, `${put.length} of ${refused + put.length}`);
    assert.deepEqual(found, put);
    assert.equal(producer.lost, refused);
  }
});

async function openTrace(path: string): Promise<{ source: TraceSource; events: TraceEvent[] }> {
  const file = await Deno.open(path);
  const source = await native.read(file.readable);
  return { source, events: await Array.fromAsync(eventsOf(source)) };
}

/** A memory device of 1 MiB that is traced while `use` works with it. */
async function traced(
  data: DataKept,
  path: string,
  use: (device: Device) => void | Promise<void>,
): Promise<void> {
  const memory = new SparseMemory({ size: 1 << 20 });
  const size = 1 << 20;
  const log = collectedLog();
  await using device = new Device({
    geometry: { size, minimum: 1, preferred: 4096, maximum: size, readOnly: false },
    capabilities: { synchronous: true, fua: true },
    read: (into, offset) => memory.read(into, offset),
    write: (from, offset) => memory.write(from, offset),
    flush: () => undefined,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }, { name: "disk", clock: systemClock, log });
  const info = { started_ms: 5, target: "disk", size, completes: true };
  const recorder = await Recorder.start({ path, info, data, clock: systemClock, log });
  device.tap = recorder.tap;
  await use(device);
  device.tap = null;
  await recorder[Symbol.asyncDispose]();
  assert.deepEqual(log.lines, []);
  assert.equal(recorder.counts.lost, 0);
}

for (const data of ["none", "digest", "payload"] as const) {
  Deno.test(`Recorder writes what passed its Device, data: ${data}`, async () => {
    await withTempDir(async (folder) => {
      const path = `${folder}/t.dmutrace`;
      const random = seededRandom(7);
      const expected: { operation: string; offset: number; length: number; data: Uint8Array }[] =
        [];
      await traced(data, path, (device) => {
        for (let count = 0; count < 20_000; count += 1) {
          const operation = random.pick(["read", "write"] as const);
          const length = 512 * (1 + random.below(8)), offset = 512 * random.below(2000);
          const bytes = new Uint8Array(length);
          if (operation === "write") bytes.fill(random.below(256));
          assert.equal(
            device.submit(makeRequest(operation, offset, length, { data: bytes })),
            undefined,
          );
          if (count < 2000) expected.push({ operation, offset, length, data: bytes });
        }
      });
      const { source, events } = await openTrace(path);
      assert.deepEqual(source.info, {
        started_ms: 5,
        target: "disk",
        size: 1 << 20,
        completes: true,
      });
      assert.equal(events.length, 40_000);
      assert.deepEqual(source.notes.remarks, []);
      expected.forEach(({ operation, offset, length, data: bytes }, index) => {
        const submit = events[2 * index], complete = events[2 * index + 1];
        assert.ok(submit?.kind === "submit" && complete?.kind === "complete");
        assert.deepEqual(
          [submit.operation, submit.offset, submit.length, submit.id, complete.id],
          [operation, offset, length, index + 1, index + 1],
        );
        assert.ok(submit.timeUs >= 0 && complete.timeUs >= submit.timeUs);
        const keeper = operation === "write" ? submit : complete;
        const other = operation === "write" ? complete : submit;
        assert.equal(keeper.digest, data === "none" ? null : digestOf(bytes));
        assert.deepEqual(keeper.payload, data === "payload" ? bytes : null);
        assert.deepEqual([other.digest, other.payload], [null, null]);
      });
    });
  });
}

Deno.test("Recorder keeps errors, and what a request lacks at the end", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/t`;
    await traced("none", path, (device) => {
      assert.throws(() => device.submit(makeRequest("trim", 0, 4096)), /trim/);
    });
    const { events } = await openTrace(path);
    assert.deepEqual(
      events.map((each) => each.kind === "submit" ? each.operation : each.errno),
      ["trim", "EOPNOTSUPP"],
    );
  });
});

Deno.test("Recorder.start() refuses a file that is there, and a folder that is not", async () => {
  await withTempDir(async (folder) => {
    Deno.writeTextFileSync(`${folder}/taken`, "precious");
    const log = collectedLog();
    for (const path of [`${folder}/taken`, `${folder}/missing/t`]) {
      const info = { started_ms: null, target: null, size: null, completes: true };
      const start = Recorder.start({ path, info, data: "none", clock: systemClock, log });
      await assert.rejects(start, /Cannot write the trace .*: /);
    }
    assert.equal(Deno.readTextFileSync(`${folder}/taken`), "precious");
  });
});
