/**
 * Floods of a XenStore service: whoever sends too much of anything meets a limit, and another client is
 * served all the while.
 *
 * @module
 */
import assert from "node:assert/strict";
import net from "node:net";
import { limits, XenstoreClient } from "../../lib/xenstore/mod.ts";
import { interopTest, run, toolPath } from "../support/tools.ts";
import { RecordedService, withService } from "../support/xenstore.ts";
import { request } from "./wire.ts";

/** Longest time in ms that another client's request may take, on a machine that does other things too. */
const SERVED_MS_MAX = 2_000;

/** Makes requests with a client of its own until `flood` is over; each has to be answered in time. */
async function servedDuring(record: RecordedService, flood: Promise<unknown>): Promise<void> {
  const { client } = record.service;
  let over = false;
  const end = flood.finally(() => over = true);
  let count = 0;
  do {
    const begun = performance.now();
    await client.write("/other", String(count));
    assert.equal(await client.readText("/other"), String(count));
    const took = performance.now() - begun;
    assert.ok(took < SERVED_MS_MAX, `two requests took ${took} ms`);
    count += 1;
  } while (!over);
  await end;
}

interface Raw {
  readonly socket: net.Socket;
  readonly closed: Promise<unknown>;
}

function connectRaw(path: string): Raw {
  const socket = net.connect(path);
  socket.on("error", () => {});
  socket.resume();
  const closed = new Promise((resolve) => socket.once("close", resolve));
  return { socket, closed };
}

function send(socket: net.Socket, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => socket.write(bytes, () => resolve()));
}

Deno.test("more connections than there may be are refused, and those that are there are served", () =>
  withService(async (record) => {
    const count = limits.CONNECTIONS_MAX + 50;
    const all: Raw[] = [];
    const flood = (async (): Promise<void> => {
      for (let made = 0; made < count; made++) {
        const raw = connectRaw(record.path);
        all.push(raw);
        const ready = new Promise((resolve) => raw.socket.once("connect", resolve));
        await Promise.race([ready, raw.closed]);
      }
      const heard = (): number => record.all("opened").length + record.all("refused").length;
      await record.until(() => heard() === count, "all were heard of");
    })();
    await servedDuring(record, flood);
    // One place is the daemon's own.
    assert.equal(record.all("opened").length, limits.CONNECTIONS_MAX - 1);
    assert.match(record.all("refused")[0]?.text ?? "", /too many connections/);
    for (const { socket } of all) socket.destroy();
    await Promise.all(all.map(({ closed }) => closed));
    await record.untilEmpty();
    await using again = await XenstoreClient.connectUnix(record.path);
    assert.equal(await again.exists("/"), true);
  }));

Deno.test("connections that come and go without end do not keep others from being served", () =>
  withService(async (record) => {
    let connected = 0;
    const flood = (async (): Promise<void> => {
      for (let made = 0; made < 3000; made += 50) {
        const some = Array.from({ length: 50 }, () => connectRaw(record.path));
        for (const { socket } of some) {
          socket.once("connect", () => {
            connected += 1;
            socket.destroy();
          });
        }
        await Promise.all(some.map(({ closed }) => closed));
      }
    })();
    await servedDuring(record, flood);
    // The kernel lets only so many wait to be accepted, and refuses others.
    const heard = (): number => record.all("opened").length + record.all("refused").length;
    await record.until(() => heard() === connected, "all who connected were heard of");
    await record.untilEmpty();
  }));

Deno.test("messages in pieces and messages that are too long do not keep others from being served", () =>
  withService(async (record) => {
    const all = Array.from({ length: 100 }, () => connectRaw(record.path));
    const message = request("WRITE", `/x|${"v".repeat(4000)}`);
    const long = request("READ", "/x|");
    new DataView(long.buffer).setUint32(12, 0xffffffff, true);
    const flood = (async (): Promise<void> => {
      for (let at = 0; at < 200; at++) {
        await Promise.all(all.map(({ socket }) => send(socket, message.subarray(at, at + 1))));
      }
      const half = all.splice(0, 50);
      await Promise.all(half.map(({ socket }) => send(socket, message.subarray(200))));
      await record.until(() => record.open === 100, "all are there");
      await Promise.all(half.map(({ socket }) => send(socket, long)));
      await Promise.all(half.map(({ closed }) => closed));
    })();
    await servedDuring(record, flood);
    assert.equal((await record.service.client.read("/x")).length, 4000);
    await record.until(() => record.open === 50, "those that broke the protocol have gone");
    for (const { socket } of all) socket.destroy();
    await Promise.all(all.map(({ closed }) => closed));
    await record.untilEmpty();
  }));

