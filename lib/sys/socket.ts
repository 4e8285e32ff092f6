/**
 * Raw sockets: what an acceptor thread needs, as sync calls that never block. All descriptors made
 * here are close-on-exec. Errors are SystemError with the errno of the failed call. See unix(7),
 * ip(7), tcp(7) and socket(7).
 *
 * @module
 */
import { EAGAIN, EINTR, fail, lastErrno, systemError } from "./errno.ts";
import {
  ADDRESS_BYTES,
  addressText,
  decodeAddress,
  encodeTcp,
  encodeUnix,
  type SocketAddress,
} from "./socket_address.ts";
import * as c from "./socket_calls.ts";
import { socketCalls } from "./socket_calls.ts";
import { SystemError } from "./system_error.ts";

/** Connections that the kernel holds before they are accepted; it caps this at net.core.somaxconn. */
export const LISTEN_BACKLOG = 1_024;
/** What `receive` and `send` give when there is nothing to be had now. */
export const WOULD_BLOCK: number = -1;

/** Who is at the other end of a unix socket, as of when it connected. */
export interface PeerCredentials {
  /** Process; 0 if it is in another pid namespace. */
  readonly pid: number;
  /** User. */
  readonly uid: number;
  /** Group. */
  readonly gid: number;
}

/** A connection that was accepted: non-blocking, close-on-exec. */
export interface Accepted {
  /** The descriptor, which the caller closes. */
  readonly fd: number;
  /** The other end. */
  readonly address: SocketAddress;
}

const INT = new Int32Array(1);
const INT_BYTES = new Uint8Array(INT.buffer);
const ADDRESS = new Uint8Array(ADDRESS_BYTES);
const LENGTH = new Uint32Array(1);
const LENGTH_BYTES = new Uint8Array(LENGTH.buffer);

function setOption(fd: number, level: number, option: number, value: number): void {
  INT[0] = value;
  if (socketCalls().setsockopt(fd, level, option, INT_BYTES, 4) !== 0) {
    fail("set an option of", `socket ${fd}`);
  }
}

/** Makes a stream socket of the family of an address; `flags` as for socket(2). */
export function openSocket(address: Uint8Array<ArrayBuffer>, flags = 0): number {
  const family = new DataView(address.buffer).getUint16(0, true);
  const fd = socketCalls().socket(family, c.SOCK_STREAM | c.SOCK_CLOEXEC | flags, 0);
  if (fd < 0) fail("open", "a socket");
  return fd;
}

/**
 * Listens on an IP address, version 4 or 6; port 0 takes a free one (see `localAddress`). Gives a
 * non-blocking descriptor. Throws EADDRINUSE, EADDRNOTAVAIL, EACCES, or EINVAL for a host name.
 */
