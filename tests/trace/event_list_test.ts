/**
 * Completions that wait for their time, and lists of events: order, bounds and what is told of them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/random.ts";
import { CompletionHeap } from "../../lib/trace/completion_heap.ts";
import { EventList, NO_LATENCY } from "../../lib/trace/event_list.ts";
import { BATCH_EVENTS, COMPLETIONS_PENDING_MAX, PENDING_MAX } from "../../lib/trace/limits.ts";
import { Pending } from "../../lib/trace/pending.ts";
import { TraceNotes } from "../../lib/trace/source.ts";

Deno.test("CompletionHeap.take() gives the earliest, equal times in the order of ids", () => {
  const random = seededRandom(41), heap = new CompletionHeap();
  const waiting: [timeUs: number, id: number][] = [];
  for (let id = 1; id <= 20_000; id += 1) {
    const timeUs = random.below(500);
    heap.add(timeUs, id);
    waiting.push([timeUs, id]);
    if (!random.oneIn(3)) continue;
    const [timeLeast, idLeast] = waiting.reduce((a, b) => b[0] < a[0] ? b : a);
    if (id > 400) continue; // the model is slow: the rest is looked at in one go
    assert.deepEqual([heap.firstUs, heap.take()], [timeLeast, idLeast]);
    waiting.splice(waiting.findIndex((each) => each[1] === idLeast), 1);
  }
  waiting.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  assert.deepEqual(waiting.map(() => [heap.firstUs, heap.take()]), waiting);
  assert.deepEqual([heap.size, heap.firstUs, heap.take()], [0, Infinity, 0]);
});

Deno.test("EventList.request() lets no more completions wait than it may, and tells", () => {
  const events = new EventList(), notes = new TraceNotes();
  const count = COMPLETIONS_PENDING_MAX + 3;
  let submits = 0, completes = 0;
  const take = (): void => {
    for (const { kind } of events.take()) kind === "submit" ? submits += 1 : completes += 1;
  };
  for (let at = 0; at < count; at += 1) {
    events.request(at, 0, "read", 0, 512, 0, 1e9);
    if (events.full) take();
  }
  take();
  assert.deepEqual([submits, completes], [count, 3]);
  events.finish(notes);
  take();
  assert.equal(completes, count);
  assert.deepEqual(notes.remarks, [
    `3 completions are told before their time: more than ${COMPLETIONS_PENDING_MAX} requests were under way`,
  ]);
});

Deno.test("EventList.full is true when there are enough events", () => {
  const events = new EventList();
  for (let at = 0; at < BATCH_EVENTS; at += 1) {
    assert.equal(events.full, false);
    events.request(at, 0, "flush", 0, 0, 0, NO_LATENCY);
  }
  assert.equal(events.full, true);
  assert.equal(events.take().length, BATCH_EVENTS);
  assert.equal(events.full, false);
});

Deno.test("Pending gives up what is oldest, and counts it", () => {
  const pending = new Pending<number, string>();
  for (let key = 0; key < 2 * PENDING_MAX; key += 1) pending.add(key, `${key}`);
  assert.ok(pending.size <= PENDING_MAX);
  assert.equal(pending.size + pending.lost, 2 * PENDING_MAX);
  assert.equal(pending.take(0), null);
  assert.equal(pending.get(2 * PENDING_MAX - 1), `${2 * PENDING_MAX - 1}`);
  assert.equal(pending.take(2 * PENDING_MAX - 1), `${2 * PENDING_MAX - 1}`);
  assert.equal([...pending.values()].length, pending.size);
});
