/** Tests of the table: minors, targets, listeners, stopping. @module */
import assert from "node:assert/strict";
import { DRAIN_MS, MINORS_MAX } from "../../lib/handle/limits.ts";
import { openActive, tableFixture, turn } from "./fixtures.ts";

Deno.test("OpenFileTable.open() gives minors round robin, from 1", async () => {
  const { table } = tableFixture({ minorsMax: 4 });
  const minors: number[] = [];
  for (let count = 0; count < 6; count += 1) {
    const file = openActive(table);
    minors.push(file.minor);
    await file.close();
  }
  assert.deepEqual(minors, [1, 2, 3, 4, 1, 2]);
  const kept = [openActive(table), openActive(table), openActive(table)];
  assert.deepEqual(kept.map(({ minor }) => minor), [3, 4, 1]);
  await kept[0]?.close();
  assert.deepEqual([openActive(table).minor, openActive(table).minor], [2, 3]);
  await table.stop();
});

Deno.test("OpenFileTable.open() fails with ENXIO when all minors are in use", async () => {
  const { table } = tableFixture();
  for (let count = 0; count < MINORS_MAX; count += 1) openActive(table);
  assert.throws(() => openActive(table), { errno: "ENXIO" });
  assert.equal(table.size, MINORS_MAX);
  const file = table.get(40_000);
  file.revoke();
  assert.throws(() => openActive(table), { errno: "ENXIO" }, "it is not released yet");
  await file.released;
  assert.equal(openActive(table).minor, 40_000);
});

Deno.test("OpenFileTable.get() fails with EBADF for what is not open", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  assert.equal(table.get(file.minor), file);
  await file.close();
  for (const minor of [file.minor, 0, -1, 0.5, MINORS_MAX + 1]) {
    assert.throws(() => table.get(minor), { errno: "EBADF" });
    assert.throws(() => table.hold(minor), { errno: "EBADF" });
  }
});

Deno.test("OpenFileTable.revokeTarget() revokes all files of a target, those being opened too", async () => {
  const { table } = tableFixture();
  const [mine, other] = [openActive(table), openActive(table, { target: "u" })];
  const control = openActive(table, { target: null });
  const opening = table.open({ kind: "test", peer: "", target: "t" });
  assert.deepEqual(table.revokeTarget("t"), [mine, opening]);
  assert.equal(opening.activate(), false, "its open has lost the race");
  assert.deepEqual([mine.enter(), opening.enter(), other.enter(), control.enter()], [
    false,
    false,
    true,
    true,
  ]);
  assert.equal(openActive(table).state, "active", "only access was withdrawn");
  other.leave();
  control.leave();
  await table.stop();
});

Deno.test("OpenFileTable.revokeTarget() with refuse lets nobody in until admit()", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  file.enter();
  const files = table.revokeTarget("t", { refuse: true });
  assert.throws(() => openActive(table), { errno: "ENODEV" });
  openActive(table, { target: "u" });
  assert.deepEqual(table.revokeTarget("t", { refuse: true }), files, "as often as one likes");
  const drained = table.drain(files);
  file.leave();
  await drained;
  table.admit("t");
  openActive(table);
  await table.stop();
});

Deno.test("OpenFileTable.observe() hears of openings, states, actions and the end", async () => {
  const { table, log } = tableFixture();
  const heard: string[] = [];
  const deaf = table.observe(() => {
    throw new Error("deaf");
  });
  const stop = table.observe((file, change) =>
    void heard.push(`${file.minor} ${change} ${file.state} ${file.onexit.size} ${table.size}`)
  );
  const file = openActive(table);
  deaf();
  file.onexit.add({ name: "x", run: () => {} });
  file.enter();
  file.revoke();
  file.leave();
  await file.released;
  stop();
  openActive(table);
  assert.deepEqual(heard, [
    "1 opened new 0 1",
    "1 state active 0 1",
    "1 onexit active 1 1",
    "1 state draining 1 1",
    "1 state drained 1 1",
    "1 onexit drained 0 1",
    "1 state released 0 0",
  ]);
  assert.equal(log.lines.length, 2);
  await table.stop();
});

Deno.test("OpenFileTable.stop() refuses new files, kicks, and drains", async () => {
  const { table, log } = tableFixture();
  const kicked: string[] = [];
  const file = openActive(table, { kick: () => void kicked.push("kick") });
  file.enter();
  let stopped = false;
  const stopping = table.stop().then(() => stopped = true);
  assert.throws(() => openActive(table), { errno: "ESHUTDOWN" });
  await turn();
  assert.deepEqual([kicked, stopped, [...table]], [["kick"], false, [file]]);
  file.leave();
  await stopping;
  assert.deepEqual([log.lines, table.size], [[], 0]);
});

Deno.test("OpenFileTable.stop() runs the actions of a file that does not drain", async () => {
  const { table, clock, log } = tableFixture();
  const ran: string[] = [];
  const file = openActive(table, { release: () => void ran.push("release") });
  file.onexit.add({ name: "x", run: () => void ran.push("action") });
  file.enter();
  const stopping = table.stop();
  clock.advance(DRAIN_MS * 1000 - 1);
  await turn();
  assert.deepEqual(ran, []);
  clock.advance(1);
  await stopping;
  assert.deepEqual([ran, file.state], [["action", "release"], "released"]);
  assert.match(log.lines.join(), /Open file 1 is released with operations inside/);
  file.leave();
  await turn();
  assert.deepEqual([ran.length, table.size], [2, 0]);
});
