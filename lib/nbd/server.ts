/**
 * NBD service over any pair of Web Streams: the handshake, then the transmission phase. For embedders
 * and tests, and for connections that were handed over after their handshake.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { type Gate, OPEN_GATE } from "../block/request.ts";
import { runSession } from "../stream/run_session.ts";
import type { BytePair } from "../stream/session.ts";
import type { ExportTable, HandshakeState } from "./export_info.ts";
import type { HandshakeResult, TlsMode } from "./haggling.ts";
import { ServerHandshake } from "./handshake_server.ts";
import { NbdServerSession } from "./server_session.ts";

/** What a connection that has chosen its export is served from. */
export interface Service {
  /** The storage; the caller keeps and disposes it. */
  readonly device: Device;
  /** Where access can be taken away; always open if left out. */
  readonly gate?: Gate;
  /** Called once when the connection is over and nothing of it is in flight. */
  readonly close?: () => void | Promise<void>;
}

/** Serves a connection that has chosen its export somewhere else. */
export interface Relay {
  /** Takes the pair, the negotiated state and the bytes behind it over, until the connection is over. */
  relay(pair: BytePair, state: HandshakeState, unread: Uint8Array): Promise<void>;
}

/** Settings of `serveConnection`. */
export interface ServeConnectionOptions {
  /** What there is to serve. */
  readonly exports: ExportTable;
  /** Finds what serves the export that the client chose. It rejects to turn the client away. */
  readonly open: (state: HandshakeState) => Service | Relay | Promise<Service | Relay>;
  /** "off" if left out; the others need `upgrade`. */
  readonly tls?: TlsMode;
  /** Does the server's part of a TLS handshake over `pair` and gives the pair inside it. */
  readonly upgrade?: (pair: BytePair) => Promise<BytePair>;
  /** The pair is under TLS already: haggling goes on after a STARTTLS of a client with these flags. */
  readonly secured?: { readonly clientFlags: number };
  /** Gets the session of the transmission phase before it starts. */
  readonly started?: (session: NbdServerSession) => void;
  /** Ends the connection at once. */
  readonly signal?: AbortSignal;
}

/** How `serveConnection` ended: in the handshake, with a reason, or after serving. */
export type ConnectionEnd =
  | { readonly kind: "closed"; readonly reason: string }
  | { readonly kind: "served"; readonly state: HandshakeState };

/**
 * Serves one client from the greeting to the end. Resolves when the connection is closed and nothing
 * of it is in flight; rejects with ProtocolError if the client broke the protocol after the handshake,
 * with the abort reason, or with what `open`, `upgrade` or the streams failed with.
 *
 * @example
 * ```ts
 * import { memoryPair } from "../stream/memory_pair.ts";
 * import { serveConnection } from "./server.ts";
 *
 * const [client, server] = memoryPair();
 * const serving = serveConnection(server, {
 *   exports: { exports: new Map(), defaultExport: null, stopping: false },
 *   open: () => Promise.reject(new Error("there is no export")),
 * });
 * await client.writable.close();
 * const end = await serving;
 * if (end.kind !== "closed") throw new Error("the client went away");
 * ```
 */
export async function serveConnection(
  pair: BytePair,
  options: ServeConnectionOptions,
): Promise<ConnectionEnd> {
  const { exports, tls = "off", upgrade = noUpgrade, secured, signal } = options;
  let current = pair;
  let handshake = new ServerHandshake(
    secured === undefined
      ? { exports, tls, secured: false }
      : { exports, tls, secured: true, clientFlags: secured.clientFlags },
  );
  for (;;) {
    const result = await guarded(current, () => runHandshake(current, handshake, signal));
    switch (result.kind) {
      case "close":
        await closePair(current);
        return { kind: "closed", reason: result.reason };
      case "starttls": {
        current = await guarded(current, () => upgrade(current));
        const { clientFlags } = result;
        handshake = new ServerHandshake({ exports, tls, secured: true, clientFlags });
        break;
      }
      case "transmission": {
        const { state, unread } = result;
        const service = await guarded(current, () => options.open(state));
        if ("relay" in service) {
          await service.relay(current, state, unread);
          return { kind: "served", state };
        }
        const started = options.started ?? ((): void => {});
        await serveTransmission(current, state, unread, {
          ...service,
          started,
          ...withSignal(signal),
        });
        return { kind: "served", state };
      }
    }
  }
}

function noUpgrade(): never {
  throw new TypeError("Cannot serve NBD with TLS: the option `upgrade` is missing");
}

function withSignal(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

/** Takes a step of the connection; if it fails the pair is closed before the failure is told. */
async function guarded<T>(pair: BytePair, step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    await abortPair(pair, error);
    throw error;
  }
}

/** Settings of `serveTransmission`. */
export interface ServeTransmissionOptions extends Service {
  /** Ends the connection at once. */
  readonly signal?: AbortSignal;
  /** Gets the session before it starts, to stop it or look at it. */
  readonly started?: (session: NbdServerSession) => void;
}

/**
 * Serves the transmission phase of a connection whose handshake is over. `unread` are the bytes that
 * came behind the handshake. Resolves and rejects as `serveConnection` does.
 */
export async function serveTransmission(
  pair: BytePair,
  state: HandshakeState,
  unread: Uint8Array,
  options: ServeTransmissionOptions,
): Promise<void> {
  const { device, gate = OPEN_GATE, signal } = options;
  const session = new NbdServerSession({ device, gate, state, unread });
  try {
    options.started?.(session);
    await runSession(pair, session, withSignal(signal));
    if (session.failure !== null) throw session.failure;
  } finally {
    await options.close?.();
  }
}

/** Runs a handshake until it has a result and its output is sent. */
async function runHandshake(
  pair: BytePair,
  handshake: ServerHandshake,
  signal: AbortSignal | undefined,
): Promise<HandshakeResult> {
  signal?.throwIfAborted();
  const reader = pair.readable.getReader();
  const writer = pair.writable.getWriter();
  const abort = (): void => {
    reader.cancel(signal?.reason).catch(() => {});
    writer.abort(signal?.reason).catch(() => {});
  };
  signal?.addEventListener("abort", abort);
  try {
    for (;;) {
      await sendOutput(handshake, writer);
      signal?.throwIfAborted();
      if (handshake.result !== null) return handshake.result;
      const { done, value } = await reader.read();
      signal?.throwIfAborted();
      if (done) handshake.end(undefined);
      else handshake.receive(value);
    }
  } finally {
    signal?.removeEventListener("abort", abort);
    reader.releaseLock();
    writer.releaseLock();
  }
}

async function sendOutput(
  handshake: ServerHandshake,
  writer: WritableStreamDefaultWriter<Uint8Array>,
): Promise<void> {
  try {
    for (let out = handshake.takeOutput(); out !== null; out = handshake.takeOutput()) {
      await writer.write(out.bytes);
      out.release();
    }
  } catch (error) {
    // "the server SHOULD gracefully handle the client sending an NBD_OPT_ABORT and closing".
    if (handshake.result?.kind !== "close") throw error;
  }
}

async function closePair(pair: BytePair): Promise<void> {
  await pair.writable.close().catch(() => {});
  await pair.readable.cancel().catch(() => {});
}

async function abortPair(pair: BytePair, cause: unknown): Promise<void> {
  await pair.writable.abort(cause).catch(() => {});
  await pair.readable.cancel(cause).catch(() => {});
}
