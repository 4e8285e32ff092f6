/**
 * Runs a load over NBD: raw sockets, the client's own session on each, one thread that waits for all of
 * them. No promise and no stream is in the way of a request, so that what is measured is the server.
 * Unix sockets and TCP without TLS; what is encrypted goes through the nbd backend.
 *
 * @module
 */
import { lookup } from "node:dns/promises";
import { BlockError, toBlockError } from "../block/errors.ts";
import { BufferPool } from "../block/pool.ts";
import { NO_DATA } from "../block/request.ts";
import { addressText } from "../nbd/client/dial.ts";
import { type Negotiated, negotiateExport } from "../nbd/client/handshake.ts";
import { CONNECT_TIMEOUT_MS } from "../nbd/client/limits.ts";
import type { ClientRequest } from "../nbd/client/pending.ts";
import { ClientSession } from "../nbd/client/session.ts";
import { StepRunner } from "../nbd/client/steps.ts";
import { COMMAND, TRANSMISSION } from "../nbd/constants.ts";
import type { NbdUri } from "../nbd/uri.ts";
import { ProtocolError } from "../stream/frame.ts";
import type { OutputBuffer } from "../stream/session.ts";
import { POLL_IN, POLL_OUT, PollSet } from "../sys/poll.ts";
import {
  closeDescriptor,
  connectTcp,
  connectUnix,
  receive,
  send,
  setNoDelay,
  WOULD_BLOCK,
} from "../sys/socket.ts";
import { LOAD_RECEIVE_BYTES, LOAD_TURN_US } from "./limits.ts";
import { type Load, LoadSlot, type Pause } from "./load.ts";
import { GivingWay, type LoadRunOptions, turn } from "./turn.ts";

/** Longest wait for a socket, in ms: then signals and progress have their turn. */
const WAIT_MS = LOAD_TURN_US / 1000;

/** A slot as a request of the client's session. */
class NbdSlot extends LoadSlot implements ClientRequest {
  readonly done: (error: BlockError | null) => void;

  constructor(
    bytes: number,
    connection: number,
    finished: (slot: NbdSlot, error: BlockError | null) => void,
  ) {
    super(bytes, connection);
    this.done = (error) => finished(this, error);
  }

  get command(): number {
    return this.operation === "read" ? COMMAND.READ : COMMAND.WRITE;
  }
}

/** A connection in its transmission phase, on a raw descriptor that it owns. */
export class NbdWire {
  /** What was negotiated. */
  readonly negotiated: Negotiated;
  /** The descriptor. */
  readonly fd: number;

  readonly #session: ClientSession;
  #output: OutputBuffer | null = null;
  #sent = 0;
  #open = true;

  /** Takes the descriptor over; `rest` came behind the handshake. */
  constructor(fd: number, negotiated: Negotiated, rest: Uint8Array) {
    this.fd = fd;
    this.negotiated = negotiated;
    this.#session = new ClientSession(negotiated, new BufferPool());
    if (rest.length > 0) this.receive(rest);
  }

  /** It has not been lost or closed. */
  get isOpen(): boolean {
    return this.#open;
  }

  /** What to wait for: POLL_ bits. */
  get interest(): number {
    return this.#output === null ? POLL_IN : POLL_IN | POLL_OUT;
  }

  /** Takes a request; `flush` sends it. */
  submit(request: ClientRequest): void {
    this.#session.submit(request);
  }

