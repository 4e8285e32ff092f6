/**
 * The simulated block layer and kernel: what a BIO becomes on its way to a target, and how devices are
 * made and removed, fact by fact.
 *
 * @module
 */
import assert from "node:assert/strict";
import { REQUEST_FLAGS, REQUEST_TYPES } from "../../lib/dm_user/constants.ts";
import { BIO_BYTES_MAX } from "../../lib/dm_user/limits.ts";
import { simulatedBackend } from "../../lib/dm_user/simulator/backend.ts";
import {
  type Bio,
  makeBio,
  STATUS_EIO,
  STATUS_EOPNOTSUPP,
} from "../../lib/dm_user/simulator/bio.ts";
import {
  answer,
  answerBytes,
  isSettled,
  now,
  pattern,
  readBio,
  readMessage,
  settled,
  simulate,
  writeAll,
  writeBio,
} from "./fixtures.ts";

const { PREFLUSH, FUA, SYNC } = REQUEST_FLAGS;

Deno.test("table: a name in use gives ENOSPC; a name may hold a slash; `dmsetup table` prints `user` without arguments", () => {
  const { kernel } = simulate();
  const taken = { name: "BlockError", errno: "ENOSPC" };
  assert.throws(() => kernel.create("other", "0 8 user 0 8 disk"), taken);
  assert.throws(() => kernel.create("other", "0 8 user 0 8 a\n8 8 user 0 8 a"), taken);
  const device = kernel.create("other", "0 8 user x y a/b\n8 16 user 0 8 c");
  assert.equal(device.table(), "0 8 user\n8 16 user");
  assert.equal(device.size, 24 * 512);
  assert.deepEqual(kernel.controlNames, ["disk", "a/b", "c"]);
  kernel.open("a/b").close();
  assert.throws(() => kernel.create("disk", "0 8 user 0 8 z"), { errno: "EBUSY" });
  assert.throws(() => kernel.create("third", "0 8 user 0 8"), { errno: "EINVAL" });
});

Deno.test("removal succeeds with channels open, not with the block device open; a new open gives ENOENT", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const backend = simulatedBackend(device);
  assert.throws(() => kernel.remove("disk"), { name: "BlockError", errno: "EBUSY" });
  await backend[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  assert.equal(device.openCount, 0);
  kernel.remove("disk");
  assert.throws(() => kernel.open("disk"), { name: "BlockError", errno: "ENOENT" });
  assert.throws(() => kernel.remove("disk"), { name: "BlockError", errno: "ENXIO" });
  // The name is free again, although a channel of the old target is still open.
  const again = kernel.createSimple("disk", 8);
  const other = kernel.open("disk");
  again.submit(readBio(512));
  assert.equal(readMessage(other).seq, 0n);
  channel.close();
  other.close();
});

Deno.test("sector: counted from the start of the dm device, not of the target within it; DM splits a BIO at target boundaries", async () => {
  const { kernel } = simulate();
  const device = kernel.create("three", "0 8 user 0 8 a\n8 4 user 0 4 b\n12 8 user 0 8 c");
  const channels = ["a", "b", "c"].map((name) => kernel.open(name));
  const [a, b, c] = channels;
  assert.ok(a !== undefined && b !== undefined && c !== undefined);
  const status = device.submit(writeBio(10 * 512, 5, SYNC));
  const parts = [a, b, c].map((channel) => readMessage(channel));
  assert.deepEqual(
    parts.map(({ sector, length, flags }) => [sector, length, flags]),
    [[5n, 3n * 512n, 8n], [8n, 4n * 512n, 8n], [12n, 3n * 512n, 8n]],
  );
  const whole = parts.flatMap(({ payload }) => [...payload]);
  assert.deepEqual(Uint8Array.from(whole), pattern(10 * 512));
  answer(c, parts[2] ?? assert.fail());
  answer(a, parts[0] ?? assert.fail());
  assert.equal(await isSettled(status), false);
  answer(b, parts[1] ?? assert.fail());
  assert.equal(await status, 0);

  // One part that fails fails the BIO, when all parts are done.
  const bio = readBio(8 * 512, 6);
  const read = device.submit(bio);
  answer(a, readMessage(a));
  writeAll(b, answerBytes(readMessage(b).seq, 1));
  assert.equal(await isSettled(read), false);
  answer(c, readMessage(c));
  assert.equal(await read, STATUS_EIO);
  assert.deepEqual(bio.data.subarray(6 * 512), pattern(2 * 512));
  for (const channel of channels) channel.close();
});

