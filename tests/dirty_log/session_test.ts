/**
 * The daemon's session against a simulated kernel in the same process: the sequences of real mirrors,
 * requests that come twice, daemons that are lost, tables that are swapped.
 *
 * @module
 */
import assert from "node:assert/strict";
import { ESRCH, REQUEST_TYPES as t } from "../../lib/dirty_log/constants.ts";
import { LOGS_MAX } from "../../lib/dirty_log/limits.ts";
import {
  decodeFrame,
  encodeAck,
  encodeFrame,
  makeMessage,
  requestName,
} from "../../lib/dirty_log/message.ts";
import { encodeConstructor, encodeWords } from "../../lib/dirty_log/payload.ts";
import type { LogSession } from "../../lib/dirty_log/session.ts";
import { RESEND_MS, SimulatedLogKernel } from "../../lib/dirty_log/simulator/kernel.ts";
import { SimulatedUserspaceLog } from "../../lib/dirty_log/simulator/userspace_log.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { CrashFiles } from "../support/crash_files.ts";
import { DirectPair, FailingFiles, sessionOver, settled } from "./fixtures.ts";

function core(pair: DirectPair, text = "core 8", luid = 1n): Promise<SimulatedUserspaceLog> {
  return SimulatedUserspaceLog.create(pair.kernel, { uuid: "A", sectors: 128, text }, luid);
}

/** The names of the requests that were sent since the last look. */
function taken(pair: DirectPair): string[] {
  return pair.sent.splice(0).map((frame) => {
    const decoded = decodeFrame(frame);
    return decoded.kind === "message" ? requestName(decoded.message.type) : decoded.kind;
  });
}

/** The error and the first bytes of the answer to one request. */
function ask(
  session: LogSession,
  type: number,
  data: Uint8Array = new Uint8Array(0),
  { uuid = "A", luid = 1n, seq = 1, version = 3 } = {},
): { error: number; data: number[] } {
  const reply = session.handle(encodeFrame(makeMessage({ uuid, luid, seq, type, data, version })));
  const decoded = decodeFrame(reply ?? new Uint8Array(0));
  assert.ok(decoded.kind === "message");
  assert.deepEqual([decoded.message.seq, decoded.message.uuid], [seq, uuid]);
  return { error: decoded.message.error, data: [...decoded.message.data] };
}

function ctr(text: string, reconnects = false): Uint8Array {
  return encodeConstructor({ text, reconnects });
}

Deno.test("a mirror is made, recovered, written, suspended and removed", async () => {
  const pair = new DirectPair();
  const log = await core(pair);
  assert.deepEqual([log.regionSectors, log.regions, log.device], [8, 16, null]);
  assert.equal(await log.syncCount(), 0);
  assert.equal(await log.resume(), 0);
  assert.deepEqual(taken(pair), ["CTR", "GET_REGION_SIZE", "GET_SYNC_COUNT", "RESUME"]);
  for (let region = 0; region < 16; region += 1) {
    assert.equal(await log.resyncWork(), region);
    assert.equal(await log.inSync(region), false);
    assert.equal(await log.setRegionSync(region, true), 0);
    log.clear(region);
    assert.equal(await log.flush(), 0);
    assert.equal(await log.syncCount(), region + 1);
  }
  assert.equal(await log.resyncWork(), null);
  taken(pair);
  log.mark(3);
  assert.equal(await log.flush(), 0);
  assert.equal(await log.isClean(3), false);
  log.clear(3);
  assert.equal(await log.flush(), 0);
  assert.equal(await log.isClean(3), true);
  assert.equal(await log.statusInfo(), "1 core");
  assert.equal(await log.presuspend(), 0);
  assert.equal(await log.postsuspend(), 0);
  await log.destroy();
  assert.deepEqual(taken(pair), [
    ...["MARK_REGION", "FLUSH", "IS_CLEAN", "CLEAR_REGION", "FLUSH", "IS_CLEAN"],
    ...["STATUS_INFO", "PRESUSPEND", "POSTSUSPEND", "DTR"],
  ]);
  assert.equal(pair.session?.logs.length, 0);
  assert.deepEqual(pair.log.lines, []);
});

