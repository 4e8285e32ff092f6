/**
 * The seam between the acceptor and a protocol: a handshake is a small byte session with a result.
 *
 * @module
 */
import type { OutputBuffer } from "../stream/session.ts";
import type { PeerCredentials } from "../sys/socket.ts";
import type { SocketAddress } from "../sys/socket_address.ts";

/** Who has connected: plain data. */
export interface Peer {
  /** The other end. */
  readonly address: SocketAddress;
  /** Process, user and group of a unix socket's peer; null for TCP. */
  readonly credentials: PeerCredentials | null;
}

/** How a handshake ended: "close" ends the connection, every other kind hands it over. */
export type HandshakeEnd =
  | { readonly kind: "close"; readonly reason: string }
  | { readonly kind: string };

/** A pure handshake. Plain data in `result`, since it goes to another thread. */
export interface Handshake<R extends HandshakeEnd> {
  /** Takes bytes of the client, only while `ready`; may keep the chunk. May throw ProtocolError. */
  receive(chunk: Uint8Array): void;
  /** False while no more input is wanted. Bytes that are not wanted any more stay in the socket. */
  readonly ready: boolean;
  /** What to send next; the acceptor releases it. */
  takeOutput(): OutputBuffer | null;
  /** Null while it goes on. It counts when all output is sent. */
  readonly result: R | null;
  /** The acceptor is done with it; called once. Must not throw. */
  end(cause: unknown): void;
}

/** A connection on its way to whoever serves it. The receiver owns the descriptor. */
export interface HandOver<R extends HandshakeEnd> {
  /** A connected, non-blocking socket. */
  readonly fd: number;
  /** Who has connected. */
  readonly peer: Peer;
  /** The label of the listener. */
  readonly listener: string;
  /** What the handshake gave; bytes that it read past its own end are part of it. */
  readonly result: R;
}
