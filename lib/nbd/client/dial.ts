/**
 * Sockets for the client: node:net over TCP and unix sockets, and TLS on top of either. Everything
 * else of the client works on the byte pair that comes out of here. Implements the section "TLS
 * support" of the NBD protocol document as far as it is about certificates.
 *
 * @module
 */
import { connect as connectSocket, isIP, isIPv6, type Socket } from "node:net";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import { BlockError, errnoText, toBlockError } from "../../block/errors.ts";
import { ProtocolError } from "../../stream/frame.ts";
import type { BytePair } from "../../stream/session.ts";
import type { NbdAddress, NbdUri } from "../uri.ts";
import { READ_AHEAD_BYTES } from "./limits.ts";

/** A connection on which nothing was said yet. */
export interface Transport {
  /** Both directions, as they are at first. */
  readonly pair: BytePair;
  /**
   * Encrypts; `pair` must not be locked and is not used any more, the result takes its place.
   * Rejects with BlockError EACCES if the certificates do not fit.
   */
  encrypt(): Promise<BytePair>;
  /** Drops the connection at once. Harmless if it is gone. */
  close(): void;
}

/** Makes a connection. Rejects with BlockError; gives up, with the signal's reason, when it aborts. */
export type Dial = (uri: NbdUri, signal: AbortSignal) => Promise<Transport>;

/** An address as a human writes it. */
export function addressText(address: NbdAddress): string {
  if (address.kind === "tcp") {
    return isIPv6(address.host)
      ? `[${address.host}]:${address.port}`
      : `${address.host}:${address.port}`;
  }
  return address.path.replace(/^\0/, "@");
}

interface SocketPair {
  readonly pair: BytePair;
  /** Takes the socket back. Throws ProtocolError if bytes have come that nobody has read. */
  detach(): void;
}

function closedError(): BlockError {
  return new BlockError("ENOTCONN", "Cannot use the connection: it is closed");
}

/** A socket as Web Streams. Bytes read are no Buffer: their subarrays are made faster. */
function pairOf(socket: Socket): SocketPair {
  let source: ReadableStreamDefaultController<Uint8Array> | null = null;
  let ended = false;
  const onData = (chunk: Uint8Array): void => {
    source?.enqueue(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    if ((source?.desiredSize ?? 0) <= 0) socket.pause();
  };
  const fail = (error: unknown): void => {
    if (!ended) source?.error(error);
    ended = true;
  };
  const onEnd = (): void => {
    if (!ended) source?.close();
    ended = true;
  };
  const onClose = (): void => fail(closedError());
  const readable = new ReadableStream<Uint8Array>({
    start(controller): void {
      source = controller;
      socket.on("data", onData).on("end", onEnd).on("error", fail).on("close", onClose);
    },
    pull(): void {
      socket.resume();
    },
    cancel(): void {
      ended = true;
      socket.destroy();
    },
  }, new ByteLengthQueuingStrategy({ highWaterMark: READ_AHEAD_BYTES }));
  const writable = new WritableStream<Uint8Array>({
    write: (chunk) => whenWritten(socket, (done) => socket.write(chunk, done)),
    close: () => whenWritten(socket, (done) => socket.end(done)),
    abort(): void {
      socket.destroy();
    },
  });
  return {
    pair: { readable, writable },
    detach(): void {
      socket.pause();
      socket.off("data", onData).off("end", onEnd).off("error", fail).off("close", onClose);
      if (ended) throw closedError();
      if ((source?.desiredSize ?? 0) < READ_AHEAD_BYTES || socket.readableLength > 0) {
        throw new ProtocolError(
          "Cannot begin TLS: the server sent bytes in the clear after its consent",
        );
      }
    },
  };
}

/** Settles when the socket has taken the bytes, or is closed. */
function whenWritten(
  socket: Socket,
  write: (done: (error?: Error | null) => void) => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    if (socket.destroyed) return reject(closedError());
    const onClose = (): void => reject(closedError());
    socket.once("close", onClose);
    write((error) => {
      socket.off("close", onClose);
      if (error) reject(error);
      else resolve();
    });
  });
}

