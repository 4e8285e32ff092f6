/** Tests of counters and histograms. @module */
import assert from "node:assert/strict";
import { Histogram, Statistics, statisticsMemory } from "../../lib/block/statistics.ts";

Deno.test("Histogram.percentileUs() is at most 12.5 % above the true value", () => {
  const histogram = new Histogram();
  for (let us = 1; us <= 100_000; us += 1) histogram.record(us);
  for (const fraction of [0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
    const truth = Math.ceil(100_000 * fraction);
    const told = histogram.percentileUs(fraction);
    assert.ok(told >= truth && told <= truth * 1.125 + 1, `${fraction}: ${told} for ${truth}`);
  }
  assert.equal(histogram.count, 100_000);
  assert.equal(histogram.maxUs, 100_000);
});

Deno.test("Histogram.record() takes zero, negative and enormous values", () => {
  const histogram = new Histogram();
  for (const us of [0, -3, 0.4, 2 ** 31, 2 ** 40]) histogram.record(us);
  assert.equal(histogram.count, 5);
  assert.equal([...histogram.buckets()].reduce((sum, bucket) => sum + bucket.count, 0), 5);
});

Deno.test("Histogram.merge() gives what one histogram of all values has", () => {
  const all = new Histogram(), one = new Histogram(), other = new Histogram();
  for (let us = 1; us <= 5000; us += 1) {
    all.record(us);
    (us % 3 === 0 ? one : other).record(us);
  }
  one.merge(other);
  assert.deepEqual([...one.buckets()], [...all.buckets()]);
  assert.deepEqual([one.count, one.totalUs, one.maxUs], [all.count, all.totalUs, all.maxUs]);
});

Deno.test("Histogram.percentileUs() is 0 when nothing was counted", () => {
  assert.equal(new Histogram().percentileUs(0.5), 0);
});

Deno.test("Statistics.snapshot() separates errors from bytes", () => {
  const statistics = new Statistics();
  statistics.read.record(4096, 10, false);
  statistics.read.record(4096, 30, true);
  const { read, write } = statistics.snapshot();
  assert.deepEqual([read.count, read.errors, read.bytes], [2, 1, 4096]);
  assert.equal(read.latencyMaxUs, 30);
  assert.equal(write.count, 0);
  assert.equal(statistics.errors, 1);
});

Deno.test("Statistics over shared memory are seen through every view of it, each operation apart", () => {
  const memory = statisticsMemory();
  const counted = new Statistics(memory), seen = new Statistics(memory);
  counted.inFlight = 3;
  counted.extents.record(0, 5, true);
  for (let us = 1; us <= 1_000; us += 1) counted.write.record(512, us, false);
  assert.equal(seen.inFlight, 3);
  assert.deepEqual(seen.snapshot(), counted.snapshot());
  assert.deepEqual([seen.write.latency.count, seen.write.bytes, seen.errors], [1_000, 512_000, 1]);
  assert.deepEqual([...seen.write.latency.buckets()], [...counted.write.latency.buckets()]);
  assert.equal(seen.zero.latency.count + seen.read.latency.count + seen.cache.latency.count, 0);
});
