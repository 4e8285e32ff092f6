/**
 * write(2) on a simulated channel, rule by rule. Each test quotes the rule that it checks.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Maybe } from "../../lib/block/types.ts";
import { HEADER_BYTES, REQUEST_TYPES, RESPONSE_TYPES } from "../../lib/dm_user/constants.ts";
import { makeBio, RESULT_EINVAL, STATUS_EIO } from "../../lib/dm_user/simulator/bio.ts";
import type { Channel } from "../../lib/dm_user/simulator/channel.ts";
import {
  answer,
  answerBytes,
  isSettled,
  now,
  pattern,
  readBio,
  readMessage,
  simulate,
  type Simulation,
  writeAll,
  writeBio,
} from "./fixtures.ts";

const { SUCCESS, ERROR, UNSUPPORTED } = RESPONSE_TYPES;

Deno.test("Header bytes collect in a scratch space; a write that does not complete the header returns the bytes it took", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const status = device.submit(writeBio(512));
  readMessage(channel);
  const bytes = answerBytes(0);
  assert.equal(channel.write(bytes.subarray(0, 1)), 1);
  assert.equal(channel.write(bytes.subarray(1, 39)), 38);
  assert.equal(await isSettled(status), false);
  assert.equal(channel.write(bytes.subarray(39)), 1);
  assert.equal(await status, 0);
  channel.close();
});

/** What was done to seq 0 before the wrong answer, which names `seq`. */
interface Wrong {
  readonly quote: string;
  readonly seq: bigint;
  readonly reason: string;
  before(simulation: Simulation, channel: Channel, other: Channel): void;
}

const WRONG: readonly Wrong[] = [
  { quote: "never sent", seq: 5n, reason: "was never sent", before: () => {} },
  {
    quote: "never sent (a number of 64 bits)",
    seq: 1n << 63n,
    reason: "was never sent",
    before: () => {},
  },
  {
    quote: "never sent (still queued)",
    seq: 0n,
    reason: "was not read yet",
    before: ({ device }) => void device.submit(readBio(512)),
  },
  {
    quote: "sent to another channel",
    seq: 0n,
    reason: "belongs to channel 2",
    before: ({ device }, _channel, other) => {
      device.submit(readBio(512));
      readMessage(other);
    },
  },
  {
    quote: "not read to its end (half of the header)",
    seq: 0n,
    reason: "was not read to its end",
    before: ({ device }, channel) => {
      device.submit(readBio(512));
      assert.equal(now(channel.read(new Uint8Array(20))), 20);
    },
  },
  {
    quote: "not read to its end (answer before the payload was read)",
    seq: 0n,
    reason: "was not read to its end",
    before: ({ device }, channel) => {
      device.submit(writeBio(512));
      assert.equal(now(channel.read(new Uint8Array(40))), 40);
    },
  },
  {
    quote: "answered already",
    seq: 0n,
    reason: "is over already",
    before: ({ device }, channel) => {
      device.submit(readBio(512));
      answer(channel, readMessage(channel));
    },
  },
];

for (const { quote, seq, reason, before } of WRONG) {
  Deno.test(`${quote}: the write that brought the header still returns the bytes it took, and every later write fails with EINVAL, for good`, async () => {
    const simulation = simulate();
    const { kernel, device, log } = simulation;
    const channel = kernel.open("disk"), other = kernel.open("disk");
    before(simulation, channel, other);
    // Bytes behind the header are not taken.
    assert.equal(channel.write(answerBytes(seq, SUCCESS, pattern(40))), HEADER_BYTES);
    for (const bytes of [answerBytes(0), new Uint8Array(1), new Uint8Array(0), null]) {
      assert.equal(channel.write(bytes), RESULT_EINVAL);
    }
    assert.ok(log.some((line) => line.includes("poison") && line.endsWith(reason)), log.join("\n"));
    // "Nothing else on the target is harmed": another channel works, and reads of this one do.
    const fresh = kernel.open("disk");
    if (simulation.target.queued > 0) readMessage(fresh);
    const status = device.submit(readBio(512));
    answer(fresh, readMessage(fresh));
    assert.equal(await status, 0);
    device.submit(writeBio(512));
    const size = channel.remaining === 0 ? HEADER_BYTES : channel.remaining;
    assert.equal(now(channel.read(new Uint8Array(4096))), size);
    for (const each of [channel, other, fresh]) each.close();
  });
}

