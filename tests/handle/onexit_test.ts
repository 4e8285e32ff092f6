/** Tests of onexit actions: order, taking back, failures, actions that add actions, limits. @module */
import assert from "node:assert/strict";
import {
  ACTION_MS_MAX,
  ACTION_NAME_LENGTH_MAX,
  ACTIONS_PER_FILE_MAX,
  ACTIONS_WHILE_ENDING_MAX,
} from "../../lib/handle/limits.ts";
import type { Onexit, OnexitAction } from "../../lib/handle/onexit.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { SeededRandom } from "../support/context.ts";
import { openActive, tableFixture, turn } from "./fixtures.ts";

function noting(ran: string[], name: string, rest: Partial<OnexitAction> = {}): OnexitAction {
  return { name, run: () => void ran.push(name), ...rest };
}

Deno.test("onexit actions run in the order in which they were added, each once", async () => {
  const endings: readonly (readonly [string, (file: OpenFile) => unknown])[] = [
    ["close", (file): unknown => file.close()],
    ["revoke", (file): unknown => file.revoke()],
  ];
  for (const [reason, end] of endings) {
    const { table } = tableFixture();
    const file = openActive(table);
    const ran: string[] = [];
    for (const name of ["a", "b", "c"]) {
      file.onexit.add({
        name,
        run: async (call): Promise<void> => {
          ran.push(`${name} begins`);
          await turn();
          assert.deepEqual(call, { minor: file.minor, reason });
          ran.push(`${name} ends`);
        },
      });
    }
    end(file);
    end(file);
    await file.released;
    await file.close();
    assert.deepEqual(ran, ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
    assert.equal(file.ending, reason);
  }
});

Deno.test("onexit actions are run at OpenFileTable.stop()", async () => {
  const { table } = tableFixture();
  const reasons: string[] = [];
  for (let count = 0; count < 3; count += 1) {
    openActive(table).onexit.add({ name: "x", run: ({ reason }) => void reasons.push(reason) });
  }
  await table.stop();
  await table.stop();
  assert.deepEqual(reasons, ["stop", "stop", "stop"]);
  assert.equal(table.size, 0);
});

Deno.test("an onexit action is unlinked before it is called", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  let seen = 0;
  const handle = file.onexit.add({
    name: "a",
    run: async (): Promise<void> => {
      assert.throws(() => file.onexit.data(handle), { errno: "ENOENT" });
      await assert.rejects(file.onexit.remove(handle), { errno: "ENOENT" });
      assert.deepEqual(file.onexit.list().map(({ name }) => name), ["b"]);
      assert.equal(table.get(file.minor), file, "its minor is still its own");
      seen += 1;
    },
  });
  file.onexit.add({ name: "b", run: () => {} });
  await file.close();
  assert.equal(seen, 1);
});

Deno.test("an onexit action that throws is logged and the next one runs", async () => {
  const { table, log } = tableFixture();
  const file = openActive(table);
  const ran: string[] = [];
  file.onexit.add({
    name: "sync",
    run: () => {
      throw new Error("no");
    },
  });
  file.onexit.add({ name: "async", run: () => Promise.reject(new Error("never")) });
  file.onexit.add(noting(ran, "last"));
  await file.close();
  assert.deepEqual(ran, ["last"]);
  assert.deepEqual(log.lines, [
    "error: Onexit action 1 (sync) of open file 1 failed (no)",
    "error: Onexit action 2 (async) of open file 1 failed (never)",
  ]);
});

Deno.test("an onexit action that does not end is given up after ACTION_MS_MAX", async () => {
  const { table, clock, log } = tableFixture();
  const file = openActive(table);
  const ran: string[] = [];
  file.onexit.add({ name: "stuck", run: () => new Promise(() => {}) });
  file.onexit.add(noting(ran, "next"));
  const closed = file.close();
  await turn();
  clock.advance(ACTION_MS_MAX * 1000 - 1);
  await turn();
  assert.deepEqual(ran, []);
  clock.advance(1);
  await closed;
  assert.deepEqual(ran, ["next"]);
  assert.match(log.lines.join(), /stuck.*more than/);
});

Deno.test("onexit actions that actions add run too, up to a limit", async () => {
  const { table, log } = tableFixture();
  const file = openActive(table);
  const ran: string[] = [];
  file.onexit.add(noting(ran, "first", {
    run: () => {
      ran.push("first");
      file.onexit.add(noting(ran, "added"));
    },
  }));
  file.onexit.add(noting(ran, "second"));
  let runs = 0;
  const again: OnexitAction = {
    name: "again",
    run: () => {
      runs += 1;
      file.onexit.add(again);
    },
  };
  await file.close();
  assert.deepEqual(ran, ["first", "second", "added"]);

  const other = openActive(table);
  const forever: OnexitAction = {
    name: "forever",
    run: () => {
      runs += 1;
      other.onexit.add(forever);
    },
  };
  other.onexit.add(forever);
  await other.close();
  assert.equal(runs, ACTIONS_WHILE_ENDING_MAX + 1);
  assert.match(log.lines.join(), /forever.*were added while it ended/);
});

