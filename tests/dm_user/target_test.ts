/**
 * The simulated target: mapping, numbering, no daemon, closing, removal, rule by rule. Each test quotes
 * the rule that it checks.
 *
 * @module
 */
import assert from "node:assert/strict";
import { HEADER_BYTES, REQUEST_FLAGS, REQUEST_TYPES } from "../../lib/dm_user/constants.ts";
import {
  makeBio,
  RESULT_EINVAL,
  RESULT_ENOTBLK,
  STATUS_EIO,
} from "../../lib/dm_user/simulator/bio.ts";
import {
  answer,
  answerBytes,
  isSettled,
  now,
  readBio,
  readMessage,
  settled,
  simulate,
  writeAll,
  writeBio,
} from "./fixtures.ts";

const buffer = (length: number): Uint8Array<ArrayBuffer> => new Uint8Array(length);
const SECOND_US = 1_000_000;

Deno.test("a type that has no number, or a flag that has none, kills the BIO at once: it is never sent", () => {
  const { kernel, device, target } = simulate();
  const channel = kernel.open("disk");
  for (const type of [13, 14, 255, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    assert.equal(now(device.submit(makeBio(type, { length: 512 }))), STATUS_EIO, `type ${type}`);
  }
  for (const flags of [0x80000, 0x80008, 2 ** 31, 2 ** 32, 2 ** 40 + 8]) {
    assert.equal(now(device.submit(readBio(512, 0, flags))), STATUS_EIO, `flags ${flags}`);
  }
  assert.equal(target.outstanding, 0);
  device.submit(readBio(512));
  assert.equal(readMessage(channel).seq, 0n, "nothing killed got a number");
  channel.close();
});

Deno.test("every type and every flag that has a number is sent", () => {
  const { kernel, device } = simulate({ discard: true, writeZeroes: true });
  const channel = kernel.open("disk");
  for (const type of Object.values(REQUEST_TYPES)) {
    const data = type === REQUEST_TYPES.READ || type === REQUEST_TYPES.WRITE
      ? buffer(512)
      : buffer(0);
    device.submit(makeBio(type, { length: 512, data }));
    const message = readMessage(channel);
    assert.equal(message.type, BigInt(type));
    // Data goes to the daemon for WRITE alone; WRITE_SAME and ZONE_APPEND travel as a bare header.
    assert.equal(message.payload.length, type === REQUEST_TYPES.WRITE ? 512 : 0);
    assert.equal(message.length, 512n);
  }
  for (const flag of Object.values(REQUEST_FLAGS)) {
    device.submit(readBio(512, 0, flag));
    assert.equal(readMessage(channel).flags, BigInt(flag));
  }
  channel.close();
});

Deno.test("v1 itself kills BIOs of type ZONE_RESET_ALL and BIOs with DRV or SWAP set at map", () => {
  const { kernel, device } = simulate({ version: "v1" });
  const channel = kernel.open("disk");
  assert.equal(now(device.submit(makeBio(REQUEST_TYPES.ZONE_RESET_ALL))), STATUS_EIO);
  for (const flag of [REQUEST_FLAGS.DRV, REQUEST_FLAGS.SWAP]) {
    assert.equal(now(device.submit(readBio(512, 0, flag))), STATUS_EIO);
    assert.equal(now(device.submit(writeBio(512, 0, flag | REQUEST_FLAGS.SYNC))), STATUS_EIO);
  }
  device.submit(makeBio(REQUEST_TYPES.ZONE_RESET));
  assert.equal(readMessage(channel).type, BigInt(REQUEST_TYPES.ZONE_RESET));
  device.submit(readBio(512, 0, REQUEST_FLAGS.HIPRI));
  assert.equal(readMessage(channel).flags, BigInt(REQUEST_FLAGS.HIPRI));
  channel.close();
});

Deno.test("seq: one counter a target, shared by its channels, from 0", () => {
  const { kernel } = simulate();
  const pair = kernel.create("pair", "0 8 user 0 8 left\n8 8 user 0 8 right");
  const left = kernel.open("left"), second = kernel.open("left"), right = kernel.open("right");
  for (let count = 0; count < 3; count += 1) {
    pair.submit(readBio(512, 0));
    pair.submit(readBio(512, 9));
  }
  const seqs = [left, second, left].map((channel) => readMessage(channel).seq);
  assert.deepEqual(seqs, [0n, 1n, 2n]);
  assert.deepEqual([1, 2, 3].map(() => readMessage(right).seq), [0n, 1n, 2n]);
  for (const channel of [left, second, right]) channel.close();
});

Deno.test("128 messages are a memory reserve, not a cap: more may be outstanding. Nothing is dropped", async () => {
  const { kernel, device, target } = simulate();
  const channel = kernel.open("disk");
  const statuses = Array.from({ length: 1000 }, (_, sector) => device.submit(readBio(512, sector)));
  assert.equal(target.queued, 1000);
  const messages = statuses.map(() => readMessage(channel));
  assert.equal(target.outstanding, 1000);
  for (const message of messages.reverse()) answer(channel, message);
  assert.ok((await Promise.all(statuses)).every((status) => status === 0));
  assert.equal(target.outstanding, 0);
  channel.close();
});

Deno.test("In the simulator a cap is an option: mapping waits, in order, and nothing is dropped", async () => {
  const { kernel, device, target } = simulate({ outstandingMax: 2 });
  const channel = kernel.open("disk");
  const statuses = Array.from({ length: 7 }, (_, sector) => device.submit(readBio(512, sector)));
  assert.deepEqual([target.outstanding, target.unmapped], [2, 5]);
  for (let seq = 0; seq < 7; seq += 1) {
    const message = readMessage(channel);
    assert.deepEqual([message.seq, message.sector], [BigInt(seq), BigInt(seq)]);
    assert.ok(target.outstanding <= 2);
    answer(channel, message);
  }
  assert.ok((await Promise.all(statuses)).every((status) => status === 0));
  channel.close();
});

Deno.test("Target() refuses a cap that is none", () => {
  for (const outstandingMax of [0, -1, 1.5, NaN]) {
    assert.throws(() => simulate({ outstandingMax }), { name: "BlockError", errno: "EINVAL" });
  }
});

Deno.test("close(channel): every message of that channel that is half read, half answered, or awaits an answer completes with an I/O error", async () => {
  const { kernel, device, log } = simulate();
  const channel = kernel.open("disk");
  const bios = [readBio(512), readBio(512), writeBio(512), readBio(512)];
  const statuses = bios.map((bio) => device.submit(bio));
  readMessage(channel);
  readMessage(channel);
  writeAll(channel, answerBytes(1).subarray(0, 40));
  assert.equal(channel.write(buffer(100)), 100);
  assert.equal(now(channel.read(buffer(40))), HEADER_BYTES);
  assert.equal(now(channel.read(buffer(100))), 100);
  assert.equal(channel.close(), 0);
  assert.deepEqual(await Promise.all(statuses.slice(0, 3)), [STATUS_EIO, STATUS_EIO, STATUS_EIO]);
  assert.equal(await isSettled(statuses[3] ?? 0), false);
  const ends = log.filter((line) => line.includes("complete"));
  assert.deepEqual(ends.map((line) => /seq (\d+)/.exec(line)?.[1]), ["0", "1", "2"]);
  // "Messages still in the target's queue stay there for a channel opened later."
  const later = kernel.open("disk");
  const message = readMessage(later);
  assert.equal(message.seq, 3n);
  answer(later, message);
  assert.equal(await statuses[3], 0);
  later.close();
});

Deno.test("close(channel): Messages still in the target's queue stay there for other channels", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk"), other = kernel.open("disk");
  const lost = device.submit(readBio(512)), kept = device.submit(readBio(512, 1));
  readMessage(channel);
  channel.close();
  assert.equal(await lost, STATUS_EIO);
  answer(other, readMessage(other));
  assert.equal(await kept, 0);
  other.close();
});