Deno.test("a header whose last byte comes alone poisons after a count of 1", () => {
  const { kernel } = simulate();
  const channel = kernel.open("disk");
  const bytes = answerBytes(9);
  assert.equal(channel.write(bytes.subarray(0, 39)), 39);
  assert.equal(channel.write(bytes.subarray(39)), 1);
  assert.equal(channel.write(bytes), RESULT_EINVAL);
  channel.close();
});

Deno.test("wrong seq, wrong channel, answer before the payload was read: that write returns 40, then EINVAL for ever; reads go on working; what is outstanding fails at close", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const first = device.submit(readBio(512)), second = device.submit(writeBio(512));
  readMessage(channel);
  assert.equal(channel.write(answerBytes(77)), HEADER_BYTES);
  assert.equal(channel.write(answerBytes(0)), RESULT_EINVAL);
  assert.deepEqual(readMessage(channel).payload, pattern(512));
  assert.equal(await isSettled(first), false);
  assert.equal(await isSettled(second), false);
  channel.close();
  assert.deepEqual([await first, await second], [STATUS_EIO, STATUS_EIO]);
});

const FAILING = [ERROR, UNSUPPORTED, 3, 2 ** 32, 2 ** 53 - 1];

Deno.test("Response ERROR/UNSUPPORTED/unknown: the BIO fails; payload is not expected", async () => {
  for (const type of FAILING) {
    for (const bio of [readBio(512), writeBio(512), makeBio(REQUEST_TYPES.FLUSH)]) {
      const { kernel, device } = simulate();
      const channel = kernel.open("disk");
      const status = device.submit(bio);
      readMessage(channel);
      assert.equal(channel.write(answerBytes(0, type, pattern(512))), HEADER_BYTES);
      assert.equal(await status, STATUS_EIO);
      channel.close();
    }
  }
});

Deno.test("ERROR/UNSUPPORTED with a payload behind it: the payload would be read as the next header", () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  device.submit(readBio(512));
  readMessage(channel);
  const bytes = answerBytes(0, ERROR, pattern(512));
  assert.equal(channel.write(bytes), HEADER_BYTES);
  assert.equal(channel.write(bytes.subarray(HEADER_BYTES)), HEADER_BYTES);
  assert.equal(channel.write(bytes.subarray(2 * HEADER_BYTES)), RESULT_EINVAL);
  channel.close();
});

Deno.test("SUCCESS to a non-READ: the BIO completes", async () => {
  for (const [name, type] of Object.entries(REQUEST_TYPES)) {
    if (type === REQUEST_TYPES.READ) continue;
    const { kernel, device } = simulate({ discard: true, writeZeroes: true });
    const channel = kernel.open("disk");
    const carries = type === REQUEST_TYPES.WRITE;
    const status = device.submit(carries ? writeBio(512) : makeBio(type, { length: 512 }));
    assert.equal(readMessage(channel).type, BigInt(type));
    assert.equal(channel.write(answerBytes(0, SUCCESS, pattern(8))), HEADER_BYTES, name);
    assert.equal(await status, 0, name);
    channel.close();
  }
});