/** Waits for an event of a socket; rejects if it fails, is closed, or the signal aborts first. */
function waitFor(socket: Socket, event: string, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void): void => {
      socket.off(event, onEvent).off("error", onError).off("close", onClose);
      signal?.removeEventListener("abort", onAbort);
      finish();
    };
    const onEvent = (): void => settle(resolve);
    const onError = (error: Error): void => settle(() => reject(error));
    const onClose = (): void => settle(() => reject(closedError()));
    const onAbort = (): void => settle(() => reject(signal?.reason));
    socket.once(event, onEvent).once("error", onError).once("close", onClose);
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort();
  });
}

async function readPem(folder: string, name: string, needed: boolean): Promise<string | null> {
  const path = `${folder}/${name}`;
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    const known = toBlockError(error);
    if (known.errno === "ENOENT" && !needed) return null;
    const reason = errnoText(known.errno);
    throw new BlockError(known.errno, `Cannot read ${path} for TLS: ${reason}`, { cause: error });
  }
}

interface Certificates {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
}

/** The files of a folder under the names that libnbd and nbdkit use. */
async function readCertificates(folder: string): Promise<Certificates> {
  const ca = await readPem(folder, "ca-cert.pem", true);
  const cert = await readPem(folder, "client-cert.pem", false);
  const key = cert === null ? null : await readPem(folder, "client-key.pem", true);
  return {
    ...(ca === null ? {} : { ca }),
    ...(cert === null || key === null ? {} : { cert, key }),
  };
}

async function tlsOptions(uri: NbdUri): Promise<ConnectionOptions> {
  const certificates = uri.tlsCertificates === undefined
    ? {}
    : await readCertificates(uri.tlsCertificates);
  const name = uri.tlsHostname ?? (uri.address.kind === "tcp" ? uri.address.host : null);
  return {
    ...certificates,
    rejectUnauthorized: uri.tlsVerifyPeer,
    minVersion: "TLSv1.2",
    // A unix socket has no name that a certificate could carry: only its issuer is checked then.
    ...(name === null ? { checkServerIdentity: (): undefined => undefined } : { host: name }),
    ...(name === null || isIP(name) !== 0 ? {} : { servername: name }),
  };
}

async function encrypt(socket: Socket, uri: NbdUri, options: ConnectionOptions): Promise<Socket> {
  const secured = connectTls({ ...options, socket });
  try {
    await waitFor(secured, "secureConnect");
  } catch (error) {
    secured.destroy();
    const reason = error instanceof Error ? error.message : String(error);
    const where = addressText(uri.address);
    throw new BlockError("EACCES", `Cannot begin TLS with ${where}: ${reason}`, { cause: error });
  }
  return secured;
}

async function connected(address: NbdAddress, signal: AbortSignal): Promise<Socket> {
  const socket = address.kind === "unix"
    ? connectSocket({ path: address.path })
    : connectSocket({ host: address.host, port: address.port, noDelay: true });
  try {
    await waitFor(socket, "connect", signal);
    // A socket that fails when nobody listens to it would end the process.
    return socket.on("error", () => {});
  } catch (error) {
    socket.on("error", () => {}).destroy();
    if (signal.aborted) throw error;
    const known = toBlockError(error);
    const reason = known.errno === "EIO" ? known.message : errnoText(known.errno);
    const message = `Cannot connect to ${addressText(address)}: ${reason}`;
    throw new BlockError(known.errno, message, { cause: error });
  }
}

/** Connects with node:net, and node:tls if asked to encrypt. */
export async function dialSocket(uri: NbdUri, signal: AbortSignal): Promise<Transport> {
  signal.throwIfAborted();
  // Read before connecting, so that a wrong folder is told first.
  const options = uri.tls ? await tlsOptions(uri) : null;
  const socket = await connected(uri.address, signal);
  const plain = pairOf(socket);
  let current: Socket = socket;
  return {
    pair: plain.pair,
    async encrypt(): Promise<BytePair> {
      if (options === null) throw new TypeError("Encryption was not asked for when dialling");
      plain.detach();
      current = await encrypt(socket, uri, options);
      current.on("error", () => {});
      return pairOf(current).pair;
    },
    close(): void {
      current.destroy();
      socket.destroy();
    },
  };
}