Deno.test("Onexit.add() fails with EBADF once the file is released, and past its limits", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  const action: OnexitAction = { name: "x", run: () => {} };
  const name = "x".repeat(ACTION_NAME_LENGTH_MAX + 1);
  assert.throws(() => file.onexit.add({ ...action, name }), { errno: "ENAMETOOLONG" });
  for (let count = 0; count < ACTIONS_PER_FILE_MAX; count += 1) file.onexit.add(action);
  assert.throws(() => file.onexit.add(action), { errno: "ENOSPC" });
  await file.close();
  assert.throws(() => file.onexit.add(action), { errno: "EBADF" });
  assert.equal(file.onexit.size, 0);
});

Deno.test("Onexit.remove() takes an action back, and runs it if told", async () => {
  const { table } = tableFixture();
  const { onexit, minor, close } = withClose(openActive(table));
  const ran: string[] = [];
  const quiet = onexit.add(noting(ran, "quiet"));
  const fired = onexit.add({
    name: "fired",
    data: 7,
    run: (call) => void ran.push(`${call.reason} ${call.minor}`),
  });
  const broken = onexit.add({ name: "broken", run: () => Promise.reject(new Error("no")) });
  assert.equal(onexit.data(fired), 7);
  assert.equal(onexit.data(quiet), undefined);
  await onexit.remove(quiet);
  assert.deepEqual(ran, []);
  await onexit.remove(fired, { fire: true });
  assert.deepEqual(ran, [`fire ${minor}`]);
  await assert.rejects(onexit.remove(broken, { fire: true }), /no/);
  for (const handle of [quiet, fired, broken, 0, 99, NaN]) {
    assert.throws(() => onexit.data(handle), { errno: "ENOENT" });
    await assert.rejects(onexit.remove(handle), { errno: "ENOENT" });
  }
  await close();
  assert.deepEqual(ran, [`fire ${minor}`]);
});

function withClose(file: OpenFile): { onexit: Onexit; minor: number; close: () => Promise<void> } {
  return { onexit: file.onexit, minor: file.minor, close: () => file.close() };
}

/** Adds, takes back and fires at random, also from inside actions; gives what ran and what should have. */
async function randomLife(seed: number): Promise<readonly [string[], string[]]> {
  const random = new SeededRandom(seed);
  const { table } = tableFixture();
  const file = openActive(table);
  const ran: string[] = [], expected: string[] = [];
  /** Handles in order, with the number of actions that each adds. */
  let model: { handle: number; name: string; adds: number }[] = [];
  let serial = 0;
  const add = (depth: number): void => {
    const name = `${serial += 1}`;
    const adds = depth < 3 ? random.below(3) : 0;
    const fails = random.below(4) === 0;
    const handle = file.onexit.add({
      name,
      data: name,
      run: async (): Promise<void> => {
        ran.push(name);
        if (random.below(2) === 0) await Promise.resolve();
        for (let count = 0; count < adds; count += 1) add(depth + 1);
        if (fails) throw new Error("as planned");
      },
    });
    model.push({ handle, name, adds });
  };
  for (let step = 0; step < 20; step += 1) {
    const kind = random.below(4);
    const picked = model[random.below(Math.max(1, model.length))];
    if (kind < 2 || picked === undefined) {
      add(0);
      continue;
    }
    assert.equal(file.onexit.data(picked.handle), picked.name);
    model = model.filter((each) => each !== picked);
    if (kind === 2) await file.onexit.remove(picked.handle);
    else {
      expected.push(picked.name);
      await file.onexit.remove(picked.handle, { fire: true }).catch(() => {});
    }
    assert.deepEqual(file.onexit.list().map(({ name }) => name), model.map(({ name }) => name));
  }
  if (random.below(2) === 0) file.revoke();
  await file.close();
  // What actions have added went behind everything that was there, in the order of the runs.
  expected.push(...model.map(({ name }) => name));
  return [ran, expected];
}

Deno.test("onexit actions keep their order over random lives", async () => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const [ran, expected] = await randomLife(seed);
    assert.deepEqual(ran, expected, `seed ${seed}`);
    assert.equal(new Set(ran).size, ran.length, `seed ${seed}: each once`);
  }
});
