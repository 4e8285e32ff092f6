/**
 * The real xenstored (C, Debian's xen-utils-4.17) without Xen: started with the stub library of
 * bench/xen_stub in place of Xen's own. Peers speak to it over its unix socket as domain 0, or over
 * the ring of a domain, which the stub keeps in a file (xs_wire.h: struct xenstore_domain_interface).
 *
 * @module
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodeMessage, type Message, payloadLength } from "../../lib/xenstore/mod.ts";
import { ended, killQuietly } from "./process.ts";
import { runOk, toolPath } from "./tools.ts";

const STUB = fileURLToPath(new URL("../../bench/xen_stub/stub.c", import.meta.url));
const LIBRARIES = ["libxenevtchn.so.1", "libxengnttab.so.1", "libxenctrl.so.4.17"];
const START_MS_MAX = 10_000, ANSWER_MS_MAX = 20_000, STOP_MS_MAX = 5_000;

/** Ring offsets: two areas of 1024 bytes, then req_cons, req_prod, rsp_cons, rsp_prod. */
const RING_BYTES = 1024;
const REQUEST_AREA = 0, REPLY_AREA = RING_BYTES;
const REQ_CONS = 2048, REQ_PROD = 2052, RSP_CONS = 2056, RSP_PROD = 2060;

/** One connection to a xenstored. */
export interface OraclePeer {
  /** Sends bytes. */
  send(bytes: Uint8Array): Promise<void>;
  /** The next message. Rejects if the connection ends. */
  next(): Promise<Message>;
  close(): void;
}

/** A xenstored that runs. */
export interface Xenstored extends AsyncDisposable {
  /** Its socket, for XENSTORED_PATH. */
  readonly socket: string;
  readonly pid: number;
  /** A connection as domain 0. */
  connect(): Promise<OraclePeer>;
  /** The hypervisor knows a domain from now on. */
  create(domid: number): void;
  /** The ring of a domain that INTRODUCE has named. */
  ring(domid: number): OraclePeer;
}