Deno.test("len: a 4 MiB write arrives as one message; larger must be expected", () => {
  const { kernel, device } = simulate({}, 1, 64 * 2048);
  const channel = kernel.open("disk");
  for (const length of [4 * 2 ** 20, 20 * 2 ** 20]) {
    device.submit(makeBio(REQUEST_TYPES.WRITE, { data: new Uint8Array(length) }));
    assert.equal(readMessage(channel).payload.length, length);
  }
  channel.close();
});

Deno.test("flush, v1: none arrives at all (fsync succeeds, FUA is stripped)", () => {
  const { kernel, device, target } = simulate({ version: "v1" });
  const channel = kernel.open("disk");
  const status = device.submit(makeBio(REQUEST_TYPES.WRITE, { flags: PREFLUSH | SYNC }));
  assert.equal(now(status), 0);
  assert.equal(target.outstanding, 0);
  device.submit(writeBio(512, 0, PREFLUSH | FUA | SYNC));
  const message = readMessage(channel);
  assert.deepEqual([message.flags, message.length], [BigInt(SYNC), 512n]);
  assert.equal(target.outstanding, 1);
  channel.close();
});

const FLUSHES: readonly (readonly [what: string, Bio, flags: bigint, sector: bigint])[] = [
  ["0x408 from fsync", makeBio(REQUEST_TYPES.WRITE, { flags: PREFLUSH }), 0x408n, 0n],
  [
    "from ext4's journal 0x698 and a non-zero sector",
    writeBio(4096, 64, 0x698),
    0x698n,
    64n,
  ],
];

for (const [what, bio, flags, sector] of FLUSHES) {
  Deno.test(`With the later flag set: type WRITE, len 0, flags with PREFLUSH (${what}), answered like a flush; the data then follows without PREFLUSH`, async () => {
    const { kernel, device, target } = simulate();
    const channel = kernel.open("disk");
    const status = device.submit(bio);
    const flush = readMessage(channel);
    assert.deepEqual(
      [flush.type, flush.length, flush.flags, flush.sector],
      [BigInt(REQUEST_TYPES.WRITE), 0n, flags, sector],
    );
    await settled();
    assert.equal(target.queued, 0, "the data waits for the flush");
    answer(channel, flush);
    await settled();
    if (bio.length > 0) {
      const data = readMessage(channel);
      assert.equal(data.flags, flags - BigInt(PREFLUSH));
      assert.deepEqual(data.payload, bio.data);
      answer(channel, data);
    }
    assert.equal(await status, 0);
    channel.close();
  });
}

Deno.test("a flush that fails fails the BIO, and its data is not sent", async () => {
  const { kernel, device, target } = simulate();
  const channel = kernel.open("disk");
  const status = device.submit(writeBio(512, 0, PREFLUSH));
  writeAll(channel, answerBytes(readMessage(channel).seq, 2));
  assert.equal(await status, STATUS_EIO);
  assert.equal(target.outstanding, 0);
  channel.close();
});

Deno.test("a flush goes to every target of the device", async () => {
  const { kernel } = simulate();
  const device = kernel.create("two", "0 8 user 0 8 a\n8 8 user 0 8 b");
  const a = kernel.open("a"), b = kernel.open("b");
  const status = device.submit(makeBio(REQUEST_TYPES.WRITE, { flags: PREFLUSH }));
  answer(a, readMessage(a));
  assert.equal(await isSettled(status), false);
  answer(b, readMessage(b));
  assert.equal(await status, 0);
  a.close();
  b.close();
});

