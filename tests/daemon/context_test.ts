/** The context of the real world. @module */
import assert from "node:assert/strict";
import { systemClock, systemContext, systemRandom } from "../../lib/daemon/context.ts";
import { MemoryLog } from "../support/context.ts";

Deno.test("systemClock.sleep() ends early with the reason of its signal, and leaves no timer", async () => {
  const reason = new Error("enough");
  await assert.rejects(
    systemClock.sleep(1e6, AbortSignal.abort(reason)),
    (error) => error === reason,
  );
  const stop = new AbortController();
  const sleeping = systemClock.sleep(1e6, stop.signal);
  stop.abort(reason);
  await assert.rejects(sleeping, (error) => error === reason);
  await systemClock.sleep(0, new AbortController().signal);
});

Deno.test("systemClock.now() counts µs and never goes back", () => {
  const ms = performance.now(), us = systemClock.now();
  assert.ok(us >= ms * 1000 && us < ms * 1000 + 1e6);
  assert.ok(systemClock.now() >= us);
});

Deno.test("systemRandom.fill() fills more than the platform gives at once", () => {
  const bytes = new Uint8Array(200_001);
  systemRandom.fill(bytes);
  for (const part of [bytes.subarray(0, 64), bytes.subarray(65_536, 65_600), bytes.subarray(-64)]) {
    assert.ok(new Set(part).size > 10);
  }
  const number = systemRandom.uint32();
  assert.ok(Number.isInteger(number) && number >= 0 && number < 2 ** 32);
});

Deno.test("systemContext() is for writing and must not block, unless told otherwise", () => {
  const log = new MemoryLog();
  const { readOnly, mayBlock, signal } = systemContext({ log });
  assert.deepEqual([readOnly, mayBlock, signal.aborted], [false, false, false]);
  const told = systemContext({ log, readOnly: true, mayBlock: true });
  assert.deepEqual([told.readOnly, told.mayBlock], [true, true]);
});
