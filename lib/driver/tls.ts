/**
 * The server's side of TLS after STARTTLS, over node:tls, and certificates from a folder with the file
 * names that libvirt, nbdkit and qemu use: ca-cert.pem, server-cert.pem, server-key.pem.
 *
 * It goes through a tls.Server that never listens and is given the one connection: a bare
 * TLSSocket with `isServer` does not check the client's certificate. There is one such server for each
 * connection, since a shared one does not tell which connection became secure.
 *
 * @module
 */
import type net from "node:net";
import { createPrivateKey, X509Certificate } from "node:crypto";
import tls from "node:tls";
import type { BytePair } from "../stream/session.ts";
import { TLS_HANDSHAKE_MS_MAX } from "./limits.ts";
import { socketPair, type SocketPairOptions } from "./socket_pair.ts";

/** Certificates of a server, as PEM text. */
export interface TlsCertificates {
  /** Authorities that a client's certificate has to be signed by. */
  readonly ca?: string;
  /** The server's certificate, with intermediate ones if there are any. */
  readonly cert: string;
  /** The key of `cert`. */
  readonly key: string;
}

/** Settings of the server side. */
export interface TlsServerOptions {
  /** `ca` is needed if clients are verified. */
  readonly certificates: TlsCertificates;
  /** Refuse clients without a certificate signed by `ca`. */
  readonly verifyPeer: boolean;
  /** Time for the handshake in ms; TLS_HANDSHAKE_MS_MAX if not told. */
  readonly handshake_ms?: number;
  /** Gives up when it aborts. */
  readonly signal?: AbortSignal;
  /** How the byte pair behaves. */
  readonly pair?: SocketPairOptions;
}

/** A secured connection. */
export interface SecurePair extends BytePair {
  /** The subject of the client's certificate, such as "CN=alice, O=example"; null if it has none. */
  readonly peerSubject: string | null;
  /** The protocol, such as "TLSv1.3". */
  readonly protocol: string;
}

/**
 * Reads the certificates of a server from a folder. ca-cert.pem may be absent, which matters where
 * clients are verified. Throws an Error that names the file.
 */
export async function loadCertificates(folder: string): Promise<TlsCertificates> {
  const [ca, cert, key] = await Promise.all([
    readPem(folder, "ca-cert.pem"),
    readPem(folder, "server-cert.pem"),
    readPem(folder, "server-key.pem"),
  ]);
  if (cert === null || key === null) {
    const missing = cert === null ? "server-cert.pem" : "server-key.pem";
    throw new Error(`Cannot load certificates from ${folder}: there is no ${missing}`);
  }
  return ca === null ? { cert, key } : { ca, cert, key };
}

async function readPem(folder: string, name: string): Promise<string | null> {
  const path = `${folder.replace(/\/+$/, "")}/${name}`;
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`Cannot load certificates from ${folder}: ${reason}`, { cause: error });
  }
  if (text.includes("-----BEGIN ")) return text;
  throw new Error(`Cannot load certificates from ${folder}: ${name} is not a PEM file`);
}

function serverOptions(options: TlsServerOptions): tls.TlsOptions {
  const { certificates: { ca, cert, key }, verifyPeer } = options;
  if (verifyPeer && ca === undefined) {
    throw new Error("Cannot verify TLS clients: ca-cert.pem is missing");
  }
  return {
    cert,
    key,
    ...(ca === undefined ? {} : { ca }),
    requestCert: verifyPeer,
    rejectUnauthorized: verifyPeer,
    minVersion: "TLSv1.2",
  };
}

/**
 * Throws an Error if certificates and key are unusable or do not belong together, so that a server says
 * so at its start and not to its first client.
 */
export function checkServerCertificates(options: TlsServerOptions): void {
  const { cert, key, ca } = options.certificates;
  try {
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) {
      throw new Error("server-key.pem is not the key of server-cert.pem");
    }
    if (ca !== undefined) new X509Certificate(ca);
    tls.createServer(serverOptions(options));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (reason.startsWith("Cannot ")) throw error;
    throw new Error(`Cannot use the TLS certificates: ${reason}`, { cause: error });
  }
}

/**
 * The server's side of TLS on a connection whose next bytes are the client's hello. Takes the socket
 * over: it is closed if the handshake fails, takes too long or is aborted, and the promise rejects.
 */
export function startTlsServer(socket: net.Socket, options: TlsServerOptions): Promise<SecurePair> {
  const { promise, resolve, reject } = Promise.withResolvers<SecurePair>();
  const { handshake_ms = TLS_HANDSHAKE_MS_MAX, signal, pair = {} } = options;
  let over = false;
  const finish = (): boolean => {
    if (over) return false;
    over = true;
    clearTimeout(timer);
    signal?.removeEventListener("abort", aborted);
    return true;
  };
  const failed = (error: unknown): void => {
    if (!finish()) return;
    socket.destroy();
    const reason = error instanceof Error ? error.message : String(error);
    reject(new Error(`Cannot do the TLS handshake: ${reason}`, { cause: error }));
  };
  const aborted = (): void => failed(signal?.reason);
  const timer = setTimeout(
    () => failed(new Error(`it took more than ${handshake_ms} ms`)),
    handshake_ms,
  );
  signal?.addEventListener("abort", aborted);
  // With half-open sockets node does not notice a client that goes away in the middle of its hello.
  socket.allowHalfOpen = false;
  // Stays for good: after the handshake the secured socket reports the same error.
  socket.on("error", failed);
  socket.once("close", () => failed(new Error(closedReason(options))));
  if (signal?.aborted) aborted();
  else {
    begin(socket, options, failed, (secured) => {
      // A client that has said all may still wait for replies.
      secured.allowHalfOpen = true;
      if (finish()) resolve(securePair(secured, pair));
      else secured.destroy();
    });
  }
  return promise;
}

/** The runtime keeps to itself whether the client hung up or its certificate was found bad. */
function closedReason({ verifyPeer }: TlsServerOptions): string {
  const reason = "the connection was closed";
  if (!verifyPeer) return reason;
  return `${reason}, by the client or because its certificate expired or is not of ca-cert.pem`;
}

function begin(
  socket: net.Socket,
  options: TlsServerOptions,
  failed: (error: unknown) => void,
  done: (secured: tls.TLSSocket) => void,
): void {
  try {
    const server = tls.createServer(serverOptions(options));
    server.on("secureConnection", done);
    server.on("tlsClientError", (error, secured) => {
      secured.destroy();
      failed(error);
    });
    server.emit("connection", socket);
  } catch (error) {
    failed(error);
  }
}

function securePair(secured: tls.TLSSocket, options: SocketPairOptions): SecurePair {
  return {
    ...socketPair(secured, options),
    peerSubject: subjectOf(secured),
    protocol: secured.getProtocol() ?? "TLS",
  };
}

function subjectOf(secured: tls.TLSSocket): string | null {
  const { subject } = secured.getPeerCertificate() ?? {};
  if (subject === undefined || subject === null) return null;
  return Object.entries(subject).map(([name, value]) => `${name}=${value}`).join(", ");
}
