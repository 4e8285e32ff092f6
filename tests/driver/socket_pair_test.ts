/** Tests of lib/driver/socket_pair.ts on real sockets, unix and TCP. @module */
import assert from "node:assert/strict";
import type net from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import { BufferPool } from "../../lib/block/pool.ts";
import { adoptDescriptor, socketPair } from "../../lib/driver/socket_pair.ts";
import { runSession } from "../../lib/stream/run_session.ts";
import {
  accept,
  closeDescriptor,
  connectTcp,
  connectUnix,
  listenTcp,
  localAddress,
} from "../../lib/sys/socket.ts";
import { POLL_IN, PollSet } from "../../lib/sys/poll.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";
import { concat, EchoSession, frameOf } from "../stream/echo_session.ts";

type Kind = "unix" | "tcp";
const KINDS: readonly Kind[] = ["unix", "tcp"];

/** Two connected descriptors. */
function connected(kind: Kind): [number, number] {
  const take = (listenFd: number): number => {
    const poll = new PollSet();
    poll.add(listenFd, POLL_IN);
    poll.wait(10_000);
    const accepted = accept(listenFd);
    assert.ok(accepted !== null);
    return accepted.fd;
  };
  if (kind === "tcp") {
    const listenFd = listenTcp("127.0.0.1", 0);
    const address = localAddress(listenFd);
    assert.ok(address.kind === "tcp");
    const client = connectTcp(address.host, address.port);
    const server = take(listenFd);
    closeDescriptor(listenFd);
    return [client, server];
  }
  const folder = Deno.makeTempDirSync();
  const listener = listenUnix(`${folder}/s`);
  const client = connectUnix(listener.path);
  const server = take(listener.fd);
  listener.close();
  Deno.removeSync(folder, { recursive: true });
  return [client, server];
}

function openSockets(): number {
  const targets = new Set<string>();
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      targets.add(Deno.readLinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The descriptor of the listing itself.
    }
  }
  return [...targets].filter((target) => target.startsWith("socket:")).length;
}

/** A client that is plain node:net; each test ends with no socket open. */
function pairTest(
  name: string,
  test: (client: net.Socket, server: net.Socket) => Promise<void>,
): void {
  for (const kind of KINDS) {
    Deno.test(`${name} (${kind})`, async () => {
      const before = openSockets();
      const [clientFd, serverFd] = connected(kind);
      const client = adoptDescriptor(clientFd);
      const server = adoptDescriptor(serverFd);
      client.on("error", () => {});
      await test(client, server);
      client.destroy();
      server.destroy();
      for (const socket of [client, server]) {
        if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
      }
      assert.equal(openSockets(), before);
    });
  }
}

async function text(readable: ReadableStream<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const part of readable) parts.push(part);
  return new TextDecoder().decode(concat(parts));
}

pairTest(
  "socketPair() reads unread bytes first, then the socket up to its end",
  async (client, server) => {
    const { readable } = socketPair(server, { prepend: new TextEncoder().encode("first ") });
    client.end("second");
    assert.equal(await text(readable), "first second");
  },
);

pairTest(
  "socketPair() close() sends all and then the end, while reading goes on",
  async (client, server) => {
    const { readable, writable } = socketPair(server);
    const ours = socketPair(client);
    const writer = writable.getWriter();
    const big = new Uint8Array(3_000_000).fill(97);
    const reading = text(ours.readable);
    await Promise.all([writer.write(big), writer.close()]);
    assert.equal((await reading).length, big.length);
    const answer = ours.writable.getWriter();
    await answer.write(new TextEncoder().encode("late"));
    await answer.close();
    assert.equal(await text(readable), "late");
  },
);

pairTest(
  "socketPair() write() resolves when the kernel has the bytes, not earlier",
  async (client, server) => {
    const { writable } = socketPair(server);
    const writer = writable.getWriter();
    const bytes = new Uint8Array(16 << 20).fill(1);
    let written = false;
    const write = writer.write(bytes).then(() => {
      written = true;
      // From here on the memory may be used for something else.
      bytes.fill(2);
    });
    for (let i = 0; i < 200; i++) await turn();
    assert.equal(written, false);
    let received = 0;
    client.on("data", (data: Uint8Array) => {
      assert.equal(data.findIndex((byte) => byte !== 1), -1);
      received += data.length;
    });
    await write;
    await writer.close();
    while (received < bytes.length) await turn();
    assert.equal(received, bytes.length);
  },
);

pairTest("socketPair() does not read ahead without bound", async (client, server) => {
  const { readable } = socketPair(server);
  const bytes = new Uint8Array(32 << 20);
  let taken = false;
  client.write(bytes, () => taken = true);
  for (let i = 0; i < 500; i++) await turn();
  assert.equal(taken, false);
  assert.ok(server.bytesRead < 8 << 20, `${server.bytesRead} bytes were read`);
  client.end();
  assert.equal((await text(readable)).length, bytes.length);
});