Deno.test("integrated flushes carry their marks, and clears alone wait", async () => {
  const pair = new DirectPair();
  const table = { uuid: "A", sectors: 1024, text: "core 8 nosync", integratedFlush: true };
  const log = await SimulatedUserspaceLog.create(pair.kernel, table, 1n);
  await log.resume();
  taken(pair);
  for (let region = 0; region < 40; region += 1) log.mark(region);
  assert.equal(await log.flush(), 0);
  assert.deepEqual(taken(pair), ["FLUSH", "FLUSH"]);
  assert.equal(pair.session?.logs[0]?.log.dirtyCount, 40);
  for (let region = 0; region < 40; region += 1) log.clear(region);
  assert.equal(await log.flush(), 0);
  assert.deepEqual(taken(pair), ["CLEAR_REGION", "CLEAR_REGION"]);
  pair.clock.advance(3_000_000);
  await settled();
  assert.deepEqual(taken(pair), ["FLUSH"]);
  assert.equal(pair.session?.logs[0]?.log.dirtyCount, 0);
});

Deno.test("what comes twice is answered twice and done once", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  const twice = (type: number, data?: Uint8Array): unknown => {
    const first = ask(session, type, data), second = ask(session, type, data, { seq: 2 });
    assert.deepEqual(second, first, requestName(type));
    return first;
  };
  const none = { error: 0, data: [] };
  assert.deepEqual(twice(t.CTR, ctr("64 disk log 8")), none);
  assert.deepEqual(twice(t.RESUME), none);
  twice(t.GET_RESYNC_WORK);
  assert.deepEqual(ask(session, t.GET_RESYNC_WORK).data[8], 0);
  assert.deepEqual(twice(t.SET_REGION_SYNC, encodeWords(0, 1)), none);
  assert.equal(ask(session, t.GET_SYNC_COUNT).data[0], 1);
  assert.deepEqual(twice(t.CLEAR_REGION, encodeWords(0)), none);
  assert.equal(ask(session, t.IS_CLEAN, encodeWords(0)).data[0], 1);
  assert.deepEqual(twice(t.MARK_REGION, encodeWords(0)), none);
  assert.deepEqual(twice(t.FLUSH), none);
  assert.equal(ask(session, t.RESUME).error, 0, "a resume that comes late resets nothing");
  assert.equal(ask(session, t.IN_SYNC, encodeWords(0)).data[0], 1);
  assert.deepEqual(twice(t.PRESUSPEND), none);
  assert.deepEqual(twice(t.POSTSUSPEND), none);
  assert.deepEqual(twice(t.DTR), none);
});

Deno.test("requests that make no sense are refused with EINVAL", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  const refused = (type: number, data?: Uint8Array, rest = {}): void =>
    assert.deepEqual(ask(session, type, data, rest), { error: -22, data: [] }, requestName(type));
  refused(t.CTR, ctr("64 mylog 8"));
  refused(t.CTR, ctr("64 core 8"), { version: 4 });
  refused(t.CTR, ctr("64 core 8"), { uuid: "" });
  assert.equal(ask(session, t.CTR, ctr("64 core 8")).error, 0);
  refused(t.IN_SYNC, encodeWords(0)); // not in use yet
  ask(session, t.RESUME);
  refused(t.IN_SYNC, encodeWords(8));
  refused(t.IN_SYNC);
  refused(t.IS_REMOTE_RECOVERING, encodeWords(8));
  refused(t.MARK_REGION, new Uint8Array(7));
  refused(t.SET_REGION_SYNC, encodeWords(1));
  refused(18);
  refused(0);
  assert.equal(session.counts.errors, session.counts.requests - 2);
});

Deno.test("what is no request gets no answer", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  assert.equal(session.handle(new Uint8Array(3)), null);
  assert.equal(session.handle(encodeAck({ seq: 1, ack: 11 })), null);
  const long = encodeFrame(makeMessage({ uuid: "A", luid: 1n, seq: 1, type: t.FLUSH }));
  new DataView(long.buffer).setUint32(192, 4000, true); // says more than there is
  assert.equal(session.handle(long), null);
  assert.deepEqual(session.counts, { requests: 0, errors: 0, foreign: 2 });
});