Deno.test("close() with a read pending leaves the kernel's read alive: it swallows the next message and fails it", async () => {
  const { kernel, device, target } = simulate();
  const channel = kernel.open("disk");
  const read = channel.read(buffer(HEADER_BYTES));
  assert.equal(channel.close(), 0);
  assert.equal(channel.released, false);
  assert.equal(target.channelCount, 1);
  const swallowed = device.submit(readBio(512));
  assert.equal(await read, HEADER_BYTES);
  assert.equal(await swallowed, STATUS_EIO);
  assert.equal(channel.released, true);
  assert.equal(target.channelCount, 0);
  const next = device.submit(readBio(512));
  assert.equal(await isSettled(next), false);
});

Deno.test("killed daemon: read or partly read messages fail with EIO; unread ones wait for the next open", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const first = device.submit(readBio(512)), second = device.submit(writeBio(512));
  const third = device.submit(writeBio(512));
  readMessage(channel);
  assert.equal(now(channel.read(buffer(7))), 7);
  channel.kill();
  assert.deepEqual([await first, await second], [STATUS_EIO, STATUS_EIO]);
  assert.equal(await isSettled(third), false);
  const next = kernel.open("disk");
  answer(next, readMessage(next));
  assert.equal(await third, 0);
  // A read that waits when its process dies takes nothing.
  const waiting = next.read(buffer(40));
  next.kill();
  assert.equal(await waiting, -4);
  assert.equal(next.released, true);
});