Deno.test("SUCCESS to a READ: the payload follows, in the same write or in later ones, in pieces of any size; the BIO completes at its last byte", async () => {
  for (const sizes of [[552], [40, 512], [41, 511], [39, 513], [1, 39, 1, 510, 1], [40, 0, 512]]) {
    const { kernel, device } = simulate();
    const channel = kernel.open("disk");
    const bio = readBio(512);
    const status = device.submit(bio);
    readMessage(channel);
    const bytes = answerBytes(0, SUCCESS, pattern(512));
    let at = 0;
    for (const size of sizes) {
      assert.equal(await isSettled(status), false);
      // A write that brings the last byte of the header goes on with the payload behind it.
      assert.equal(channel.write(bytes.subarray(at, at + size)), size);
      at += size;
    }
    assert.equal(await status, 0);
    assert.deepEqual(bio.data, pattern(512));
    channel.close();
  }
});

Deno.test("One write completes at most one message and returns the bytes that it consumed: a second response packed behind the first is not consumed", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const reads = device.submit(readBio(512)), writes = device.submit(writeBio(512));
  readMessage(channel);
  readMessage(channel);
  const both = new Uint8Array([...answerBytes(0, SUCCESS, pattern(512)), ...answerBytes(1)]);
  assert.equal(channel.write(both), HEADER_BYTES + 512);
  assert.equal(await reads, 0);
  assert.equal(await isSettled(writes), false);
  assert.equal(channel.write(both.subarray(HEADER_BYTES + 512)), HEADER_BYTES);
  assert.equal(await writes, 0);
  channel.close();
});

Deno.test("two answers in one write(2): 40 comes back", () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  device.submit(writeBio(512));
  device.submit(writeBio(512));
  readMessage(channel);
  readMessage(channel);
  const both = new Uint8Array([...answerBytes(0), ...answerBytes(1)]);
  assert.equal(channel.write(both), HEADER_BYTES);
  assert.equal(channel.write(both.subarray(HEADER_BYTES)), HEADER_BYTES);
  channel.close();
});

Deno.test("Answers may come in any order", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const bios = Array.from({ length: 4 }, (_, sector) => readBio(512, sector));
  const done: number[] = [];
  const statuses = bios.map(async (bio, index) => {
    assert.equal(await device.submit(bio), 0);
    done.push(index);
  });
  const messages = bios.map(() => readMessage(channel));
  for (const index of [2, 0, 3, 1]) {
    const message = messages[index];
    assert.ok(message !== undefined);
    writeAll(channel, answerBytes(message.seq, SUCCESS, pattern(512, index)));
    await isSettled(statuses[index] ?? 0);
  }
  await Promise.all(statuses);
  assert.deepEqual(done, [2, 0, 3, 1]);
  bios.forEach((bio, index) => assert.deepEqual(bio.data, pattern(512, index)));
  channel.close();
});

Deno.test("only seq and type matter", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const status = device.submit(writeBio(512));
  readMessage(channel);
  const bytes = answerBytes(0).fill(0xff, 16);
  assert.equal(channel.write(bytes), HEADER_BYTES);
  assert.equal(await status, 0);
  channel.close();
});

Deno.test("write(2) of 0 bytes, or from a bad pointer, while a header is incomplete: returns 0 and poisons the channel like a wrong seq", () => {
  for (const bytes of [new Uint8Array(0), null]) {
    for (const head of [0, 1, 39]) {
      const { kernel } = simulate();
      const channel = kernel.open("disk");
      if (head > 0) assert.equal(channel.write(answerBytes(0).subarray(0, head)), head);
      assert.equal(channel.write(bytes), 0);
      assert.equal(channel.write(answerBytes(0)), RESULT_EINVAL);
      channel.close();
    }
  }
});

Deno.test("write(2) of 0 bytes in the payload of an answer takes nothing and harms nothing", async () => {
  const { kernel, device } = simulate();
  const channel = kernel.open("disk");
  const status: Maybe<number> = device.submit(readBio(512));
  readMessage(channel);
  assert.equal(channel.write(answerBytes(0)), HEADER_BYTES);
  assert.equal(channel.write(new Uint8Array(0)), 0);
  assert.equal(channel.write(null), 0);
  assert.equal(channel.write(pattern(512)), 512);
  assert.equal(await status, 0);
  channel.close();
});
