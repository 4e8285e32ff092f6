/**
 * `deno task bench:floor [--quick] [--json] [--page]`: what the steps of a request cost on this machine,
 * each alone, and what the smallest server that can be written costs: the floor under all figures of
 * `deno task bench`. Times are those of the best of many rounds (others at work can only add to them),
 * servers are pinned as there. `--page` puts the table into docs/performance.md.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultRegistry } from "../backends/mod.ts";
import { Device } from "../lib/block/device.ts";
import { makeRequest, OPEN_GATE } from "../lib/block/request.ts";
import { parseSpec } from "../lib/block/spec.ts";
import { ThreadClock } from "../lib/daemon/context.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import { NbdServerSession } from "../lib/nbd/server_session.ts";
import { monotonicUs } from "../lib/sys/clock.ts";
import { systemFiles } from "../lib/sys/file.ts";
import { clearEvent, closeEvent, openEvent, POLL_IN, PollSet } from "../lib/sys/poll.ts";
import {
  closeDescriptor,
  connectUnix,
  openSocketPair,
  receive,
  send,
  WOULD_BLOCK,
} from "../lib/sys/socket.ts";
import { print } from "../tools/process.ts";
import { command, cpuTimeUs, firstLine, pinning } from "./commands.ts";
import { ANSWER_BYTES, BLOCK_BYTES, REQUEST_BYTES } from "./floor_shape.ts";
import { taskOptions } from "./options.ts";
import { loadNote, machineText, writeSection } from "./page.ts";
import { spread } from "./report.ts";
import { figure, markdownTable } from "./rows.ts";

const KIB = 1024, MIB = 1024 * KIB;
/** Size of the file that is read: it stays in the page cache, and not in the processor's. */
const FILE_BYTES = 256 * MIB;
/** Requests that come together in what is measured at depth 64. */
const BATCH = 64;
/** A prime, so that places jump about. */
const JUMP = 7_919;
const NBD_REQUEST_MAGIC = 0x25609513;
const START_MS_MAX = 60_000;

/** One step, as it was measured. */
interface Step {
  readonly step: string;
  /** µs a request. */
  readonly us: number;
  /** What else there is to say. */
  readonly note: string;
}

interface Effort {
  readonly rounds: number;
  readonly roundUs: number;
  readonly seconds: number;
}

const FULL: Effort = { rounds: 200, roundUs: 5_000, seconds: 3 };
const QUICK: Effort = { rounds: 50, roundUs: 2_000, seconds: 1 };

/** The least time of `work` in µs, which does `count` things at a time. */
function best({ rounds, roundUs }: Effort, count: number, work: () => void): number {
  let least = Infinity;
  for (let round = 0; round < rounds; round += 1) {
    const begunUs = monotonicUs();
    let done = 0, nowUs = begunUs;
    while (nowUs - begunUs < roundUs) {
      for (let at = 0; at < 16; at += 1) work();
      done += 16 * count;
      nowUs = monotonicUs();
    }
    least = Math.min(least, (nowUs - begunUs) / done);
  }
  return least;
}

function memorySteps(effort: Effort): Step[] {
  const memory = new Uint8Array(64 * MIB), places = memory.length / BLOCK_BYTES;
  const into = new Uint8Array(256 * KIB), small = into.subarray(0, BLOCK_BYTES);
  let place = 0;
  const copy = (target: Uint8Array): void => {
    place = (place + JUMP) % (places - target.length / BLOCK_BYTES);
    const from = place * BLOCK_BYTES;
    target.set(memory.subarray(from, from + target.length));
  };
  memory.fill(1);
  const one = best(effort, 1, () => copy(small)), many = best(effort, 1, () => copy(into));
  const event = openEvent();
  const call = best(effort, 1, () => clearEvent(event));
  closeEvent(event);
  const rate = (bytes: number, us: number): string => `${(bytes / us / 1000).toFixed(1)} GB/s`;
  return [
    { step: "read the clock", us: best(effort, 1, () => monotonicUs()), note: "no system call" },
    { step: "a system call", us: call, note: "read of an eventfd that has nothing, by FFI" },
    { step: "copy 4 KiB in memory", us: one, note: rate(BLOCK_BYTES, one) },
    { step: "copy 256 KiB in memory", us: many, note: rate(into.length, many) },
  ];
}

