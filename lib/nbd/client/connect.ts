/**
 * From a URI to an open export, or to a server's list of exports: dials, runs the handshake over the
 * byte pair, encrypts in the middle if asked to, and hands the pair to the transmission phase.
 *
 * @module
 */
import type { Clock } from "../../block/context.ts";
import { BlockError, isErrno } from "../../block/errors.ts";
import { BufferPool } from "../../block/pool.ts";
import { ProtocolError } from "../../stream/frame.ts";
import type { BytePair } from "../../stream/session.ts";
import { type NbdUri, parseNbdUri } from "../uri.ts";
import { NbdConnection } from "./connection.ts";
import { addressText, type Dial, dialSocket, type Transport } from "./dial.ts";
import { negotiateExport, negotiateInfo, negotiateList, type ServerList } from "./handshake.ts";
import { CONNECT_TIMEOUT_MS } from "./limits.ts";
import { StepRunner, type Steps } from "./steps.ts";

/** How to connect. */
export interface ConnectOptions {
  /** Measures time-outs. */
  readonly clock: Clock;
  /** Gives up waiting for a connection when it aborts. An open connection has `abort`. */
  readonly signal?: AbortSignal;
  /**
   * Milliseconds without a byte from or to the server after which waiting requests fail with
   * ETIMEDOUT; 0, the default, waits for ever. Connecting has CONNECT_TIMEOUT_MS, or this if it is less.
   */
  readonly timeoutMs?: number;
  /** Makes the connection; node:net and node:tls if left out. */
  readonly dial?: Dial;
  /** Lends buffers for requests; one of its own if left out. */
  readonly pool?: BufferPool;
  /** The metadata context that block status is to tell; base:allocation if left out. */
  readonly context?: string;
}

interface Conversation<T> {
  readonly value: T;
  readonly pair: BytePair;
  readonly rest: Uint8Array;
}

/** Moves bytes between steps and a transport until the steps end. */
async function converse<T>(
  steps: Steps<T>,
  transport: Transport,
  signal: AbortSignal,
): Promise<Conversation<T>> {
  const runner = new StepRunner(steps);
  let { pair } = transport;
  for (;;) {
    await exchange(runner, pair, signal);
    if (runner.result !== null) {
      return { value: runner.result.value, pair, rest: runner.takeRemainder() };
    }
    pair = await transport.encrypt();
    runner.encrypted();
  }
}

/** Moves bytes until the steps end or want encryption. Leaves the pair unlocked. */
async function exchange<T>(
  runner: StepRunner<T>,
  pair: BytePair,
  signal: AbortSignal,
): Promise<void> {
  const reader = pair.readable.getReader();
  const writer = pair.writable.getWriter();
  // What hangs settles then, whatever the transport's own close does.
  const abort = (): void => {
    reader.cancel(signal.reason).catch(() => {});
    writer.abort(signal.reason).catch(() => {});
  };
  signal.addEventListener("abort", abort);
  const drain = async (): Promise<void> => {
    for (let bytes = runner.takeOutput(); bytes !== null; bytes = runner.takeOutput()) {
      await writer.write(bytes);
    }
  };
  try {
    await drain();
    while (runner.result === null && !runner.encrypting) {
      const { done, value } = await reader.read();
      if (done) throw new BlockError("ENOTCONN", `Cannot connect: ${runner.ifEnded}`);
      try {
        runner.receive(value);
      } finally {
        // Also when the steps fail: they may have taken leave of the server.
        await drain();
      }
    }
  } finally {
    signal.removeEventListener("abort", abort);
    reader.releaseLock();
    writer.releaseLock();
  }
}

/** Puts the place in front of what went wrong. */
function explain(error: unknown, uri: NbdUri): unknown {
  const where = addressText(uri.address);
  if (error instanceof ProtocolError) {
    return new BlockError("EPROTO", `${error.message} (from ${where})`, { cause: error });
  }
  if (error instanceof BlockError) {
    const message = error.message.includes(where) ? error.message : `${error.message} (${where})`;
    return new BlockError(error.errno, message, { cause: error.cause ?? error });
  }
  // Errors of sockets and of TLS have a code; what has none is a bug.
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    const errno = isErrno(error.code) ? error.code : "ENOTCONN";
    const message = `Cannot connect to ${where}: ${error.message}`;
    return new BlockError(errno, message, { cause: error });
  }
  return error;
}

/** Dials and talks, all within the time for it. `keep` tells whether the transport stays open. */
async function connect<T, R>(
  uri: NbdUri,
  steps: Steps<T>,
  options: ConnectOptions,
  finish: (conversation: Conversation<T>, transport: Transport) => R,
): Promise<R> {
  const { clock, signal, timeoutMs = 0, dial = dialSocket } = options;
  const limitMs = timeoutMs > 0 ? Math.min(timeoutMs, CONNECT_TIMEOUT_MS) : CONNECT_TIMEOUT_MS;
  const controller = new AbortController();
  const stopClock = new AbortController();
  const abort = (): void => controller.abort(signal?.reason);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  const timer = clock.sleep(limitMs, stopClock.signal).then(
    () => {
      const reason = `Cannot connect: the server did not answer within ${limitMs} ms`;
      controller.abort(new BlockError("ETIMEDOUT", reason));
    },
    () => {},
  );
  let transport: Transport | null = null;
  const close = (): void => transport?.close();
  controller.signal.addEventListener("abort", close);
  try {
    transport = await dial(uri, controller.signal);
    controller.signal.throwIfAborted();
    return finish(await converse(steps, transport, controller.signal), transport);
  } catch (error) {
    transport?.close();
    throw explain(controller.signal.aborted ? controller.signal.reason : error, uri);
  } finally {
    controller.signal.removeEventListener("abort", close);
    signal?.removeEventListener("abort", abort);
    stopClock.abort();
    await timer;
  }
}

function uriOf(uri: string | NbdUri): NbdUri {
  return typeof uri === "string" ? parseNbdUri(uri) : uri;
}

/**
 * Opens an export. Rejects with UsageError for a wrong URI and with BlockError for everything else:
 * ECONNREFUSED, ENOENT (no such export), EACCES (TLS is required, or certificates do not fit), EPROTO
 * (the server breaks the protocol), ETIMEDOUT …
 */
export function connectNbd(
  uri: string | NbdUri,
  options: ConnectOptions,
): Promise<NbdConnection> {
  const target = uriOf(uri);
  const { clock, timeoutMs = 0, pool = new BufferPool(), context } = options;
  const wish = context === undefined ? target : { ...target, context };
  return connect(target, negotiateExport(wish), options, ({ value, pair, rest }, transport) => {
    const close = (): void => transport.close();
    return new NbdConnection({ negotiated: value, pair, rest, pool, clock, timeoutMs, close });
  });
}

function finishList({ value }: Conversation<ServerList>, transport: Transport): ServerList {
  transport.close();
  return value;
}

/** Lists all exports of a server with what it tells of each. Rejects as `connectNbd` does. */
export function listExports(
  uri: string | NbdUri,
  options: ConnectOptions,
): Promise<ServerList> {
  const target = uriOf(uri);
  return connect(target, negotiateList(target), options, finishList);
}

/** Asks about the one export of the URI without opening it. Rejects as `connectNbd` does. */
export function inspectExport(
  uri: string | NbdUri,
  options: ConnectOptions,
): Promise<ServerList> {
  const target = uriOf(uri);
  return connect(target, negotiateInfo(target), options, finishList);
}
