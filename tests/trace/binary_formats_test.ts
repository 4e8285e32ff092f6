/**
 * Binary traces: bytes as the documents of their formats have them, either way; what is wrong in them
 * is told, and what can be read behind it is read.
 *
 * @module
 */
import assert from "node:assert/strict";
import { detectFormat } from "../../lib/trace/convert.ts";
import { blktrace, readBlktrace } from "../../lib/trace/formats/blktrace.ts";
import { dmLogWrites } from "../../lib/trace/formats/dm_log_writes.ts";
import { nbdLog } from "../../lib/trace/formats/nbd_log.ts";
import { eventsOf } from "../../lib/trace/source.ts";
import { complete, inChunks, readAll, submit, told, writeAll } from "./format_support.ts";

const NONE = { started_ms: null, target: null, size: null, completes: false };
const COMPLETES = { ...NONE, completes: true };

/** Bytes of numbers with their widths in bytes. */
function packed(
  little: boolean,
  ...numbers: readonly (readonly [width: 2 | 4 | 8, value: bigint])[]
): Uint8Array {
  const bytes = new Uint8Array(numbers.reduce((sum, [width]) => sum + width, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [width, value] of numbers) {
    if (width === 2) view.setUint16(at, Number(value), little);
    else if (width === 4) view.setUint32(at, Number(value), little);
    else view.setBigUint64(at, value, little);
    at += width;
  }
  return bytes;
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

interface Block {
  readonly ns: bigint;
  readonly action: number;
  readonly categories: number;
  readonly sector?: bigint;
  readonly bytes?: number;
  readonly error?: number;
  readonly after?: Uint8Array;
  readonly device?: number;
}

function block(each: Block, little = true): Uint8Array {
  const { ns, action, categories, sector = 0n, bytes = 0, error = 0 } = each;
  const after = each.after ?? new Uint8Array(0);
  return joined(
    packed(
      little,
      ...[[4, 0x65617407n], [4, 1n], [8, ns], [8, sector], [4, BigInt(bytes)]] as const,
      ...[[4, BigInt(categories) << 16n | BigInt(action)], [4, 77n]] as const,
      ...[[4, BigInt(each.device ?? (8 << 20 | 1))], [4, 3n], [2, BigInt(error)]] as const,
      [2, BigInt(after.length)],
    ),
    after,
  );
}

const Q = 1, REQUEUE = 6, D = 7, C = 8;
const READ = 1, WRITE = 2, FLUSH = 4, DISCARD = 1 << 13, FUA = 1 << 15, NOTIFY = 1 << 10;
const START = 2n ** 60n + 1n;

function sample(little: boolean): Uint8Array[] {
  const wall = packed(little, [4, 1_700_000_000n], [4, 250_000_000n]);
  return [
    block({ ns: START, action: 1, categories: NOTIFY, after: wall }, little),
    block({ ns: START + 1000n, action: Q, categories: READ, sector: 8n, bytes: 4096 }, little),
    block({ ns: START + 1500n, action: D, categories: READ, sector: 8n, bytes: 4096 }, little),
    block(
      {
        ns: START + 2000n,
        action: D,
        categories: WRITE | FLUSH | FUA,
        sector: 2n ** 43n,
        bytes: 512,
      },
      little,
    ),
    block(
      { ns: START + 2500n, action: REQUEUE, categories: READ, sector: 8n, bytes: 4096 },
      little,
    ),
    block({ ns: START + 2600n, action: D, categories: READ, sector: 8n, bytes: 4096 }, little),
    block(
      { ns: START + 3001n, action: C, categories: READ, sector: 8n, bytes: 4096, error: 65_531 },
      little,
    ),
    block(
      { ns: START + 4000n, action: D, categories: WRITE | DISCARD, sector: 0n, bytes: 2 ** 31 },
      little,
    ),
    block({
      ns: START + 5000n,
      action: C,
      categories: WRITE | FLUSH | FUA,
      sector: 2n ** 43n,
      bytes: 512,
    }, little),
    block({ ns: START + 6000n, action: C, categories: WRITE, sector: 99n, bytes: 512 }, little),
  ];
}

const TOLD = [
  "1.5 S1 c77 read 4096+4096 f0",
  "2 S2 c77 flush 0+0 f0",
  "2 S3 c77 write 4503599627370496+512 f1",
  "3.001 C1 EIO",
  "4 S4 c77 trim 0+2147483648 f0",
  "5 C2 ok",
  "5 C3 ok",
];

Deno.test("blktrace.read() joins issue and completion, in either byte order", async () => {
  for (const little of [true, false]) {
    const { events, source } = await readAll(blktrace, joined(...sample(little)), { chunk: 13 });
    assert.deepEqual(events.map(told), TOLD);
    const started_ms = 1_700_000_000_250;
    assert.deepEqual(source.info, { started_ms, target: "8,1", size: null, completes: true });
    assert.deepEqual(source.notes.remarks, ["1 completions are of requests that it does not show"]);
  }
});

Deno.test("blktrace.read() puts records of several CPUs in order, and reads queue where no driver is", async () => {
  const records = sample(true);
  const mixed = joined(...records.slice(4), ...records.slice(0, 4));
  assert.deepEqual((await readAll(blktrace, mixed)).events.map(told), TOLD);
  const files = [
    records.filter((_, index) => index % 2 === 0),
    records.filter((_, i) => i % 2 > 0),
  ];
  const source = await readBlktrace(files.map((each) => inChunks(joined(...each), 50)));
  assert.deepEqual((await Array.fromAsync(eventsOf(source))).map(told), TOLD);
  const queued = [
    block({ ns: 5000n, action: Q, categories: WRITE, sector: 1n, bytes: 512 }),
    block({ ns: 6000n, action: Q, categories: WRITE, sector: 1n, bytes: 512 }),
    block({ ns: 7000n, action: C, categories: WRITE, sector: 1n, bytes: 512 }),
    block({ ns: 9000n, action: C, categories: WRITE, sector: 1n, bytes: 512 }),
  ];
  assert.deepEqual((await readAll(blktrace, joined(...queued))).events.map(told), [
    ...["0 S1 c77 write 512+512 f0", "1 S2 c77 write 512+512 f0", "2 C1 ok", "4 C2 ok"],
  ]);
});

Deno.test("blktrace.read() tells of damage and goes on behind it", async () => {
  const records = sample(true);
  const damaged = joined(...records.slice(0, 3), new Uint8Array(61).fill(7), ...records.slice(3));
  const { events, source } = await readAll(blktrace, damaged.subarray(0, damaged.length - 5), {
    chunk: 100,
  });
  assert.deepEqual(events.map(told), TOLD);
  assert.deepEqual(source.notes.problems, [{ where: "byte 152", what: "there is no record" }]);
  assert.deepEqual(source.notes.remarks, [
    `the trace is torn at byte ${damaged.length - 48}: 43 bytes were dropped`,
  ]);
  const newer = records[1]?.slice() ?? new Uint8Array(0);
  newer[0] = 8;
  await assert.rejects(readAll(blktrace, newer), /blktrace of version 8, known is 7/);
  await assert.rejects(
    readAll(blktrace, new Uint8Array(100)),
    /does not begin with a record of blktrace/,
  );
});

const CHANGES = [
  submit(0, 1, {
    operation: "write",
    offset: 4096,
    length: 1024,
    flags: 1,
    payload: new Uint8Array(1024).fill(9),
  }),
  submit(1, 2, { operation: "flush" }),
  complete(2, 1),
  complete(3, 2),
  submit(4, 3, { operation: "trim", offset: 512, length: 2 ** 33 }),
  complete(5, 3),
];

Deno.test("blktrace.write() gives what blktrace.read() understands", async () => {
  const info = { ...COMPLETES, started_ms: 1_700_000_000_123, target: "disk" };
  const { bytes, notes } = await writeAll(blktrace, info, CHANGES);
  const { events, source } = await readAll(blktrace, bytes);
  assert.deepEqual(events.map(told), [
    "0 S1 c1 write 4096+1024 f1",
    "1 S2 c1 flush 0+0 f0",
    "2 C1 ok",
    "3 C2 ok",
    "4 S3 c1 trim 512+4294966784 f0",
    "4 S4 c1 trim 4294967296+4294966784 f0",
    "4 S5 c1 trim 8589934080+1024 f0",
    ...["5 C3 ok", "5 C4 ok", "5 C5 ok"],
  ]);
  assert.equal(source.info.started_ms, info.started_ms);
  assert.deepEqual(notes.remarks, ["1 requests lost their data or digest"]);
});

const REQUEST = 0x25609513n, REPLY = 0x67446698n, STRUCTURED = 0x668e33efn, SETTING = 0x25609514n;

function request(command: number, cookie: bigint, offset: bigint, length: number): Uint8Array {
  return packed(false, [4, REQUEST], [4, BigInt(command)], [8, cookie], [8, offset], [
    4,
    BigInt(length),
  ]);
}

const DATA_LOG = packed(false, [4, SETTING], [4, 1n], [8, 0n], [8, 0x4a93ba39a54f31b6n], [4, 1n]);

Deno.test("nbdLog.read() reads network byte order, data, and replies of both kinds", async () => {
  const cookie = 2n ** 64n - 1n;
  const bytes = joined(
    request(1, 1n, 0n, 512), // without data: the log has not said that there are any
    DATA_LOG,
    request(1 | 1 << 16, cookie, 2n ** 52n, 3),
    Uint8Array.of(5, 6, 7),
    request(6 | 1 << 17, 2n, 0n, 4096),
    packed(false, [4, REPLY], [4, 28n], [8, cookie]),
    request(0, 3n, 512n, 512),
    packed(false, [4, STRUCTURED], [2, 0n], [2, 1n], [8, 3n], [4, 520n]),
    packed(false, [4, STRUCTURED], [2, 1n], [2, 0x8001n], [8, 3n], [4, 6n]),
    request(9, 4n, 0n, 0),
    request(2, 5n, 0n, 0),
    packed(false, [4, REPLY], [4, 0n], [8, 42n]),
    request(3, 6n, 0n, 0),
  );
  for (const chunk of [1, 1000]) {
    const { events, source } = await readAll(nbdLog, bytes.subarray(0, bytes.length - 1), {
      chunk,
    });
    assert.deepEqual(events.map(told), [
      "0 S1 c0 write 0+512 f0",
      "2 S2 c0 write 4503599627370496+3 f1 data 3:5",
      "3 S3 c0 zero 0+4096 f0",
      "4 C2 ENOSPC",
      "5 S4 c0 read 512+512 f0",
      "7 C4 EIO",
    ]);
    assert.deepEqual(source.notes.problems, [{ where: "byte 199", what: "there is no command 9" }]);
    assert.deepEqual(source.notes.remarks, [
      `the trace is torn at byte ${bytes.length - 28}: 27 bytes were dropped`,
      "the trace has no times: its records are 1 µs apart",
      "1 replies are to requests that it does not show",
    ]);
  }
});

Deno.test("nbdLog.read() goes on behind damage, and refuses another byte order", async () => {
  const bytes = joined(request(3, 1n, 0n, 0), new Uint8Array(9), request(3, 2n, 0n, 0));
  const { events, source } = await readAll(nbdLog, bytes, { chunk: 5 });
  assert.equal(events.length, 2);
  assert.deepEqual(source.notes.problems, [{ where: "byte 28", what: "there is no record" }]);
  const swapped = packed(true, [4, REQUEST], [4, 3n], [8, 1n], [8, 0n], [4, 0n]);
  assert.equal(detectFormat(swapped), nbdLog);
  await assert.rejects(readAll(nbdLog, swapped), /little-endian log of nbd-server/);
  const noise = readAll(nbdLog, new Uint8Array(50));
  await assert.rejects(noise, /does not begin with a record of nbd-server/);
});

Deno.test("nbdLog.write() gives what nbdLog.read() understands", async () => {
  const { bytes } = await writeAll(nbdLog, COMPLETES, [
    ...CHANGES.slice(0, 4),
    submit(5, 7, { operation: "write", length: 3, payload: null }),
    { ...complete(5, 7), kind: "complete", errno: "ENOSPC" },
  ]);
  const { events } = await readAll(nbdLog, bytes);
  assert.deepEqual(events.map(told), [
    "1 S1 c0 write 4096+1024 f1 data 1024:9",
    "2 S2 c0 flush 0+0 f0",
    "3 C1 ok",
    "4 C2 ok",
    "6 S3 c0 write 0+3 f0",
    "7 C3 ENOSPC",
  ]);
});

function entry(
  sector: bigint,
  sectors: bigint,
  flags: bigint,
  data: Uint8Array,
  mark = "",
): Uint8Array {
  const text = new TextEncoder().encode(mark);
  const head = packed(true, [8, sector], [8, sectors], [8, flags], [8, BigInt(text.length)]);
  return joined(head, text, new Uint8Array(4096 - 32 - text.length), data);
}

function dmLog(entries: bigint, ...parts: readonly Uint8Array[]): Uint8Array {
  const head = packed(true, [8, 0x6a736677736872n], [8, 1n], [8, entries], [4, 4096n]);
  return joined(head, new Uint8Array(4096 - head.length), ...parts);
}

Deno.test("dmLogWrites.read() reads entries, data and marks in sectors of the log", async () => {
  const bytes = dmLog(
    5n,
    entry(2n, 1n, 16n, new Uint8Array(4096).fill(3)),
    entry(0n, 0n, 1n, new Uint8Array(0)),
    entry(2n ** 40n, 1n, 3n, new Uint8Array(4096).fill(4)),
    entry(0n, 0n, 8n, new Uint8Array(0), "mkfs"),
    entry(0n, 2n ** 30n, 4n, new Uint8Array(0)),
    new Uint8Array(10_000).fill(255), // of an older log: not looked at
  );
  for (const chunk of [1000, 1 << 20]) {
    const { events, source } = await readAll(dmLogWrites, bytes, { chunk });
    assert.deepEqual(events.map(told), [
      ...["0 S1 c0 write 8192+4096 f0 data 4096:3", "0 C1 ok", "1 S2 c0 flush 0+0 f0", "1 C2 ok"],
      ...["2 S3 c0 flush 0+0 f0", "2 C3 ok", "2 S4 c0 write 4503599627370496+4096 f1 data 4096:4"],
      ...["2 C4 ok", "4 S5 c0 trim 0+4398046511104 f0", "4 C5 ok"],
    ]);
    assert.deepEqual(source.info, COMPLETES);
    assert.deepEqual(source.notes.remarks, [
      "the trace has no times: its entries are 1 µs apart",
      "it has 1 marks: mkfs",
    ]);
  }
});

Deno.test("dmLogWrites.read() tells what is cut off or cannot be", async () => {
  const bytes = dmLog(
    3n,
    entry(0n, 1n, 0n, new Uint8Array(4096)),
    entry(0n, 2n ** 50n, 0n, new Uint8Array(0)),
  );
  const { events, source } = await readAll(dmLogWrites, bytes);
  assert.equal(events.length, 2);
  assert.deepEqual(source.notes.problems, [
    { where: "byte 12288", what: `an entry has ${2 ** 62} bytes of data` },
  ]);
  assert.match(source.notes.remarks[0] ?? "", /torn at byte \d+: 1 of 3 entries are not there/);
  const older = dmLog(0n);
  older[8] = 9;
  await assert.rejects(readAll(dmLogWrites, older), /dm-log-writes of version 9, known is 1/);
  const odd = dmLog(0n);
  odd[24] = 1;
  await assert.rejects(readAll(dmLogWrites, odd), /its sectors have 4097 bytes/);
  await assert.rejects(
    readAll(dmLogWrites, dmLog(0n).subarray(0, 20)),
    /cut off in its super block/,
  );
  const swapped = packed(false, [8, 0x6a736677736872n], [8, 1n], [8, 0n], [4, 512n]);
  await assert.rejects(readAll(dmLogWrites, swapped), /big-endian log of dm-log-writes/);
});

Deno.test("dmLogWrites.write() logs what is done, in the order of completions", async () => {
  const { bytes, notes } = await writeAll(dmLogWrites, COMPLETES, [
    ...CHANGES,
    submit(6, 4, { operation: "zero", offset: 0, length: 512 }),
    submit(7, 5, { operation: "zero", offset: 0, length: 513 }),
    submit(8, 6, { operation: "read", offset: 0, length: 512 }),
    submit(9, 7, { operation: "zero", offset: 0, length: 512 }),
    { ...complete(10, 7), kind: "complete", errno: "EIO" },
    submit(11, 8, { operation: "zero", offset: 0, length: 512 }),
    complete(12, 4),
  ]);
  assert.equal(new DataView(bytes.buffer).getBigUint64(16, true), 4n);
  const { events } = await readAll(dmLogWrites, bytes);
  assert.deepEqual(events.filter(({ kind }) => kind === "submit").map(told), [
    "0 S1 c0 write 4096+1024 f1 data 1024:9",
    "1 S2 c0 flush 0+0 f0",
    "2 S3 c0 trim 512+8589934592 f0",
    "3 S4 c0 write 0+512 f0 data 512:0",
  ]);
  assert.deepEqual(notes.remarks, [
    "1 requests were left out: they are not of whole sectors",
    "1 requests were left out: the log has no read",
    "1 requests were left out: they failed",
    "1 requests were left out: their zero never ended",
  ]);
  const bare = writeAll(dmLogWrites, NONE, [submit(0, 1, { operation: "write", length: 512 })]);
  await assert.rejects(bare, /has not kept the data of request 1: record with the payload/);
});