async function fileSteps(effort: Effort, path: string): Promise<Step[]> {
  await Deno.writeFile(path, new Uint8Array(FILE_BYTES).fill(7));
  const file = systemFiles.open(path, { readOnly: false, direct: false, lock: false });
  const places = FILE_BYTES / BLOCK_BYTES;
  const block = new Uint8Array(BLOCK_BYTES).fill(3);
  let place = 0;
  const next = (): number => (place = (place + JUMP) % places) * BLOCK_BYTES;
  try {
    return [
      {
        step: "pread 4 KiB from the page cache",
        us: best(effort, 1, () => file.read(block, next())),
        note: "random places of 256 MiB",
      },
      {
        step: "pwrite 4 KiB to the page cache",
        us: best(effort, 1, () => file.write(block, next())),
        note: "the same",
      },
    ];
  } finally {
    file.close();
  }
}

/** Sends `from` through a pair of sockets and takes it out again, in one thread. */
function through(pair: readonly [number, number], from: Uint8Array<ArrayBuffer>): () => void {
  const into = new Uint8Array(from.length);
  return () => {
    let sent = 0, got = 0;
    while (got < from.length) {
      if (sent < from.length) {
        const count = send(pair[0], sent === 0 ? from : from.subarray(sent));
        if (count !== WOULD_BLOCK) sent += count;
      }
      const count = receive(pair[1], into);
      if (count !== WOULD_BLOCK) got += count;
    }
  };
}

function socketSteps(effort: Effort): Step[] {
  const pair = openSocketPair();
  try {
    const one = best(effort, 1, through(pair, new Uint8Array(ANSWER_BYTES)));
    const batch = new Uint8Array(32 * ANSWER_BYTES);
    return [
      { step: "send and receive an answer", us: one, note: "4112 bytes, two system calls" },
      {
        step: "the same, 32 answers at a time",
        us: best(effort, 32, through(pair, batch)),
        note: "of each answer: the kernel's two copies",
      },
    ];
  } finally {
    pair.forEach(closeDescriptor);
  }
}

/** Reads of 4 KiB as an NBD client sends them, `BATCH` in one chunk. */
function nbdRequests(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(BATCH * REQUEST_BYTES);
  const view = new DataView(bytes.buffer);
  for (let index = 0; index < BATCH; index += 1) {
    const at = index * REQUEST_BYTES;
    view.setUint32(at, NBD_REQUEST_MAGIC);
    view.setUint32(at + 12, index);
    view.setUint32(at + 20, (index * JUMP % (size / BLOCK_BYTES)) * BLOCK_BYTES);
    view.setUint32(at + 24, BLOCK_BYTES);
  }
  return bytes;
}

async function deviceSteps(effort: Effort, path: string): Promise<Step[]> {
  const registry = defaultRegistry();
  const clock = new ThreadClock();
  const log = { error: print, warn: print, info: (): void => {}, debug: (): void => {} };
  const steps: Step[] = [];
  for (const [name, text] of [["null", `null:${FILE_BYTES}`], ["file", `file:${path}`]] as const) {
    const settings = { registry, log, readOnly: true, mayBlock: true, clock };
    await using open = await openDevice(parseSpec(text), settings);
    const data = new Uint8Array(BLOCK_BYTES);
    const requests = Array.from({ length: BATCH }, (_, index) => {
      const offset = (index * JUMP % (FILE_BYTES / BLOCK_BYTES)) * BLOCK_BYTES;
      return makeRequest("read", offset, BLOCK_BYTES, { data });
    });
    const submitAll = (): void => {
      for (const request of requests) void open.device.submit(request);
    };
    steps.push({
      step: `Device and ${name} backend`,
      us: best(effort, BATCH, submitAll),
      note: "gate, validation, counters, two clock reads",
    });
    steps.push({
      step: `NBD session, Device and ${name} backend`,
      us: best(effort, BATCH, sessionRun(open.device)),
      note: "64 requests decoded and answered, no socket",
    });
  }
  return steps;
}

function sessionRun(device: Device): () => void {
  const requests = nbdRequests(device.geometry.size);
  const session = new NbdServerSession({
    device,
    gate: OPEN_GATE,
    state: {
      ...{ exportName: "disk", structured: false, extended: false, contexts: [], flags: 0 },
      ...{ blockSizeAgreed: true, secured: false },
    },
  });
  return () => {
    session.receive(requests);
    for (let output = session.takeOutput(); output !== null; output = session.takeOutput()) {
      output.release();
    }
    session.releaseInput();
  };
}

