/**
 * Socket addresses between text and the C structures sockaddr_un, sockaddr_in and sockaddr_in6
 * (unix(7), ip(7), ipv6(7)).
 *
 * @module
 */
import { cstring } from "./errno.ts";
import { AF_INET, AF_INET6, AF_UNIX, socketCalls } from "./socket_calls.ts";
import { SystemError } from "./system_error.ts";

/** Longest path of a unix socket, in bytes (sun_path, less its NUL). */
export const UNIX_PATH_BYTES_MAX = 107;
/** Room for any of the three structures, in bytes. */
export const ADDRESS_BYTES = 128;

/** The address of a unix socket. */
export interface UnixAddress {
  /** A path, or no name at all. */
  readonly kind: "unix";
  /** The path; "" for a socket without a name (a client's), "@…" for an abstract one. */
  readonly path: string;
}

/** The address of a TCP socket. */
export interface TcpAddress {
  /** IP. */
  readonly kind: "tcp";
  /** An IP address, version 4 or 6. */
  readonly host: string;
  /** 0 to 65535. */
  readonly port: number;
}

/** An address of either kind. */
export type SocketAddress = UnixAddress | TcpAddress;

/** An address as URIs and logs write it: `unix:PATH`, `HOST:PORT` or `[HOST]:PORT`. */
export function addressText(address: SocketAddress): string {
  if (address.kind === "unix") return address.path === "" ? "unix" : `unix:${address.path}`;
  const { host, port } = address;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** sockaddr_un. Throws ENOENT for an empty path and ENAMETOOLONG for one over UNIX_PATH_BYTES_MAX. */
export function encodeUnix(path: string, call: string): Uint8Array<ArrayBuffer> {
  const bytes = cstring(path);
  const length = bytes.length - 1;
  if (length === 0) throw new SystemError("ENOENT", call, '""', "the path is empty");
  if (length > UNIX_PATH_BYTES_MAX) {
    const text =
      `the path of a unix socket has at most ${UNIX_PATH_BYTES_MAX} bytes, not ${length}`;
    throw new SystemError("ENAMETOOLONG", call, path, text);
  }
  const address = new Uint8Array(2 + bytes.length);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(bytes, 2);
  return address;
}

/** sockaddr_in or sockaddr_in6. Throws EINVAL unless `host` is an IP address and the port 0 to 65535. */
export function encodeTcp(host: string, port: number, call: string): Uint8Array<ArrayBuffer> {
  const subject = addressText({ kind: "tcp", host, port });
  if (!Number.isInteger(port) || port < 0 || port > 0xffff) {
    throw new SystemError("EINVAL", call, subject, "a port is a number from 0 to 65535");
  }
  const family = host.includes(":") ? AF_INET6 : AF_INET;
  const address = new Uint8Array(family === AF_INET ? 16 : 28);
  const view = new DataView(address.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port);
  const binary = address.subarray(family === AF_INET ? 4 : 8);
  if (socketCalls().inet_pton(family, cstring(host), binary) !== 1) {
    throw new SystemError("EINVAL", call, subject, "the host has to be an IP address");
  }
  return address;
}

/** Reads `length` bytes of a sockaddr. Null if its family is none of the three. */
export function decodeAddress(bytes: Uint8Array, length: number): SocketAddress | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = length < 2 ? 0 : view.getUint16(0, true);
  if (family === AF_UNIX) return { kind: "unix", path: unixPath(bytes.subarray(2, length)) };
  if (family !== AF_INET && family !== AF_INET6) return null;
  const binary = new Uint8Array(family === AF_INET ? bytes.slice(4, 8) : bytes.slice(8, 24));
  const text = new Uint8Array(64);
  socketCalls().inet_ntop(family, binary, text, text.length);
  return { kind: "tcp", host: plainHost(cText(text)), port: view.getUint16(2) };
}

function unixPath(path: Uint8Array): string {
  if (path.length > 0 && path[0] === 0) return "@" + new TextDecoder().decode(path.subarray(1));
  return cText(path);
}

function cText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end === -1 ? bytes : bytes.subarray(0, end));
}

/** A version 4 address that came to a version 6 socket is shown as what it is. */
function plainHost(host: string): string {
  return host.startsWith("::ffff:") && host.includes(".") ? host.slice(7) : host;
}
