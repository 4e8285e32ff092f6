/**
 * A program that plays the kernel towards `dmu log serve`, over the socket type that the real one uses.
 * To be run in a network namespace of its own, where nobody else asks or answers. Prints what it found
 * as one line of JSON; a failed assertion is an error.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Clock } from "../../lib/block/context.ts";
import {
  CONNECTOR_GROUP,
  FRAME_OFFSETS,
  REQUEST_HEADER_BYTES,
  REQUEST_TYPES as t,
} from "../../lib/dirty_log/constants.ts";
import { inspectLog } from "../../lib/dirty_log/inspect.ts";
import { DATAGRAM_BYTES_MAX, PAYLOAD_BYTES_MAX } from "../../lib/dirty_log/limits.ts";
import { encodeFrame, makeMessage } from "../../lib/dirty_log/message.ts";
import { encodeWords } from "../../lib/dirty_log/payload.ts";
import { SimulatedLogKernel } from "../../lib/dirty_log/simulator/kernel.ts";
import { SimulatedUserspaceLog } from "../../lib/dirty_log/simulator/userspace_log.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import {
  forceReceiveBuffer,
  netlinkPort,
  openConnector,
  receiveFrom,
  sendTo,
} from "../../lib/sys/netlink.ts";
import { POLL_IN, PollSet } from "../../lib/sys/poll.ts";
import { closeDescriptor } from "../../lib/sys/socket.ts";
import { testClock } from "../../lib/testing/context.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { type DmuServer, runFails, runOk, scriptProgram, startDmu } from "../support/tools.ts";

const MAIN = new URL("../../cli/main.ts", import.meta.url);
const GROUPS = 1 << CONNECTOR_GROUP - 1;
/** What the kernel takes for 15 and 2 seconds is a tenth of that here. */
const HASTE = 10;
/** Requests of a flood: more than a socket of some MiB holds. */
const FLOOD_REQUESTS = 40_000;
/** Time in ms until what is shown once a second must have been seen. */
const SHOWN_MS_MAX = 60_000;

/** The kernel's end of the socket. */
class Pump {
  readonly kernel: SimulatedLogKernel;
  readonly port: number;
  readonly #fd = openConnector();
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(1024);
  #closed = false;
  /** Nobody is to send to the daemon now: requests find nobody. */
  #listening = (): boolean => true;

