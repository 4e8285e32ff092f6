/**
 * The object store in memory that simulations use: its semantics and each of its faults.
 *
 * @module
 */
import assert from "node:assert/strict";
import { checkKey, StoreError } from "../../lib/object_store/types.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { ManualClock } from "../support/context.ts";
import {
  type Fate,
  MemoryBucket,
  MemoryStore,
  PLAIN_PLAN,
  randomPlan,
  type StorePlan,
} from "../support/memory_store.ts";

const BODY = [Uint8Array.of(1, 2), Uint8Array.of(3)];

function always(fate: Fate): StorePlan {
  return { ...PLAIN_PLAN, fate: () => fate };
}

function isUnclear(error: unknown): boolean {
  return error instanceof StoreError && error.kind === "unclear";
}

async function keysOf(store: MemoryStore, prefix: string, after?: string): Promise<string[]> {
  const keys: string[] = [];
  const options = after === undefined ? {} : { after };
  for await (const { key } of store.list(prefix, options)) keys.push(key);
  return keys;
}

Deno.test("MemoryStore creates once, reads ranges, lists in order and deletes", async () => {
  const store = new MemoryStore(new MemoryBucket());
  assert.equal(await store.create("log/2", BODY), "created");
  assert.equal(await store.create("log/2", [Uint8Array.of(9)]), "exists");
  assert.deepEqual(await store.get("log/2"), Uint8Array.of(1, 2, 3));
  assert.deepEqual(await store.get("log/2", { offset: 1, length: 9 }), Uint8Array.of(2, 3));
  assert.deepEqual(await store.get("log/2", { offset: 3, length: 1 }), new Uint8Array());
  assert.equal(await store.get("log/3"), null);
  await store.create("log/1", BODY);
  await store.create("ckpt/1", BODY);
  assert.deepEqual(await keysOf(store, "log/"), ["log/1", "log/2"]);
  assert.deepEqual(await keysOf(store, "log/", "log/1"), ["log/2"]);
  await store.delete(["log/1", "log/9"]);
  assert.deepEqual(await keysOf(store, ""), ["ckpt/1", "log/2"]);
  assert.equal(store.counts.puts, 4);
});

Deno.test("MemoryStore lists all pages when there are many objects", async () => {
  const store = new MemoryStore(new MemoryBucket());
  for (let at = 0; at < 2001; at += 1) {
    await store.create(`log/${String(at).padStart(4, "0")}`, BODY);
  }
  const keys = await keysOf(store, "log/");
  assert.equal(keys.length, 2001);
  assert.deepEqual(keys, keys.toSorted());
});

Deno.test("MemoryStore fails as its plan says, with the effect that belongs to it", async () => {
  const bucket = new MemoryBucket();
  const store = new MemoryStore(bucket, always({ fail: "full" }));
  await assert.rejects(store.create("a", BODY), (error: unknown) => {
    return error instanceof StoreError && error.kind === "full" && error.errno === "ENOSPC";
  });
  store.plan = always("unclear");
  await assert.rejects(store.create("a", BODY), isUnclear);
  assert.equal(bucket.peek("a"), null);
  store.plan = always("lost-reply");
  await assert.rejects(store.create("a", BODY), isUnclear);
  assert.notEqual(bucket.peek("a"), null);
});

Deno.test("MemoryStore lets a late creation take effect when its plan lets it", async () => {
  const bucket = new MemoryBucket();
  const { promise, resolve } = Promise.withResolvers<void>();
  const plan: StorePlan = {
    fate: () => "late",
    pass: (_, point) => point === "late" ? promise : undefined,
  };
  await assert.rejects(new MemoryStore(bucket, plan).create("a", BODY), isUnclear);
  assert.equal(bucket.peek("a"), null);
  resolve();
  await promise;
  assert.deepEqual(bucket.peek("a"), Uint8Array.of(1, 2, 3));
});

Deno.test("MemoryStore holds a call before and after its effect when its plan does", async () => {
  const bucket = new MemoryBucket();
  const gates = { before: Promise.withResolvers<void>(), after: Promise.withResolvers<void>() };
  const reached: string[] = [];
  const store = new MemoryStore(bucket, {
    fate: () => "done",
    pass: (call, point) => {
      reached.push(`${call.verb} ${call.key} ${point}`);
      return point === "late" ? undefined : gates[point].promise;
    },
  });
  const created = store.create("a", BODY);
  assert.equal(bucket.peek("a"), null);
  gates.before.resolve();
  await gates.before.promise;
  assert.notEqual(bucket.peek("a"), null);
  assert.deepEqual(reached, ["create a before", "create a after"]);
  gates.after.resolve();
  assert.equal(await created, "created");
});

Deno.test("randomPlan() gives the same faults when the seed is the same", () => {
  const rates = { fail: 5, unclear: 5, lostReply: 5, late: 5 };
  const fates = (seed: number): Fate[] => {
    const plan = randomPlan(seededRandom(seed), new ManualClock(), rates);
    return Array.from(
      { length: 200 },
      (_, number) => plan.fate({ client: "a", number, verb: "create", key: "a" }),
    );
  };
  assert.deepEqual(fates(1), fates(1));
  assert.notDeepEqual(fates(1), fates(2));
  assert.equal(new Set(fates(1).map((fate) => JSON.stringify(fate))).size, 5);
});

Deno.test("checkKey() refuses what is no key everywhere", () => {
  for (const key of ["a", "log/00ff", "snap/my-name.1", "a_b/c"]) checkKey(key);
  for (
    const key of ["", "/a", "a/", "a//b", "A", "a b", "../a", "a/..", "a/.b", "é", "a".repeat(201)]
  ) {
    assert.throws(() => checkKey(key), { errno: "EINVAL" }, key);
  }
});
