/** Tests of lib/driver/accept_loop.ts and wake.ts: a real worker, real unix sockets, an injected clock. @module */
import assert from "node:assert/strict";
import net from "node:net";
import type { AcceptEvent, AcceptLimits } from "../../lib/driver/accept_loop.ts";
import type { HandOver } from "../../lib/driver/handshake.ts";
import { adoptDescriptor, socketPair } from "../../lib/driver/socket_pair.ts";
import { postAndWake } from "../../lib/driver/wake.ts";
import { closeEvent, openEvent } from "../../lib/sys/poll.ts";
import { closeDescriptor, connectUnix, receive, send } from "../../lib/sys/socket.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";
import { BIG_BYTES, type FromWorker, type LineEnd, type ToWorker } from "./acceptor_worker.ts";

/** An acceptor in a worker, and what it says. */
class Acceptor {
  readonly path: string;
  readonly #worker: Worker;
  readonly #wakeFd = openEvent();
  readonly #clock = new Int32Array(new SharedArrayBuffer(4));
  readonly #inbox: FromWorker[] = [];
  #arrival = Promise.withResolvers<void>();
  readonly #close: () => void;

  constructor(folder: string, limits: Partial<AcceptLimits>) {
    this.path = `${folder}/s`;
    const listener = listenUnix(this.path);
    this.#worker = new Worker(import.meta.resolve("./acceptor_worker.ts"), { type: "module" });
    this.#worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => {
      this.#inbox.push(data);
      this.#arrival.resolve();
    });
    const start: ToWorker = {
      kind: "start",
      listenFds: [listener.fd],
      wakeFd: this.#wakeFd,
      clock: this.#clock.buffer,
      limits,
    };
    this.#worker.postMessage(start);
    this.#close = listener.close;
  }

  async #next<K extends FromWorker["kind"]>(kind: K): Promise<Extract<FromWorker, { kind: K }>> {
    for (;;) {
      const index = this.#inbox.findIndex((message) => message.kind === kind);
      if (index !== -1) return this.#inbox.splice(index, 1)[0] as Extract<FromWorker, { kind: K }>;
      this.#arrival = Promise.withResolvers();
      await this.#arrival.promise;
    }
  }

  async handOver(): Promise<HandOver<LineEnd> & { name: string; unread: Uint8Array }> {
    const { handOver } = await this.#next("hand-over");
    assert.ok(handOver.result.kind === "hand-over");
    return { ...handOver, name: handOver.result.name, unread: handOver.result.unread };
  }

  async event(): Promise<AcceptEvent> {
    return (await this.#next("event")).event;
  }

  /** Connections in their handshake, asked for and answered in the worker's event loop. */
  async count(): Promise<number> {
    postAndWake(this.#worker, this.#wakeFd, { kind: "count" });
    return (await this.#next("count")).count;
  }

  /** Lets time pass, and makes the loop look at the clock. */
  async pass(ms: number): Promise<void> {
    Atomics.add(this.#clock, 0, ms);
    await this.count();
  }

  async stop(): Promise<number> {
    postAndWake(this.#worker, this.#wakeFd, { kind: "stop" });
    const { ended } = await this.#next("stopped");
    this.#worker.terminate();
    closeEvent(this.#wakeFd);
    this.#close();
    return ended;
  }
}

function acceptorTest(
  name: string,
  limits: Partial<AcceptLimits>,
  test: (acceptor: Acceptor) => Promise<void>,
): void {
  Deno.test(name, async () => {
    const folder = await Deno.makeTempDir();
    const before = descriptors();
    const acceptor = new Acceptor(folder, limits);
    try {
      await test(acceptor);
    } finally {
      await acceptor.stop();
      await Deno.remove(folder, { recursive: true });
    }
    assert.deepEqual(descriptors(), before);
  });
}

/** Sockets of this process; the runtime has several descriptors of one of its own, one more a worker. */
function descriptors(): string[] {
  const targets = new Set<string>();
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      targets.add(Deno.readLinkSync(`/proc/self/fd/${name}`));
    } catch {
      // The descriptor of the listing itself.
    }
  }
  return [...targets].filter((target) => target.startsWith("socket:")).sort();
}

/** A client that reads what it is sent as text. */
class Client {
  readonly socket: net.Socket;
  text = "";
  #ended = false;
  #change = Promise.withResolvers<void>();

  constructor(path: string) {
    this.socket = net.connect(path);
    this.socket.on("data", (data: Uint8Array) => {
      this.text += new TextDecoder().decode(data);
      this.#change.resolve();
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      this.#ended = true;
      this.#change.resolve();
    });
  }

  async until(test: (text: string) => boolean): Promise<void> {
    while (!test(this.text)) {
      if (this.#ended) throw new Error(`the connection ended after ${JSON.stringify(this.text)}`);
      this.#change = Promise.withResolvers();
      await this.#change.promise;
    }
  }

  async ended(): Promise<void> {
    while (!this.#ended) {
      this.#change = Promise.withResolvers();
      await this.#change.promise;
    }
  }

  async close(): Promise<void> {
    this.socket.destroy();
    await this.ended();
  }
}

acceptorTest(
  "AcceptLoop hands over descriptor, peer, state and unread bytes",
  {},
  async (acceptor) => {
    const client = new Client(acceptor.path);
    await client.until((text) => text === "hello\n");
    assert.equal(await acceptor.count(), 1);
    client.socket.write("go home\nrest");
    const { fd, peer, listener, name, unread } = await acceptor.handOver();
    assert.equal(await acceptor.count(), 0);
    assert.equal(listener, "listener 0");
    assert.deepEqual(peer, {
      address: { kind: "unix", path: "" },
      credentials: { pid: Deno.pid, uid: Deno.uid(), gid: Deno.gid() },
    });
    assert.equal(name, "home");
    const pair = socketPair(adoptDescriptor(fd), { prepend: unread });
    const reader = pair.readable.getReader();
    assert.equal(new TextDecoder().decode((await reader.read()).value), "rest");
    client.socket.write("more");
    assert.equal(new TextDecoder().decode((await reader.read()).value), "more");
    const writer = pair.writable.getWriter();
    await writer.write(new TextEncoder().encode("answer"));
    await client.until((text) => text === "hello\nanswer");
    client.socket.end();
    await writer.close();
    await reader.cancel();
    await client.ended();
  },
);

acceptorTest(
  "AcceptLoop serves a good client beside 500 half-open ones and evicts the oldest silent one",
  { handshakes: 300 },
  async (acceptor) => {
    const talker = new Client(acceptor.path);
    await talker.until((text) => text === "hello\n");
    talker.socket.write("go");
    const silent: number[] = [];
    for (let i = 0; i < 250; i++) silent.push(connectUnix(acceptor.path));
    const good = new Client(acceptor.path);
    for (let i = 0; i < 250; i++) silent.push(connectUnix(acceptor.path));
    await good.until((text) => text === "hello\n");
    good.socket.write("go there\n");
    const first = await acceptor.handOver();
    assert.equal(first.name, "there");
    // The one that has begun to talk is older than all the silent ones, and still there.
    talker.socket.write(" slowly\n");
    const second = await acceptor.handOver();
    assert.equal(second.name, "slowly");
    while (await acceptor.count() < 298);
    const event = await acceptor.event();
    assert.equal(event.kind, "evicted");
    assert.equal(event.reason, "there are 300 handshakes already");
    assert.ok(await acceptor.count() <= 300);
    for (const { fd } of [first, second]) closeDescriptor(fd);
    for (const fd of silent) closeDescriptor(fd);
    await Promise.all([good.close(), talker.close()]);
    while (await acceptor.count() > 0);
  },
);

acceptorTest(
  "AcceptLoop ends a handshake that takes too long",
  { handshake_ms: 500 },
  async (acceptor) => {
    const slow = new Client(acceptor.path);
    await slow.until((text) => text === "hello\n");
    await acceptor.pass(400);
    const later = new Client(acceptor.path);
    await later.until((text) => text === "hello\n");
    await acceptor.pass(99);
    assert.equal(await acceptor.count(), 2);
    await acceptor.pass(1);
    await slow.ended();
    const event = await acceptor.event();
    assert.equal(event.kind, "timed-out");
    assert.equal(event.reason, "the handshake took more than 500 ms");
    assert.equal(await acceptor.count(), 1);
    later.socket.write("go on\n");
    closeDescriptor((await acceptor.handOver()).fd);
    await later.close();
  },
);

acceptorTest("AcceptLoop sends the last bytes before it closes", {}, async (acceptor) => {
  const client = new Client(acceptor.path);
  client.socket.write("quit\nand bytes that nobody reads");
  await client.ended();
  assert.equal(client.text, "hello\nbye\n");
  assert.equal((await acceptor.event()).reason, "the client quit");
  while (await acceptor.count() > 0);
});

acceptorTest("AcceptLoop does not wait for ever for a client to close", {}, async (acceptor) => {
  const fd = connectUnix(acceptor.path);
  send(fd, new TextEncoder().encode("quit\n"));
  assert.equal((await acceptor.event()).kind, "closed");
  assert.equal(await acceptor.count(), 1);
  await acceptor.pass(999);
  assert.equal(await acceptor.count(), 1);
  await acceptor.pass(1);
  assert.equal(await acceptor.count(), 0);
  closeDescriptor(fd);
});

acceptorTest("AcceptLoop waits until a slow reader has everything", {}, async (acceptor) => {
  const fd = connectUnix(acceptor.path);
  const filler = new Client(acceptor.path);
  send(fd, new TextEncoder().encode("big\nx"));
  // Everybody else is served meanwhile, so this cannot be a matter of time.
  await filler.until((text) => text === "hello\n");
  assert.equal(await acceptor.count(), 2);
  const into = new Uint8Array(1 << 16);
  let received = 0;
  while (received < 6 + BIG_BYTES) {
    const count = receive(fd, into);
    if (count < 0) await acceptor.count();
    else received += count;
  }
  const { fd: handed, unread } = await acceptor.handOver();
  assert.deepEqual([...unread], [120]);
  closeDescriptor(handed);
  closeDescriptor(fd);
  await filler.close();
});

acceptorTest(
  "AcceptLoop ends a handshake that breaks the protocol, sends too much or goes away",
  { handshakeBytes: 1_000 },
  async (acceptor) => {
    const wrong = new Client(acceptor.path);
    wrong.socket.write("nonsense\n");
    await wrong.ended();
    assert.equal((await acceptor.event()).reason, "Cannot understand nonsense: it is no command");
    const long = new Client(acceptor.path);
    long.socket.write("x".repeat(1_001));
    await long.ended();
    assert.equal((await acceptor.event()).reason, "the client sent more than 1000 bytes");
    const gone = new Client(acceptor.path);
    await gone.until((text) => text === "hello\n");
    await gone.close();
    assert.equal((await acceptor.event()).reason, "the client went away");
    assert.equal(await acceptor.count(), 0);
  },
);

Deno.test("AcceptLoop closes what is in its handshake when it is told to, and ends each once", async () => {
  const folder = await Deno.makeTempDir();
  const acceptor = new Acceptor(folder, {});
  const clients = Array.from({ length: 5 }, () => new Client(acceptor.path));
  for (const client of clients) await client.until((text) => text === "hello\n");
  clients[0]?.socket.write("go on\n");
  const { fd } = await acceptor.handOver();
  assert.equal(await acceptor.stop(), 5);
  assert.equal((await acceptor.event()).reason, "the acceptor stops");
  closeDescriptor(fd);
  await Promise.all(clients.map((client) => client.ended()));
  await Deno.remove(folder, { recursive: true });
});
