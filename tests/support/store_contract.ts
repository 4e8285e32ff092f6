/**
 * What every object store has to do, as tests that run against each of them.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { ObjectStore } from "../../lib/object_store/types.ts";
import { seededRandom } from "../../lib/testing/random.ts";

/** Keys of a store under a prefix. */
export async function keysOf(
  store: ObjectStore,
  prefix: string,
  after?: string,
): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix, after === undefined ? {} : { after })) {
    keys.push(key);
  }
  return keys;
}

/** Bytes that a seed gives. */
export function bytesOf(seed: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  seededRandom(seed).fill(bytes);
  return bytes;
}

async function createsOnce(store: ObjectStore): Promise<void> {
  const first = bytesOf(1, 70_000);
  const parts = [first.subarray(0, 1), first.subarray(1, 40_000), first.subarray(40_000)];
  assert.equal(await store.create("log/0001", parts), "created");
  assert.equal(await store.create("log/0001", [bytesOf(2, 10)]), "exists");
  assert.deepEqual(await store.get("log/0001"), first);
  assert.equal(await store.create("empty", []), "created");
  assert.deepEqual(await store.get("empty"), new Uint8Array());
  assert.equal(await store.get("log/0002"), null);
}

async function readsRanges(store: ObjectStore): Promise<void> {
  const body = bytesOf(3, 5000);
  await store.create("range", [body]);
  const cases = [[0, 1], [0, 5000], [1000, 100], [4999, 1], [4990, 100], [5000, 10], [9000, 1]];
  for (const [offset = 0, length = 0] of cases) {
    const found = await store.get("range", { offset, length });
    assert.deepEqual(found, body.slice(offset, offset + length), `${offset}+${length}`);
  }
  assert.equal(await store.get("no-range", { offset: 0, length: 1 }), null);
}

async function racesToOneWinner(store: ObjectStore): Promise<void> {
  for (const round of [1, 2, 3]) {
    const bodies = Array.from({ length: 8 }, (_, index) => bytesOf(100 + index, 3000));
    const results = await Promise.all(bodies.map((body) => store.create(`race/${round}`, [body])));
    assert.equal(results.filter((result) => result === "created").length, 1);
    const winner = bodies[results.indexOf("created")];
    assert.deepEqual(await store.get(`race/${round}`), winner);
  }
}

async function listsInOrder(store: ObjectStore, pages: number): Promise<void> {
  const keys = ["a-b", "a.b", "a/b", "a/c/d", "a0", "ab", "b/1", "b/2", "b/20"];
  for (const key of keys.toReversed()) await store.create(`order/${key}`, [bytesOf(1, key.length)]);
  const all = keys.map((key) => `order/${key}`).toSorted();
  assert.deepEqual(await keysOf(store, "order/"), all);
  assert.deepEqual(await keysOf(store, "order/a"), all.filter((key) => key < "order/b"));
  assert.deepEqual(await keysOf(store, "order/b/2"), ["order/b/2", "order/b/20"]);
  for (const after of all) {
    assert.deepEqual(await keysOf(store, "order/", after), all.filter((key) => key > after));
  }
  assert.deepEqual(await keysOf(store, "nothing/"), []);
  for await (const { key, size } of store.list("order/")) {
    assert.equal(size, key.length - "order/".length);
  }
  const many = Array.from({ length: pages }, (_, at) => `many/${String(at).padStart(5, "0")}`);
  for (let at = 0; at < many.length; at += 50) {
    await Promise.all(many.slice(at, at + 50).map((key) => store.create(key, [])));
  }
  assert.deepEqual(await keysOf(store, "many/"), many);
}

async function deletes(store: ObjectStore): Promise<void> {
  const keys = ["gone/1", "gone/2", "gone/3", "gone/4"];
  for (const key of keys) await store.create(key, [bytesOf(4, 4)]);
  await store.delete(["gone/1", "gone/3", "gone/none"]);
  await store.delete([]);
  assert.deepEqual(await keysOf(store, "gone/"), ["gone/2", "gone/4"]);
  assert.equal(await store.get("gone/1"), null);
  await store.delete(["gone/2"]);
  assert.equal(await store.create("gone/1", [bytesOf(5, 5)]), "created");
  assert.deepEqual(await store.get("gone/1"), bytesOf(5, 5));
}

async function givesUp(store: ObjectStore): Promise<void> {
  const reason = new Error("given up");
  const signal = AbortSignal.abort(reason);
  const calls = [
    () => store.create("aborted", [bytesOf(1, 1)], { signal }),
    () => store.get("aborted", undefined, { signal }),
    () => store.delete(["aborted"], { signal }),
    () => keysOf({ ...store, list: (prefix) => store.list(prefix, { signal }) }, ""),
  ];
  for (const call of calls) {
    await assert.rejects(call, (error: unknown) => error === reason);
  }
  assert.equal(await store.get("aborted"), null);
}

/** The whole contract, on a store that is empty. `entries` is how many objects one listing gives. */
export async function checkStore(store: ObjectStore, { entries = 1001 } = {}): Promise<void> {
  assert.deepEqual(await keysOf(store, ""), []);
  await createsOnce(store);
  await readsRanges(store);
  await racesToOneWinner(store);
  await listsInOrder(store, entries);
  await deletes(store);
  await givesUp(store);
  await assert.rejects(() => store.create("../up", []), { errno: "EINVAL" });
  await assert.rejects(() => store.get("A"), { errno: "EINVAL" });
  const { counts } = store;
  assert.ok(counts.puts > entries && counts.gets > 10 && counts.lists > 10 && counts.deletes >= 2);
  assert.ok(counts.bytesOut > 70_000 && counts.bytesIn > 70_000);
  assert.equal(counts.retries, 0);
}
