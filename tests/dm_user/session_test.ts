/**
 * The daemon's session over bytes: what each message becomes, what each outcome is answered with, order,
 * limits, and the ways to end.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { CONNECTION_REQUESTS_MAX, REQUEST_BYTES_MAX } from "../../lib/block/limits.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import type { Gate } from "../../lib/block/request.ts";
import type { Backend, Maybe } from "../../lib/block/types.ts";
import { HEADER_BYTES, REQUEST_FLAGS, REQUEST_TYPES } from "../../lib/dm_user/constants.ts";
import { BIO_BYTES_MAX, READ_BYTES_MAX } from "../../lib/dm_user/limits.ts";
import { decodeHeader, describeResponse, type MessageHeader } from "../../lib/dm_user/message.ts";
import { ChannelSession, type ChannelSessionOptions } from "../../lib/dm_user/session.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { messageBytes, pattern, settled } from "./fixtures.ts";

const MIB = 2 ** 20;
const { FUA, PREFLUSH, NOUNMAP, SYNC } = REQUEST_FLAGS;
const T = REQUEST_TYPES;

/** A daemon over a backend that notes its calls and does what `outcome` says of each. */
interface Daemon {
  readonly session: ChannelSession;
  readonly device: Device;
  readonly calls: string[];
  readonly pool: BufferPool;
  wakes: number;
}

interface DaemonOptions extends ChannelSessionOptions {
  readonly size?: number;
  readonly fua?: boolean;
  outcome?(call: string): Maybe<void>;
  readonly without?: readonly ("trim" | "zero")[];
}

