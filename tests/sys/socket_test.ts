/** Tests of lib/sys/{socket,socket_address,unix_listener,poll,activation}.ts on real sockets. @module */
import assert from "node:assert/strict";
import { inheritedSockets, parseActivation } from "../../lib/sys/activation.ts";
import {
  clearEvent,
  closeEvent,
  openEvent,
  POLL_HANGUP,
  POLL_IN,
  POLL_INVALID,
  POLL_OUT,
  PollSet,
  signalEvent,
  yieldProcessor,
} from "../../lib/sys/poll.ts";
import {
  accept,
  type Accepted,
  closeDescriptor,
  connectTcp,
  connectUnix,
  isListening,
  listenTcp,
  localAddress,
  openSocketPair,
  peerAddress,
  peerCredentials,
  prepareInherited,
  receive,
  send,
  setKeepAlive,
  setNoDelay,
  shutdown,
  WOULD_BLOCK,
} from "../../lib/sys/socket.ts";
import { addressText } from "../../lib/sys/socket_address.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";

/** Runs a test in a directory of its own, and closes descriptors afterwards. */
function withSockets(
  test: (context: { folder: string; own: (fd: number) => number }) => void,
): () => void {
  return (): void => {
    const folder = Deno.makeTempDirSync();
    const owned: number[] = [];
    try {
      test({ folder, own: (fd): number => (owned.push(fd), fd) });
    } finally {
      for (const fd of owned) closeDescriptor(fd);
      Deno.removeSync(folder, { recursive: true });
    }
  };
}

function accepted(listenFd: number): Accepted {
  const poll = new PollSet();
  poll.add(listenFd, POLL_IN);
  assert.equal(poll.wait(10_000), 1);
  const connection = accept(listenFd);
  assert.ok(connection !== null);
  return connection;
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof SystemError, String(error));
    assert.match(error.message, /^Cannot .+: .*[^.]$/);
    return error.code;
  }
  return "nothing";
}

function descriptorFlags(fd: number): number {
  const text = Deno.readTextFileSync(`/proc/self/fdinfo/${fd}`);
  return parseInt(/^flags:\s*(\d+)$/m.exec(text)?.[1] ?? "0", 8);
}

const O_CLOEXEC = 0o2000000, O_NONBLOCK = 0o4000;

Deno.test(
  "listenUnix() takes connections with the peer's credentials",
  withSockets(({ folder, own }) => {
    const { fd, path } = listenUnix(`${folder}/s`);
    own(fd);
    assert.equal(accept(fd), null);
    const client = own(connectUnix(path));
    const connection = accepted(fd);
    own(connection.fd);
    assert.deepEqual(connection.address, { kind: "unix", path: "" });
    const { pid, uid, gid } = peerCredentials(connection.fd);
    assert.deepEqual([pid, uid, gid], [Deno.pid, Deno.uid(), Deno.gid()]);
    assert.deepEqual(localAddress(fd), { kind: "unix", path });
    assert.deepEqual(peerAddress(client), { kind: "unix", path });
    assert.equal(addressText(localAddress(fd)), `unix:${path}`);
    assert.equal(descriptorFlags(connection.fd) & (O_CLOEXEC | O_NONBLOCK), O_CLOEXEC | O_NONBLOCK);
    assert.equal(descriptorFlags(fd) & O_CLOEXEC, O_CLOEXEC);
    assert.equal(descriptorFlags(client) & O_CLOEXEC, O_CLOEXEC);
  }),
);

Deno.test(
  "listenUnix() sets the mode of the socket file",
  withSockets(({ folder, own }) => {
    for (const mode of [undefined, 0o660, 0o666]) {
      const path = `${folder}/s${mode}`;
      own(listenUnix(path, mode === undefined ? {} : { mode }).fd);
      assert.equal((Deno.statSync(path).mode ?? 0) & 0o777, mode ?? 0o600);
    }
  }),
);