pairTest(
  "socketPair() turns the loss of the connection into errors of both streams",
  async (client, server) => {
    const { readable, writable } = socketPair(server);
    const reader = readable.getReader();
    const writer = writable.getWriter();
    const lost = assert.rejects(writer.closed);
    server.destroy(new Error("pulled the plug"));
    await assert.rejects(reader.read(), /pulled the plug/);
    await lost;
    await assert.rejects(writer.write(new Uint8Array(1)));
    client.destroy();
  },
);

pairTest(
  "socketPair() disconnects a peer that takes nothing for too long",
  async (_client, server) => {
    const { readable, writable } = socketPair(server, { sendStall_ms: 20 });
    const write = writable.getWriter().write(new Uint8Array(16 << 20));
    await assert.rejects(write, /taken nothing of what was sent for 20 ms$|closed|ECANCELED/);
    await assert.rejects(readable.getReader().read(), /taken nothing of what was sent for 20 ms$/);
    assert.ok(server.destroyed);
  },
);

pairTest("socketPair() is patient with a peer that reads slowly", async (client, server) => {
  const { writable } = socketPair(server, { sendStall_ms: 200 });
  const writer = writable.getWriter();
  let received = 0;
  client.on("data", (data: Uint8Array) => {
    received += data.length;
    // A piece now and then, far slower in all than a stall may last.
    client.pause();
    void turn().then(() => client.resume());
  });
  const started = performance.now();
  while (performance.now() - started < 400) await writer.write(new Uint8Array(1 << 20));
  await writer.close();
  assert.ok(received > 0);
});

pairTest("socketPair() abort() settles a write that hangs", async (_client, server) => {
  const { readable, writable } = socketPair(server);
  const writer = writable.getWriter();
  const write = assert.rejects(writer.write(new Uint8Array(16 << 20)));
  await turn();
  await writer.abort(new Error("enough")).catch(() => {});
  await write;
  await readable.cancel();
});

pairTest(
  "socketPair() cancel() after close waits a moment for the peer, not for ever",
  async (client, server) => {
    const { readable, writable } = socketPair(server, { linger_ms: 50 });
    client.resume();
    await writable.close();
    assert.equal(server.destroyed, false);
    await readable.cancel();
    assert.equal(server.destroyed, true);
  },
);

pairTest(
  "socketPair() lets last bytes arrive although input was not read",
  async (client, server) => {
    const { readable, writable } = socketPair(server);
    const ours = socketPair(client);
    const answer = ours.writable.getWriter();
    await answer.write(new Uint8Array(50_000));
    const writer = writable.getWriter();
    await writer.write(new TextEncoder().encode("last words"));
    await writer.close();
    const closing = readable.cancel();
    assert.equal(await text(ours.readable), "last words");
    await answer.close();
    await closing;
  },
);

for (const later of [false, true]) {
  pairTest(
    `runSession over socketPair() echoes frames of all sizes, ${later ? "later" : "at once"}`,
    async (client, server) => {
      const pool = new BufferPool({ poison: true });
      const session = new EchoSession(pool, {
        unsentMax: 1 << 20,
        ...(later ? { schedule: (answer: () => void): void => void turn().then(answer) } : {}),
      });
      const run = runSession(socketPair(server), session);
      const sizes = [1, 28, 4_096, 65_536, 65_537, 300_000, 2_000_000];
      const frames = [...sizes, ...sizes].map((size, i) =>
        frameOf(new Uint8Array(size).fill(i + 1))
      );
      const ours = socketPair(client);
      const reading: Uint8Array[] = [];
      const received = (async (): Promise<void> => {
        for await (const part of ours.readable) reading.push(part);
      })();
      const writer = ours.writable.getWriter();
      for (const frame of frames) await writer.write(frame);
      await writer.write(frameOf(new Uint8Array(0)));
      await received;
      await writer.close();
      await run;
      assert.equal(concat(reading).length, concat(frames).length);
      if (!later) assert.deepEqual(concat(reading), concat(frames));
      assert.deepEqual(session.ends, [undefined]);
      assert.equal(pool.takenCount, 0);
    },
  );
}

pairTest(
  "runSession over socketPair() can be aborted with a client that does not read",
  async (client, server) => {
    const pool = new BufferPool({ poison: true });
    const session = new EchoSession(pool, { unsentMax: 4 << 20 });
    const abort = new AbortController();
    const run = runSession(socketPair(server), session, { signal: abort.signal });
    const outcome = assert.rejects(run, /enough/);
    const frame = frameOf(new Uint8Array(500_000));
    for (let i = 0; i < 20; i++) client.write(frame);
    while (session.ready) await turn();
    abort.abort(new Error("enough"));
    await outcome;
    assert.equal(pool.takenCount, 0);
    assert.equal(session.ends.length, 1);
  },
);
