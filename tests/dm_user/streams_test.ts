/**
 * A simulated channel as Web Streams: what a read gives, what a write does, how both end.
 *
 * @module
 */
import assert from "node:assert/strict";
import { HEADER_BYTES, RESPONSE_TYPES } from "../../lib/dm_user/constants.ts";
import { CHANNEL_CHUNK_BYTES_MAX } from "../../lib/dm_user/limits.ts";
import { makeBio, STATUS_EIO } from "../../lib/dm_user/simulator/bio.ts";
import { channelPair } from "../../lib/dm_user/simulator/streams.ts";
import {
  answerBytes,
  isSettled,
  now,
  pattern,
  readBio,
  settled,
  simulate,
  writeBio,
} from "./fixtures.ts";

Deno.test("channelPair() gives one read(2) for a BYOB read", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const { readable, writable } = channelPair(channel);
  device.submit(writeBio(512));
  const reader = readable.getReader({ mode: "byob" });
  const counts: number[] = [];
  for (const size of [10, 4096, 100, 4096]) {
    const { value } = await reader.read(new Uint8Array(size));
    counts.push(value?.length ?? -1);
  }
  assert.deepEqual(counts, [10, 30, 100, 412]);
  await reader.cancel();
  await writable.close();
  assert.equal(channel.released, true);
});

Deno.test("channelPair() gives a message with its payload for a plain read, a long one in pieces", async () => {
  const { kernel, device } = simulate({}, 1, 8192);
  const channel = kernel.open("disk");
  const { readable, writable } = channelPair(channel);
  const long = new Uint8Array(CHANNEL_CHUNK_BYTES_MAX * 2 + 512).fill(3);
  device.submit(readBio(512));
  device.submit(writeBio(512));
  device.submit(makeBio(1, { data: long }));
  const reader = readable.getReader();
  const lengths: number[] = [];
  for (let count = 0; count < 5; count += 1) {
    lengths.push((await reader.read()).value?.length ?? -1);
  }
  const first = HEADER_BYTES + CHANNEL_CHUNK_BYTES_MAX;
  assert.deepEqual(lengths, [40, 552, first, CHANNEL_CHUNK_BYTES_MAX, 512]);
  await reader.cancel();
  await writable.abort();
  assert.equal(channel.released, true);
});

Deno.test("channelPair() takes no message before somebody reads", async () => {
  const { kernel, device, target } = simulate();
  const { readable, writable } = channelPair(kernel.open("disk"));
  device.submit(readBio(512));
  await settled();
  assert.equal(target.queued, 1);
  await readable.cancel();
  await writable.close();
  assert.equal(target.queued, 1);
});

Deno.test("channelPair() loops on the count of a write, and passes over empty chunks", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const { readable, writable } = channelPair(channel);
  const read = readBio(512);
  const statuses = [
    device.submit(read),
    device.submit(writeBio(512)),
    device.submit(writeBio(512)),
  ];
  const reader = readable.getReader(), writer = writable.getWriter();
  for (let count = 0; count < 3; count += 1) await reader.read();
  await writer.write(new Uint8Array(0));
  const all = [...answerBytes(0, 0, pattern(512)), ...answerBytes(1), ...answerBytes(2, 1)];
  await writer.write(Uint8Array.from(all));
  assert.deepEqual(await Promise.all(statuses), [0, 0, STATUS_EIO]);
  assert.deepEqual(read.data, pattern(512));
  await writer.close();
  assert.equal(channel.released, false, "the reader is still there");
  await reader.cancel();
  assert.equal(channel.released, true);
});

Deno.test("channelPair() fails a write with the errno of the channel", async () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  const { readable, writable } = channelPair(channel);
  const writer = writable.getWriter();
  await writer.write(answerBytes(5));
  const refused = { name: "BlockError", errno: "EINVAL" };
  await assert.rejects(writer.write(answerBytes(5)), refused);
  await assert.rejects(writer.closed, refused);
  await readable.cancel();
  assert.equal(channel.released, true);
});

async function readPlain(readable: ReadableStream<Uint8Array>, counts: number[]): Promise<void> {
  for await (const chunk of readable) counts.push(chunk.length);
}

async function readOwn(readable: ReadableStream<Uint8Array>, counts: number[]): Promise<void> {
  const reader = readable.getReader({ mode: "byob" });
  for (;;) {
    const { done, value } = await reader.read(new Uint8Array(4096));
    if (done) return;
    counts.push(value.length);
  }
}

Deno.test("channelPair() ends when the target is removed and all that was taken is answered", async () => {
  for (const mode of ["plain", "byob"] as const) {
    const { kernel, device } = simulate();
    const channel = kernel.open("disk");
    const { readable, writable } = channelPair(channel);
    const status = device.submit(writeBio(512));
    const chunks: number[] = [];
    const reading = mode === "plain" ? readPlain(readable, chunks) : readOwn(readable, chunks);
    await settled();
    kernel.remove("disk");
    assert.equal(await isSettled(reading), false);
    const writer = writable.getWriter();
    await writer.write(answerBytes(0));
    assert.equal(await status, 0);
    await reading;
    assert.deepEqual(chunks, mode === "plain" ? [552] : [40, 512]);
    await writer.close();
    assert.equal(channel.released, true);
  }
});

Deno.test("channelPair() does not swallow a message when its reader is cancelled", async () => {
  const { kernel, device, target } = simulate();
  const { readable, writable } = channelPair(kernel.open("disk"));
  const reader = readable.getReader();
  const read = reader.read();
  await settled();
  assert.equal(target.waitingReads, 1);
  await reader.cancel();
  assert.equal((await read).done, true);
  assert.equal(target.waitingReads, 0);
  const status = device.submit(readBio(512));
  assert.equal(await isSettled(status), false);
  await writable.close();
  assert.equal(target.queued, 1);
});

Deno.test("channelPair() goes on after a signal, and fails when its channel is closed underneath", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const { readable, writable } = channelPair(channel);
  const reader = readable.getReader();
  const read = reader.read();
  await settled();
  channel.interrupt();
  await settled();
  const status = device.submit(readBio(512));
  assert.equal((await read).value?.length, HEADER_BYTES);
  channel.kill();
  assert.equal(await status, STATUS_EIO);
  await assert.rejects(reader.read(), { name: "BlockError", errno: "EBADF" });
  const writer = writable.getWriter();
  const late = answerBytes(0, RESPONSE_TYPES.ERROR);
  await assert.rejects(writer.write(late), { name: "BlockError", errno: "EBADF" });
  await assert.rejects(writer.closed, { errno: "EBADF" });
  assert.equal(now(channel.read(late)), -9);
});
