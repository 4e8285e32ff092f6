/**
 * Text traces: times, units and 64-bit lengths as their documents have them, and wrong lines told by
 * number, whatever the rest of the trace is.
 *
 * @module
 */
import assert from "node:assert/strict";
import { alibaba } from "../../lib/trace/formats/alibaba.ts";
import { blkreplay } from "../../lib/trace/formats/blkreplay.ts";
import { fio, fio2 } from "../../lib/trace/formats/fio.ts";
import { msrCambridge } from "../../lib/trace/formats/msr_cambridge.ts";
import { tencent } from "../../lib/trace/formats/tencent.ts";
import { LINE_BYTES_MAX, PROBLEMS_TOLD_MAX } from "../../lib/trace/limits.ts";
import type { TraceFormat } from "../../lib/trace/source.ts";
import { complete, readAll, submit, told, writeAll } from "./format_support.ts";

const NONE = { started_ms: null, target: null, size: null, completes: false };

Deno.test("msrCambridge.read() has file times of 100 ns and completions in the order of time", async () => {
  const text = [
    "Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime",
    "128166372003061629,usr,0,Read,7014609920,24576,41286",
    "128166372003061630,usr,0,Write,9007199254736895,4096,5",
    "128166372013061629,usr,1,Write,0,18446744073709551615,1",
    "128166372013061624,usr,1,Write,512,512,0",
  ].join("\r\n") + "\r\n";
  const { events, source } = await readAll(msrCambridge, text, { chunk: 7 });
  assert.deepEqual(events.map(told), [
    "0 S1 c1 read 7014609920+24576 f0",
    "0.1 S2 c1 write 9007199254736895+4096 f0",
    "0.6 C2 ok",
    "4128.6 C1 ok",
    "999999.5 S3 c2 write 512+512 f0",
    "999999.5 C3 ok",
  ]);
  // 128166372003061629 / 1e7 - 11644473600 s: 2007-02-22 17:00:00.306 UTC.
  const started_ms = Date.UTC(2007, 1, 22, 17, 0, 0, 306);
  assert.deepEqual(source.info, { started_ms, target: "usr.0", size: null, completes: true });
  assert.deepEqual(source.notes.problems, [
    { where: "line 4", what: "its length is larger than 2^53 - 1" },
  ]);
  assert.deepEqual(source.notes.remarks, ["it has 2 volumes, each a connection: usr.0, usr.1"]);
  const one = await readAll(msrCambridge, text, { device: "usr.1" });
  assert.deepEqual(one.events.map(told), ["0 S1 c2 write 512+512 f0", "0 C1 ok"]);
});

Deno.test("alibaba.read() has µs since 1970 and bytes", async () => {
  const text =
    "419,W,8792731648,16384,1577808144360767\n725,R,59110326272,360448,1577808144360813\n" +
    "419,X,0,1,1577808144360813\n419,R,9007199254740991,1,1577808144360900\n";
  const { events, source } = await readAll(alibaba, text);
  assert.deepEqual(events.map(told), [
    "0 S1 c419 write 8792731648+16384 f0",
    "46 S2 c725 read 59110326272+360448 f0",
  ]);
  assert.deepEqual(source.info, { ...NONE, started_ms: 1_577_808_144_360 });
  assert.deepEqual(source.notes.problems, [
    { where: "line 3", what: "its operation is neither R nor W" },
    { where: "line 4", what: "it ends after byte 2^53 - 1" },
  ]);
  const one = await readAll(alibaba, text, { device: "725" });
  assert.deepEqual(one.events.map(told), ["0 S1 c725 read 59110326272+360448 f0"]);
  assert.equal(one.source.info.target, "725");
});

Deno.test("tencent.read() has seconds and sectors", async () => {
  const text =
    "1538323200,12910952,128,0,1063\n1538323201,6338688,8,1,1627\n1538323200,8,8,1,1627\n";
  const { events, source } = await readAll(tencent, text);
  assert.deepEqual(events.map(told), [
    "0 S1 c1063 read 6610407424+65536 f0",
    "1000000 S2 c1627 write 3245408256+4096 f0",
    "0 S3 c1627 write 4096+4096 f0",
  ]);
  assert.deepEqual(source.info, { ...NONE, started_ms: 1_538_323_200_000 });
  assert.deepEqual(source.notes.remarks, ["times go back in 1 places, by up to 1000000 µs"]);
});