Deno.test("a client that sends without end and reads nothing is not read from, and others are served", () =>
  withService(async (record) => {
    await record.service.client.write("/big", "v".repeat(4000));
    const { socket, closed } = connectRaw(record.path);
    socket.pause();
    const one = request("READ", "/big|");
    const many = new Uint8Array(one.length * 2000);
    for (let at = 0; at < many.length; at += one.length) many.set(one, at);
    let over = false;
    const pushing = (async (): Promise<void> => {
      while (!over) await Promise.race([send(socket, many), closed]);
    })();
    const flood = (async (): Promise<void> => {
      for (let count = 0; count < 300; count++) await record.service.client.exists("/big");
    })();
    await servedDuring(record, flood);
    assert.ok(socket.writableLength > 0, "its requests do not get through");
    over = true;
    socket.destroy();
    await Promise.all([closed, pushing]);
    await record.untilEmpty();
  }));

Deno.test("domain 0 has limits for watches and transactions too", () =>
  withService(async (record) => {
    await using client = await XenstoreClient.connectUnix(record.path);
    const flood = (async (): Promise<void> => {
      const { CONNECTION_TRANSACTIONS_MAX: transactions, CONNECTION_WATCHES_MAX: watches } = limits;
      for (let at = 0; at < watches; at += 512) {
        const some = Array.from({ length: 512 }, (_, i) => `/w/${at + i}|t|`.replaceAll("|", "\0"));
        await Promise.all(some.map((each) => client.request(4, each)));
      }
      await assert.rejects(client.request(4, "/one-more\0t\0"), { code: "E2BIG" });
      await Promise.all(Array.from({ length: transactions }, () => client.request(6, "\0")));
      await assert.rejects(client.request(6, "\0"), { code: "ENOSPC" });
    })();
    await servedDuring(record, flood);
  }));

const GUEST = String.raw`
import socket, struct, sys
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    return s
def take(s, count):
    data = b""
    while len(data) < count:
        part = s.recv(count - len(data))
        if not part: raise EOFError()
        data += part
    return data
def ask(s, kind, payload, tx=0):
    s.sendall(struct.pack("<IIII", kind, 7, tx, len(payload)) + payload)
    while True:
        got, _, _, length = struct.unpack("<IIII", take(s, 16))
        body = take(s, length)
        if got != 15: return body
def until(answer, make):
    count = 0
    while True:
        got = make(count)
        if got == answer: return count
        assert not got.startswith(b"E"), got
        count += 1
s = connect()
print("watches", until(b"E2BIG\0", lambda n: ask(s, 4, b"w/%d\0t\0" % n)))
print("transactions", until(b"ENOSPC\0", lambda n: ask(s, 6, b"\0")))
print("nodes", until(b"ENOSPC\0", lambda n: ask(s, 11, b"d%d/n%d\0" % (n // 20, n))))
print("value", ask(s, 11, b"d0/n1\0" + b"v" * 2048))
print("secret", ask(s, 2, b"/secret\0"), ask(s, 13, b"/secret\0"), ask(s, 11, b"/secret\0x"))
print("control", ask(s, 0, b"dmu\0{}\0"))
more = []
try:
    while True:
        more.append(connect())
        ask(more[-1], 2, b"d0/n1\0")
except (EOFError, ConnectionError):
    print("connections", len(more))
`;

interopTest("a user without rights meets the quotas, and others are served", [
  "python3-pyxs",
  "setpriv",
], () =>
  withService(async (record) => {
    if (Deno.uid() !== 0) return assert.ok(true, "another user cannot be had without root");
    const root = record.service.client;
    await Deno.chmod(record.path, 0o666);
    await root.write("/secret", "s");
    await root.mkdir("/local/domain/5");
    await root.setPermissions("/local/domain/5", [{ domid: 5, rights: 0 }]);
    const user = ["--reuid", "65534", "--clear-groups", toolPath("python3-pyxs")];
    const flood = run(toolPath("setpriv"), [...user, "-c", GUEST, record.path]);
    await servedDuring(record, flood);
    const { stdout, stderr } = await flood;
    assert.deepEqual(stdout.trimEnd().split("\n"), [
      "watches 129",
      "transactions 11",
      "nodes 951",
      String.raw`value b'ENOSPC\x00'`,
      String.raw`secret b'EACCES\x00' b'EACCES\x00' b'EACCES\x00'`,
      String.raw`control b'EACCES\x00'`,
      "connections 64",
    ], stderr);
    await record.untilEmpty();
    assert.equal(await root.readText("/secret"), "s");
  }, { domains: new Map([[65_534, 5]]) }));
