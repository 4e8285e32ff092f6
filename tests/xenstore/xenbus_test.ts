/**
 * The xenbus file: the table of Linux's behaviour row by row, with this project's choices (every
 * message of a write counts, TRANSACTION_END without a transaction is answered).
 *
 * @module
 */
import assert from "node:assert/strict";
import { memoryPair, runSession } from "../../lib/stream/mod.ts";
import { Store, XenbusFile, XenbusSession } from "../../lib/xenstore/mod.ts";
import { describeMessages, request } from "./wire.ts";

function open(domid = 0): { store: Store; file: XenbusFile } {
  const store = new Store();
  return { store, file: new XenbusFile(store, { domid }) };
}

/** All that can be read, in pieces of `piece` bytes. */
function readAll(file: XenbusFile, piece = 4096): string[] {
  const bytes: number[] = [];
  for (let part = file.read(piece); part !== null; part = file.read(piece)) bytes.push(...part);
  return describeMessages(new Uint8Array(bytes));
}

/** What a write of one request gives back. */
function ask(file: XenbusFile, ...args: Parameters<typeof request>): string[] {
  file.write(request(...args));
  return readAll(file);
}

Deno.test("write() takes a part of a message and queues nothing when it is not whole", () => {
  const { file } = open();
  const message = request("WRITE", "/x|1");
  assert.equal(file.write(message.subarray(0, 5)), 5);
  assert.equal(file.readable, false);
  assert.equal(file.write(message.subarray(5)), message.length - 5);
  assert.deepEqual(readAll(file), ["WRITE OK|"]);
});

Deno.test("write() gives EINVAL and forgets what waits when more than 4096 bytes would wait", () => {
  const { file } = open();
  file.write(request("READ", "/|").subarray(0, 10));
  assert.throws(() => file.write(new Uint8Array(4087)), { code: "EINVAL" });
  assert.deepEqual(ask(file, "READ", "/|"), ["READ "], "the part before is forgotten");
});

Deno.test("write() gives E2BIG and forgets the message when its header announces too much", () => {
  const { file } = open();
  const message = request("READ", "/|");
  new DataView(message.buffer).setUint32(12, 4081, true);
  assert.throws(() => file.write(message.subarray(0, 16)), { code: "E2BIG" });
  assert.deepEqual(ask(file, "READ", "/|"), ["READ "]);
});

Deno.test("write() takes a message of 4096 bytes", () => {
  const { file } = open();
  assert.deepEqual(ask(file, "WRITE", `/x|${"v".repeat(4077)}`), ["WRITE OK|"]);
});

Deno.test("write() of nothing gives 0", () => {
  assert.equal(open().file.write(new Uint8Array(0)), 0);
});

Deno.test("write() processes every complete message that it has", () => {
  const { file } = open();
  const parts = [request("WRITE", "/x|1"), request("READ", "/x|"), request("READ", "/y|")];
  const last = request("MKDIR", "/z|");
  file.write(new Uint8Array([...parts.flatMap((each) => [...each]), ...last.subarray(0, 3)]));
  assert.deepEqual(readAll(file), ["WRITE OK|", "READ 1", "ERROR ENOENT|"]);
  file.write(last.subarray(3));
  assert.deepEqual(readAll(file), ["MKDIR OK|"]);
});

Deno.test("read() gives null when nothing waits, and any split of what does", () => {
  const { file } = open();
  assert.equal(file.read(100), null);
  for (const piece of [1, 3, 16, 17]) {
    file.write(request("READ", "/|"));
    file.write(request("GET_DOMAIN_PATH", "7|"));
    assert.deepEqual(readAll(file, piece), ["READ ", "GET_DOMAIN_PATH /local/domain/7|"]);
    assert.equal(file.readable, false);
  }
});

Deno.test("read() gives the request's own number back", () => {
  const { file } = open();
  file.write(request("READ", "/|", 0, 0xdeadbeef));
  const bytes = file.read(4096) ?? new Uint8Array(16);
  assert.equal(new DataView(bytes.buffer, bytes.byteOffset).getUint32(4, true), 0xdeadbeef);
});

const ROWS: readonly (readonly [string, "WATCH" | "UNWATCH", string, ...string[]])[] = [
  ["a watch without any NUL", "WATCH", "/x", "ERROR EINVAL|"],
  ["a watch without the second NUL", "WATCH", "/x|t", "ERROR EINVAL|"],
  ["an unwatch without any NUL", "UNWATCH", "/x", "ERROR EINVAL|"],
  ["an unwatch without the second NUL", "UNWATCH", "/x|t", "ERROR EINVAL|"],
  ["an unknown unwatch", "UNWATCH", "/x|t|", "UNWATCH OK|"],
  ["text after the token", "WATCH", "/x|t|more|", "WATCH OK|", "WATCH_EVENT /x|t|"],
  ["a relative path", "WATCH", "x|t|", "WATCH OK|", "WATCH_EVENT x|t|"],
];