/** Waits until `look` gives something other than null, letting events run in between. */
async function eventually<T>(
  what: string,
  look: () => T | null | Promise<T | null>,
  timeoutMs: number,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    assert.ok(performance.now() < deadline, `${what} has not come within ${timeoutMs} ms`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

/** Takes messages out of bytes that come in pieces. */
class Inbox {
  #bytes = new Uint8Array(0);

  push(chunk: Uint8Array): void {
    const all = new Uint8Array(this.#bytes.length + chunk.length);
    all.set(this.#bytes);
    all.set(chunk, this.#bytes.length);
    this.#bytes = all;
  }

  take(): Message | null {
    if (this.#bytes.length < 16) return null;
    const end = 16 + payloadLength(this.#bytes, 0);
    if (this.#bytes.length < end) return null;
    const message = decodeMessage(this.#bytes, 0, end);
    this.#bytes = this.#bytes.slice(end);
    return message;
  }
}

/** A connection, or null: it is not up yet, or has as many waiting as it lets wait. */
async function connectOnce(path: string): Promise<Deno.UnixConn | null> {
  try {
    return await Deno.connect({ transport: "unix", path });
  } catch (error) {
    const { NotFound, ConnectionRefused, WouldBlock } = Deno.errors;
    if ([NotFound, ConnectionRefused, WouldBlock].some((each) => error instanceof each)) {
      return null;
    }
    throw error;
  }
}

/** A peer on the socket. */
async function socketPeer(path: string): Promise<OraclePeer> {
  const connection = await eventually("a connection", () => connectOnce(path), START_MS_MAX);
  const inbox = new Inbox();
  const chunk = new Uint8Array(65_536);
  return {
    async send(bytes): Promise<void> {
      for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
    },
    async next(): Promise<Message> {
      for (;;) {
        const message = inbox.take();
        if (message !== null) return message;
        const count = await connection.read(chunk);
        if (count === null) throw new Error("xenstored has closed the connection");
        inbox.push(chunk.subarray(0, count));
      }
    },
    close: (): void => connection.close(),
  };
}

/** A peer on a ring: indexes count bytes and wrap at 2^32. */
function ringPeer(path: string, notify: () => void): OraclePeer {
  const fd = fs.openSync(path, "r+");
  const inbox = new Inbox();
  const word = new Uint8Array(4);
  const view = new DataView(word.buffer);
  const load = (at: number): number => {
    fs.readSync(fd, word, 0, 4, at);
    return view.getUint32(0, true);
  };
  const store = (at: number, value: number): void => {
    view.setUint32(0, value, true);
    fs.writeSync(fd, word, 0, 4, at);
  };

  function put(bytes: Uint8Array): number {
    const produced = load(REQ_PROD);
    const free = RING_BYTES - ((produced - load(REQ_CONS)) >>> 0);
    const at = produced % RING_BYTES;
    const count = Math.min(free, bytes.length, RING_BYTES - at);
    if (count === 0) return 0;
    fs.writeSync(fd, bytes, 0, count, REQUEST_AREA + at);
    store(REQ_PROD, (produced + count) >>> 0);
    notify();
    return count;
  }

  function take(): boolean {
    const consumed = load(RSP_CONS);
    const at = consumed % RING_BYTES;
    const count = Math.min((load(RSP_PROD) - consumed) >>> 0, RING_BYTES - at);
    if (count === 0) return false;
    const chunk = new Uint8Array(count);
    fs.readSync(fd, chunk, 0, count, REPLY_AREA + at);
    inbox.push(chunk);
    store(RSP_CONS, (consumed + count) >>> 0);
    notify();
    return true;
  }

  async function until(done: () => boolean): Promise<void> {
    // Most answers are there at once: the page is shared, so looking costs one system call.
    for (let spins = 0; spins < 500; spins++) if (done()) return;
    await eventually("an answer on the ring", () => done() || null, ANSWER_MS_MAX);
  }

  return {
    async send(bytes): Promise<void> {
      let at = 0;
      await until(() => {
        take();
        at += put(bytes.subarray(at));
        return at === bytes.length;
      });
    },
    async next(): Promise<Message> {
      let message = inbox.take();
      await until(() => {
        while (message === null && take()) message = inbox.take();
        return message !== null;
      });
      assert.ok(message !== null);
      return message;
    },
    close: (): void => fs.closeSync(fd),
  };
}

/** How to start a xenstored. */
export interface XenstoredOptions {
  /** Where it is; found on PATH unless told. */
  readonly program?: string;
  /** The CPU that it runs on. */
  readonly cpu?: number;
}

/** Starts a xenstored whose files are in `folder`, which is empty. */
export async function startXenstored(
  folder: string,
  options: XenstoredOptions = {},
): Promise<Xenstored> {
  const { program = toolPath("xenstored"), cpu } = options;
  const library = join(folder, "stub.so");
  await runOk("gcc", ["-shared", "-fPIC", "-O1", "-w", "-o", library, STUB]);
  for (const name of LIBRARIES) Deno.symlinkSync("stub.so", join(folder, name));
  const events = join(folder, "event");
  await runOk("mkfifo", [events]);
  const words = [program, "-N", "--internal-db=on", "-R", "--pid-file", join(folder, "pid")];
  const [command = "", ...args] = cpu === undefined ? words : ["taskset", "-c", `${cpu}`, ...words];
  const child = new Deno.Command(command, {
    args,
    env: {
      LD_LIBRARY_PATH: folder,
      LD_PRELOAD: library,
      XEN_STUB_DIR: folder,
      XENSTORED_RUNDIR: folder,
    },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const socket = join(folder, "socket");
  const fifo = fs.openSync(events, "r+");
  const stop = async (): Promise<void> => {
    fs.closeSync(fifo);
    killQuietly(child, "SIGTERM");
    if (await ended(child, STOP_MS_MAX) === null) killQuietly(child, "SIGKILL");
    await child.status;
  };
  try {
    (await eventually("xenstored", () => connectOnce(socket), START_MS_MAX)).close();
  } catch (error) {
    await stop();
    throw error;
  }
  const port = new Uint8Array(4);
  return {
    socket,
    pid: child.pid,
    connect: () => socketPeer(socket),
    create: (domid): void => fs.writeFileSync(join(folder, `dom.${domid}`), "-"),
    ring: (domid) =>
      ringPeer(join(folder, `ring.${domid}`), () => {
        new DataView(port.buffer).setUint32(0, 16 + domid, true);
        fs.writeSync(fifo, port);
      }),
    [Symbol.asyncDispose]: stop,
  };
}