function makeDaemon(options: DaemonOptions = {}): Daemon {
  const { size = 2 ** 40, fua = true, outcome = (): undefined => undefined, without = [] } =
    options;
  const calls: string[] = [];
  const note = (call: string, more: Readonly<Record<string, boolean>> = {}): Maybe<void> => {
    const flags = Object.entries(more).filter(([, set]) => set).map(([name]) => ` ${name}`);
    calls.push(call + flags.join(""));
    return outcome(call);
  };
  const backend: Backend = {
    geometry: { size, minimum: 1, preferred: 4096, maximum: 64 * MIB, readOnly: false },
    capabilities: { synchronous: false, fua },
    read(into, offset): Maybe<void> {
      into.fill(offset / 512 % 256);
      return note(`read ${offset}+${into.length}`);
    },
    write: (from, offset, more) => note(`write ${offset}+${from.length} ${from[0]}`, { ...more }),
    flush: () => note("flush"),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  if (!without.includes("trim")) {
    backend.trim = (offset, length, more) => note(`trim ${offset}+${length}`, { ...more });
  }
  if (!without.includes("zero")) {
    backend.zero = (offset, length, more) => note(`zero ${offset}+${length}`, { ...more });
  }
  const pool = new BufferPool({ poison: true });
  const device = new Device(backend, {
    name: "disk",
    clock: new ManualClock(),
    log: new MemoryLog(),
    pool,
  });
  const session = new ChannelSession(device, options);
  const daemon: Daemon = { session, device, calls, pool, wakes: 0 };
  session.onWake = () => void (daemon.wakes += 1);
  return daemon;
}

/** Everything that the session has to send. */
function outputOf({ session }: Daemon): Uint8Array {
  const bytes: number[] = [];
  for (let next = session.takeOutput(); next !== null; next = session.takeOutput()) {
    for (const byte of next.bytes) bytes.push(byte);
    next.release();
  }
  return Uint8Array.from(bytes);
}

/** Bare responses in words. */
function bareResponses(daemon: Daemon): string[] {
  const bytes = outputOf(daemon);
  assert.equal(bytes.length % HEADER_BYTES, 0, "there is data behind a header");
  return Array.from(
    { length: bytes.length / HEADER_BYTES },
    (_, index) => describeResponse(decodeHeader(bytes, index * HEADER_BYTES)),
  );
}

const message = (
  type: number,
  rest: Partial<Omit<MessageHeader, "type" | "flags">> & { flags?: number } = {},
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> => {
  const { flags = 0, ...more } = rest;
  return messageBytes({ type: BigInt(type), flags: BigInt(flags), ...more }, payload);
};

/** One message, the calls that it becomes, its answer. */
interface Row {
  readonly what: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly calls: readonly string[];
  readonly answer: string;
  readonly options?: DaemonOptions;
}

const fail = (errno: "EIO" | "ENOSPC" | "EOPNOTSUPP", which: RegExp): DaemonOptions => ({
  outcome: (call) => {
    if (which.test(call)) throw new BlockError(errno);
  },
});

const ROWS: readonly Row[] = [
  {
    what: "WRITE",
    bytes: message(T.WRITE, { seq: 7n, sector: 8n, flags: SYNC }, pattern(512)),
    calls: ["write 4096+512 1"],
    answer: "seq 7 SUCCESS",
  },
  {
    what: "WRITE with FUA: durable before the answer",
    bytes: message(T.WRITE, { flags: FUA | SYNC }, pattern(512)),
    calls: ["write 0+512 1 fua"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE with FUA where the storage has none",
    bytes: message(T.WRITE, { flags: FUA }, pattern(512)),
    calls: ["write 0+512 1", "flush"],
    answer: "seq 0 SUCCESS",
    options: { fua: false },
  },
  {
    what: "empty WRITE with PREFLUSH is a flush",
    bytes: message(T.WRITE, { flags: PREFLUSH | SYNC }),
    calls: ["flush"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "empty WRITE with PREFLUSH, FUA, META, IDLE and a sector past the end is a flush",
    bytes: message(T.WRITE, { flags: 0x698, sector: 2n ** 60n }),
    calls: ["flush"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE with PREFLUSH: flush, then write",
    bytes: message(T.WRITE, { flags: PREFLUSH | FUA }, pattern(512)),
    calls: ["flush", "write 0+512 1 fua"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "a flush that fails: no write, ERROR",
    bytes: message(T.WRITE, { flags: PREFLUSH }, pattern(512)),
    calls: ["flush"],
    answer: "seq 0 ERROR",
    options: fail("EIO", /flush/),
  },
  {
    what: "empty WRITE without PREFLUSH does nothing",
    bytes: message(T.WRITE),
    calls: [],
    answer: "seq 0 SUCCESS",
  },
  { what: "FLUSH", bytes: message(T.FLUSH), calls: ["flush"], answer: "seq 0 SUCCESS" },
  {
    what: "FLUSH with a range",
    bytes: message(T.FLUSH, { sector: 9n, length: 512n }),
    calls: ["flush"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "DISCARD",
    bytes: message(T.DISCARD, { sector: 2n, length: 8192n }),
    calls: ["trim 1024+8192"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "DISCARD that the storage cannot do",
    bytes: message(T.DISCARD, { length: 512n }),
    calls: [],
    answer: "seq 0 UNSUPPORTED",
    options: { without: ["trim"] },
  },
  {
    what: "DISCARD that fails",
    bytes: message(T.DISCARD, { length: 512n }),
    calls: ["trim 0+512"],
    answer: "seq 0 ERROR",
    options: fail("EIO", /trim/),
  },
  {
    what: "DISCARD with PREFLUSH and FUA",
    bytes: message(T.DISCARD, { length: 512n, flags: PREFLUSH | FUA }),
    calls: ["flush", "trim 0+512 fua"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "empty DISCARD",
    bytes: message(T.DISCARD),
    calls: [],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE_ZEROES may leave a hole",
    bytes: message(T.WRITE_ZEROES, { length: 8192n }),
    calls: ["zero 0+8192 mayTrim"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE_ZEROES with NOUNMAP may not",
    bytes: message(T.WRITE_ZEROES, { length: 8192n, flags: NOUNMAP | FUA }),
    calls: ["zero 0+8192 fua"],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE_ZEROES where the storage has none",
    bytes: message(T.WRITE_ZEROES, { length: 8192n }),
    calls: ["write 0+8192 0"],
    answer: "seq 0 SUCCESS",
    options: { without: ["zero"] },
  },
  {
    what: "DISCARD longer than 4 GiB",
    bytes: message(T.DISCARD, { length: 2n ** 33n }),
    calls: [`trim 0+${2 ** 33}`],
    answer: "seq 0 SUCCESS",
  },
  ...["SECURE_ERASE", "WRITE_SAME", "ZONE_OPEN", "ZONE_CLOSE", "ZONE_FINISH", "ZONE_APPEND"].map(
    (what, index): Row => ({
      what,
      bytes: message([4, 5, 7, 8, 9, 10][index] ?? 0, { length: 512n }),
      calls: [],
      answer: "seq 0 UNSUPPORTED",
    }),
  ),
  ...[T.ZONE_RESET, T.ZONE_RESET_ALL, 13, 255].map((type): Row => ({
    what: `type ${type}`,
    bytes: message(type, { length: 512n }),
    calls: [],
    answer: "seq 0 UNSUPPORTED",
  })),
  {
    what: "a type of 64 bits",
    bytes: messageBytes({ type: (1n << 63n) + 1n, length: 1n << 63n }),
    calls: [],
    answer: "seq 0 UNSUPPORTED",
  },
  {
    what: "a seq of 64 bits, and flags without a number",
    bytes: messageBytes({ seq: (1n << 64n) - 2n, type: 2n, flags: (1n << 63n) | (1n << 32n) }),
    calls: ["flush"],
    answer: `seq ${(1n << 64n) - 2n} SUCCESS`,
  },
  {
    what: "READ that fails: a bare header",
    bytes: message(T.READ, { seq: 3n, length: 4096n }),
    calls: ["read 0+4096"],
    answer: "seq 3 ERROR",
    options: fail("EIO", /read/),
  },
  {
    what: "READ past the end",
    bytes: message(T.READ, { sector: 8n, length: 512n }),
    calls: [],
    answer: "seq 0 ERROR",
    options: { size: 4096 },
  },
  {
    what: "READ at an absurd sector",
    bytes: message(T.READ, { sector: (1n << 64n) - 1n, length: 512n }),
    calls: [],
    answer: "seq 0 ERROR",
  },
  {
    what: "READ longer than READ_BYTES_MAX",
    bytes: message(T.READ, { length: BigInt(READ_BYTES_MAX) + 512n }),
    calls: [],
    answer: "seq 0 ERROR",
  },
  {
    what: "empty READ",
    bytes: message(T.READ, { length: 0n }),
    calls: [],
    answer: "seq 0 SUCCESS",
  },
  {
    what: "WRITE past the end",
    bytes: message(T.WRITE, { sector: 8n }, pattern(512)),
    calls: [],
    answer: "seq 0 ERROR",
    options: { size: 4096 },
  },
  {
    what: "WRITE that fails for want of space",
    bytes: message(T.WRITE, {}, pattern(512)),
    calls: ["write 0+512 1"],
    answer: "seq 0 ERROR",
    options: fail("ENOSPC", /write/),
  },
];

for (const { what, bytes, calls, answer, options } of ROWS) {
  for (const when of ["at once", "later"] as const) {
    Deno.test(`ChannelSession answers ${when}: ${what}`, async () => {
      const outcome = options?.outcome ?? (() => undefined);
      const daemon = makeDaemon({
        ...options,
        outcome: when === "at once" ? outcome : async (call) => {
          await Promise.resolve();
          return outcome(call);
        },
      });
      daemon.session.receive(bytes);
      await settled();
      assert.deepEqual(daemon.calls, calls);
      assert.deepEqual(bareResponses(daemon), [answer]);
      assert.equal(daemon.session.inFlight, 0);
      daemon.session.end(undefined);
      assert.equal(daemon.session.finished, true);
      assert.equal(daemon.pool.takenCount, 0);
    });
  }
}

Deno.test("ChannelSession answers a READ with its header and exactly its data, however the message is cut", async () => {
  const bytes = message(T.READ, { seq: 5n, sector: 3n, length: 1024n });
  for (const step of [1, 39, 40]) {
    const daemon = makeDaemon();
    for (let at = 0; at < bytes.length; at += step) {
      daemon.session.receive(bytes.slice(at, at + step));
    }
    const output = outputOf(daemon);
    assert.deepEqual(decodeHeader(output), {
      seq: 5n,
      type: 0n,
      flags: 0n,
      sector: 0n,
      length: 1024n,
    });
    assert.deepEqual(output.subarray(HEADER_BYTES), new Uint8Array(1024).fill(3));
    daemon.session.end(undefined);
    await settled();
    assert.equal(daemon.pool.takenCount, 0);
  }
});

Deno.test("ChannelSession takes a WRITE whose data comes in any pieces", () => {
  const bytes = message(T.WRITE, { seq: 5n }, pattern(4096));
  for (const step of [1, 40, 41, 1000]) {
    const daemon = makeDaemon();
    for (let at = 0; at < bytes.length; at += step) {
      assert.deepEqual(daemon.calls, []);
      daemon.session.receive(bytes.slice(at, at + step));
    }
    assert.deepEqual(daemon.calls, ["write 0+4096 1"]);
    assert.deepEqual(bareResponses(daemon), ["seq 5 SUCCESS"]);
    daemon.session.end(undefined);
    assert.equal(daemon.pool.takenCount, 0);
  }
});

Deno.test("ChannelSession answers in the order in which the Device is done", async () => {
  const gates = new Map<string, PromiseWithResolvers<void>>();
  const daemon = makeDaemon({
    outcome: (call) => {
      const gate = Promise.withResolvers<void>();
      gates.set(call, gate);
      return gate.promise;
    },
  });
  for (const seq of [0n, 1n, 2n]) {
    daemon.session.receive(message(T.WRITE, { seq, sector: seq }, pattern(512)));
  }
  assert.equal(daemon.session.inFlight, 3);
  assert.deepEqual(bareResponses(daemon), []);
  for (const seq of [2, 0, 1]) {
    gates.get(`write ${seq * 512}+512 1`)?.resolve();
    await settled();
    assert.deepEqual(bareResponses(daemon), [`seq ${seq} SUCCESS`]);
  }
  assert.equal(daemon.wakes, 3);
  daemon.session.end(undefined);
});

Deno.test("ChannelSession is not ready while too much is in flight, and takes up the rest after", async () => {
  const gates: PromiseWithResolvers<void>[] = [];
  const daemon = makeDaemon({
    outcome: () => {
      const gate = Promise.withResolvers<void>();
      gates.push(gate);
      return gate.promise;
    },
  });
  const count = CONNECTION_REQUESTS_MAX + 50;
  const one = message(T.WRITE, {}, pattern(512));
  const all = new Uint8Array(count * one.length);
  for (let index = 0; index < count; index += 1) all.set(one, index * one.length);
  daemon.session.receive(all);
  assert.equal(daemon.session.inFlight, CONNECTION_REQUESTS_MAX);
  assert.equal(daemon.session.ready, false);
  gates.shift()?.resolve();
  await settled();
  assert.equal(daemon.session.inFlight, CONNECTION_REQUESTS_MAX);
  while (gates.length > 0) {
    for (const gate of gates.splice(0)) gate.resolve();
    await settled();
  }
  assert.equal(daemon.session.ready, true);
  assert.equal(bareResponses(daemon).length, count);
  daemon.session.end(undefined);
  assert.equal(daemon.pool.takenCount, 0);
});

Deno.test("ChannelSession bounds the answers that are not sent", () => {
  const daemon = makeDaemon();
  for (const seq of [0n, 1n]) {
    daemon.session.receive(message(T.READ, { seq, length: BigInt(REQUEST_BYTES_MAX) }));
  }
  assert.equal(daemon.session.ready, false);
  daemon.session.receive(message(T.READ, { seq: 2n, length: 512n }));
  assert.equal(daemon.calls.length, 2);
  const first = daemon.session.takeOutput();
  first?.release();
  const second = daemon.session.takeOutput();
  assert.equal(daemon.calls.length, 3);
  assert.equal(daemon.session.ready, true);
  second?.release();
  daemon.session.takeOutput()?.release();
  daemon.session.end(undefined);
  assert.equal(daemon.pool.takenCount, 0);
});

Deno.test("ChannelSession reads long READs in several requests, and knows the status before it answers", () => {
  const length = REQUEST_BYTES_MAX + MIB;
  const calls = [`read 512+${REQUEST_BYTES_MAX}`, `read ${512 + REQUEST_BYTES_MAX}+${MIB}`];
  const daemon = makeDaemon();
  daemon.session.receive(message(T.READ, { seq: 1n, sector: 1n, length: BigInt(length) }));
  assert.deepEqual(daemon.calls, calls);
  let sent = 0;
  for (let next = daemon.session.takeOutput(); next; next = daemon.session.takeOutput()) {
    if (sent === 0) assert.equal(describeResponse(decodeHeader(next.bytes)), "seq 1 SUCCESS");
    sent += next.bytes.length;
    next.release();
  }
  assert.equal(sent, HEADER_BYTES + length);
  daemon.session.end(undefined);
  assert.equal(daemon.pool.takenCount, 0);

  const failing = makeDaemon(fail("EIO", new RegExp(`\\+${MIB}$`)));
  failing.session.receive(message(T.READ, { seq: 1n, sector: 1n, length: BigInt(length) }));
  assert.deepEqual(failing.calls, calls);
  assert.deepEqual(bareResponses(failing), ["seq 1 ERROR"]);
  failing.session.end(undefined);
  assert.equal(failing.pool.takenCount, 0);
});

/** Sends a WRITE of `length` bytes in chunks of 8 MiB, and a FLUSH behind it. */
async function sendLong(daemon: Daemon, length: number, flags: number): Promise<void> {
  daemon.session.receive(message(T.WRITE, { seq: 1n, sector: 2n, length: BigInt(length), flags }));
  const chunk = new Uint8Array(8 * MIB).fill(9);
  for (let at = 0; at < length; at += chunk.length) {
    while (!daemon.session.ready) await settled();
    daemon.session.receive(chunk.slice(0, Math.min(chunk.length, length - at)));
  }
  daemon.session.receive(message(T.FLUSH, { seq: 2n }));
  await settled();
}

Deno.test("ChannelSession writes long WRITEs in several requests; FUA is one flush at their end", async () => {
  const length = REQUEST_BYTES_MAX + 3 * MIB;
  const pieces = [
    `write 1024+${REQUEST_BYTES_MAX} 9`,
    `write ${1024 + REQUEST_BYTES_MAX}+${3 * MIB} 9`,
  ];
  const rows = [
    { flags: SYNC, outcome: () => undefined, calls: [...pieces, "flush"], answers: "SUCCESS" },
    {
      flags: PREFLUSH | FUA,
      outcome: () => Promise.resolve(),
      calls: ["flush", ...pieces, "flush", "flush"],
      answers: "SUCCESS",
    },
    {
      flags: FUA,
      ...fail("EIO", /write 1024/),
      calls: [...pieces.slice(0, 1), "flush"],
      answers: "ERROR",
    },
  ];
  for (const { calls, answers, flags, outcome } of rows) {
    const daemon = makeDaemon(outcome === undefined ? {} : { outcome });
    await sendLong(daemon, length, flags);
    assert.deepEqual(daemon.calls.sort(), calls.toSorted());
    assert.deepEqual(bareResponses(daemon).sort(), [`seq 1 ${answers}`, "seq 2 SUCCESS"]);
    assert.equal(daemon.session.inFlight, 0);
    daemon.session.end(undefined);
    assert.equal(daemon.pool.takenCount, 0);
  }
});

Deno.test("ChannelSession ends in the middle of a long WRITE", async () => {
  for (const outcome of [() => undefined, () => Promise.resolve()]) {
    const daemon = makeDaemon({ outcome });
    daemon.session.receive(message(T.WRITE, { length: BigInt(REQUEST_BYTES_MAX + MIB) }));
    for (let count = 0; count < 65; count += 1) daemon.session.receive(new Uint8Array(MIB - 1));
    daemon.session.end(new Error("gone"));
    await settled();
    assert.equal(daemon.session.finished, true);
    assert.equal(daemon.pool.takenCount, 0);
  }
});

Deno.test("ChannelSession lets work in flight finish after its end and answers nothing", async () => {
  const gate = Promise.withResolvers<void>();
  const daemon = makeDaemon({ outcome: () => gate.promise });
  daemon.session.receive(message(T.READ, { length: 4096n }));
  daemon.session.receive(message(T.WRITE, { flags: PREFLUSH }, pattern(512)));
  daemon.session.receive(message(T.READ, { length: BigInt(REQUEST_BYTES_MAX + MIB) }));
  daemon.session.end(undefined);
  assert.equal(daemon.session.ready, false);
  assert.equal(daemon.session.finished, false);
  gate.resolve();
  await settled();
  assert.equal(daemon.session.finished, true);
  assert.equal(daemon.session.takeOutput(), null);
  assert.ok(daemon.wakes > 0);
  assert.equal(daemon.pool.takenCount, 0);
});

Deno.test("ChannelSession answers ERROR once its access is taken away", () => {
  let open = true;
  const gate: Gate = { id: 4, enter: () => open, leave: () => {} };
  const daemon = makeDaemon({ gate });
  daemon.session.receive(message(T.READ, { length: 512n }));
  assert.equal(outputOf(daemon).length, HEADER_BYTES + 512);
  open = false;
  daemon.session.receive(message(T.READ, { seq: 1n, length: 512n }));
  daemon.session.receive(message(T.WRITE, { seq: 2n, flags: PREFLUSH }));
  assert.deepEqual(bareResponses(daemon), ["seq 1 ERROR", "seq 2 ERROR"]);
  assert.deepEqual(daemon.calls, ["read 0+512"]);
  daemon.session.end(undefined);
});

Deno.test("ChannelSession throws ProtocolError for a WRITE that no BIO can be", async () => {
  const absurd = message(T.WRITE, { length: BigInt(BIO_BYTES_MAX) + 512n });
  const daemon = makeDaemon();
  assert.throws(() => daemon.session.receive(absurd), ProtocolError);
  assert.ok(daemon.session.failure instanceof ProtocolError);
  assert.equal(daemon.session.finished, true);
  daemon.session.end(daemon.session.failure);
  assert.equal(daemon.session.finished, true);
  await settled();
});