Deno.test("discard, write zeroes: not sent unless the target declares them; when sent: a bare header, len = bytes; WRITE_ZEROES carries NOUNMAP 0x8000", async () => {
  const plain = simulate();
  for (const type of [REQUEST_TYPES.DISCARD, REQUEST_TYPES.WRITE_ZEROES]) {
    assert.equal(now(plain.device.submit(makeBio(type, { length: 512 }))), STATUS_EOPNOTSUPP);
  }
  assert.equal(plain.target.outstanding, 0);
  const without = simulatedBackend(plain.device);
  assert.deepEqual([without.trim, without.zero], [undefined, undefined]);
  await without[Symbol.asyncDispose]();

  const { kernel, device } = simulate({ discard: true, writeZeroes: true });
  const channel = kernel.open("disk");
  const backend = simulatedBackend(device);
  const options = { fua: false, fastOnly: false };
  const rows = [
    [backend.trim?.(512, 4096, options), 3n, 0x8n],
    [backend.zero?.(512, 4096, { ...options, mayTrim: false }), 6n, 0x8008n],
    [backend.zero?.(512, 4096, { ...options, mayTrim: true }), 6n, 0x8n],
  ] as const;
  for (const [done, type, flags] of rows) {
    const message = readMessage(channel);
    assert.deepEqual(
      [message.type, message.flags, message.sector, message.length, message.payload.length],
      [type, flags, 1n, 4096n, 0],
    );
    answer(channel, message);
    await done;
  }
  await backend[Symbol.asyncDispose]();
  channel.close();
});

Deno.test("flags seen: O_DIRECT write 0x88, read 0x8, FUA 0x288", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const backend = simulatedBackend(device);
  const into = new Uint8Array(512);
  const rows = [
    [backend.write(pattern(512), 512, { fua: false }), 1n, 0x88n],
    [backend.write(pattern(512), 512, { fua: true }), 1n, 0x288n],
    [backend.read(into, 512), 0n, 0x8n],
    [backend.flush(), 1n, 0x408n],
  ] as const;
  for (const [done, type, flags] of rows) {
    const message = readMessage(channel);
    assert.deepEqual([message.type, message.flags], [type, flags]);
    answer(channel, message);
    await done;
  }
  assert.deepEqual(into, pattern(512));
  const lost = backend.write(pattern(512), 0, { fua: false });
  writeAll(channel, answerBytes(readMessage(channel).seq, 1));
  await assert.rejects(Promise.resolve(lost), { name: "BlockError", errno: "EIO" });
  await backend[Symbol.asyncDispose]();
  channel.close();
});

Deno.test("simulatedBackend() splits ranges that are longer than a BIO can say", async () => {
  const { kernel, device } = simulate({ discard: true }, 1, 2 ** 24);
  const channel = kernel.open("disk");
  const backend = simulatedBackend(device);
  const done = backend.trim?.(0, device.size, { fua: true });
  const seen: bigint[][] = [];
  while (!(await isSettled(done))) {
    const message = readMessage(channel);
    seen.push([message.type, message.sector, message.length]);
    answer(channel, message);
    await settled();
  }
  const piece = 2n ** 31n;
  const pieces = [0n, 1n, 2n, 3n].map((index) => [3n, index * piece / 512n, piece]);
  assert.deepEqual(seen, [...pieces, [1n, 0n, 0n]]);
  await backend[Symbol.asyncDispose]();
  channel.close();
});

Deno.test("submit() fails what lies past the end of the device with EIO", () => {
  const { device, target } = simulate();
  for (const bio of [readBio(512, 2048), readBio(1024, 2047), readBio(512, 2 ** 50)]) {
    assert.equal(now(device.submit(bio)), STATUS_EIO);
  }
  assert.equal(now(device.submit(makeBio(REQUEST_TYPES.WRITE))), 0);
  assert.equal(target.outstanding, 0);
});

Deno.test("submit() throws for what no block layer would let through", () => {
  const { device } = simulate();
  const WRONG: readonly Bio[] = [
    makeBio(-1),
    makeBio(0.5),
    makeBio(3, { flags: -1 }),
    makeBio(3, { sector: -1 }),
    makeBio(3, { sector: 0.5 }),
    makeBio(3, { length: 100 }),
    makeBio(3, { length: -512 }),
    makeBio(3, { length: BIO_BYTES_MAX + 512 }),
    makeBio(3, { data: new Uint8Array(512) }),
    makeBio(0, { length: 512 }),
    makeBio(1, { length: 512, data: new Uint8Array(1024) }),
  ];
  for (const bio of WRONG) assert.throws(() => device.submit(bio), RangeError);
});