  /** Sends what there is, as far as the socket takes it. */
  flush(): void {
    if (!this.#open) return;
    try {
      for (;;) {
        const output = this.#output ?? this.#session.takeOutput();
        if (output === null) return;
        this.#output = output;
        const bytes = this.#sent === 0 ? output.bytes : output.bytes.subarray(this.#sent);
        const count = send(this.fd, owned(bytes));
        if (count === WOULD_BLOCK) return;
        this.#sent += count;
        if (this.#sent < output.bytes.length) continue;
        this.#output = null;
        this.#sent = 0;
        output.release();
      }
    } catch (error) {
      this.#lose(error);
    }
  }

  /** Takes what has come, if anything has: at most `into` bytes. */
  take(into: Uint8Array<ArrayBuffer>): void {
    if (!this.#open) return;
    try {
      const count = receive(this.fd, into);
      if (count === 0) throw new BlockError("ENOTCONN", "the server closed it");
      if (count !== WOULD_BLOCK) this.receive(into.subarray(0, count));
    } catch (error) {
      this.#lose(error);
    }
  }

  /** Takes the server's bytes. Throws ProtocolError. */
  receive(chunk: Uint8Array): void {
    this.#session.receive(chunk);
  }

  /** Says goodbye, if nothing is in flight, and closes. */
  close(): void {
    if (!this.#open) return;
    this.#session.leave();
    this.flush();
    this.#shut();
  }

  #lose(cause: unknown): void {
    this.#shut();
    this.#session.end(cause instanceof ProtocolError ? cause : toBlockError(cause));
  }

  #shut(): void {
    if (!this.#open) return;
    this.#open = false;
    const output = this.#output;
    this.#output = null;
    output?.release();
    closeDescriptor(this.fd);
  }
}

/** System calls take no shared memory, and no buffer here is shared. */
function owned(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer) return new Uint8Array(buffer, bytes.byteOffset, bytes.length);
  throw new TypeError("Cannot send memory that is shared");
}

async function openSocket({ address }: NbdUri): Promise<number> {
  try {
    if (address.kind === "unix") return connectUnix(address.path);
    const host = await lookup(address.host);
    const fd = connectTcp(host.address, address.port);
    setNoDelay(fd);
    return fd;
  } catch (error) {
    const { errno, message } = toBlockError(error);
    throw new BlockError(errno, message, { cause: error });
  }
}

/** Connects and opens the export of `uri`, which must not ask for TLS. Throws BlockError. */
export async function openNbdWire(
  uri: NbdUri,
  { clock, signal }: LoadRunOptions,
): Promise<NbdWire> {
  if (uri.tls) throw new TypeError("A raw socket is not encrypted");
  const fd = await openSocket(uri);
  const where = addressText(uri.address);
  const limitUs = clock.now() + CONNECT_TIMEOUT_MS * 1000;
  try {
    const runner = new StepRunner(negotiateExport(uri));
    const set = new PollSet();
    const into = new Uint8Array(LOAD_RECEIVE_BYTES);
    for (;;) {
      for (let bytes = runner.takeOutput(); bytes !== null; bytes = runner.takeOutput()) {
        // Few bytes: they fit the socket's buffer.
        if (send(fd, owned(bytes)) !== bytes.length) throw new BlockError("EIO");
      }
      const { result } = runner;
      if (result !== null) return new NbdWire(fd, result.value, runner.takeRemainder());
      set.clear();
      set.add(fd, POLL_IN);
      set.wait(WAIT_MS);
      const count = receive(fd, into);
      if (count === 0) throw new BlockError("ENOTCONN", `Cannot connect: ${runner.ifEnded}`);
      if (count !== WOULD_BLOCK) {
        runner.receive(into.slice(0, count));
        continue;
      }
      signal?.throwIfAborted();
      if (clock.now() > limitUs) {
        const reason = `Cannot connect to ${where}: no answer within ${CONNECT_TIMEOUT_MS} ms`;
        throw new BlockError("ETIMEDOUT", reason);
      }
      await turn();
    }
  } catch (error) {
    closeDescriptor(fd);
    if (error instanceof ProtocolError) {
      throw new BlockError("EPROTO", `${error.message} (from ${where})`, { cause: error });
    }
    throw error;
  }
}

/** Runs `load` to its end with `depth` requests in flight on each connection. */
export async function runOverNbd(
  wires: readonly NbdWire[],
  load: Load,
  depth: number,
  options: LoadRunOptions,
): Promise<void> {
  await new NbdLoad(wires, load, depth, options).run();
}

class NbdLoad {
  readonly #wires: readonly NbdWire[];
  readonly #load: Load;
  readonly #options: LoadRunOptions;
  readonly #into = new Uint8Array(LOAD_RECEIVE_BYTES);
  /** Free slots by connection. */
  readonly #free: NbdSlot[][];
  readonly #poll = new PollSet();
  #nowUs = 0;

  constructor(wires: readonly NbdWire[], load: Load, depth: number, options: LoadRunOptions) {
    this.#wires = wires;
    this.#load = load;
    this.#options = options;
    this.#free = wires.map((_, index) =>
      Array.from({ length: depth }, () => new NbdSlot(load.slotBytes, index, this.#finished))
    );
  }

  readonly #finished = (slot: NbdSlot, error: BlockError | null): void => {
    this.#load.finish(slot, error, this.#nowUs);
    this.#free[slot.connection]?.push(slot);
  };

  async run(): Promise<void> {
    const { clock, signal } = this.#options;
    const load = this.#load;
    const way = new GivingWay(this.#options);
    load.start(clock.now());
    for (;;) {
      this.#nowUs = clock.now();
      if (signal?.aborted) load.interrupt();
      const pause = this.#submitAll();
      if (pause === "over" && load.inFlight === 0) return;
      if (this.#wires.every((wire) => !wire.isOpen)) return load.interrupt();
      if (pause === "early" && load.inFlight === 0) await way.until(load.dueUs);
      else this.#wait(pause === "early" ? load.dueUs - this.#nowUs : Infinity);
      if (way.isDue(this.#nowUs)) await way.now();
    }
  }

  /** Begins what can be begun; tells why no more, if that is not for want of slots. */
  #submitAll(): Pause | null {
    const load = this.#load;
    let pause: Pause | null = null;
    for (let index = 0; index < this.#wires.length; index += 1) {
      const wire = this.#wires[index], free = this.#free[index];
      if (wire === undefined || free === undefined || !wire.isOpen) continue;
      for (let slot = free.pop(); slot !== undefined; slot = free.pop()) {
        pause = load.begin(slot, this.#nowUs);
        if (pause !== null) {
          free.push(slot);
          break;
        }
        wire.submit(slot);
      }
      wire.flush();
    }
    return pause;
  }

  /** Waits for the sockets, `leftUs` at most, and takes what has come. */
  #wait(leftUs: number): void {
    const poll = this.#poll;
    poll.clear();
    for (const wire of this.#wires) poll.add(wire.isOpen ? wire.fd : -1, wire.interest);
    poll.wait(Math.max(0, Math.floor(Math.min(WAIT_MS, leftUs / 1000))));
    this.#nowUs = this.#options.clock.now();
    for (let index = 0; index < this.#wires.length; index += 1) {
      if (poll.result(index) === 0) continue;
      const wire = this.#wires[index];
      wire?.take(this.#into);
      wire?.flush();
    }
  }
}

/** Makes durable what was written; on every connection. Throws BlockError. */
export async function flushNbd(
  wires: readonly NbdWire[],
  { clock }: LoadRunOptions,
): Promise<void> {
  const into = new Uint8Array(LOAD_RECEIVE_BYTES);
  const errors: BlockError[] = [];
  for (const wire of wires) {
    const { flags } = wire.negotiated.facts;
    if (!wire.isOpen || (flags & TRANSMISSION.SEND_FLUSH) === 0) continue;
    let over = false;
    const done = (error: BlockError | null): void => {
      over = true;
      if (error !== null) errors.push(error);
    };
    wire.submit({ command: COMMAND.FLUSH, flags: 0, offset: 0, length: 0, data: NO_DATA, done });
    wire.flush();
    const set = new PollSet();
    const way = new GivingWay({ clock });
    while (!over && wire.isOpen) {
      set.clear();
      set.add(wire.fd, wire.interest);
      set.wait(WAIT_MS);
      wire.take(into);
      if (way.isDue(clock.now())) await way.now();
    }
  }
  const [first] = errors;
  if (first !== undefined) throw first;
}