for (const [row, name, payload, ...answers] of ROWS) {
  Deno.test(`XenbusFile answers ${answers.join(", ")} when it gets ${row}`, () => {
    assert.deepEqual(ask(open().file, name, payload), answers);
  });
}

Deno.test("write() gives EINVAL and queues nothing when a watch has a bad path", () => {
  const { file } = open();
  assert.throws(() => file.write(request("WATCH", "/bad path|t|")), { code: "EINVAL" });
  assert.equal(file.readable, false);
  assert.equal(file.connection.watchCount, 0);
});

Deno.test("XenbusFile fires twice for a watch that is there twice, until each is taken away", () => {
  const { store, file } = open();
  for (const _ of [1, 2]) {
    assert.deepEqual(ask(file, "WATCH", "/x|t|"), ["WATCH OK|", "WATCH_EVENT /x|t|"]);
  }
  store.connect(0).write("/x", "1");
  assert.deepEqual(readAll(file), ["WATCH_EVENT /x|t|", "WATCH_EVENT /x|t|"]);
  ask(file, "UNWATCH", "/x|t|");
  store.connect(0).write("/x", "1");
  assert.deepEqual(readAll(file), ["WATCH_EVENT /x|t|"]);
});

Deno.test("XenbusFile answers for transactions as the table says", () => {
  const { store, file } = open();
  const foreign = store.connect(0).startTransaction();
  assert.deepEqual(ask(file, "READ", "/|", foreign), ["ERROR ENOENT|"], "not started here");
  assert.deepEqual(ask(file, "TRANSACTION_END", "T|", 0), ["ERROR ENOENT|"], "without one");
  assert.deepEqual(ask(file, "TRANSACTION_START", "|"), ["TRANSACTION_START 1|"]);
  assert.deepEqual(ask(file, "TRANSACTION_START", "|", 1), ["ERROR EBUSY|"]);
  for (const how of ["X|", "T", "", "T|x"]) {
    assert.deepEqual(ask(file, "TRANSACTION_END", how, 1), ["ERROR EINVAL|"], how);
  }
  assert.deepEqual(ask(file, "WRITE", "/x|1", 1), ["WRITE OK|"]);
  assert.deepEqual(ask(file, "TRANSACTION_END", "T|", 1), ["TRANSACTION_END OK|"]);
  assert.deepEqual(ask(file, "TRANSACTION_END", "T|", 1), ["ERROR ENOENT|"]);
  assert.deepEqual(ask(file, "READ", "/x|"), ["READ 1"]);
});

Deno.test("XenbusFile passes unknown operations on", () => {
  assert.deepEqual(ask(open().file, 99, "x|"), ["ERROR ENOSYS|"]);
});

Deno.test("close() ends transactions and watches", () => {
  const { store, file } = open();
  ask(file, "WATCH", "/x|t|");
  ask(file, "TRANSACTION_START", "|");
  file.close();
  assert.equal(store.watches.empty, true);
  assert.equal(store.connectionCount(), 0);
  assert.equal(file.connection.transactionCount, 0);
  assert.throws(() => file.write(request("READ", "/|")), { code: "EIO" });
});

Deno.test("onReadable is called when somebody else's change fires a watch", () => {
  const { store, file } = open();
  ask(file, "WATCH", "/x|t|");
  let calls = 0;
  file.onReadable = (): void => void (calls += 1);
  store.connect(0).write("/x/y", "1");
  assert.equal(calls, 1);
  assert.deepEqual(readAll(file), ["WATCH_EVENT /x/y|t|"]);
});

Deno.test("XenbusSession runs a file over streams and cleans up when the stream ends", async () => {
  const store = new Store();
  const [client, server] = memoryPair({ chunkBytesMax: 5 });
  const running = runSession(server, new XenbusSession(store, { domid: 0 }));
  const writer = client.writable.getWriter();
  await writer.write(request("WATCH", "/x|t|"));
  await writer.write(request("WATCH", "/bad path|t|"));
  await writer.write(request("TRANSACTION_END", "T|"));
  await writer.close();
  const bytes: number[] = [];
  for await (const chunk of client.readable) bytes.push(...chunk);
  await running;
  assert.deepEqual(describeMessages(new Uint8Array(bytes)), [
    "WATCH OK|",
    "WATCH_EVENT /x|t|",
    "ERROR EINVAL|",
    "ERROR ENOENT|",
  ]);
  assert.equal(store.connectionCount(), 0);
});
