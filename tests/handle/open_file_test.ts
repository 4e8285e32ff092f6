/** Tests of open files in one thread: revoke, drain, hold, release. @module */
import assert from "node:assert/strict";
import {
  DRAIN_MS,
  DRAIN_MS_MAX,
  HOLD_MS_MAX,
  HOLDS_PER_FILE_MAX,
} from "../../lib/handle/limits.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { openActive, tableFixture, turn } from "./fixtures.ts";

/** What becomes of a promise, without waiting for it. */
function watch(promise: Promise<unknown>): { state: string } {
  const watched = { state: "waits" };
  promise.then(() => watched.state = "done", (error) => watched.state = String(error.errno));
  return watched;
}

Deno.test("OpenFile.enter() works in state active alone", async () => {
  const { table } = tableFixture();
  const file = table.open({ kind: "test", peer: "", target: null });
  const seen: [string, boolean][] = [];
  const look = (): void => {
    const entered = file.enter();
    seen.push([file.state, entered]);
    if (entered && file.state === "active") file.leave();
  };
  look();
  assert.equal(file.activate(), true);
  assert.equal(file.activate(), false);
  look();
  file.enter();
  file.revoke();
  look();
  file.leave();
  look();
  await file.released;
  look();
  assert.deepEqual(seen, [
    ["new", false],
    ["active", true],
    ["draining", false],
    ["drained", false],
    ["released", false],
  ]);
  assert.throws(() => file.leave(), /not inside/);
});

Deno.test("OpenFile.revoke() goes straight from new to its end", async () => {
  const { table } = tableFixture();
  const done: string[] = [];
  const file = table.open({
    kind: "test",
    peer: "",
    target: null,
    kick: () => void done.push("kick"),
    release: () => void done.push("release"),
  });
  file.onexit.add({ name: "a", run: () => void done.push("action") });
  assert.equal(file.revoke(), true);
  assert.equal(file.activate(), false);
  assert.equal(file.enter(), false);
  await file.released;
  assert.deepEqual(done, ["kick", "action", "release"]);
});

Deno.test("OpenFile.revoke() is idempotent, does not wait, and kicks between revoke and drain", async () => {
  const { table, log } = tableFixture();
  const seen: unknown[] = [];
  const file: OpenFile = openActive(table, {
    kick: () => {
      seen.push(file.state, file.enter(), file.active);
      throw new Error("nobody sleeps");
    },
  });
  file.enter();
  assert.equal(file.revoke(), true);
  assert.equal(file.revoke(), false);
  assert.deepEqual(seen, ["draining", false, 1]);
  assert.match(log.lines.join(), /cannot wake.*nobody sleeps/);
  assert.equal(file.ending, "revoke");
  file.leave();
  await file.released;
});

Deno.test("OpenFile.close() does not kick, and does nothing more after a revoke", async () => {
  const { table } = tableFixture();
  const done: string[] = [];
  const kick = (): void => void done.push("kick");
  const release = (): void => void done.push("release");
  await openActive(table, { kick, release }).close();
  assert.deepEqual(done, ["release"]);
  const file = openActive(table, { kick, release });
  file.revoke();
  await Promise.all([file.close(), file.close()]);
  await file.close();
  assert.deepEqual(done, ["release", "kick", "release"]);
  assert.equal(file.ending, "revoke");
});

Deno.test("OpenFile.drain() resolves for all its callers when the last one has left", async () => {
  const { table } = tableFixture();
  const released: string[] = [];
  const file = openActive(table, { release: () => void released.push("released") });
  for (let count = 0; count < 3; count += 1) file.enter();
  assert.throws(() => file.drain(), { errno: "EINVAL" });
  file.revoke();
  const drains = [watch(file.drain()), watch(file.drain())];
  for (let count = 0; count < 3; count += 1) {
    await turn();
    assert.deepEqual(drains.map(({ state }) => state), ["waits", "waits"]);
    file.leave();
    assert.deepEqual(released, [], "not in the middle of leaving");
  }
  await turn();
  assert.deepEqual(drains.map(({ state }) => state), ["done", "done"]);
  assert.deepEqual(released, ["released"]);
  await file.drain();
});