Deno.test("no daemon: I/O waits for ever", async () => {
  const { kernel, device, clock } = simulate({ policy: "wait" });
  const status = device.submit(readBio(512));
  clock.advance(1000 * SECOND_US);
  assert.equal(await isSettled(status), false);
  const channel = kernel.open("disk");
  answer(channel, readMessage(channel));
  assert.equal(await status, 0);
  channel.close();
  const after = device.submit(readBio(512));
  assert.equal(await isSettled(after), false);
});

Deno.test("the Android version: EIO after 4 s if no daemon ever came", async () => {
  const { kernel, device, clock } = simulate({ policy: "fail" });
  const first = device.submit(readBio(512));
  clock.advance(3 * SECOND_US);
  const second = device.submit(readBio(512));
  await settled();
  clock.advance(SECOND_US - 1);
  assert.equal(await isSettled(first), false);
  clock.advance(1);
  assert.equal(await isSettled(first), true);
  assert.equal(await first, STATUS_EIO);
  assert.equal(await isSettled(second), false);
  clock.advance(3 * SECOND_US);
  assert.equal(await isSettled(second), true);
  assert.equal(await second, STATUS_EIO);
  // Each waits for itself, also after others have failed.
  const third = device.submit(readBio(512));
  clock.advance(4 * SECOND_US - 1);
  assert.equal(await isSettled(third), false);
  const channel = kernel.open("disk");
  clock.advance(100 * SECOND_US);
  assert.equal(await isSettled(third), false, "a daemon came in time");
  answer(channel, readMessage(channel));
  assert.equal(await third, 0);
  channel.close();
});

Deno.test("the Android version: EIO at once, queued messages included, after the last close", async () => {
  const { kernel, device } = simulate({ policy: "fail" });
  const channel = kernel.open("disk"), other = kernel.open("disk");
  const taken = device.submit(readBio(512)), queued = device.submit(readBio(512));
  readMessage(channel);
  channel.close();
  assert.equal(await taken, STATUS_EIO);
  assert.equal(await isSettled(queued), false, "a daemon is left");
  other.close();
  assert.equal(await queued, STATUS_EIO);
  assert.equal(now(device.submit(writeBio(512))), STATUS_EIO);
  // A new daemon makes it work again, and the numbers go on.
  const next = kernel.open("disk");
  const status = device.submit(readBio(512));
  const message = readMessage(next);
  assert.equal(message.seq, 3n);
  answer(next, message);
  assert.equal(await status, 0);
  next.close();
});

