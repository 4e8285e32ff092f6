/** Open files in real worker threads: the model check of the counts, and threads that die. @module */
import assert from "node:assert/strict";
import { activeCountMemory } from "../../lib/handle/active_count.ts";
import { SHARES_PER_FILE_MAX } from "../../lib/handle/limits.ts";
import { OpenFileTable } from "../../lib/handle/table.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import { GateThread } from "./gate_thread.ts";
import { WATCH, WATCH_WORDS } from "./gate_worker.ts";

const ROUNDS = 200;
const THREADS = 3;
const DEATHS = 20;
const UNTIL_MS_MAX = 20_000;

function watchMemory(): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(WATCH_WORDS * Int32Array.BYTES_PER_ELEMENT));
}

function newTable(): OpenFileTable {
  return new OpenFileTable({ clock: systemClock, log: new MemoryLog() });
}

async function until(watch: Int32Array<SharedArrayBuffer>, word: number): Promise<void> {
  const end_ms = performance.now() + UNTIL_MS_MAX;
  while (Atomics.load(watch, word) === 0) {
    assert.ok(performance.now() < end_ms, `not within ${UNTIL_MS_MAX} ms: word ${word}`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

Deno.test("ActiveCount keeps its promises between real threads", async () => {
  const threads = Array.from({ length: THREADS }, () => new GateThread());
  const random = new SeededRandom(4);
  let entered = 0;
  try {
    for (let round = 0; round < ROUNDS; round += 1) {
      const memory = activeCountMemory();
      const watch = watchMemory();
      const fromNew = round % 10 === 0;
      const rounds = threads.map((thread, index) =>
        thread.ask({
          kind: "round",
          memory,
          watch: watch.buffer,
          cell: index,
          threads: THREADS,
          seed: random.uint32(),
          activates: !fromNew && random.below(2) === 0 || (!fromNew && index === 0),
          deactivateAt: random.below(fromNew ? 3 : 400),
        })
      );
      for (const count of await Promise.all(rounds)) entered += count;
      const once = [
        WATCH.activations,
        WATCH.deactivations,
        WATCH.drains,
        WATCH.releases,
      ].map((word) => watch[word]);
      assert.equal(watch[WATCH.lateEntries], 0, `round ${round}: entered after deactivation`);
      assert.equal(watch[WATCH.lateInside], 0, `round ${round}: inside after the drain`);
      const [activations, ...others] = once;
      // A thread may deactivate before another one has activated.
      assert.ok(activations === 0 || (!fromNew && activations === 1), `round ${round}`);
      assert.deepEqual(others, [1, 1, 1], `round ${round}`);
    }
  } finally {
    for (const thread of threads) thread[Symbol.dispose]();
  }
  assert.ok(entered > ROUNDS, "operations have entered");
});

Deno.test("OpenFile.drain() waits for operations of another thread", async () => {
  using thread = new GateThread();
  const table = newTable();
  const file = table.open({ kind: "test", peer: "", target: null });
  file.activate();
  const shared = file.share(table.joinThread());
  assert.equal(await thread.ask({ kind: "enter", shared, times: 3 }), 3);
  assert.equal(file.active, 3);
  file.revoke();
  assert.equal(await thread.ask({ kind: "enter", shared, times: 2 }), 0);
  const drained = file.drain();
  assert.equal(file.state, "draining");
  await thread.ask({ kind: "leave" });
  await drained;
  assert.equal(file.active, 0);
  await file.released;
});

Deno.test("OpenFileTable.withdrawThread() ends a drain that waits for a thread which died", async () => {
  const table = newTable();
  using thread = new GateThread();
  const number = table.joinThread();
  const files = [1, 2].map(() => table.open({ kind: "test", peer: "", target: "t" }));
  for (const file of files) {
    file.activate();
    assert.equal(await thread.ask({ kind: "enter", shared: file.share(number), times: 2 }), 2);
    assert.ok(file.enter());
    file.revoke();
  }
  const drained = table.drain(files);
  thread.tell({ kind: "fail" });
  assert.match(await thread.died, /dies on purpose/);
  assert.equal(table.withdrawThread(number), 4);
  assert.deepEqual(files.map(({ state, active }) => [state, active]), [
    ["draining", 1],
    ["draining", 1],
  ]);
  for (const file of files) file.leave();
  await drained;
  await Promise.all(files.map(({ released }) => released));
  assert.equal(table.size, 0);
});

Deno.test("OpenFile.drain() ends whenever a busy thread is killed", async () => {
  const table = newTable();
  for (let death = 0; death < DEATHS; death += 1) {
    const file = table.open({ kind: "test", peer: "", target: null });
    file.activate();
    const number = table.joinThread();
    const watch = watchMemory();
    try {
      {
        using thread = new GateThread();
        thread.tell({ kind: "churn", shared: file.share(number), watch: watch.buffer });
        await until(watch, WATCH.entered);
      }
      // It may still run for a moment: what it does then must not count.
      if (death % 2 === 0) file.revoke();
      table.withdrawThread(number);
      file.revoke();
      const drained = file.drain();
      await drained;
      await file.released;
    } finally {
      // The runtime does not interrupt a loop that is running: without this it would go on for ever.
      Atomics.store(watch, WATCH.stop, 1);
    }
    assert.equal(table.size, 0);
  }
});

Deno.test("OpenFile.revoke() stops a thread that goes in and out", async () => {
  using thread = new GateThread();
  const table = newTable();
  for (let round = 0; round < 50; round += 1) {
    const file = table.open({ kind: "test", peer: "", target: null });
    file.activate();
    const watch = watchMemory();
    const shared = file.share(table.joinThread());
    const churning = thread.ask({ kind: "churn", shared, watch: watch.buffer });
    await until(watch, WATCH.entered);
    file.revoke();
    Atomics.store(watch, WATCH.revoked, 1);
    await file.drain();
    Atomics.store(watch, WATCH.drained, 1);
    const before = Atomics.load(watch, WATCH.entered);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
    Atomics.store(watch, WATCH.stop, 1);
    assert.ok(await churning > 0);
    assert.equal(watch[WATCH.entered], before);
    assert.equal(watch[WATCH.lateEntries], 0);
    assert.equal(watch[WATCH.lateInside], 0);
    await file.released;
  }
});

Deno.test("OpenFile.share() gives a thread the same cell, others another one, and has a limit", () => {
  const table = newTable();
  const file = table.open({ kind: "test", peer: "", target: null });
  const threads = Array.from({ length: SHARES_PER_FILE_MAX }, () => table.joinThread());
  const cells = new Set(threads.map((thread) => file.share(thread).cell));
  assert.equal(cells.size, SHARES_PER_FILE_MAX);
  assert.ok(!cells.has(0), "that of the home thread");
  assert.equal(file.share(threads[3] ?? 0).cell, file.share(threads[3] ?? 0).cell);
  const further = table.joinThread();
  assert.throws(() => file.share(further), { errno: "EMFILE" });
  assert.equal(file.withdraw(threads[3] ?? 0), 0);
  assert.ok(file.share(further).cell > 0);
  file.revoke();
  assert.throws(() => file.share(further), { errno: "ENODEV" });
});