Deno.test("OpenFile.drain() gives up at its limit, and the file goes on draining", async () => {
  const { table, clock } = tableFixture();
  const file = openActive(table);
  file.enter();
  file.revoke();
  const short = watch(file.drain({ limit_ms: 5 })), usual = watch(file.drain());
  clock.advance(5_000);
  await turn();
  assert.deepEqual([short.state, usual.state], ["ETIMEDOUT", "waits"]);
  clock.advance(DRAIN_MS * 1000);
  await turn();
  assert.deepEqual([usual.state, file.state], ["ETIMEDOUT", "draining"]);
  for (const limit_ms of [-1, NaN, DRAIN_MS_MAX + 1]) {
    await assert.rejects(file.drain({ limit_ms }), RangeError);
  }
  file.leave();
  await file.released;
});

Deno.test("OpenFile.drainSelf() ignores the references of those who wait in it", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  for (let count = 0; count < 4; count += 1) file.enter();
  file.revoke();
  const one = watch(file.drainSelf()), two = watch(file.drainSelf({ references: 2 }));
  await turn();
  assert.deepEqual([one.state, two.state], ["waits", "waits"]);
  file.leave();
  await turn();
  assert.deepEqual([one.state, two.state, file.state], ["done", "done", "draining"]);
  const again = watch(file.drainSelf());
  for (const expected of ["waits", "waits", "done"]) {
    await turn();
    assert.equal(again.state, expected);
    if (file.active > 1) file.leave();
  }
  assert.equal(file.state, "draining");
  file.leave();
  await file.released;
});

Deno.test("OpenFile.hold() delays the release, and an action added meanwhile runs", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  const hold = table.hold(file.minor);
  assert.deepEqual([hold.minor, hold.file, file.active], [file.minor, file, 1]);
  const closed = watch(file.close());
  await turn();
  assert.equal(closed.state, "waits");
  assert.throws(() => table.hold(file.minor), { errno: "ENODEV" });
  let runs = 0;
  table.get(hold.minor).onexit.add({ name: "late", run: () => void (runs += 1) });
  hold.giveBack();
  hold.giveBack();
  hold[Symbol.dispose]();
  await file.released;
  assert.equal(runs, 1);
  assert.throws(() => table.hold(file.minor), { errno: "EBADF" });
  assert.throws(() => file.hold(), { errno: "EBADF" });
});

Deno.test("OpenFile.hold() is withdrawn HOLD_MS_MAX after the end of the file", async () => {
  const { table, clock, log } = tableFixture();
  const file = openActive(table);
  const holds = [file.hold(), file.hold()];
  clock.advance(HOLD_MS_MAX * 2000);
  file.revoke();
  clock.advance(HOLD_MS_MAX * 1000 - 1);
  await turn();
  assert.equal(file.state, "draining");
  clock.advance(1);
  await file.released;
  assert.match(log.lines.join(), /warn: .*2 hold\(s\) on it are withdrawn/);
  for (const hold of holds) hold.giveBack();
  assert.equal(file.active, 0);
});

Deno.test("OpenFile.hold() withdrawn does not let operations go", async () => {
  const { table, clock } = tableFixture();
  const file = openActive(table);
  file.hold();
  file.enter();
  file.revoke();
  clock.advance(HOLD_MS_MAX * 1000);
  await turn();
  assert.deepEqual([file.state, file.active], ["draining", 1]);
  file.leave();
  await file.released;
});

Deno.test("OpenFile.hold() has a limit", async () => {
  const { table } = tableFixture();
  const file = openActive(table);
  const holds = Array.from({ length: HOLDS_PER_FILE_MAX }, () => file.hold());
  assert.throws(() => file.hold(), { errno: "EMFILE" });
  for (const hold of holds) hold.giveBack();
  file.hold().giveBack();
  await file.close();
});
