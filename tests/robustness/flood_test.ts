/**
 * Floods of handshakes that never end, and clients that dribble: others get in as if they were alone,
 * and the server gets rid of them by number and by time. Many connections, opened and closed, leave
 * nothing behind.
 *
 * @module
 */
import assert from "node:assert/strict";
import { connect as connectTls } from "node:tls";
import { connect as connectSocket } from "node:net";
import { OPTION } from "../../lib/nbd/constants.ts";
import { hex } from "../nbd/fixtures.ts";
import { FIXED_NO_ZEROES, option } from "../nbd/handshake_messages.ts";
import { interopTest, runOk, startDmu, withTempDir } from "../support/tools.ts";
import {
  bounded,
  GOOD_TARGET,
  GoodClient,
  openDescriptors,
  residentBytes,
  turn,
  until,
  withLive,
} from "./live.ts";
import { GREETING_BYTES, RawClient } from "./raw_client.ts";

const MIB = 1 << 20;
const FLOOD = 300;
const DRIBBLERS = 20;
const GOOD_CLIENTS = 10;
/** A good client may take this long to get in and do its first I/O, in ms; two cores are shared. */
const ENTRY_MS_MAX = 3_000;

const LIST = hex(option(OPTION.LIST));

/**
 * Sends a handshake that has no end, byte by byte, until `over` says so. False if the server had enough
 * of it before.
 */
async function dribble(client: RawClient, over: () => boolean): Promise<boolean> {
  for (const byte of hex(FIXED_NO_ZEROES)) await client.send(Uint8Array.of(byte));
  for (let at = 0; !over(); at = (at + 1) % LIST.length) {
    if (!await client.send(LIST.subarray(at, at + 1))) return false;
    await turn();
  }
  return true;
}

Deno.test("good clients get in promptly through a flood of handshakes", async () => {
  await withLive({}, { limits: { handshakes: 64 } }, async ({ path, log }) => {
    await using established = await GoodClient.connect(path);
    const half: RawClient[] = [];
    let over = false;
    const flood = async (): Promise<void> => {
      const dribblers = await Promise.all(
        Array.from({ length: DRIBBLERS }, () => RawClient.connect(path)),
      );
      const dribbling = dribblers.map((client) => dribble(client, () => over));
      for (let at = 0; at < FLOOD; at += 1) {
        half.push(await RawClient.connect(path));
        if (at % (FLOOD / GOOD_CLIENTS) !== 0) continue;
        const started = performance.now();
        await using good = await GoodClient.connect(path, 1);
        await good.step();
        const took = performance.now() - started;
        assert.ok(took < ENTRY_MS_MAX, `${took} ms to get in at ${at} half-open connections`);
      }
      over = true;
      // Whoever says anything is preferred to those who say nothing.
      assert.ok((await Promise.all(dribbling)).every((stayed) => stayed));
      for (const client of dribblers) client[Symbol.dispose]();
    };
    await bounded("the flood", 30_000, established.during(flood()));
    // Those that came last may not have been accepted when the last good client was done.
    const evicted = (): number =>
      log.lines.filter((line) => line.includes("there are 64 handshakes already")).length;
    await until(`${FLOOD - 64} are evicted`, () => evicted() >= FLOOD - 64);
    // The first of them sees the end after the greeting; the latest is still welcome.
    assert.equal(await half[0]?.drain(), GREETING_BYTES);
    assert.equal((await half.at(-1)?.read(GREETING_BYTES))?.length, GREETING_BYTES);
    for (const client of half) client[Symbol.dispose]();
  });
});