Deno.test("a payload that no kernel can send is refused", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  const frame = new Uint8Array(196 + 4096);
  frame.set(encodeFrame(makeMessage({ uuid: "A", luid: 1n, seq: 5, type: t.FLUSH })));
  const view = new DataView(frame.buffer);
  view.setUint32(0, frame.length, true);
  view.setUint16(32, 160 + 4096, true);
  view.setUint32(192, 4096, true);
  const decoded = decodeFrame(session.handle(frame) ?? new Uint8Array(0));
  assert.ok(decoded.kind === "message");
  assert.deepEqual([decoded.message.error, decoded.message.seq], [-22, 5]);
});

Deno.test("noise in requests never ends a session", () => {
  const random = seededRandom(4);
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  for (let round = 0; round < 5_000; round += 1) {
    const data = random.oneIn(3)
      ? ctr(`${64 * random.below(4)} ${random.pick(["core", "disk log"])} 8`)
      : encodeWords(...Array.from({ length: random.below(4) }, () => random.below(12)));
    const luid = BigInt(random.below(3)), type = random.below(20);
    const frame = encodeFrame(makeMessage({ uuid: "A", luid, seq: round, type, data }));
    if (random.oneIn(5)) frame[36 + random.below(frame.length - 36)] = random.below(256);
    session.handle(frame);
  }
  assert.ok(session.counts.requests > 4_000 && session.counts.errors < session.counts.requests);
});

Deno.test("a log that this daemon does not know is answered as if there were none", async () => {
  const pair = new DirectPair();
  const log = await core(pair, "disk log 8 nosync");
  await log.resume();
  log.mark(2);
  await log.flush();
  pair.session?.close();
  pair.session = pair.newSession();
  taken(pair);
  const asked = log.inSync(2);
  await settled();
  pair.clock.advance(2_000_000);
  assert.equal(await asked, false, "what was marked may differ");
  assert.deepEqual(taken(pair), ["IN_SYNC", "CTR", "RESUME", "IN_SYNC"]);
  assert.equal(await log.inSync(3), true);
});

Deno.test("what the kernel asks of a daemon without its log is answered in full once it has it", async () => {
  const pair = new DirectPair();
  const log = await core(pair, "disk log 8 nosync");
  await log.resume();
  const questions: readonly (readonly [() => Promise<unknown>, unknown])[] = [
    [() => log.inSync(9), true],
    [() => log.isClean(9), true],
    [() => log.syncCount(), 16],
    [() => log.statusInfo(), "3 disk log A"],
    [() => log.isRemoteRecovering(9), false],
    [() => log.resyncWork(), null],
  ];
  for (const [ask, expected] of questions) {
    pair.session?.close();
    pair.session = pair.newSession();
    const asked = ask();
    await settled();
    pair.clock.advance(2_000_000);
    assert.deepEqual(await asked, expected, ask.toString());
  }
});

Deno.test("without a daemon the kernel tries every two seconds, and marks survive", async () => {
  const pair = new DirectPair();
  const log = await core(pair, "disk log 8 nosync");
  await log.resume();
  log.mark(4);
  pair.kernel.receive(new Uint8Array(0));
  assert.equal(await log.flush(), 0);
  pair.session?.close();
  pair.session = null;
  let count: number | null = null;
  const asked = log.syncCount().then((value) => count = value);
  for (let round = 0; round < 5; round += 1) {
    await settled();
    pair.clock.advance(2_000_000);
  }
  assert.equal(count, null);
  pair.session = pair.newSession();
  await settled();
  pair.clock.advance(2_000_000);
  await asked;
  assert.equal(count, 15);
});

Deno.test("a core log is dirty after its daemon was lost, with nosync as well", async () => {
  const pair = new DirectPair();
  const log = await core(pair, "core 8 nosync");
  await log.resume();
  assert.equal(await log.syncCount(), 16);
  pair.session = pair.newSession();
  const asked = log.syncCount();
  await settled();
  pair.clock.advance(2_000_000);
  assert.equal(await asked, 0);
  assert.equal(await log.resyncWork(), 0);
});