export function listenTcp(host: string, port: number, backlog: number = LISTEN_BACKLOG): number {
  const address = encodeTcp(host, port, "listen on");
  const fd = openSocket(address, c.SOCK_NONBLOCK);
  try {
    setOption(fd, c.SOL_SOCKET, c.SO_REUSEADDR, 1);
    if (host.includes(":")) setOption(fd, c.IPPROTO_IPV6, c.IPV6_V6ONLY, 1);
    const calls = socketCalls();
    if (
      calls.bind(fd, address, address.length) !== 0 || calls.listen(fd, backlog) !== 0
    ) fail("listen on", addressText({ kind: "tcp", host, port }));
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
  return fd;
}

/** Makes two unix stream sockets that are connected to each other: non-blocking, close-on-exec. */
export function openSocketPair(): [here: number, there: number] {
  const fds = new Int32Array(2);
  const type = c.SOCK_STREAM | c.SOCK_CLOEXEC | c.SOCK_NONBLOCK;
  if (socketCalls().socketpair(c.AF_UNIX, type, 0, new Uint8Array(fds.buffer)) !== 0) {
    fail("open", "a pair of sockets");
  }
  return [fds[0] ?? -1, fds[1] ?? -1];
}

/** Connects to a unix socket, waiting while its backlog is full; a blocking descriptor. */
export function connectUnix(path: string): number {
  const address = encodeUnix(path, "connect to");
  const fd = openSocket(address);
  if (socketCalls().connect(fd, address, address.length) === 0) return fd;
  const number = lastErrno();
  closeDescriptor(fd);
  throw systemError(number, "connect to", path);
}

/** Connects to an IP address, waiting for the answer; a blocking descriptor. */
export function connectTcp(host: string, port: number): number {
  const address = encodeTcp(host, port, "connect to");
  const fd = openSocket(address);
  if (socketCalls().connect(fd, address, address.length) === 0) return fd;
  const number = lastErrno();
  closeDescriptor(fd);
  throw systemError(number, "connect to", addressText({ kind: "tcp", host, port }));
}

/**
 * Takes the next connection of a listening socket, or null if there is none now. Throws EMFILE,
 * ENFILE, ENOMEM, or ECONNABORTED and the like for a connection that died before it was taken.
 */
export function accept(listenFd: number): Accepted | null {
  for (;;) {
    LENGTH[0] = ADDRESS_BYTES;
    const flags = c.SOCK_NONBLOCK | c.SOCK_CLOEXEC;
    const fd = socketCalls().accept4(listenFd, ADDRESS, LENGTH_BYTES, flags);
    if (fd >= 0) {
      const address = decodeAddress(ADDRESS, LENGTH[0] ?? 0);
      return { fd, address: address ?? { kind: "unix", path: "" } };
    }
    const number = lastErrno();
    if (number === EAGAIN) return null;
    if (number !== EINTR) fail("accept from", `socket ${listenFd}`);
  }
}

/** Who connected to a unix socket. Throws ENOTSOCK for what is no socket. */
export function peerCredentials(fd: number): PeerCredentials {
  const ucred = new Int32Array(3);
  LENGTH[0] = 12;
  const bytes = new Uint8Array(ucred.buffer);
  if (socketCalls().getsockopt(fd, c.SOL_SOCKET, c.SO_PEERCRED, bytes, LENGTH_BYTES) !== 0) {
    fail("read the peer of", `socket ${fd}`);
  }
  return { pid: ucred[0] ?? 0, uid: (ucred[1] ?? 0) >>> 0, gid: (ucred[2] ?? 0) >>> 0 };
}

function readAddress(call: "getsockname" | "getpeername", fd: number): SocketAddress {
  LENGTH[0] = ADDRESS_BYTES;
  if (socketCalls()[call](fd, ADDRESS, LENGTH_BYTES) !== 0) {
    fail("read the address of", `socket ${fd}`);
  }
  const address = decodeAddress(ADDRESS, LENGTH[0] ?? 0);
  if (address !== null) return address;
  throw new SystemError(
    "EAFNOSUPPORT",
    "read the address of",
    `socket ${fd}`,
    "its family is neither unix nor IP",
  );
}

/** The address that a socket is bound to: the real port after listening on port 0. */
export function localAddress(fd: number): SocketAddress {
  return readAddress("getsockname", fd);
}

/** The address of the other end. Throws ENOTCONN if there is none. */
export function peerAddress(fd: number): SocketAddress {
  return readAddress("getpeername", fd);
}

/** True if the descriptor is a stream socket that listens. */
export function isListening(fd: number): boolean {
  return readFlag(fd, c.SO_ACCEPTCONN) === 1 && readFlag(fd, c.SO_TYPE) === c.SOCK_STREAM;
}

function readFlag(fd: number, option: number): number | undefined {
  LENGTH[0] = 4;
  const result = socketCalls().getsockopt(fd, c.SOL_SOCKET, option, INT_BYTES, LENGTH_BYTES);
  return result === 0 ? INT[0] : undefined;
}

/** Sends small messages at once (TCP only). */
export function setNoDelay(fd: number): void {
  setOption(fd, c.IPPROTO_TCP, c.TCP_NODELAY, 1);
}

/** How many bytes wait in the kernel until the peer has read them; it caps this at net.core.wmem_max. */
export function setSendBuffer(fd: number, bytes: number): void {
  setOption(fd, c.SOL_SOCKET, c.SO_SNDBUF, bytes);
}

/** When a silent TCP peer is asked for a sign of life. */
export interface KeepAlive {
  /** Seconds of silence before the first probe. */
  readonly idle_s: number;
  /** Seconds between probes. */
  readonly interval_s: number;
  /** Probes without an answer after which the connection is dead. */
  readonly probes: number;
}

/** Finds out about peers that are gone without a word (TCP only). */
export function setKeepAlive(fd: number, keepAlive: KeepAlive): void {
  setOption(fd, c.SOL_SOCKET, c.SO_KEEPALIVE, 1);
  setOption(fd, c.IPPROTO_TCP, c.TCP_KEEPIDLE, keepAlive.idle_s);
  setOption(fd, c.IPPROTO_TCP, c.TCP_KEEPINTVL, keepAlive.interval_s);
  setOption(fd, c.IPPROTO_TCP, c.TCP_KEEPCNT, keepAlive.probes);
}

/** Makes an inherited descriptor close-on-exec and non-blocking, as those made here are. */
export function prepareInherited(fd: number): void {
  const calls = socketCalls();
  const flags = calls.fcntl(fd, c.F_GETFL, 0);
  if (
    flags < 0 || calls.fcntl(fd, c.F_SETFL, flags | c.O_NONBLOCK) < 0 ||
    calls.fcntl(fd, c.F_SETFD, c.FD_CLOEXEC) < 0
  ) fail("set flags of", `descriptor ${fd}`);
}

/**
 * Receives what is there, up to `length` bytes: bytes put into `into`, 0 at the end of the stream, WOULD_BLOCK
 * if nothing is there now.
 */
export function receive(
  fd: number,
  into: Uint8Array<ArrayBuffer>,
  length: number = into.length,
): number {
  for (;;) {
    const count = socketCalls().recv(fd, into, BigInt(length), c.MSG_DONTWAIT);
    if (count >= 0) return count;
    const number = lastErrno();
    if (number === EAGAIN) return WOULD_BLOCK;
    if (number !== EINTR) fail("receive from", `socket ${fd}`);
  }
}

/**
 * Sends what fits of the first `length` bytes: bytes taken from `from`, WOULD_BLOCK if none fit now.
 * Throws EPIPE, ECONNRESET …
 */
export function send(
  fd: number,
  from: Uint8Array<ArrayBuffer>,
  length: number = from.length,
): number {
  for (;;) {
    const flags = c.MSG_DONTWAIT | c.MSG_NOSIGNAL;
    const count = socketCalls().send(fd, from, BigInt(length), flags);
    if (count >= 0) return count;
    const number = lastErrno();
    if (number === EAGAIN) return WOULD_BLOCK;
    if (number !== EINTR) fail("send to", `socket ${fd}`);
  }
}

/**
 * Memory in bytes that is taken by what was sent: on a unix connection what the peer has not read, over TCP
 * what its system has not confirmed.
 */
export function unreadBytes(fd: number): number {
  return socketCalls().ioctl(fd, c.SIOCOUTQ, INT_BYTES) === 0 ? INT[0] ?? 0 : 0;
}

/** Ends a direction: "write" tells the peer that no more comes. A connection that is gone already is fine. */
export function shutdown(fd: number, direction: "read" | "write" | "both"): void {
  const how = { read: c.SHUT_RD, write: c.SHUT_WR, both: c.SHUT_RDWR }[direction];
  if (socketCalls().shutdown(fd, how) === 0) return;
  const number = lastErrno();
  const ENOTCONN = 107;
  if (number !== ENOTCONN) fail("shut down", `socket ${fd}`);
}

/** Closes a descriptor; it is gone afterwards even if this throws. Throws EBADF if it was not open. */
export function closeDescriptor(fd: number): void {
  if (socketCalls().close(fd) === 0) return;
  if (lastErrno() !== EINTR) fail("close", `descriptor ${fd}`);
}