Deno.test("policy fail with a cap: what waits to be mapped fails with the rest", async () => {
  const { kernel, device, target } = simulate({ policy: "fail", outstandingMax: 1 });
  const channel = kernel.open("disk");
  const statuses = Array.from({ length: 20_000 }, () => device.submit(readBio(512)));
  assert.equal(target.unmapped, 19_999);
  channel.close();
  assert.ok((await Promise.all(statuses)).every((status) => status === STATUS_EIO));
  assert.equal(target.outstanding, 0);
});

Deno.test("Destroying the target removes the control device, wakes all readers; each read returns ENOTBLK (15), for good", async () => {
  const { kernel, device } = simulate();
  const channels = [1, 2, 3].map(() => kernel.open("disk"));
  const reads = channels.map((channel) => channel.read(buffer(40)));
  await settled();
  kernel.remove("disk");
  assert.deepEqual(await Promise.all(reads), [RESULT_ENOTBLK, RESULT_ENOTBLK, RESULT_ENOTBLK]);
  for (const channel of channels) {
    assert.equal(now(channel.read(buffer(40))), RESULT_ENOTBLK);
    channel.close();
  }
  assert.throws(() => kernel.open("disk"), { name: "BlockError", errno: "ENOENT" });
  assert.deepEqual(kernel.controlNames, []);
  assert.equal(now(device.submit(readBio(512))), STATUS_EIO);
});

Deno.test("a message in hand is first read to its end, then each read returns ENOTBLK. Writes still work, so outstanding messages can still be answered", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const outstanding = device.submit(readBio(512)), inHand = device.submit(writeBio(512));
  const queued = device.submit(readBio(512));
  const first = readMessage(channel);
  assert.equal(now(channel.read(buffer(7))), 7);
  kernel.remove("disk");
  assert.equal(now(channel.read(buffer(4096))), 33);
  assert.equal(now(channel.read(buffer(4096))), 512);
  assert.equal(now(channel.read(buffer(4096))), RESULT_ENOTBLK);
  answer(channel, first);
  assert.equal(await outstanding, 0);
  writeAll(channel, answerBytes(1));
  assert.equal(await inHand, 0);
  assert.equal(await isSettled(queued), false);
  channel.close();
  assert.equal(await queued, STATUS_EIO);
});

Deno.test("The target is freed when its last channel closes, and whatever is still queued then fails with an I/O error", async () => {
  const { kernel, device, target } = simulate({ outstandingMax: 2 });
  const channel = kernel.open("disk"), other = kernel.open("disk");
  const statuses = [1, 2, 3, 4].map(() => device.submit(readBio(512)));
  kernel.remove("disk");
  channel.close();
  assert.equal(target.freed, false);
  assert.equal(await isSettled(Promise.race(statuses)), false);
  other.close();
  assert.equal(target.freed, true);
  assert.deepEqual(await Promise.all(statuses), statuses.map(() => STATUS_EIO));
});

Deno.test("a target without channels is freed when it is removed", async () => {
  for (const policy of ["wait", "fail"] as const) {
    const { kernel, device, target, clock } = simulate({ policy });
    const status = device.submit(readBio(512));
    kernel.remove("disk");
    assert.equal(target.freed, true);
    assert.equal(await status, STATUS_EIO);
    clock.advance(10 * SECOND_US);
    await settled();
    assert.equal(target.outstanding, 0);
  }
});

Deno.test("removal with a read pending on a closed channel ends that read and frees the target", async () => {
  const { kernel, target } = simulate();
  const channel = kernel.open("disk");
  const read = channel.read(buffer(40));
  channel.close();
  assert.equal(target.channelCount, 1);
  kernel.remove("disk");
  assert.equal(await read, RESULT_ENOTBLK);
  assert.equal(target.freed, true);
});

Deno.test("removal: a write of an answer still returns 40, then EINVAL", () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  kernel.remove("disk");
  assert.equal(channel.write(answerBytes(0)), HEADER_BYTES);
  assert.equal(channel.write(answerBytes(0)), RESULT_EINVAL);
  channel.close();
});
