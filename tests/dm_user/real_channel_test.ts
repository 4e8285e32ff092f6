/**
 * Tests of lib/dm_user/{channel_ring,channel_thread,real_channel}.ts and lib/sys/{channel,signal}.ts:
 * the thread that reads, and a channel served, over a socket that stands for the device. It blocks as
 * the device does, and does not part headers from payloads, which the thread must not rely on.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { ringMemory, RingReader, RingWriter } from "../../lib/dm_user/channel_ring.ts";
import { HEADER_BYTES, REQUEST_TYPES, RESPONSE_TYPES } from "../../lib/dm_user/constants.ts";
import {
  CHANNEL_MESSAGE_BYTES_MAX,
  CHANNEL_PIECE_BYTES,
  CHANNEL_PIECES_MAX,
  CHANNEL_RING_BYTES,
} from "../../lib/dm_user/limits.ts";
import { decodeHeader, encodeHeader } from "../../lib/dm_user/message.ts";
import { RealChannel } from "../../lib/dm_user/real_channel.ts";
import { adoptDescriptor, socketPair } from "../../lib/driver/socket_pair.ts";
import type { BytePair } from "../../lib/stream/session.ts";
import { becomeIoFlusher, openChannel, readChannel, writeChannel } from "../../lib/sys/channel.ts";
import { currentThread, wakeThread } from "../../lib/sys/signal.ts";
import { accept, closeDescriptor, connectUnix } from "../../lib/sys/socket.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";

const MIB = 1024 * 1024;

function bytesOf(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  new SeededRandom(seed).fill(bytes);
  return bytes;
}

Deno.test("RingReader gives what RingWriter put, in order, for any mix of sizes and marks", () => {
  const memory = ringMemory(), reader = new RingReader(memory), writer = new RingWriter(memory);
  const random = new SeededRandom(7);
  const put: Uint8Array[] = [], taken: Uint8Array[] = [];
  let pieces = 0;
  const takeAll = (): void => {
    for (let kind = reader.next(); kind !== "nothing"; kind = reader.next()) {
      if (kind === "messages") taken.push(reader.takeMessages());
      else {
        reader.takeMark();
        taken.push(Uint8Array.of(255));
        pieces -= 1;
      }
    }
  };
  for (let turn = 0, filled = 0; turn < 3000; turn++) {
    const long = random.uint32() % 10 === 0;
    const size = long ? 0 : random.uint32() % (turn % 7 === 0 ? CHANNEL_MESSAGE_BYTES_MAX : 300);
    // Room that may be lost at the ring's end counts too.
    if (filled + 2 * size + 32 > CHANNEL_RING_BYTES / 2 || pieces === CHANNEL_PIECES_MAX) {
      takeAll();
      filled = 0;
    }
    filled += size + 16;
    const seen = reader.events;
    if (long) {
      assert.ok(writer.waitForPiece() && writer.mark());
      pieces += 1;
      put.push(Uint8Array.of(255));
    } else {
      const message = bytesOf(size, turn).map((byte) => byte & 127);
      assert.ok(writer.put(message));
      put.push(message);
    }
    assert.notEqual(reader.events, seen);
  }
  takeAll();
  const joined = (list: readonly Uint8Array[]): Uint8Array => {
    const whole = new Uint8Array(list.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const each of list) {
      whole.set(each, at);
      at += each.length;
    }
    return whole;
  };
  assert.ok(joined(taken).length > 4 * CHANNEL_RING_BYTES);
  assert.equal(indexOfDifference(joined(taken), joined(put)), -1);
});

function indexOfDifference(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  return a.findIndex((byte, index) => byte !== b[index]);
}

Deno.test("RingWriter tells its end once, and gives up what it waits for when abandoned", () => {
  const memory = ringMemory(), reader = new RingReader(memory), writer = new RingWriter(memory);
  assert.deepEqual([writer.order, reader.end, reader.next()], ["run", null, "nothing"]);
  reader.give("stop");
  assert.equal(writer.order, "stop");
  assert.ok(writer.put(new Uint8Array(40)));
  reader.give("abandon");
  reader.give("stop"); // never taken back
  assert.equal(writer.order, "abandon");
  assert.deepEqual([writer.put(new Uint8Array(40)), writer.waitForPiece()], [false, false]);
  writer.end(15);
  assert.deepEqual(reader.end, { kind: "errno", number: 15 });
  assert.throws(() => reader.takeMark(), RangeError);
  assert.throws(() => writer.put(new Uint8Array(CHANNEL_MESSAGE_BYTES_MAX + 1)), RangeError);
});

Deno.test("openChannel() says why it cannot; counts and errnos come as numbers", async () => {
  const folder = await Deno.makeTempDir();
  try {
    assert.throws(() => openChannel(`${folder}/none`), { code: "ENOENT", call: "open" });
    await Deno.writeTextFile(`${folder}/file`, "abc");
    const fd = openChannel(`${folder}/file`);
    assert.equal(readChannel(fd, new Uint8Array(9)), 3);
    assert.equal(writeChannel(fd, new Uint8Array(2)), 2);
    closeDescriptor(fd);
    assert.equal(readChannel(fd, new Uint8Array(9)), -9); // EBADF
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("wakeThread() says whether there is such a thread", () => {
  assert.equal(wakeThread(currentThread()), true);
  assert.equal(wakeThread(2 ** 31 - 1), false);
});

Deno.test("becomeIoFlusher() works for whoever has CAP_SYS_RESOURCE", () => {
  const CAP_SYS_RESOURCE = 24n;
  const [, capabilities = "0"] = /^CapEff:\s*(\w+)$/m.exec(
    Deno.readTextFileSync("/proc/thread-self/status"),
  ) ?? [];
  const allowed = ((BigInt(`0x${capabilities}`) >> CAP_SYS_RESOURCE) & 1n) === 1n;
  assert.equal(becomeIoFlusher(), allowed);
});

/** The kernel's end of a channel. */
class FakeKernel {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #rest = new Uint8Array(0);

