/**
 * read(2) on a simulated channel, rule by rule. Each test quotes the rule that it checks.
 *
 * @module
 */
import assert from "node:assert/strict";
import { HEADER_BYTES, REQUEST_TYPES } from "../../lib/dm_user/constants.ts";
import { decodeHeader } from "../../lib/dm_user/message.ts";
import {
  makeBio,
  RESULT_EBADF,
  RESULT_EINTR,
  RESULT_ENOTBLK,
  RESULT_EOPNOTSUPP,
  RESULT_ESPIPE,
  STATUS_EIO,
} from "../../lib/dm_user/simulator/bio.ts";
import {
  answer,
  isSettled,
  now,
  pattern,
  readBio,
  readMessage,
  settled,
  simulate,
  writeBio,
} from "./fixtures.ts";

const buffer = (length: number): Uint8Array<ArrayBuffer> => new Uint8Array(length);

Deno.test("errnos are those of Linux", () => {
  assert.deepEqual(
    [RESULT_EINTR, RESULT_EBADF, RESULT_ENOTBLK, RESULT_ESPIPE, RESULT_EOPNOTSUPP, STATUS_EIO],
    [-4, -9, -15, -29, -95, -5],
  );
});

Deno.test("A sticky read error is returned again by every later read", async () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  kernel.remove("disk");
  for (const length of [1, 40, 0, 4096]) {
    assert.equal(now(channel.read(buffer(length))), RESULT_ENOTBLK);
  }
  await settled();
  assert.equal(now(channel.read(buffer(1))), RESULT_ENOTBLK);
  channel.close();
});

Deno.test("With no message in hand it waits for one", async () => {
  const { kernel, device, target } = simulate();
  const channel = kernel.open("disk");
  const head = buffer(HEADER_BYTES);
  const read = channel.read(head);
  assert.equal(await isSettled(read), false);
  assert.equal(target.waitingReads, 1);
  device.submit(readBio(512, 3));
  assert.equal(await read, HEADER_BYTES);
  assert.equal(decodeHeader(head).sector, 3n);
  channel.close();
});

Deno.test("A signal ends the wait with EINTR and nothing consumed", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const signal = new AbortController();
  const read = channel.read(buffer(HEADER_BYTES), signal.signal);
  signal.abort();
  assert.equal(await read, RESULT_EINTR);
  const other = channel.read(buffer(HEADER_BYTES));
  channel.interrupt();
  assert.equal(await other, RESULT_EINTR);
  // A signal that is pending before the wait ends it too, but takes no message from a read.
  assert.equal(now(channel.read(buffer(1), signal.signal)), RESULT_EINTR);
  device.submit(writeBio(512));
  assert.equal(now(channel.read(buffer(1), signal.signal)), 1);
  const rest = buffer(HEADER_BYTES);
  assert.equal(now(channel.read(rest)), 39);
  channel.interrupt();
  assert.equal(now(channel.read(buffer(4096))), 512);
  channel.close();
});

Deno.test("One read returns bytes of the header or bytes of the payload, never of both: a read of 4096 bytes at the start of a WRITE returns 40, the next returns payload", () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  device.submit(writeBio(1024, 5, 0x88));
  const bytes = buffer(4096);
  assert.equal(now(channel.read(bytes)), HEADER_BYTES);
  assert.deepEqual(decodeHeader(bytes), {
    seq: 0n,
    type: 1n,
    flags: 0x88n,
    sector: 5n,
    length: 1024n,
  });
  assert.ok(bytes.subarray(HEADER_BYTES).every((byte) => byte === 0));
  assert.equal(now(channel.read(bytes)), 1024);
  assert.deepEqual(bytes.subarray(0, 1024), pattern(1024));
  channel.close();
});

Deno.test("Reads may be of any size ≥ 1: the header and the payload can be drawn a byte at a time", () => {
  for (const size of [1, 3, 39, 40, 41, 511, 512, 513]) {
    const { kernel, device } = simulate();
    const channel = kernel.open("disk");
    device.submit(writeBio(1024, 5));
    const got: number[] = [], counts: number[] = [];
    while (got.length < HEADER_BYTES + 1024) {
      const bytes = buffer(size);
      const count = now(channel.read(bytes));
      counts.push(count);
      got.push(...bytes.subarray(0, count));
    }
    let inHeader = HEADER_BYTES, inPayload = 1024;
    for (const count of counts) {
      const expected = Math.min(size, inHeader > 0 ? inHeader : inPayload);
      assert.equal(count, expected);
      if (inHeader > 0) inHeader -= count;
      else inPayload -= count;
    }
    assert.deepEqual(Uint8Array.from(got.slice(HEADER_BYTES)), pattern(1024));
    assert.equal(channel.remaining, 0);
    channel.close();
  }
});

