/**
 * A store that waits for the one below: how waiting ends.
 *
 * @module
 */
import assert from "node:assert/strict";
import { LAST_CALL_MS } from "../../lib/object_store/limits.ts";
import { patientStore } from "../../lib/object_store/patience.ts";
import { type ObjectStore, StoreError } from "../../lib/object_store/types.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { MemoryBucket, MemoryStore } from "../support/memory_store.ts";

/** A store whose GETs are answered by the test. */
class HeldStore extends MemoryStore {
  readonly held: PromiseWithResolvers<null>[] = [];

  override get(
    _key: string,
    _range?: unknown,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<null> {
    const held = Promise.withResolvers<null>();
    signal?.addEventListener("abort", () => held.reject(signal.reason));
    this.held.push(held);
    return held.promise;
  }
}

const AWAY = new StoreError("unavailable", "Cannot get it: nobody is there");

function setting(): {
  readonly below: HeldStore;
  readonly store: ObjectStore;
  readonly clock: ManualClock;
  readonly log: MemoryLog;
  readonly end: AbortController;
} {
  const below = new HeldStore(new MemoryBucket()), end = new AbortController();
  const clock = new ManualClock(), log = new MemoryLog();
  const store = patientStore(below, { clock, log, random: seededRandom(1), signal: end.signal });
  store.beginToWait();
  return { below, store, clock, log, end };
}

/** Lets everything run that waits for nothing. */
function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

Deno.test("patientStore() makes a call again until it succeeds, and says so", async () => {
  const { below, store, clock, log } = setting();
  const done = store.get("a");
  for (let round = 0; round < 3; round += 1) {
    below.held[round]?.reject(AWAY);
    await settle();
    clock.advance(15_000_000);
    await settle();
  }
  assert.equal(below.held.length, 4);
  below.held[3]?.resolve(null);
  assert.equal(await done, null);
  assert.deepEqual(log.lines, [
    "error: memory: I/O is held until this passes: Cannot get it: nobody is there",
    "info: memory: it works again, I/O goes on after 45 s",
  ]);
});

Deno.test("patientStore() fails with what was wrong when waiting ends, and waits no more", async () => {
  const { below, store, end } = setting();
  const waits = assert.rejects(store.get("a"), AWAY);
  below.held[0]?.reject(AWAY);
  await settle();
  end.abort(new Error("the end"));
  await settle();
  assert.equal(below.held.length, 2, "it is tried once more");
  below.held[1]?.reject(AWAY);
  await waits;
  const next = assert.rejects(store.get("a"), AWAY);
  below.held[2]?.reject(AWAY);
  await next;
  assert.equal(below.held.length, 3);
});

Deno.test("patientStore() gives calls a time of their own when waiting ends", async () => {
  const { below, store, clock, end } = setting();
  const slow = store.get("a");
  const never = assert.rejects(
    store.get("b"),
    /^BlockError: memory does not answer: given up after 20 s$/,
  );
  clock.advance(1e9);
  end.abort(new Error("the end"));
  await settle();
  clock.advance(LAST_CALL_MS * 1000 - 1);
  await settle();
  below.held[0]?.resolve(null);
  assert.equal(await slow, null, "one that is slow is not cut off");
  const late = assert.rejects(store.get("c"), { errno: "ETIMEDOUT" });
  clock.advance(1);
  await never;
  clock.advance(LAST_CALL_MS * 1000);
  await late;
});