Deno.test("a mark that was answered survives the daemon though it was not flushed", () => {
  const files = new CrashFiles({ seed: 1 });
  const first = sessionOver(files);
  ask(first, t.CTR, ctr("64 disk log 8 nosync"));
  ask(first, t.RESUME);
  assert.equal(ask(first, t.MARK_REGION, encodeWords(6)).error, 0);
  // Killed: nothing is written any more, and the lock is free.
  const second = sessionOver({
    open: (path, options) => files.open(path, { ...options, lock: false }),
  });
  assert.equal(ask(second, t.FLUSH).error, -ESRCH);
  assert.equal(ask(second, t.CTR, ctr("64 disk log 8 nosync", true)).error, 0);
  assert.equal(ask(second, t.RESUME).error, 0);
  assert.equal(ask(second, t.FLUSH).error, 0);
  files.crash();
  const third = sessionOver(files);
  ask(third, t.CTR, ctr("64 disk log 8"));
  ask(third, t.RESUME);
  assert.equal(ask(third, t.IN_SYNC, encodeWords(6)).data[0], 0);
});

Deno.test("a table is swapped: a new log of the same mirror goes on where the old one stopped", async () => {
  const pair = new DirectPair();
  const old = await core(pair, "disk log 8 nosync", 1n);
  await old.resume();
  old.mark(5);
  await old.flush();
  const next = await core(pair, "disk log 8 nosync", 2n);
  assert.equal(await next.syncCount(), 0, "it has read nothing yet");
  assert.equal(await next.resume(), -16, "two logs never write to one medium");
  await old.setRegionSync(7, false);
  await old.presuspend();
  await old.postsuspend();
  assert.equal(await next.resume(), 0);
  await old.destroy();
  assert.deepEqual([await next.inSync(5), await next.inSync(7), await next.inSync(6)], [
    false,
    false,
    true,
  ]);
  assert.equal(pair.session?.logs.length, 1);
});

Deno.test("a core log that replaces another one with nosync keeps what was dirty there", async () => {
  const pair = new DirectPair();
  const old = await core(pair, "core 8 nosync", 1n);
  await old.resume();
  await old.setRegionSync(7, false);
  await old.presuspend();
  await old.postsuspend();
  const next = await core(pair, "core 4 nosync", 2n);
  await next.resume();
  assert.equal(await next.syncCount(), 30);
  assert.deepEqual([await next.inSync(14), await next.inSync(15)], [false, false]);
  const fresh = await core(pair, "core 8", 3n);
  await fresh.resume();
  assert.equal(await fresh.syncCount(), 0, "a table that asks for a copy gets it");
});

Deno.test("a log whose medium is gone when it is resumed makes the kernel wait for it", async () => {
  const files = new FailingFiles(new CrashFiles({ seed: 1 }));
  const pair = new DirectPair(files);
  const log = await core(pair, "disk log 8 nosync");
  files.failing = "read";
  assert.equal(await log.resume(), -5);
  let answer: boolean | null = null;
  const asked = log.inSync(3).then((value) => answer = value);
  for (let round = 0; round < 3; round += 1) {
    await settled();
    pair.clock.advance(2_000_000);
  }
  assert.equal(answer, null);
  files.failing = null;
  await settled();
  pair.clock.advance(2_000_000);
  await asked;
  assert.equal(answer, true);
});

Deno.test("with block_on_error a write that cannot be logged waits, without it fails", async () => {
  for (const word of ["", " block_on_error"]) {
    const files = new FailingFiles(new CrashFiles({ seed: 1 }));
    const pair = new DirectPair(files);
    const log = await core(pair, `disk log 8 nosync${word}`);
    await log.resume();
    files.failing = "flush";
    log.mark(3);
    let result: number | null = null;
    const asked = log.flush().then((error) => result = error);
    await settled();
    pair.clock.advance(2_000_000);
    await settled();
    assert.equal(result, word === "" ? -5 : null);
    files.failing = null;
    pair.clock.advance(2_000_000);
    await asked;
    assert.equal(result, word === "" ? -5 : 0);
  }
});

