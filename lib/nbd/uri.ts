/**
 * NBD URIs: where a server is, how to reach it and which export is meant. Implements doc/uri.md of
 * NetworkBlockDevice/nbd on RFC 3986, with libnbd's parameter `tls-certificates`. What dmu cannot do
 * (PSK and anonymous TLS, vsock) is refused here, at the place in the text.
 *
 * @module
 */
import { isIPv6 } from "node:net";
import { UsageError } from "../block/usage_error.ts";
import { STRING_BYTES_MAX } from "./limits.ts";

/** The port that IANA has assigned to NBD. */
export const NBD_PORT = 10_809;

/** The schemes of NBD URIs. */
export const NBD_SCHEMES: readonly string[] = ["nbd", "nbds", "nbd+unix", "nbds+unix"];

/** Where a server listens. A unix path that begins with NUL is in the abstract namespace. */
export type NbdAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** What an NBD URI says. */
export interface NbdUri {
  /** Where the server is. */
  readonly address: NbdAddress;
  /** The connection has to be encrypted; if the server refuses, connecting fails. */
  readonly tls: boolean;
  /** The export, "" for the server's default one. */
  readonly exportName: string;
  /** The name that the server's certificate has to carry, if it is not the host. */
  readonly tlsHostname?: string;
  /** Check the server's certificate. */
  readonly tlsVerifyPeer: boolean;
  /** Folder with ca-cert.pem, client-cert.pem and client-key.pem. */
  readonly tlsCertificates?: string;
}

