/**
 * Simulated targets as files: long reads and writes that come in pieces, opening, removal.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BufferPool } from "../../lib/block/pool.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { type SimulatedTree, simulatedTree } from "../../lib/daemon/simulate_tree.ts";
import type { DiskFile, Folder, FuseNode, StreamFile, StreamHandle } from "../../lib/fuse/tree.ts";
import { ManualClock, MemoryLog, SeededRandom } from "../support/context.ts";

const PEER = { pid: 1, uid: 0, gid: 0 };
const ENOTBLK = -15, EINVAL = -22;
const SIZE = 8192;

function treeOf(...names: readonly string[]): SimulatedTree {
  return simulatedTree({
    targets: names.map((name) => ({ name, size: SIZE })),
    behaviour: {},
    clock: new ManualClock(),
    random: new SeededRandom(1),
    log: new MemoryLog(),
    pool: new BufferPool(),
  });
}

function nodeOf(tree: SimulatedTree, folder: string, name: string): FuseNode | undefined {
  return folderOf(tree, folder).entries.get(name);
}

function folderOf({ root }: SimulatedTree, name: string): Folder {
  const node = root.entries.get(name);
  assert.ok(node?.kind === "folder");
  return node;
}

function controlOf(tree: SimulatedTree, name: string): StreamFile {
  const node = nodeOf(tree, "dm-user", name);
  assert.ok(node?.kind === "stream");
  return node;
}

function diskOf(tree: SimulatedTree, name: string): DiskFile {
  const node = nodeOf(tree, "disk", name);
  assert.ok(node?.kind === "disk");
  return node;
}

function callOf(continuation: boolean): Parameters<StreamHandle["read"]>[1] {
  return { signal: new AbortController().signal, nonBlocking: false, continuation };
}

const FRESH = callOf(false), NEXT = callOf(true);

function answer(seq: number, data: Uint8Array = new Uint8Array()): Uint8Array {
  const bytes = new Uint8Array(40 + data.length);
  bytes[0] = seq;
  bytes.set(data, 40);
  return bytes;
}

Deno.test("a long read ends with the message, though others are queued", async () => {
  const tree = treeOf("a");
  const disk = diskOf(tree, "a").open(PEER), control = controlOf(tree, "a").open(PEER);
  const data = new Uint8Array(1024).fill(9);
  const writes = [0, 1024].map((offset) =>
    disk.device.submit(makeRequest("write", offset, data.length, { data }))
  );
  const into = new Uint8Array(4096);
  assert.equal(await control.read(into, FRESH), 40);
  assert.equal(await control.read(into.subarray(0, 512), FRESH), 512);
  assert.equal(await control.read(into, NEXT), 512);
  assert.equal(await control.read(into, NEXT), 0);
  assert.equal(await control.read(into, FRESH), 40, "the next message");
  assert.equal(control.write(answer(0), FRESH), 40);
  await writes[0];
  control.close();
  await assert.rejects(Promise.resolve(writes[1]), { errno: "EIO" });
  disk.close();
});

Deno.test("a long write ends with the message, in whatever pieces it comes", async () => {
  const tree = treeOf("a");
  const disk = diskOf(tree, "a").open(PEER), control = controlOf(tree, "a").open(PEER);
  const data = new Uint8Array(1024);
  const reads = [0, 1].map(() => disk.device.submit(makeRequest("read", 0, 1024, { data })));
  const into = new Uint8Array(40);
  assert.equal(await control.read(into, FRESH), 40);
  assert.equal(await control.read(into, FRESH), 40);
  const whole = answer(0, new Uint8Array(1024).fill(5));
  assert.equal(control.write(whole.subarray(0, 17), FRESH), 17);
  assert.equal(control.write(whole.subarray(17, 500), NEXT), 483);
  assert.equal(control.write(whole.subarray(500), NEXT), 564);
  await reads[0];
  assert.deepEqual(data, new Uint8Array(1024).fill(5));
  // The second answer is for the next write(2).
  assert.equal(control.write(answer(1), NEXT), 0);
  assert.equal(control.write(answer(7), FRESH), 40, "a wrong seq");
  assert.equal(control.write(answer(1), FRESH), EINVAL);
  control.close();
  await assert.rejects(Promise.resolve(reads[1]), { errno: "EIO" });
});

Deno.test("a signal ends a read that waits, and takes nothing", async () => {
  const tree = treeOf("a");
  const control = controlOf(tree, "a").open(PEER);
  const stop = new AbortController();
  const into = new Uint8Array(40);
  const waiting = control.read(into, { ...FRESH, signal: stop.signal });
  stop.abort();
  assert.equal(await waiting, -4);
  const disk = diskOf(tree, "a").open(PEER);
  const flushed = disk.device.submit(makeRequest("flush"));
  assert.equal(await control.read(into, FRESH), 40);
  control.write(answer(0), FRESH);
  await flushed;
});

Deno.test("unlink() of a disk removes its target, unless it is open", async () => {
  const tree = treeOf("a", "b");
  const folder = folderOf(tree, "disk");
  const disk = diskOf(tree, "a").open(PEER), file = controlOf(tree, "a");
  assert.throws(() => folder.unlink?.("a"), { errno: "EBUSY" });
  disk.close();
  const control = file.open(PEER);
  const reading = control.read(new Uint8Array(40), FRESH);
  folder.unlink?.("a");
  assert.equal(await reading, ENOTBLK);
  assert.throws(() => file.open(PEER), { errno: "ENOENT" });
  assert.deepEqual([...folder.entries.keys()], ["b"]);
  assert.deepEqual([...folderOf(tree, "dm-user").entries.keys()], ["b"]);
  assert.equal(
    folderOf(tree, "dm-user").unlink,
    undefined,
    "a control device goes with its target",
  );
});

Deno.test("removeAll() removes targets that are in use", async () => {
  const tree = treeOf("a", "b");
  const disk = diskOf(tree, "a").open(PEER), control = controlOf(tree, "b").open(PEER);
  const written = disk.device.submit(makeRequest("flush"));
  const reading = control.read(new Uint8Array(40), FRESH);
  tree.removeAll();
  await assert.rejects(Promise.resolve(written), { errno: "EIO" });
  assert.equal(await reading, ENOTBLK);
  assert.equal(folderOf(tree, "disk").entries.size, 0);
  disk.close();
});

Deno.test("simulatedTree() refuses a name that is there twice", () => {
  assert.throws(() => treeOf("a", "a"), { name: "BlockError" });
});