Deno.test("A zero-length read waits for a message, takes it in hand and returns 0", async () => {
  const { kernel, device, target } = simulate();
  const first = kernel.open("disk"), second = kernel.open("disk");
  const read = first.read(buffer(0));
  assert.equal(await isSettled(read), false);
  device.submit(readBio(512));
  assert.equal(await read, 0);
  // It is in hand: another channel does not get it, and more reads of nothing change nothing.
  assert.equal(target.queued, 0);
  assert.equal(await isSettled(second.read(buffer(40))), false);
  assert.equal(now(first.read(buffer(0))), 0);
  assert.equal(readMessage(first).seq, 0n);
  second.kill();
  first.close();
});

Deno.test("When its last byte is read, the message moves to the channel's list of messages that await an answer", () => {
  const rows = [
    [writeBio(512), [40, 511, 1]],
    [writeBio(0, 7, 0x400), [39, 1]],
    [readBio(512), [40]],
    [makeBio(REQUEST_TYPES.WRITE_SAME, { length: 512 }), [40]],
  ] as const;
  for (const [bio, sizes] of rows) {
    const { kernel, device } = simulate();
    const channel = kernel.open("disk");
    device.submit(bio);
    for (const size of sizes) {
      assert.equal(channel.awaits(0), false);
      assert.equal(now(channel.read(buffer(size))), size);
    }
    assert.equal(channel.awaits(0), true);
    assert.equal(channel.remaining, 0);
    channel.close();
  }
});

Deno.test("Messages go out in mapping order. Each goes to exactly one channel: whichever reads next", () => {
  const { kernel, device } = simulate();
  const channels = [1, 2, 3].map(() => kernel.open("disk"));
  for (let sector = 0; sector < 9; sector += 1) device.submit(readBio(512, sector));
  for (let seq = 0; seq < 9; seq += 1) {
    const channel = channels[(seq * seq) % 3];
    assert.ok(channel !== undefined);
    const message = readMessage(channel);
    assert.equal(message.seq, BigInt(seq));
    assert.equal(message.sector, BigInt(seq));
  }
  for (const channel of channels) channel.close();
});

Deno.test("the waiting readers are woken: one gets it", async () => {
  const winners = new Set<number>();
  for (let seed = 1; seed <= 20; seed += 1) {
    const { kernel, device, target } = simulate({}, seed);
    const channels = [1, 2, 3].map(() => kernel.open("disk"));
    const reads = channels.map((channel) => channel.read(buffer(HEADER_BYTES)));
    device.submit(readBio(512));
    const done = await Promise.all(reads.map((read) => isSettled(read)));
    assert.equal(done.filter((each) => each).length, 1);
    assert.equal(target.waitingReads, 2);
    winners.add(done.indexOf(true));
    for (const channel of channels) channel.kill();
  }
  assert.equal(winners.size, 3, "chance picks every reader at some time");
});

Deno.test("reads that wait on one channel go on with the message that the first of them took", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const head = buffer(HEADER_BYTES), payload = buffer(512);
  const reads = [channel.read(head), channel.read(payload), channel.read(buffer(HEADER_BYTES))];
  device.submit(writeBio(512));
  assert.equal(await reads[0], HEADER_BYTES);
  assert.equal(await reads[1], 512);
  assert.deepEqual(payload, pattern(512));
  assert.equal(await isSettled(reads[2] ?? 0), false);
  channel.kill();
});

Deno.test("pread and pwrite work and ignore the offset; lseek gives ESPIPE; ioctl, splice and fasync EOPNOTSUPP", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const status = device.submit(readBio(512));
  const head = buffer(HEADER_BYTES);
  assert.equal(now(channel.pread(head, 123_456)), HEADER_BYTES);
  assert.equal(channel.seek(), RESULT_ESPIPE);
  assert.equal(channel.ioctl(), RESULT_EOPNOTSUPP);
  assert.equal(channel.splice(), RESULT_EOPNOTSUPP);
  assert.equal(channel.fasync(), RESULT_EOPNOTSUPP);
  const error = head.fill(0, 8);
  error[8] = 1;
  assert.equal(channel.pwrite(error, 99), HEADER_BYTES);
  assert.equal(await status, STATUS_EIO);
  channel.close();
});

Deno.test("poll answers an error number as if it were an event mask: readable even when idle", () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  const POLLIN = 1;
  assert.equal(channel.poll() & POLLIN, POLLIN);
  assert.equal(channel.poll(), 2 ** 32 - 95);
  channel.close();
});

Deno.test("read() gives EBADF when the channel was closed", () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  assert.equal(channel.close(), 0);
  assert.equal(now(channel.read(buffer(1))), RESULT_EBADF);
  assert.equal(channel.write(buffer(40)), RESULT_EBADF);
  assert.equal(channel.close(), RESULT_EBADF);
});

Deno.test("drained() resolves when all that was taken is answered", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  assert.equal(await isSettled(channel.drained()), true);
  device.submit(readBio(512));
  device.submit(readBio(512));
  const first = readMessage(channel), second = readMessage(channel);
  assert.equal(channel.outstanding, 2);
  const drained = channel.drained();
  answer(channel, second);
  assert.equal(await isSettled(drained), false);
  answer(channel, first);
  assert.equal(await isSettled(drained), true);
  assert.equal(channel.outstanding, 0);
  channel.close();
});
