/** `dmu top`: rates, sparklines, and the table on a terminal, in a pipe and as JSON. @module */
import assert from "node:assert/strict";
import { RateMeter, sparkline } from "../../cli/top_rates.ts";
import type { CountedOperation, ShownStatistics } from "../../lib/daemon/control_client.ts";
import { StandIn } from "../support/control_stand_in.ts";
import { CapturedIo, dmu, temporaryFolder } from "./captured_io.ts";

function counted(count: number, bytes: number, latencyTotalUs: number): CountedOperation {
  const latencies = { latencyMaxUs: 0, latencyP50Us: 0, latencyP99Us: 0 };
  return { count, errors: 0, bytes, latencyTotalUs, ...latencies };
}

function statistics(reads: number, writes = 0): ShownStatistics {
  return {
    operations: {
      read: counted(reads, reads * 4096, reads * 100),
      write: counted(writes, writes * 512, writes * 300),
    },
    inFlight: 0,
  };
}

Deno.test("RateMeter gives rates over the time between refreshes, whenever they are looked at", () => {
  const meter = new RateMeter();
  assert.equal(meter.look(statistics(100), 0, 500).iops, 0);
  // Refreshed at 1000 and 2000 ms, looked at irregularly.
  meter.look(statistics(600), 1_000, 1_900);
  const rates = meter.look(statistics(1_600, 1_000), 2_000, 2_100);
  assert.deepEqual(rates, {
    iops: 2_000,
    readBytesPerSecond: 4_096_000,
    writeBytesPerSecond: 512_000,
    latencyUs: 200,
  });
  // The next refresh is a little late: nothing has changed, and the rates stay.
  assert.deepEqual(meter.look(statistics(1_600, 1_000), 2_000, 3_100), rates);
  assert.equal(meter.look(statistics(4_600, 1_000), 4_000, 4_100).iops, 1_500);
});

Deno.test("RateMeter gives nothing for a target that rests, and the whole rate when it begins again", () => {
  const meter = new RateMeter();
  meter.look(statistics(5), 0, 0);
  assert.equal(meter.look(statistics(5), 0, 10_000).iops, 0);
  assert.equal(meter.look(statistics(1_005), 10_300, 11_000).iops, 1_000);
  assert.equal(meter.look(statistics(1_005), 10_300, 20_000).latencyUs, null);
});

Deno.test("RateMeter counts from 0 when a target was opened again", () => {
  const meter = new RateMeter();
  meter.look(statistics(1_000_000), 0, 0);
  assert.equal(meter.look(statistics(300), 1_000, 1_000).iops, 300);
});

Deno.test("sparkline() scales to the largest value, and leaves blanks where there is none", () => {
  assert.equal(sparkline([0, 1, 4, 8], 6), "  ▁▁▄█");
  assert.equal(sparkline([null, 5, null], 3), " █ ");
  assert.equal(sparkline([0, 0], 2), "▁▁");
  assert.equal(sparkline([8, 1, 1, 1], 3), "███");
  assert.equal(sparkline([], 3), "   ");
});

/** A daemon with a target that is busy and one that is closed. */
async function busy(path: string): Promise<StandIn> {
  const daemon = await StandIn.start(path);
  await daemon.put("/dmu/target/busy", { backend: "x:", state: 4 });
  await daemon.put("/dmu/target/closed", { backend: "x:", state: 6 });
  await daemon.put("/dmu/target/busy/statistics", { "in-flight": 3 });
  return daemon;
}

async function count(daemon: StandIn, reads: number): Promise<void> {
  await daemon.put("/dmu/target/busy/statistics/read", {
    ...{ count: reads, errors: 0, bytes: reads * 1024, "latency-total-us": reads * 2_000 },
  });
}

Deno.test("dmu top prints lines in a pipe, and JSON, without control characters", async () => {
  await using folder = await temporaryFolder();
  await using daemon = await busy(`${folder.path}/c`);
  const once = ["top", "--once", "--interval", "0.1", "--control", daemon.control];
  const { code, stdout, stderr } = await dmu(once);
  assert.deepEqual([code, stderr], [0, ""]);
  const [title, first, second, end] = stdout.split("\n");
  assert.match(title ?? "", /^TIME +NAME +IOPS +LATENCY +READ\/s +WRITE\/s +BUSY$/);
  assert.match(first ?? "", /^\d\d:\d\d:\d\d busy +0 +- +0 B +0 B +3$/);
  assert.match(second ?? "", /^\d\d:\d\d:\d\d closed +closed$/);
  assert.equal(end, "");
  assert.ok(stdout.split("\n").every((line) => line.length <= 80));
  const json = await dmu([...once, "--json"]);
  const { time, targets } = JSON.parse(json.stdout);
  assert.match(time, /^\d{4}-\d\d-\d\dT/);
  assert.deepEqual(targets[0], {
    name: "busy",
    state: 4,
    iops: 0,
    readBytesPerSecond: 0,
    writeBytesPerSecond: 0,
    latencyUs: null,
    inFlight: 3,
  });
  assert.equal((await dmu(["top", "--interval", "0"])).code, 2);
});

for (
  const [name, leave] of [
    ["q", (io: CapturedIo) => io.type("q")],
    ["ctrl-c", (io: CapturedIo) => io.type("\x03")],
    ["a signal", (io: CapturedIo) => io.signal()],
  ] as const
) {
  Deno.test(`dmu top draws on the other screen of a terminal and leaves it on ${name}`, async () => {
    await using folder = await temporaryFolder();
    await using daemon = await busy(`${folder.path}/c`);
    const io = new CapturedIo({ outIsTerminal: true, lineWanted: /^busy .*2\.0 ms/ });
    const running = dmu(["top", "--interval", "0.1", "--control", daemon.control], io);
    for (let reads = 1; !await Promise.race([io.line, count(daemon, reads)]); reads++);
    leave(io);
    const { code, stdout, stderr } = await running;
    assert.deepEqual([code, stderr, io.handlerCount], [0, "", 0]);
    assert.ok(stdout.startsWith("\x1b[?1049h\x1b[?25l\x1b[Hdmu top, "));
    assert.ok(stdout.endsWith("\x1b[?25h\x1b[?1049l"));
    const last = stdout.split("\x1b[H").at(-1)?.replaceAll("\x1b[K", "").split("\r\n") ?? [];
    assert.match(last[2] ?? "", /^busy +\d+ +[▁-█]+ +2\.0 ms +[▁-█]+ +[\d.]+ \w*B +0 B +3$/);
    assert.match(last[3] ?? "", /^closed +closed/);
    assert.ok(last.slice(0, 3).every((line) => [...line].length < 80));
  });
}

Deno.test("dmu top gives the terminal back when the daemon ends", async () => {
  await using folder = await temporaryFolder();
  await using daemon = await busy(`${folder.path}/c`);
  const io = new CapturedIo({ outIsTerminal: true, lineWanted: /^busy/ });
  const running = dmu(["top", "--interval", "3600", "--control", daemon.control], io);
  await io.line;
  await daemon.close();
  const { code, stdout, stderr } = await running;
  assert.equal(code, 1);
  assert.ok(stdout.endsWith("\x1b[?25h\x1b[?1049l"));
  assert.equal(stderr, "dmu: Cannot go on: the daemon has ended the connection\n");
});