/** A piece of the text, with where it stands. */
interface Piece {
  readonly whole: string;
  readonly start: number;
  readonly end: number;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();
/** Characters that RFC 3986 lets stand in a path or query, "%" aside. */
const URI_CHARACTER = /[A-Za-z0-9\-._~!$&'()*+,;=:@/?]/;

function textOf(piece: Piece): string {
  return piece.whole.slice(piece.start, piece.end);
}

function refuse(piece: Piece, reason: string): never {
  const { whole, start, end } = piece;
  const message = `Cannot use the NBD URI ${JSON.stringify(whole)}: ${reason}`;
  throw new UsageError(message, { text: whole, start, end });
}

/** Splits at the first `separator`; the second part is null if there is none. */
function cut(piece: Piece, separator: string): [Piece, Piece | null] {
  const at = piece.whole.indexOf(separator, piece.start);
  if (at < 0 || at >= piece.end) return [piece, null];
  return [{ ...piece, end: at }, { ...piece, start: at + separator.length }];
}

function decode(piece: Piece): string {
  const bytes: number[] = [];
  for (let at = piece.start; at < piece.end;) {
    const character = String.fromCodePoint(piece.whole.codePointAt(at) ?? 0);
    if (character === "%") {
      const digits = piece.whole.slice(at + 1, Math.min(at + 3, piece.end));
      if (!/^[0-9A-Fa-f]{2}$/.test(digits)) {
        refuse({ ...piece, start: at, end: Math.min(at + 3, piece.end) }, "% needs two hex digits");
      }
      bytes.push(Number.parseInt(digits, 16));
      at += 3;
      continue;
    }
    const plain = URI_CHARACTER.test(character) || character > "\x7f";
    if (!plain) {
      refuse({ ...piece, start: at, end: at + 1 }, "this character has to be percent-encoded");
    }
    bytes.push(...encoder.encode(character));
    at += character.length;
  }
  try {
    return utf8.decode(Uint8Array.from(bytes));
  } catch {
    return refuse(piece, "the percent-encoded bytes are not UTF-8");
  }
}

function parsePort(piece: Piece): number {
  const text = textOf(piece);
  if (text === "") return NBD_PORT;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) refuse(piece, "the port has to be a number from 1 to 65535");
  return port;
}

function parseTcp(authority: Piece): NbdAddress {
  const text = textOf(authority);
  const at = text.lastIndexOf("@");
  if (at >= 0) {
    refuse(
      { ...authority, end: authority.start + at },
      "a user name is for TLS with pre-shared keys, which is not supported",
    );
  }
  if (text.startsWith("[")) {
    const close = text.indexOf("]");
    const host = text.slice(1, Math.max(close, 1));
    if (close < 0 || !isIPv6(host)) refuse(authority, "this is no IPv6 address in brackets");
    const rest = { ...authority, start: authority.start + close + 1 };
    if (textOf(rest) === "") return { kind: "tcp", host, port: NBD_PORT };
    if (!textOf(rest).startsWith(":")) refuse(rest, "a port begins with a colon");
    return { kind: "tcp", host, port: parsePort({ ...rest, start: rest.start + 1 }) };
  }
  const [host, port] = cut(authority, ":");
  const name = decode(host);
  if (/[\0\s/\\:[\]]/.test(name)) refuse(host, "this is no host name");
  return {
    kind: "tcp",
    host: name === "" ? "localhost" : name,
    port: port === null ? NBD_PORT : parsePort(port),
  };
}

interface Parameter {
  readonly value: string;
  readonly piece: Piece;
}

const PARAMETERS = ["socket", "tls-hostname", "tls-verify-peer", "tls-certificates", "tls-type"];
const UNSUPPORTED = ["tls-psk-file", "tls-username"];

function parseQuery(query: Piece | null): Map<string, Parameter> {
  const found = new Map<string, Parameter>();
  let rest = query;
  while (rest !== null) {
    const [piece, next]: [Piece, Piece | null] = cut(rest, "&");
    rest = next;
    if (textOf(piece) === "") continue;
    const [key, value] = cut(piece, "=");
    const name = decode(key);
    if (UNSUPPORTED.includes(name)) refuse(key, "TLS with pre-shared keys is not supported");
    if (!PARAMETERS.includes(name)) {
      refuse(key, `unknown parameter, possible are ${PARAMETERS.join(", ")}`);
    }
    if (found.has(name)) refuse(piece, "the parameter is given twice");
    if (value === null || textOf(value) === "") refuse(piece, "the parameter needs a value");
    found.set(name, { value: decode(value), piece });
  }
  return found;
}

/** A path as the system takes it: no NUL but, for a socket, the first one of an abstract name. */
function checkPath(parameter: Parameter, abstract: boolean): string {
  const { value, piece } = parameter;
  if (value.includes("\0", abstract ? 1 : 0) || value === "\0") {
    refuse(piece, "the path holds a NUL character");
  }
  return value;
}

function parseAddress(unix: boolean, authority: Piece, query: Map<string, Parameter>): NbdAddress {
  const socket = query.get("socket");
  if (!unix) {
    if (socket !== undefined) {
      refuse(socket.piece, "a socket needs the scheme nbd+unix or nbds+unix");
    }
    return parseTcp(authority);
  }
  if (textOf(authority) !== "") {
    refuse(authority, "a host has no meaning with a unix socket: write three slashes");
  }
  if (socket === undefined) {
    refuse({ ...authority, end: authority.whole.length }, "the parameter socket=PATH is missing");
  }
  return { kind: "unix", path: checkPath(socket, true) };
}

function parseExportName(path: Piece): string {
  const name = decode({ ...path, start: Math.min(path.start + 1, path.end) });
  if (name.includes("\0")) refuse(path, "an export name holds no NUL character");
  if (encoder.encode(name).length > STRING_BYTES_MAX) {
    refuse(path, `an export name has at most ${STRING_BYTES_MAX} bytes`);
  }
  return name;
}

interface TlsSettings {
  readonly tlsVerifyPeer: boolean;
  readonly tlsHostname?: string;
  readonly tlsCertificates?: string;
}

function parseTls(tls: boolean, query: Map<string, Parameter>): TlsSettings {
  for (const [name, { piece }] of query) {
    if (!tls && name !== "socket") {
      refuse(piece, "the parameter needs the scheme nbds or nbds+unix");
    }
  }
  const type = query.get("tls-type");
  if (type !== undefined && type.value !== "x509") {
    refuse(type.piece, "of the TLS types only x509 is supported");
  }
  const verify = query.get("tls-verify-peer");
  if (verify !== undefined && !["0", "1"].includes(verify.value)) {
    refuse(verify.piece, "the value has to be 0 or 1");
  }
  const hostname = query.get("tls-hostname");
  if (hostname !== undefined && /[\0\s/]/.test(hostname.value)) {
    refuse(hostname.piece, "this is no host name");
  }
  const certificates = query.get("tls-certificates");
  return {
    tlsVerifyPeer: verify?.value !== "0",
    ...(hostname === undefined ? {} : { tlsHostname: hostname.value }),
    ...(certificates === undefined ? {} : { tlsCertificates: checkPath(certificates, false) }),
  };
}

/**
 * Reads an NBD URI. Throws UsageError, which knows the place, for whatever is not understood.
 *
 * @example
 * ```ts
 * import { parseNbdUri } from "./uri.ts";
 * const uri = parseNbdUri("nbd+unix:///disk?socket=nbd.sock");
 * if (uri.address.kind !== "unix" || uri.exportName !== "disk") throw new Error("misread");
 * ```
 */
export function parseNbdUri(text: string): NbdUri {
  const all: Piece = { whole: text, start: 0, end: text.length };
  const [scheme, rest] = cut(all, "://");
  const name = textOf(scheme).toLowerCase();
  if (rest === null || !NBD_SCHEMES.includes(name)) {
    refuse(rest === null ? all : scheme, `it has to begin with ${NBD_SCHEMES.join("://, ")}://`);
  }
  const [, fragment] = cut(rest, "#");
  if (fragment !== null) {
    refuse({ ...fragment, start: fragment.start - 1 }, "a fragment has no meaning");
  }
  const [place, queryPiece] = cut(rest, "?");
  const slash = text.indexOf("/", place.start);
  const pathStart = slash < 0 || slash > place.end ? place.end : slash;
  const query = parseQuery(queryPiece);
  const address = parseAddress(name.endsWith("+unix"), { ...place, end: pathStart }, query);
  const tls = name.startsWith("nbds");
  const exportName = parseExportName({ ...place, start: pathStart });
  return { address, tls, exportName, ...parseTls(tls, query) };
}

function encode(text: string, keep: RegExp): string {
  let result = "";
  for (const byte of encoder.encode(text)) {
    const character = String.fromCharCode(byte);
    result += keep.test(character)
      ? character
      : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return result;
}

/** What stands for itself in an export name. */
const IN_PATH = /[A-Za-z0-9\-._~/:@,+]/;
/** What stands for itself in a parameter's value. */
const IN_QUERY = /[A-Za-z0-9\-._~/:@,]/;

/** Writes an NBD URI: `parseNbdUri` reads the same from it. */
export function formatNbdUri(uri: NbdUri): string {
  const { address } = uri;
  const query: string[] = [];
  if (address.kind === "unix") query.push(`socket=${encode(address.path, IN_QUERY)}`);
  if (uri.tlsHostname !== undefined) {
    query.push(`tls-hostname=${encode(uri.tlsHostname, IN_QUERY)}`);
  }
  if (!uri.tlsVerifyPeer) query.push("tls-verify-peer=0");
  if (uri.tlsCertificates !== undefined) {
    query.push(`tls-certificates=${encode(uri.tlsCertificates, IN_QUERY)}`);
  }
  const scheme = `nbd${uri.tls ? "s" : ""}${address.kind === "unix" ? "+unix" : ""}`;
  const host = address.kind === "unix"
    ? ""
    : isIPv6(address.host)
    ? `[${address.host}]`
    : encode(address.host, /[A-Za-z0-9\-._~]/);
  const port = address.kind === "tcp" && address.port !== NBD_PORT ? `:${address.port}` : "";
  const path = uri.exportName === "" && address.kind === "tcp"
    ? ""
    : `/${encode(uri.exportName, IN_PATH)}`;
  return `${scheme}://${host}${port}${path}${query.length > 0 ? `?${query.join("&")}` : ""}`;
}