Deno.test("fio.read() has µs, files as connections, syncs as flushes", async () => {
  const text = [
    ...["fio version 3 iolog", "0 /a add", "1 /b add", "2 /a open", "3 /b open"],
    ...["10 /a write 4096 1048576", "25 /b read 0 512", "30 /b trim 512 4294967296"],
    ...[
      "31 /a sync 4096 0",
      "32 /a datasync 0 0",
      "33 /a wait 5 0",
      "34 /a sing 0 0",
      "40 /a close",
    ],
  ].join("\n") + "\n";
  const { events, source } = await readAll(fio, text, { chunk: 11 });
  assert.deepEqual(events.map(told), [
    "10 S1 c1 write 4096+1048576 f0",
    "25 S2 c2 read 0+512 f0",
    "30 S3 c2 trim 512+4294967296 f0",
    "31 S4 c1 flush 0+0 f0",
    "32 S5 c1 flush 0+0 f0",
  ]);
  assert.deepEqual(source.info, NONE);
  assert.deepEqual(source.notes.problems, [
    { where: "line 11", what: "there is no wait in version 3" },
    { where: "line 12", what: 'there is no action "sing"' },
  ]);
  const one = await readAll(fio, text, { device: "/b" });
  assert.deepEqual(one.events.map(({ timeUs }) => timeUs), [25, 30]);
  await assert.rejects(
    readAll(fio, "fio version 4 iolog\n"),
    /an iolog of version 4, known are 2 and 3/,
  );
  await assert.rejects(readAll(fio, ""), /it has no line/);
});

Deno.test("fio.read() of version 2 adds up its waits", async () => {
  const text = "fio version 2 iolog\n/a add\n/a open\n/a read 0 4096\n/a wait 250 0\n" +
    "/a write 4096 512\n/a wait 1000 0\n/a read 8192 512\n/a close\n";
  const { events, source } = await readAll(fio2, text);
  assert.deepEqual(events.map(({ timeUs }) => timeUs), [0, 250, 1250]);
  assert.deepEqual(source.info, { ...NONE, target: "/a" });
});

Deno.test("fio.write() gives what fio reads, and tells what is lost", async () => {
  const events = [
    submit(0.4, 1, { operation: "write", offset: 512, length: 512, flags: 1 }),
    submit(7.6, 2, { operation: "read", offset: 0, length: 2 ** 27 + 512 }),
    complete(8, 1),
    submit(9, 3, { operation: "flush", connection: 2 }),
    submit(10, 4, { operation: "zero", offset: 4096, length: 4096 }),
    submit(11, 5, { operation: "extents", offset: 0, length: 4096 }),
    submit(12, 6, { operation: "trim", offset: 0, length: 2 ** 53 - 1 }),
  ];
  const info = { ...NONE, target: "my disk", completes: true };
  const { bytes, notes } = await writeAll(fio, info, events);
  assert.equal(
    new TextDecoder().decode(bytes),
    [
      ...["fio version 3 iolog", "0 my_disk add", "0 my_disk open", "0 my_disk write 512 512"],
      ...["8 my_disk read 0 67108864", "8 my_disk read 67108864 67108864"],
      ...["8 my_disk read 134217728 512", "9 my_disk sync 0 0", "10 my_disk write 4096 4096"],
      ...["12 my_disk close", ""],
    ].join("\n"),
  );
  assert.deepEqual(notes.remarks, [
    "1 requests lost their FUA",
    "1 requests that zero became writes",
    "1 requests were left out: fio has no extents",
    "1 requests were left out: they are too long",
  ]);
  const two = await writeAll(fio2, NONE, events.slice(3, 5));
  assert.equal(
    new TextDecoder().decode(two.bytes),
    "fio version 2 iolog\ndevice2 add\ndevice2 open\ndevice2 sync 0 0\n" +
      "device1 add\ndevice1 open\ndevice1 write 4096 4096\ndevice2 close\ndevice1 close\n",
  );
});

Deno.test("blkreplay.read() understands a real load below its notice", async () => {
  const path = new URL("../golden/windows-shared-server-excerpt.load", import.meta.url);
  const { events, source } = await readAll(blkreplay, Deno.readFileSync(path));
  assert.equal(events.length, 100);
  assert.deepEqual(events.slice(0, 3).map(told), [
    "0 S1 c0 write 3222310912+4096 f0",
    "2110378.217 S2 c0 write 3105026048+4096 f0",
    "2125786.542 S3 c0 write 3055288320+4096 f0",
  ]);
  assert.deepEqual(source.info, NONE);
  assert.equal(source.notes.problemCount, 0);
});