Deno.test("a handshake that takes too long is over, whatever comes meanwhile", async () => {
  await withLive({}, { limits: { handshake_ms: 300 } }, async ({ path, log }) => {
    await using established = await GoodClient.connect(path);
    const silent = await RawClient.connect(path);
    const busy = await RawClient.connect(path);
    const waiting = Promise.all([silent.drain(), busy.drain(), dribble(busy, () => false)]);
    const [heard] = await bounded("both ends", 20_000, established.during(waiting));
    assert.equal(heard, GREETING_BYTES);
    const ends = log.lines.filter((line) => line.includes("the handshake took more than 300 ms"));
    assert.equal(ends.length, 2);
    silent[Symbol.dispose]();
    busy[Symbol.dispose]();
  });
});

/** A certificate for the server alone, so that any client may come. */
async function certify(folder: string): Promise<void> {
  await runOk("openssl", [
    ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
    ...["-subj", "/CN=localhost", "-days", "2"],
    ...["-keyout", `${folder}/server-key.pem`, "-out", `${folder}/server-cert.pem`],
  ]);
}

/** Goes under TLS and says nothing more; resolves when the server has closed the connection. */
function fallSilentUnderTls(path: string): Promise<void> {
  const socket = connectSocket({ path });
  const { promise, resolve } = Promise.withResolvers<void>();
  const consent = 20;
  let heard = 0;
  const onData = (chunk: Uint8Array): void => {
    heard += chunk.length;
    if (heard < GREETING_BYTES + consent) return;
    socket.off("data", onData);
    const secured = connectTls({ socket, rejectUnauthorized: false });
    secured.on("error", () => {}).resume();
    secured.once("close", () => {
      socket.destroy();
      if (socket.closed) resolve();
      else socket.once("close", () => resolve());
    });
  };
  socket.on("error", () => {}).on("data", onData);
  socket.write(hex(FIXED_NO_ZEROES + option(OPTION.STARTTLS)));
  return promise;
}

interopTest("a client that falls silent under TLS is cut off too", ["openssl"], async () => {
  await withTempDir(async (certificates) => {
    await certify(certificates);
    const tls = { certificates, require: false };
    const settings = { limits: { handshake_ms: 1_500 }, config: { tls } };
    await withLive({}, settings, async ({ path, log, daemon }) => {
      const uri = `nbds+unix:///${GOOD_TARGET}?socket=${path}&tls-verify-peer=0`;
      await using good = await GoodClient.open(uri);
      await bounded("the end", 20_000, fallSilentUnderTls(path));
      await until("it is gone", () => daemon.connectionCount === 1);
      // Who came before, and is through with the handshake, is still there.
      await good.step();
      assert.ok(
        log.lines.some((line) => /under TLS/.test(line)),
        log.lines.join("\n"),
      );
      assert.ok(
        log.lines.some((line) => /took more than 1500 ms/.test(line)),
        log.lines.join("\n"),
      );
    });
  });
});

const ROUND = 250;

/** Connections that come and go, each after some I/O, in one of three ways. */
async function comeAndGo(path: string): Promise<void> {
  for (let at = 0; at < ROUND; at += 1) {
    if (at % 3 === 0) {
      using _halfOpen = await RawClient.connect(path);
    } else if (at % 3 === 1) {
      using _rude = await RawClient.enter(path, GOOD_TARGET);
    } else {
      await using good = await GoodClient.connect(path);
      await good.step();
    }
  }
}

Deno.test("500 connections leave neither descriptors nor memory behind", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/s`;
    await using server = await startDmu([`${GOOD_TARGET}=memory:16M`, "--nbd", `unix:${path}`]);
    const descriptors = openDescriptors(server.pid);
    await bounded(`${ROUND} connections`, 30_000, comeAndGo(path));
    const before = residentBytes(server.pid);
    await bounded(`${ROUND} more`, 30_000, comeAndGo(path));
    await until("all are closed", () => openDescriptors(server.pid) <= descriptors);
    const growth = residentBytes(server.pid) - before;
    // 32 MiB would be 128 KiB for each connection: what one reads ahead.
    assert.ok(growth < 32 * MIB, `memory grew by ${growth} bytes`);
    await server.stop();
  });
});