Deno.test("two mirrors cannot share a medium", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  assert.equal(ask(session, t.CTR, ctr("64 disk log 8")).error, 0);
  assert.equal(ask(session, t.CTR, ctr("64 disk log 8"), { uuid: "B" }).error, -16);
  assert.equal(ask(session, t.DTR).error, 0);
  assert.equal(ask(session, t.CTR, ctr("64 disk log 8"), { uuid: "B" }).error, 0);
});

Deno.test("the kernel is told to go on asking for work, and that nobody else copies", async () => {
  const pair = new DirectPair();
  const log = await core(pair, "core 8 nosync");
  await log.resume();
  assert.equal(await log.isRemoteRecovering(3), false);
  taken(pair);
  assert.equal(await log.isRemoteRecovering(4), false);
  assert.deepEqual(taken(pair), [], "it knows the answer now");
  await log.resyncWork();
  assert.deepEqual(taken(pair), ["GET_RESYNC_WORK"]);
});

Deno.test("late answers are dropped and the request is answered again", async () => {
  const pair = new DirectPair();
  const session = pair.newSession();
  const held: Uint8Array[] = [];
  const kernel = new SimulatedLogKernel({
    clock: pair.clock,
    send: (frame) => {
      const reply = session.handle(frame);
      if (reply !== null) held.push(reply);
      return true;
    },
  });
  const made = SimulatedUserspaceLog.create(kernel, { uuid: "A", sectors: 64, text: "core 8" }, 1n);
  const deliver = async (): Promise<void> => {
    for (let round = 0; round < 4; round += 1) {
      await settled();
      held.splice(0).forEach((frame) => kernel.receive(frame));
    }
  };
  await settled();
  pair.clock.advance(RESEND_MS * 1000);
  await settled();
  assert.equal(held.length, 2);
  await deliver();
  const log = await made;
  assert.deepEqual({ ...kernel.counts, sent: 0 }, { sent: 0, late: 1, resent: 1 });
  const resumed = log.resume();
  await deliver();
  await resumed;
  const work = log.resyncWork();
  await settled();
  pair.clock.advance(RESEND_MS * 1000);
  await deliver();
  assert.equal(await work, 0, "the region that the lost answer named");
  assert.equal(kernel.waiting, 0);
});

Deno.test("a bare EAGAIN of the connector asks for the request again", async () => {
  const pair = new DirectPair();
  const sent: Uint8Array[] = [];
  const kernel = new SimulatedLogKernel({
    clock: pair.clock,
    send: (frame) => sent.push(frame) > 0,
  });
  const asked = kernel.consult({ uuid: "A", luid: 1n, type: t.DTR });
  await settled();
  kernel.receive(encodeAck({ seq: 1, ack: 11 }));
  await settled();
  assert.equal(sent.length, 2);
  kernel.receive(encodeAck({ seq: 2, ack: 5 }));
  assert.deepEqual((await asked).error, -5);
});

Deno.test("a thousand logs are kept apart", async () => {
  const pair = new DirectPair();
  const logs = await Promise.all(Array.from({ length: 1000 }, (_, index) => {
    const table = { uuid: `U${index % 500}`, sectors: 512, text: `core 8 nosync` };
    return SimulatedUserspaceLog.create(pair.kernel, table, BigInt(index));
  }));
  await Promise.all(logs.map((log) => log.resume()));
  for (const [index, log] of logs.entries()) log.mark(index % 64);
  await Promise.all(logs.map((log) => log.flush()));
  for (const [index, { log }] of (pair.session?.logs ?? []).entries()) {
    assert.deepEqual([log.dirtyCount, log.isClean(index % 64)], [1, false]);
  }
  assert.equal(pair.session?.logs.length, 1000);
});

Deno.test("the number of logs is limited", () => {
  const session = sessionOver(new CrashFiles({ seed: 1 }));
  const data = ctr("64 core 8");
  for (let luid = 0; luid < LOGS_MAX; luid += 1) ask(session, t.CTR, data, { luid: BigInt(luid) });
  assert.equal(ask(session, t.CTR, data, { luid: BigInt(LOGS_MAX) }).error, -28);
  assert.equal(ask(session, t.CTR, data, { luid: 0n }).error, 0, "one that is there");
});