  constructor() {
    forceReceiveBuffer(this.#fd, 16 * 1024 * 1024);
    this.port = netlinkPort(this.#fd);
    this.#poll.add(this.#fd, POLL_IN);
    const clock: Clock = {
      now: () => performance.now() * 1000 * HASTE,
      wall: () => Date.now(),
      sleep: (ms, signal) => testClock.sleep(ms / HASTE, signal),
    };
    this.kernel = new SimulatedLogKernel({ clock, send: (frame) => this.send(frame) });
    this.#run().catch(reportError);
  }

  /** Multicasting succeeds with nobody there, where the real kernel finds out. */
  set listening(daemon: () => boolean) {
    this.#listening = daemon;
  }

  send(frame: Uint8Array<ArrayBuffer>): boolean {
    if (!this.#listening()) return false;
    sendTo(this.#fd, frame, { port: 0, groups: GROUPS });
    return true;
  }

  close(): void {
    this.#closed = true;
    closeDescriptor(this.#fd);
  }

  async #run(): Promise<void> {
    const from = { port: 0 };
    while (!this.#closed) {
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#closed || this.#poll.wait(1) === 0) continue;
      for (let length = receiveFrom(this.#fd, this.#into, from); length >= 0;) {
        this.kernel.receive(this.#into.slice(0, length));
        length = receiveFrom(this.#fd, this.#into, from);
      }
    }
  }
}

const [folder = ""] = Deno.args;
const pump = new Pump();
const program = [...scriptProgram(MAIN), "log", "serve", "--json"];
const startDaemon = (): Promise<DmuServer> => startDmu(["--state", folder], { program });

function create(
  uuid: string,
  text: string,
  luid: bigint,
  sectors = 256,
): Promise<SimulatedUserspaceLog> {
  return SimulatedUserspaceLog.create(pump.kernel, { uuid, sectors, text }, luid);
}

async function recoverAll(log: SimulatedUserspaceLog): Promise<void> {
  for (let work = await log.resyncWork(); work !== null; work = await log.resyncWork()) {
    await log.setRegionSync(work, true);
    log.clear(work);
    assert.equal(await log.flush(), 0);
  }
}

/** A mirror's life, with its log in memory and in a file. */
async function lives(): Promise<void> {
  for (const [text, status] of [["core 8", "1 core"], ["disk life 8", "3 disk "]] as const) {
    const log = await create("life", text, 1n);
    assert.equal(await log.resume(), 0);
    await recoverAll(log);
    assert.equal(await log.syncCount(), 32);
    log.mark(7);
    assert.equal(await log.flush(), 0);
    assert.ok((await log.statusInfo()).startsWith(status));
    if (text.startsWith("disk")) {
      assert.equal(inspectLog(systemFiles, `${folder}/life`).clean.has(7), false);
    }
    log.clear(7);
    assert.equal(await log.flush(), 0);
    assert.deepEqual([await log.presuspend(), await log.postsuspend()], [0, 0]);
    await log.destroy();
  }
  const { clean, problems } = inspectLog(systemFiles, `${folder}/life`);
  assert.deepEqual([clean.count, problems], [32, []]);
}

/** The daemon is killed while regions are marked; the kernel finds the next one. */
async function killed(first: DmuServer): Promise<DmuServer> {
  let alive = true;
  pump.listening = () => alive;
  const log = await create("kill", "disk kill 8 nosync", 2n);
  assert.equal(await log.resume(), 0);
  log.mark(3);
  assert.equal(await log.flush(), 0);
  await first.kill();
  alive = false;
  log.mark(4);
  const flushed = log.flush();
  const next = await startDaemon();
  alive = true;
  assert.equal(await flushed, 0);
  assert.deepEqual([await log.inSync(3), await log.inSync(9)], [false, true]);
  const { clean } = inspectLog(systemFiles, `${folder}/kill`);
  assert.deepEqual([clean.has(3), clean.has(4), clean.has(5)], [false, false, true]);
  return next;
}

/** Stops a process; resolves once none of its threads runs any more. */
async function stopAll(pid: number): Promise<void> {
  Deno.kill(pid, "SIGSTOP");
  const runs = (task: string): boolean =>
    !/^State:\s+[Tt]/m.test(Deno.readTextFileSync(`/proc/${pid}/task/${task}/status`));
  while ([...Deno.readDirSync(`/proc/${pid}/task`)].some(({ name }) => runs(name))) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The daemon is stopped for longer than the kernel waits: every request comes twice. */
async function late(daemon: DmuServer): Promise<number> {
  const log = await create("late", "core 8", 3n);
  await log.resume();
  const before = pump.kernel.counts.late;
  for (let round = 0; round < 3; round += 1) {
    await stopAll(daemon.pid);
    const { resent } = pump.kernel.counts;
    const work = log.resyncWork();
    while (pump.kernel.counts.resent === resent) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    Deno.kill(daemon.pid, "SIGCONT");
    assert.equal(await work, round);
    await log.setRegionSync(round, true);
  }
  assert.equal(await log.syncCount(), 3);
  await log.destroy();
  return pump.kernel.counts.late - before;
}

/** What is no request, and requests that cannot be, end nothing. */
async function noise(): Promise<void> {
  const random = seededRandom(5);
  for (let count = 0; count < 500; count += 1) {
    const bytes = new Uint8Array(1 + random.below(9_000));
    random.fill(bytes);
    pump.send(bytes);
    const data = encodeWords(random.below(100));
    const frame = encodeFrame(
      makeMessage({ uuid: "noise", luid: 9n, seq: 2 ** 31 + count, type: random.below(30), data }),
    );
    if (random.oneIn(2)) frame[random.below(frame.length)] = random.below(256);
    pump.send(frame);
  }
  assert.equal((await pump.kernel.consult({ uuid: "x", luid: 1n, type: t.DTR })).error, 0);
}

/** Payloads longer than the kernel's own, and datagrams longer than any, end nothing and mark nothing. */
async function oversize(): Promise<void> {
  const log = await create("big", "core 8 nosync", 5n);
  assert.equal(await log.resume(), 0);
  for (const bytes of [PAYLOAD_BYTES_MAX + 4, 4_000, DATAGRAM_BYTES_MAX, 60_000]) {
    const plain = encodeFrame(makeMessage({ uuid: "big", luid: 5n, seq: 77, type: t.MARK_REGION }));
    const frame = new Uint8Array(plain.length + bytes);
    frame.set(plain);
    const view = new DataView(frame.buffer);
    view.setUint32(FRAME_OFFSETS.netlinkLength, frame.length, true);
    view.setUint16(FRAME_OFFSETS.connectorLength, REQUEST_HEADER_BYTES + bytes, true);
    view.setUint32(FRAME_OFFSETS.dataSize, bytes, true);
    pump.send(frame);
  }
  assert.equal(await log.isClean(0), true, "a payload of zeroes names region 0");
  await log.destroy();
}

/** More requests than the socket holds, whose answers nobody reads: what is asked afterwards is answered. */
async function flood(): Promise<void> {
  const log = await create("flood", "core 8 nosync", 6n);
  assert.equal(await log.resume(), 0);
  for (let count = 0; count < FLOOD_REQUESTS; count += 1) {
    const data = encodeWords(count % 32);
    const seq = 2 ** 31 + count, type = t.MARK_REGION;
    pump.send(encodeFrame(makeMessage({ uuid: "flood", luid: 6n, seq, type, data })));
  }
  assert.deepEqual([await log.isClean(31), await log.syncCount()], [false, 32]);
  await log.destroy();
}

/** A table is swapped for one with integrated flushes and twice the length. */
async function swapped(): Promise<void> {
  const before = await create("swap", "disk swap 8 nosync", 7n);
  assert.equal(await before.resume(), 0);
  before.mark(3);
  assert.equal(await before.flush(), 0);
  const table = { uuid: "swap", sectors: 512, text: "disk swap 8", integratedFlush: true };
  const after = await SimulatedUserspaceLog.create(pump.kernel, table, 8n);
  assert.deepEqual([await before.presuspend(), await before.postsuspend()], [0, 0]);
  assert.equal(await after.resume(), 0);
  await before.destroy();
  assert.equal(await after.syncCount(), 31, "region 3 and the new ones are out of sync");
  await recoverAll(after);
  after.mark(40);
  assert.equal(await after.flush(), 0);
  assert.equal(inspectLog(systemFiles, `${folder}/swap`).clean.has(40), false);
  after.clear(40);
  assert.equal(await after.flush(), 0);
  assert.deepEqual([await after.presuspend(), await after.postsuspend()], [0, 0]);
  await after.destroy();
  assert.equal(inspectLog(systemFiles, `${folder}/swap`).clean.count, 64);
}

/** A thousand logs that all write at once; gives requests a second. */
async function thousand(): Promise<number> {
  const logs = await Promise.all(
    Array.from(
      { length: 1000 },
      (_, index) => create(`many${index}`, "core 8 nosync", BigInt(100 + index), 2048),
    ),
  );
  await Promise.all(logs.map((log) => log.resume()));
  const begun = performance.now(), { sent } = pump.kernel.counts;
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(logs.map(async (log, index) => {
      log.mark((index + round) % 256);
      assert.equal(await log.flush(), 0);
    }));
  }
  const rate = (pump.kernel.counts.sent - sent) / (performance.now() - begun) * 1000;
  for (const log of logs.slice(0, 20)) assert.equal(await log.isClean(200), true);
  await Promise.all(logs.map((log) => log.destroy()));
  return Math.round(rate);
}

/** A daemon with a control plane shows the logs that it keeps, and `dmu log ls` prints them. */
async function shown(): Promise<void> {
  const [path = "", ...rest] = scriptProgram(MAIN);
  const control = `unix:${folder}/control`;
  const program = [path, ...rest, "serve", "--json"];
  const server = await startDmu(["--logs", folder, "--control", control], { program });
  const log = await create("shown.1", "disk shown 8 nosync", 1n);
  assert.equal(await log.resume(), 0);
  log.mark(5);
  assert.equal(await log.flush(), 0);
  const list = async (): Promise<string> =>
    await runOk(path, [...rest, "log", "ls", "--control", control]);
  const until = performance.now() + SHOWN_MS_MAX;
  const line = /^shown\.1 +active +32 +32 +1 +[1-9]\d* +\S+\/shown$/m;
  while (!line.test(await list())) assert.ok(performance.now() < until, await list());
  await log.destroy();
  while (await list() !== "no logs\n") assert.ok(performance.now() < until, await list());
  await server.stop();
}

let daemon = await startDaemon();
await lives();
const [path = "", ...rest] = program;
const second = await runFails(path, rest);
assert.match(second, /Cannot serve logs: port \d+ of the kernel connector gets their requests/);
daemon = await killed(daemon);
await noise();
await oversize();
await flood();
await swapped();
const lateAnswers = await late(daemon);
const rate = await thousand();
const memory_kib = Number(
  /VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${daemon.pid}/status`))?.[1] ?? 0,
);
await daemon.stop();
await shown();
pump.close();
await Deno.stdout.write(
  new TextEncoder().encode(`${JSON.stringify({ lateAnswers, rate, memory_kib })}\n`),
);