Deno.test("blkreplay.read() has latencies in results, and tells wrong lines", async () => {
  const text = "orig_start ; sector; length ; op ;  replay_delay; replay_duration\n" +
    "0.000000001 ; 8 ; 16 ; RA ; 0.000000000 ; 0.000500000\n" +
    "0.000100000 ; 17592186044414 ; 1 ; W ; 0.1 ; 0.000000001\n" +
    "0.0002 ; 0 ; 1 ; X ; 0.0 ; 0.0\n0.0002 ; 0 ; 1\n0.0000000001 ; 0 ; 1 ; R ; 0 ; 0\n";
  const { events, source } = await readAll(blkreplay, text);
  assert.deepEqual(
    events.map(told),
    [
      "0.001 S1 c0 read 4096+8192 f0",
      "100 S2 c0 write 9007199254739968+512 f0",
      "500.001 C1 ok",
      "100100.001 C2 ok",
    ],
  );
  assert.equal(source.info.completes, true);
  assert.deepEqual(source.notes.problems.map(({ where }) => where), [
    ...["line 4", "line 5", "line 6"],
  ]);
});

Deno.test("blkreplay.write() gives nine digits and whole sectors", async () => {
  const events = [
    submit(1_999_999.9999, 1, { operation: "write", offset: 511, length: 2 }),
    submit(2_000_000.25, 2, { operation: "read", offset: 2 ** 41, length: 4096 }),
    submit(3_000_000, 3, { operation: "flush" }),
  ];
  const { bytes, notes } = await writeAll(blkreplay, NONE, events);
  assert.equal(
    new TextDecoder().decode(bytes),
    "start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\n" +
      "2.000000000 ; 0 ; 2 ; W ; 0.0 ; 0.0\n2.000000250 ; 4294967296 ; 8 ; R ; 0.0 ; 0.0\n",
  );
  assert.deepEqual(notes.remarks, [
    "1 requests were widened to sectors",
    "1 requests were left out: blkreplay has no flush",
  ]);
});

const GOOD: readonly (readonly [format: TraceFormat, lines: readonly string[]])[] = [
  [msrCambridge, [
    "128166372003061629,usr,0,Read,0,512,1",
    "128166372003061639,usr,0,Read,0,512,1",
  ]],
  [alibaba, ["1,R,0,512,1000000", "1,R,0,512,1000001"]],
  [tencent, ["1000,0,1,0,1", "1001,0,1,0,1"]],
  [fio, ["fio version 3 iolog", "0 /a add", "1 /a read 0 512"]],
  [blkreplay, ["0.000000000 ; 0 ; 1 ; R ; 0.0 ; 0.0", "1.000000000 ; 0 ; 1 ; R ; 0.0 ; 0.0"]],
];

Deno.test("every text format counts wrong lines and tells the first of them", async () => {
  for (const [format, lines] of GOOD) {
    const long = "1".repeat(LINE_BYTES_MAX + 1000), wrong = Array(30).fill("no, such; line at all");
    const text = [...lines, "", long, ...wrong, lines.at(-1)].join("\n");
    for (const chunk of [100, 1 << 20]) {
      const { events, source } = await readAll(format, text, { chunk });
      const submits = events.filter(({ kind }) => kind === "submit");
      assert.equal(submits.length, format === fio ? 2 : 3, format.name);
      assert.equal(source.notes.problemCount, 31, format.name);
      assert.equal(source.notes.problems.length, PROBLEMS_TOLD_MAX);
      const first = lines.length + 2;
      assert.deepEqual(source.notes.problems[0], {
        where: `line ${first}`,
        what: `it has more than ${LINE_BYTES_MAX} bytes`,
      });
      assert.equal(source.notes.problems[1]?.where, `line ${first + 1}`);
      const last = `line ${first + 31}, the last, has no end: the trace may be cut off there`;
      assert.ok(source.notes.remarks.includes(last), `${format.name} ${source.notes.remarks}`);
    }
  }
});

Deno.test("a text format refuses a trace of which it understands no line", async () => {
  const rows: readonly TraceFormat[] = [msrCambridge, alibaba, tencent, blkreplay];
  for (const format of rows) {
    await assert.rejects(
      readAll(format, "what\nis\nthis\n"),
      /nothing in it .* understood; line 1:/,
    );
  }
});