  constructor(pair: BytePair) {
    this.#reader = pair.readable.getReader();
    this.#writer = pair.writable.getWriter();
  }

  async send(
    seq: number,
    type: number,
    sector: number,
    length: number,
    data?: Uint8Array,
  ): Promise<void> {
    const header = new Uint8Array(HEADER_BYTES);
    encodeHeader({
      seq: BigInt(seq),
      type: BigInt(type),
      flags: 0n,
      sector: BigInt(sector),
      length: BigInt(length),
    }, header);
    await this.#writer.write(header);
    if (data !== undefined) await this.#writer.write(data);
  }

  /** `length` bytes of answers, or fewer at the end. */
  async bytes(length: number): Promise<Uint8Array> {
    while (this.#rest.length < length) {
      const { done, value } = await this.#reader.read();
      if (done) break;
      const more = new Uint8Array(this.#rest.length + value.length);
      more.set(this.#rest);
      more.set(value, this.#rest.length);
      this.#rest = more;
    }
    const bytes = this.#rest.subarray(0, length);
    this.#rest = this.#rest.slice(bytes.length);
    return bytes;
  }

  /** The next response: its seq and type. */
  async answer(): Promise<readonly [seq: number, type: number]> {
    const { seq, type } = decodeHeader(await this.bytes(HEADER_BYTES));
    return [Number(seq), Number(type)];
  }

  /** Closes its end of the wire. */
  async close(): Promise<void> {
    await this.#writer.close().catch(() => {});
    await this.#reader.cancel();
  }
}

interface Bed {
  readonly kernel: FakeKernel;
  readonly channel: RealChannel;
  readonly device: Device;
  readonly store: Uint8Array;
  /** Requests wait while this is a promise. */
  hold: Promise<void> | null;
}

/** Keeps its data in `store`; writes wait for what `hold` gives. */
function deviceOver(store: Uint8Array, hold: () => Promise<void> | null): Device {
  return new Device({
    geometry: { size: store.length, minimum: 1, preferred: 512, maximum: MIB, readOnly: false },
    capabilities: { synchronous: false, fua: false },
    read: (into, offset) => void into.set(store.subarray(offset, offset + into.length)),
    write: (from, offset) => {
      const held = hold(), put = (): void => store.set(from, offset);
      return held === null ? put() : held.then(put);
    },
    flush: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }, { name: "disk", clock: systemClock, log: new MemoryLog() });
}

async function withChannel(run: (bed: Bed) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  const listener = listenUnix(`${folder}/s`);
  const fd = connectUnix(`${folder}/s`);
  const accepted = accept(listener.fd);
  listener.close();
  await Deno.remove(folder, { recursive: true });
  assert.ok(accepted !== null);
  const kernel = new FakeKernel(socketPair(adoptDescriptor(accepted.fd), { linger_ms: 0 }));
  const channel = new RealChannel({ fd, label: "the channel", clock: systemClock });
  const store = new Uint8Array(32 * MIB);
  const device = deviceOver(store, () => bed.hold);
  const bed: Bed = { kernel, channel, device, store, hold: null };
  try {
    await run(bed);
  } finally {
    await kernel.close();
    await device[Symbol.asyncDispose]();
  }
}

const { READ, WRITE, WRITE_ZEROES } = REQUEST_TYPES;
const { SUCCESS, ERROR, UNSUPPORTED } = RESPONSE_TYPES;

Deno.test("RealChannel answers messages; stop() brings the blocked thread back", async () => {
  await withChannel(async ({ kernel, channel, device, store }) => {
    const over = channel.serve(device);
    const data = bytesOf(4096, 1);
    await kernel.send(0, WRITE, 8, data.length, data);
    assert.deepEqual(await kernel.answer(), [0, SUCCESS]);
    assert.deepEqual(store.slice(4096, 8192), data);
    await kernel.send(1, READ, 8, 4096);
    assert.deepEqual(await kernel.answer(), [1, SUCCESS]);
    assert.deepEqual(await kernel.bytes(4096), data);
    await kernel.send(2, WRITE_ZEROES, 8, 4096);
    assert.deepEqual(await kernel.answer(), [2, SUCCESS]);
    await kernel.send(3, 99, 0, 0);
    assert.deepEqual(await kernel.answer(), [3, UNSUPPORTED]);
    await kernel.send(4, READ, 2 ** 40, 512);
    assert.deepEqual(await kernel.answer(), [4, ERROR]);
    channel.stop();
    assert.equal(await over, "stopped");
    assert.equal((await kernel.bytes(1)).length, 0, "the descriptor is closed");
  });
});

Deno.test("RealChannel takes WRITEs of every length, also those longer than what is passed on at once", async () => {
  await withChannel(async ({ kernel, channel, device, store }) => {
    const over = channel.serve(device);
    const lengths = [
      512,
      CHANNEL_MESSAGE_BYTES_MAX - HEADER_BYTES,
      CHANNEL_MESSAGE_BYTES_MAX - HEADER_BYTES + 512,
      CHANNEL_PIECE_BYTES - HEADER_BYTES,
      CHANNEL_PIECE_BYTES - HEADER_BYTES + 512,
      4096,
      3 * MIB,
    ];
    let sector = 0;
    for (const [seq, length] of lengths.entries()) {
      await kernel.send(seq, WRITE, sector, length, bytesOf(length, seq));
      sector += length / 512;
    }
    const seqs = new Set<number>();
    for (const _ of lengths) {
      const [seq, type] = await kernel.answer();
      assert.equal(type, SUCCESS);
      seqs.add(seq);
    }
    assert.equal(seqs.size, lengths.length);
    let at = 0;
    for (const [seq, length] of lengths.entries()) {
      const found = store.subarray(at, at + length);
      assert.equal(indexOfDifference(found, bytesOf(length, seq)), -1, `length ${length}`);
      at += length;
    }
    channel.stop();
    await over;
  });
});

Deno.test("RealChannel answers thousands of messages in a row, around the ring's end many times", async () => {
  await withChannel(async ({ kernel, channel, device, store }) => {
    const over = channel.serve(device);
    const count = 4000, data = bytesOf(8192, 3);
    const sending = (async (): Promise<void> => {
      for (let seq = 0; seq < count; seq++) {
        const length = 512 * (1 + seq % 16);
        await kernel.send(seq, WRITE, seq * 16, length, data.subarray(0, length));
      }
    })();
    const seen = new Uint8Array(count);
    for (let n = 0; n < count; n++) {
      const [seq, type] = await kernel.answer();
      assert.deepEqual([type, seen[seq]], [SUCCESS, 0]);
      seen[seq] = 1;
    }
    await sending;
    for (let seq = 0; seq < count; seq += 97) {
      const length = 512 * (1 + seq % 16);
      assert.deepEqual(store.slice(seq * 8192, seq * 8192 + length), data.slice(0, length));
    }
    channel.stop();
    assert.equal(await over, "stopped");
  });
});

Deno.test("RealChannel.stop() has what is in flight answered first", async () => {
  await withChannel(async (bed) => {
    const { kernel, channel, device } = bed;
    const gate = Promise.withResolvers<void>();
    bed.hold = gate.promise;
    const over = channel.serve(device);
    await kernel.send(0, WRITE, 0, 512, new Uint8Array(512).fill(1));
    await kernel.send(1, READ, 8, 512);
    assert.deepEqual(await kernel.answer(), [1, SUCCESS]); // so the write is in flight
    await kernel.bytes(512);
    channel.stop();
    gate.resolve();
    assert.equal(await over, "stopped");
    assert.deepEqual(await kernel.answer(), [0, SUCCESS]);
    assert.equal(bed.store[0], 1);
  });
});

Deno.test("RealChannel.stop() before serve() ends it at once", async () => {
  await withChannel(async ({ channel, device }) => {
    channel.stop();
    assert.equal(await channel.serve(device), "stopped");
  });
});

Deno.test("RealChannel.abort() does not wait for what is in flight to be answered", async () => {
  await withChannel(async (bed) => {
    const { kernel, channel, device } = bed;
    const gate = Promise.withResolvers<void>();
    bed.hold = gate.promise;
    const over = channel.serve(device);
    await kernel.send(0, WRITE, 0, 512, new Uint8Array(512));
    await kernel.send(1, READ, 8, 512);
    await kernel.bytes(552);
    channel.abort(new Error("enough"));
    const failed = assert.rejects(over, /enough/);
    gate.resolve();
    await failed;
    assert.equal((await kernel.bytes(1)).length, 0);
  });
});

Deno.test("RealChannel says that a thing with an end is no control device", async () => {
  await withChannel(async ({ kernel, channel, device }) => {
    const over = channel.serve(device);
    await kernel.close();
    await assert.rejects(over, {
      message: "Cannot read the channel: it has an end, so it is no control device of dm-user",
    });
  });
});

Deno.test("RealChannel rejects what is no message, and closes", async () => {
  await withChannel(async ({ kernel, channel, device }) => {
    const over = channel.serve(device);
    await kernel.send(0, WRITE, 0, 2 ** 40);
    await assert.rejects(over, /a BIO has at most/);
    assert.equal((await kernel.bytes(1)).length, 0);
  });
});

Deno.test("RealChannel leaves time to others though messages never stop", async () => {
  // Without end: READs of 0 bytes with seq 0, whose answers are taken.
  const fd = openChannel("/dev/zero");
  const channel = new RealChannel({ fd, label: "/dev/zero", clock: systemClock });
  await using device = deviceOver(new Uint8Array(MIB), () => null);
  const written = async (): Promise<number> => {
    const [, bytes = ""] = /^wchar: (\d+)$/m.exec(await Deno.readTextFile("/proc/self/io")) ?? [];
    return Number(bytes);
  };
  const over = channel.serve(device), before = await written();
  while (await written() - before < 10_000 * HEADER_BYTES);
  channel.stop();
  assert.equal(await over, "stopped");
});
