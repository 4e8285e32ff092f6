/** Tests of lib/driver/tls.ts with certificates made on the spot by openssl. @module */
import assert from "node:assert/strict";
import type net from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import tls from "node:tls";
import { BufferPool } from "../../lib/block/pool.ts";
import { adoptDescriptor } from "../../lib/driver/socket_pair.ts";
import {
  checkServerCertificates,
  loadCertificates,
  type SecurePair,
  startTlsServer,
  type TlsServerOptions,
} from "../../lib/driver/tls.ts";
import { runSession } from "../../lib/stream/run_session.ts";
import { POLL_IN, PollSet } from "../../lib/sys/poll.ts";
import { accept, connectUnix } from "../../lib/sys/socket.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";
import { concat, EchoSession, frameOf } from "../stream/echo_session.ts";

async function openssl(folder: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("openssl", { args, cwd: folder }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
}

const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

async function authority(folder: string, name: string): Promise<void> {
  const files = ["-keyout", `${name}-key.pem`, "-out", `${name}-cert.pem`];
  await openssl(folder, "req", "-x509", ...NEW_KEY, ...files, "-subj", `/CN=${name}`, "-days", "2");
}

async function certificate(folder: string, name: string, by: string): Promise<void> {
  const request = `${name}.csr`;
  const files = ["-keyout", `${name}-key.pem`, "-out", request];
  const alternative = ["-addext", "subjectAltName=DNS:localhost"];
  await openssl(folder, "req", ...NEW_KEY, ...files, "-subj", `/O=dmu/CN=${name}`, ...alternative);
  const signer = ["-CA", `${by}-cert.pem`, "-CAkey", `${by}-key.pem`, "-CAcreateserial"];
  const out = ["-copy_extensions", "copy", "-out", `${name}-cert.pem`, "-days", "2"];
  await openssl(folder, "x509", "-req", "-in", request, ...signer, ...out);
}

/** A certificate folder: an authority, a server, a client, and a client of somebody else. */
async function withCertificates(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await authority(folder, "ca");
    await certificate(folder, "server", "ca");
    await certificate(folder, "client", "ca");
    await authority(folder, "foreign");
    await certificate(folder, "stranger", "foreign");
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A client's socket and the adopted descriptor of the server's end. */
function connected(folder: string): { client: net.Socket; server: net.Socket; fd: number } {
  const listener = listenUnix(`${folder}/s`);
  const client = adoptDescriptor(connectUnix(listener.path));
  client.on("error", () => {});
  const poll = new PollSet();
  poll.add(listener.fd, POLL_IN);
  poll.wait(10_000);
  const accepted = accept(listener.fd);
  assert.ok(accepted !== null);
  listener.close();
  return { client, server: adoptDescriptor(accepted.fd), fd: accepted.fd };
}

async function secure(
  folder: string,
  socket: net.Socket,
  name: string | null,
): Promise<tls.TLSSocket> {
  const read = (file: string): Promise<string> => Deno.readTextFile(`${folder}/${file}`);
  const own = name === null
    ? {}
    : { cert: await read(`${name}-cert.pem`), key: await read(`${name}-key.pem`) };
  const ca = await read("ca-cert.pem");
  const secured = tls.connect({ socket, servername: "localhost", ca, ...own });
  secured.on("error", () => {});
  return secured;
}

async function closed(...sockets: net.Socket[]): Promise<void> {
  for (const socket of sockets) {
    socket.destroy();
    if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
  }
}

async function serverOptions(folder: string, verifyPeer = true): Promise<TlsServerOptions> {
  return { certificates: await loadCertificates(folder), verifyPeer };
}

async function finish(pair: SecurePair): Promise<void> {
  await pair.writable.abort().catch(() => {});
  await pair.readable.cancel().catch(() => {});
}

Deno.test("startTlsServer() accepts a client of the authority and carries a session", async () => {
  await withCertificates(async (folder) => {
    const { client, server } = connected(folder);
    const secured = await secure(folder, client, "client");
    const pair = await startTlsServer(server, await serverOptions(folder));
    assert.equal(pair.peerSubject, "O=dmu, CN=client");
    assert.match(pair.protocol, /^TLSv1\.[23]$/);
    const pool = new BufferPool({ poison: true });
    const session = new EchoSession(pool);
    const run = runSession(pair, session);
    const frames = [1, 4_096, 300_000, 3_000_000].map((size, i) =>
      frameOf(new Uint8Array(size).fill(i + 1))
    );
    const parts: Uint8Array[] = [];
    secured.on("data", (data: Uint8Array) => parts.push(Uint8Array.from(data)));
    const ended = new Promise((resolve) => secured.once("end", resolve));
    for (const frame of [...frames, frameOf(new Uint8Array(0))]) secured.write(frame);
    await ended;
    secured.end();
    await run;
    assert.deepEqual(concat(parts), concat(frames));
    assert.equal(pool.takenCount, 0);
    assert.deepEqual(session.ends, [undefined]);
    await closed(secured, client, server);
  });
});

Deno.test("startTlsServer() takes a hello that came before it was called", async () => {
  await withCertificates(async (folder) => {
    const { client, server, fd } = connected(folder);
    const secured = await secure(folder, client, "client");
    const options = await serverOptions(folder);
    const poll = new PollSet();
    poll.add(fd, POLL_IN);
    while (poll.wait(0) === 0 && server.bytesRead === 0) await turn();
    // Time enough for the hello to be read from the kernel, if somebody did.
    for (let i = 0; i < 200; i++) await turn();
    const pair = await startTlsServer(server, options);
    assert.equal(pair.peerSubject, "O=dmu, CN=client");
    await finish(pair);
    await closed(secured, client, server);
  });
});

Deno.test("startTlsServer() refuses a foreign and a missing certificate", async () => {
  await withCertificates(async (folder) => {
    for (const name of ["stranger", null]) {
      const { client, server } = connected(folder);
      const secured = await secure(folder, client, name);
      const start = startTlsServer(server, await serverOptions(folder));
      const reason = /^Error: Cannot do the TLS handshake: .*certificate.*[^.]$/;
      await assert.rejects(start, reason, String(name));
      assert.ok(server.destroyed);
      await closed(secured, client, server);
    }
  });
});

Deno.test("startTlsServer() takes any client when told not to verify", async () => {
  await withCertificates(async (folder) => {
    const { client, server } = connected(folder);
    const secured = await secure(folder, client, null);
    const pair = await startTlsServer(server, await serverOptions(folder, false));
    assert.equal(pair.peerSubject, null);
    await finish(pair);
    await closed(secured, client, server);
  });
});

Deno.test("startTlsServer() gives up after its time, when aborted, and on what is not TLS", async () => {
  await withCertificates(async (folder) => {
    const abort = new AbortController();
    const rows: [string, Partial<TlsServerOptions>, (client: net.Socket) => void, RegExp][] = [
      ["silent", { handshake_ms: 20 }, () => {}, /it took more than 20 ms/],
      ["aborted", { signal: abort.signal }, () => abort.abort(new Error("enough")), /enough/],
      ["aborted before", { signal: AbortSignal.abort(new Error("enough")) }, () => {}, /enough/],
      ["gone", {}, (client) => client.destroy(), /Cannot do the TLS handshake: (?!it took)/],
      [
        "babble",
        {},
        (client) => client.write("x".repeat(500)),
        /Cannot do the TLS handshake: (?!it took)/,
      ],
    ];
    for (const [name, options, act, message] of rows) {
      const { client, server } = connected(folder);
      const start = startTlsServer(server, { ...await serverOptions(folder), ...options });
      const outcome = assert.rejects(start, message, name);
      act(client);
      await outcome;
      assert.ok(server.destroyed, name);
      await closed(client, server);
    }
  });
});

Deno.test("loadCertificates() and checkServerCertificates() name what is wrong", async () => {
  await withCertificates(async (folder) => {
    checkServerCertificates(await serverOptions(folder));
    const loaded = await loadCertificates(folder);
    const { ca: _, ...withoutCa } = loaded;
    assert.throws(
      () => checkServerCertificates({ certificates: withoutCa, verifyPeer: true }),
      /^Error: Cannot verify TLS clients: ca-cert.pem is missing$/,
    );
    const key = await Deno.readTextFile(`${folder}/client-key.pem`);
    assert.throws(
      () => checkServerCertificates({ certificates: { ...loaded, key }, verifyPeer: true }),
      /^Error: Cannot use the TLS certificates: /,
    );
    await Deno.writeTextFile(`${folder}/server-key.pem`, "no key");
    await assert.rejects(loadCertificates(folder), /server-key.pem is not a PEM file$/);
    await Deno.remove(`${folder}/server-key.pem`);
    await assert.rejects(loadCertificates(folder), /there is no server-key.pem$/);
  });
});
