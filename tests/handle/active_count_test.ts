/** Model checks of the active count: random interleavings in one thread. @module */
import assert from "node:assert/strict";
import { ActiveCount, activeCountMemory, type FileState } from "../../lib/handle/active_count.ts";
import { SHARES_PER_FILE_MAX } from "../../lib/handle/limits.ts";
import { SeededRandom } from "../support/context.ts";

const THREADS = 3;
const ROUNDS = 2_000;
const STEPS = 60;

/** What an active count should be: plain numbers. */
class Model {
  state: FileState = "new";
  readonly inside: number[] = new Array<number>(THREADS).fill(0);
  /** Threads that were withdrawn. */
  readonly dead = new Set<number>();
  /** Calls that were told that it was they who did it. */
  activations = 0;
  deactivations = 0;
  drains = 0;
  releases = 0;

  get total(): number {
    return this.inside.reduce((sum, count) => sum + count, 0);
  }

  get ended(): boolean {
    return this.state !== "new" && this.state !== "active";
  }
}

type Step = (model: Model, count: ActiveCount, thread: number) => void;

const STEP_TABLE: readonly Step[] = [
  (model, count, thread): void => {
    const entered = count.enter();
    const may = model.state === "active" && !model.dead.has(thread);
    assert.equal(entered, may, `enter in state ${model.state}`);
    if (entered) model.inside[thread] = (model.inside[thread] ?? 0) + 1;
  },
  (model, count, thread): void => {
    const inside = model.inside[thread] ?? 0;
    if (inside === 0) {
      assert.throws(() => count.leave(), /not inside/);
      return;
    }
    assert.equal(count.leave(), model.ended);
    model.inside[thread] = inside - 1;
  },
  (model, count): void => {
    const done = count.activate();
    assert.equal(done, model.state === "new");
    if (!done) return;
    model.state = "active";
    model.activations += 1;
  },
  (model, count): void => {
    const done = count.deactivate();
    assert.equal(done, !model.ended);
    if (!done) return;
    model.state = "draining";
    model.deactivations += 1;
  },
  (model, count): void => {
    const done = count.settle();
    assert.equal(done, model.state === "draining" && model.total === 0);
    if (!done) return;
    model.state = "drained";
    model.drains += 1;
  },
  (model, count): void => {
    const done = count.release();
    assert.equal(done, model.state === "drained");
    if (!done) return;
    model.state = "released";
    model.releases += 1;
  },
  (model, count, thread): void => {
    assert.equal(count.withdraw(thread), model.inside[thread]);
    model.inside[thread] = 0;
    model.dead.add(thread);
  },
  (model, count, thread): void => {
    if (model.dead.delete(thread)) count.admit(thread);
  },
];
/** Entering and leaving are most of the life. */
const WEIGHTS: readonly number[] = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7];

function round(seed: number): Model {
  const random = new SeededRandom(seed);
  const memory = activeCountMemory();
  const counts = Array.from({ length: THREADS }, (_, cell) => new ActiveCount(memory, cell));
  const model = new Model();
  for (let step = 0; step < STEPS; step += 1) {
    const thread = random.below(THREADS);
    const count = counts[thread];
    const run = STEP_TABLE[WEIGHTS[random.below(WEIGHTS.length)] ?? 0];
    assert.ok(count !== undefined && run !== undefined);
    run(model, count, thread);
    assert.equal(count.state, model.state);
    assert.equal(count.total, model.total);
  }
  return model;
}

Deno.test("ActiveCount does what the model does over random interleavings", () => {
  const seen = new Set<FileState>();
  let fromNew = 0;
  for (let seed = 1; seed <= ROUNDS; seed += 1) {
    let model: Model;
    try {
      model = round(seed);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
    seen.add(model.state);
    if (model.releases > 0 && model.activations === 0) fromNew += 1;
    for (const times of [model.activations, model.deactivations, model.drains, model.releases]) {
      assert.ok(times <= 1, `seed ${seed}`);
    }
  }
  assert.ok(seen.has("released") && seen.has("draining") && fromNew > 0, "rounds cover the states");
});

Deno.test("ActiveCount.activate() does not undo a deactivation that came first", () => {
  const memory = activeCountMemory();
  const count = new ActiveCount(memory, 0);
  assert.equal(count.deactivate(), true);
  assert.equal(count.activate(), false);
  assert.equal(count.enter(), false);
  assert.equal(count.settle(), true);
  assert.equal(count.release(), true);
  assert.equal(count.state, "released");
});

Deno.test("ActiveCount.abandon() releases what will never be drained, once", () => {
  const count = new ActiveCount(activeCountMemory(), 0);
  count.activate();
  count.enter();
  assert.equal(count.abandon(), false);
  count.deactivate();
  assert.equal(count.abandon(), true);
  assert.equal(count.abandon(), false);
  assert.equal(count.release(), false);
  count.leave();
  assert.equal(count.settle(), false);
});

Deno.test("ActiveCount.woken() resolves at once when something has left since", async () => {
  const count = new ActiveCount(activeCountMemory(), 1);
  count.activate();
  count.enter();
  count.deactivate();
  const { wakes } = count;
  count.leave();
  await count.woken(wakes, 3_600_000);
  assert.equal(count.total, 0);
});

Deno.test("ActiveCount() refuses a cell that there is not", () => {
  for (const cell of [-1, 0.5, SHARES_PER_FILE_MAX + 1]) {
    assert.throws(() => new ActiveCount(activeCountMemory(), cell), RangeError);
  }
});