Deno.test(
  "listenUnix() replaces the socket of a dead server and no other file",
  withSockets(({ folder, own }) => {
    const path = `${folder}/s`;
    const dead = listenUnix(path);
    closeDescriptor(dead.fd);
    const living = listenUnix(path);
    assert.equal(codeOf(() => listenUnix(path)), "EADDRINUSE");
    own(connectUnix(path));
    own(accepted(living.fd).fd);
    living.close();
    living.close();
    assert.deepEqual([...Deno.readDirSync(folder)], []);
    const replaced = listenUnix(path);
    Deno.renameSync(path, `${folder}/moved`);
    own(listenUnix(path).fd);
    replaced.close();
    assert.ok(Deno.lstatSync(path).isSocket);
    Deno.removeSync(path);
    Deno.writeTextFileSync(path, "precious");
    assert.equal(codeOf(() => listenUnix(path)), "EADDRINUSE");
    assert.equal(Deno.readTextFileSync(path), "precious");
    Deno.symlinkSync(`${folder}/nowhere`, `${folder}/link`);
    assert.equal(codeOf(() => listenUnix(`${folder}/link`)), "EADDRINUSE");
  }),
);

Deno.test(
  "listenUnix() refuses paths that cannot be",
  withSockets(({ folder, own }) => {
    const longest = `${folder}/`.padEnd(107, "x");
    own(listenUnix(longest).fd);
    assert.deepEqual(localAddress(own(connectUnix(longest))), { kind: "unix", path: "" });
    assert.equal(codeOf(() => listenUnix(longest + "x")), "ENAMETOOLONG");
    assert.equal(codeOf(() => listenUnix(`${folder}/é`.padEnd(107, "x"))), "ENAMETOOLONG");
    assert.equal(codeOf(() => listenUnix("")), "ENOENT");
    assert.equal(codeOf(() => listenUnix("a\0b")), "EINVAL");
    assert.equal(codeOf(() => listenUnix(`${folder}/no/s`)), "ENOENT");
    assert.equal(codeOf(() => connectUnix(`${folder}/no`)), "ENOENT");
  }),
);

for (const host of ["127.0.0.1", "::1"]) {
  Deno.test(
    `listenTcp() on ${host} shows its real port and the peer's address`,
    withSockets(({ own }) => {
      const fd = own(listenTcp(host, 0));
      const address = localAddress(fd);
      assert.ok(address.kind === "tcp" && address.port > 0);
      assert.equal(address.host, host);
      assert.equal(codeOf(() => listenTcp(host, address.port)), "EADDRINUSE");
      const client = own(connectTcp(host, address.port));
      const connection = accepted(fd);
      own(connection.fd);
      assert.deepEqual(connection.address, localAddress(client));
      assert.deepEqual(peerAddress(connection.fd), localAddress(client));
      const { port } = address;
      const text = host === "::1" ? `[::1]:${port}` : `127.0.0.1:${port}`;
      assert.equal(addressText(address), text);
      setNoDelay(connection.fd);
      setKeepAlive(connection.fd, { idle_s: 60, interval_s: 10, probes: 3 });
    }),
  );
}

Deno.test("openSocketPair() gives two ends, and change() what a poll waits for", () => {
  const [here, there] = openSocketPair();
  try {
    const poll = new PollSet();
    const index = poll.add(there, POLL_IN);
    assert.equal(poll.wait(0), 0);
    poll.change(index, POLL_OUT);
    assert.equal(poll.wait(0), 1);
    assert.equal(poll.result(index), POLL_OUT);
    yieldProcessor();
    assert.equal(send(here, new Uint8Array([1, 2, 3]), 2), 2);
    const into = new Uint8Array(8);
    assert.equal(receive(there, into), 2);
    assert.equal(receive(there, into), WOULD_BLOCK);
  } finally {
    closeDescriptor(here);
    closeDescriptor(there);
  }
});

Deno.test("listenTcp() refuses what is no address", () => {
  assert.equal(codeOf(() => listenTcp("example.org", 0)), "EINVAL");
  assert.equal(codeOf(() => listenTcp("127.0.0.1", 65_536)), "EINVAL");
  assert.equal(codeOf(() => listenTcp("127.0.0.1", -1)), "EINVAL");
  assert.equal(codeOf(() => listenTcp("192.0.2.1", 0)), "EADDRNOTAVAIL");
});

Deno.test(
  "send() and receive() never block, and tell the end from nothing",
  withSockets(({ folder, own }) => {
    const { fd } = listenUnix(`${folder}/s`);
    own(fd);
    const client = own(connectUnix(`${folder}/s`));
    const server = accepted(fd).fd;
    const into = new Uint8Array(1 << 20);
    assert.equal(receive(server, into), WOULD_BLOCK);
    const chunk = new Uint8Array(1 << 16).map((_, i) => i);
    let sent = 0;
    for (let count = 0; count !== WOULD_BLOCK; sent += Math.max(count, 0)) {
      count = send(client, chunk.subarray(sent % chunk.length));
    }
    let received = 0;
    for (;;) {
      const count = receive(server, into);
      if (count === WOULD_BLOCK) break;
      for (let i = 0; i < count; i++) assert.equal(into[i], chunk[(received + i) % chunk.length]);
      received += count;
    }
    assert.ok(sent > 0);
    assert.equal(received, sent);
    shutdown(client, "write");
    assert.equal(receive(server, into), 0);
    closeDescriptor(server);
    assert.equal(codeOf(() => send(client, chunk)), "EPIPE");
    shutdown(client, "both");
    assert.equal(codeOf(() => closeDescriptor(server)), "EBADF");
  }),
);