/** Keeps `depth` requests under way with an echo server for some seconds; answers a second. */
function drive(fd: number, depth: number, seconds: number): number {
  const out = new Uint8Array(depth * REQUEST_BYTES);
  const into = new Uint8Array(depth * ANSWER_BYTES);
  const set = new PollSet();
  const begunUs = monotonicUs(), endUs = begunUs + seconds * 1e6;
  let got = 0, answers = 0, owed = depth;
  send(fd, out);
  while (owed > 0) {
    const count = receive(fd, into);
    if (count === WOULD_BLOCK) {
      set.clear();
      set.add(fd, POLL_IN);
      set.wait(-1);
      continue;
    }
    if (count === 0) throw new Error("The echo server has ended");
    got += count;
    const whole = Math.floor(got / ANSWER_BYTES);
    got %= ANSWER_BYTES;
    answers += whole;
    if (monotonicUs() < endUs) send(fd, out, whole * REQUEST_BYTES);
    else owed -= whole;
  }
  return answers * 1e6 / (monotonicUs() - begunUs);
}

async function echoStep(
  folder: string,
  depth: number,
  seconds: number,
  file: string | null,
): Promise<Step> {
  const socket = join(await Deno.makeTempDir({ dir: folder }), "socket");
  const script = fileURLToPath(new URL("./floor_echo.ts", import.meta.url));
  const args = [socket, ...(file === null ? [] : [file])];
  const child = new Deno.Command("taskset", {
    args: ["-c", `${pinning().server}`, Deno.execPath(), "run", "-A", "--quiet", script, ...args],
    stdin: "null",
    stderr: "inherit",
  }).spawn();
  const deadline = performance.now() + START_MS_MAX;
  while (await firstLine("test", ["-S", socket]) === null) {
    if (performance.now() > deadline) throw new Error("Cannot start the echo server");
  }
  const fd = connectUnix(socket);
  drive(fd, depth, seconds / 4); // warms up
  const before = cpuTimeUs(child.pid);
  const rate = drive(fd, depth, seconds);
  const cpu = (cpuTimeUs(child.pid) - before) / (rate * seconds);
  closeDescriptor(fd);
  await child.status;
  const what = file === null ? "" : " with pread";
  return {
    step: `smallest server${what}, depth ${depth}: CPU`,
    us: cpu,
    note: `${figure(rate)} requests/s`,
  };
}

async function echoSteps(
  folder: string,
  file: string,
  { seconds, rounds }: Effort,
): Promise<Step[]> {
  await command("taskset", ["-pc", String(pinning().client), String(Deno.pid)]);
  const steps: Step[] = [];
  for (const [depth, path] of [[64, null], [64, file], [1, null], [1, file]] as const) {
    const runs: Step[] = [];
    for (let round = 0; round < Math.min(3, rounds); round += 1) {
      runs.push(await echoStep(folder, depth, seconds, path));
    }
    const { median } = spread(runs.map(({ us }) => us));
    steps.push(...runs.filter(({ us }) => us === median).slice(0, 1));
  }
  return steps;
}

const TITLES = ["step", "µs a request", ""] as const;

function pageTable(steps: readonly Step[]): string {
  return markdownTable(TITLES, steps.map(({ step, us, note }) => [step, us.toFixed(3), note]));
}

async function main(): Promise<void> {
  const { flags } = taskOptions({ task: "bench:floor", flags: ["quick", "json", "page"] });
  const effort = flags.has("quick") ? QUICK : FULL;
  const load = loadNote();
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const file = join(folder, "file");
    const steps: Step[] = [];
    const say = (found: readonly Step[]): void => {
      steps.push(...found);
      if (flags.has("json")) return;
      for (const { step, us, note } of found) {
        print(`${step.padEnd(42)} ${us.toFixed(3).padStart(9)} µs  ${note}\n`);
      }
    };
    say(memorySteps(effort));
    say(await fileSteps(effort, file));
    say(socketSteps(effort));
    say(await deviceSteps(effort, file));
    say(await echoSteps(folder, file, effort));
    if (flags.has("json")) print(`${JSON.stringify({ machine: machineText(), load, steps })}\n`);
    if (flags.has("page")) {
      await writeSection("floor", `${machineText()} ${load}\n\n${pageTable(steps)}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await main();
