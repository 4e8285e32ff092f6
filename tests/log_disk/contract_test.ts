/**
 * The contract of a backend, kept by a log-structured disk on a store in memory.
 *
 * @module
 */
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { LogDisk } from "../../lib/log_disk/log_disk.ts";
import { contractTests, testContext } from "../../lib/testing/mod.ts";
import { MemoryBucket, MemoryStore } from "../support/memory_store.ts";

let bucket = new MemoryBucket();
let host = new AbortController();

async function open(): Promise<LogDisk> {
  bucket = new MemoryBucket();
  await createVolume(new MemoryStore(bucket), { diskBytes: 2 ** 25 }, testContext());
  return await reopen();
}

function reopen(): Promise<LogDisk> {
  host = new AbortController();
  return LogDisk.attach(new MemoryStore(bucket), testContext({ signal: host.signal }));
}

/** What a crash at this moment leaves. */
function crash(): Promise<LogDisk> {
  bucket = bucket.copy();
  host.abort();
  return reopen();
}

for (
  const { name, run } of contractTests("LogDisk", open, {
    largestBytes: 2 ** 23,
    reopen,
    crash,
  })
) {
  Deno.test(name, run);
}