Deno.test(
  "PollSet wait() finds what is ready, and nothing after the time",
  withSockets(({ folder, own }) => {
    const listener = own(listenUnix(`${folder}/s`).fd);
    const event = openEvent();
    const poll = new PollSet();
    poll.add(listener, POLL_IN);
    poll.add(event, POLL_IN);
    assert.equal(poll.wait(1), 0);
    signalEvent(event);
    signalEvent(event);
    assert.equal(poll.wait(-1), 1);
    assert.deepEqual([poll.result(0), poll.result(1)], [0, POLL_IN]);
    assert.equal(clearEvent(event), 2);
    assert.equal(clearEvent(event), 0);
    const client = own(connectUnix(`${folder}/s`));
    const server = accepted(listener).fd;
    poll.clear();
    for (let i = 0; i < 1_000; i++) poll.add(client, i % 2 === 0 ? POLL_IN : POLL_OUT);
    assert.equal(poll.wait(-1), 500);
    assert.deepEqual([poll.result(998), poll.result(999)], [0, POLL_OUT]);
    closeDescriptor(server);
    poll.clear();
    poll.add(client, POLL_IN);
    poll.add(event, POLL_IN);
    assert.equal(poll.wait(-1), 1);
    assert.equal(poll.result(0) & POLL_HANGUP, POLL_HANGUP);
    assert.equal(poll.count, 2);
    closeEvent(event);
    assert.equal(poll.wait(-1), 2);
    assert.equal(poll.result(1), POLL_INVALID);
  }),
);

Deno.test("parseActivation() believes what is meant for this process", () => {
  const rows: [Record<string, string>, unknown][] = [
    [{}, []],
    [{ LISTEN_FDS: "1" }, []],
    [{ LISTEN_PID: "7" }, []],
    [{ LISTEN_PID: "8", LISTEN_FDS: "1" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "0" }, []],
    [{ LISTEN_PID: "7", LISTEN_FDS: "2" }, [{ fd: 3, name: "unknown" }, {
      fd: 4,
      name: "unknown",
    }]],
    [{ LISTEN_PID: "7", LISTEN_FDS: "2", LISTEN_FDNAMES: "nbd:" }, [
      { fd: 3, name: "nbd" },
      { fd: 4, name: "unknown" },
    ]],
    [{ LISTEN_PID: "seven", LISTEN_FDS: "1" }, "EINVAL"],
    [{ LISTEN_PID: "7", LISTEN_FDS: "-1" }, "EINVAL"],
    [{ LISTEN_PID: "7", LISTEN_FDS: "4097" }, "EINVAL"],
    [{ LISTEN_PID: "7", LISTEN_FDS: "" }, "EINVAL"],
    [{ LISTEN_PID: "7", LISTEN_FDS: "2", LISTEN_FDNAMES: "a:b:c" }, "EINVAL"],
  ];
  for (const [variables, expected] of rows) {
    if (typeof expected === "string") {
      assert.equal(codeOf(() => parseActivation(variables, 7)), expected);
    } else assert.deepEqual(parseActivation(variables, 7), expected);
  }
});

Deno.test(
  "isListening() and inheritedSockets() tell a listening socket from others",
  withSockets(({ folder, own }) => {
    const { fd } = listenUnix(`${folder}/s`);
    own(fd);
    assert.equal(isListening(fd), true);
    assert.equal(isListening(own(connectUnix(`${folder}/s`))), false);
    const event = own(openEvent());
    assert.equal(isListening(event), false);
    prepareInherited(event);
    // Descriptor 3 of this process is the runtime's own and no listening socket.
    const variables = { LISTEN_PID: String(Deno.pid), LISTEN_FDS: "1" };
    assert.equal(codeOf(() => inheritedSockets(variables, Deno.pid)), "ENOTSOCK");
    assert.deepEqual(inheritedSockets(variables, Deno.pid + 1), []);
  }),
);
