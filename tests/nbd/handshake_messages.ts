/**
 * What the client and the server say in a handshake, as hexadecimal text, for golden tests.
 *
 * @module
 */
import type { ExportTable } from "../../lib/nbd/export_info.ts";
import type { HandshakeResult, TlsMode } from "../../lib/nbd/haggling.ts";
import { ascii, digits, hex, makeExport } from "./fixtures.ts";

export const GREETING = hex(`
  4e42444d41474943 # "NBDMAGIC"
  49484156454f5054 # "IHAVEOPT"
  0003             # FIXED_NEWSTYLE, NO_ZEROES
`);
export const FIXED = "00000001"; // the client's flags
export const FIXED_NO_ZEROES = "00000003";

export const EXPORT_NAME = 1, ABORT = 2, LIST = 3, PEEK_EXPORT = 4, STARTTLS = 5, INFO = 6, GO = 7;
export const STRUCTURED_REPLY = 8, LIST_META = 9, SET_META = 10, EXTENDED_HEADERS = 11;

export const ACK = 1, SERVER = 2, REP_INFO = 3, META_CONTEXT = 4;
export const ERR_UNSUP = 0x80000001, ERR_POLICY = 0x80000002, ERR_INVALID = 0x80000003;
export const ERR_TLS_REQD = 0x80000005, ERR_UNKNOWN = 0x80000006, ERR_SHUTDOWN = 0x80000007;
export const ERR_TOO_BIG = 0x80000009, ERR_EXT_HEADER_REQD = 0x8000000a;

/** An option as the client sends it; `data` is hexadecimal. */
export function option(number: number, data = ""): string {
  return "49484156454f5054" + digits(number, 32) + digits(hex(data).length, 32) + data;
}

/** A reply as the server sends it; `data` is hexadecimal. */
export function reply(to: number, type: number, data = ""): string {
  return "0003e889045565a9" + digits(to, 32) + digits(type, 32) + digits(hex(data).length, 32) +
    data;
}

/** An error reply with its message. */
export function refused(to: number, type: number, message: string): string {
  return reply(to, type, ascii(message));
}

/** A string with its length in 32 bits before it. */
export function counted(text: string): string {
  return digits(ascii(text).length / 2, 32) + ascii(text);
}

export function infoData(name: string, ...wanted: number[]): string {
  return counted(name) + digits(wanted.length, 16) +
    wanted.map((type) => digits(type, 16)).join("");
}

export function metaData(name: string, ...queries: string[]): string {
  return counted(name) + digits(queries.length, 32) + queries.map(counted).join("");
}

/** INFO_EXPORT: "length MUST be 12": type, size, flags. */
export function exportReply(to: number, size: number | bigint, flags: number): string {
  return reply(to, REP_INFO, "0000" + digits(size, 64) + digits(flags, 16));
}

export const BASE = "base:allocation";
export const DISK = makeExport("disk", { description: "a disk" });
export const READ_ONLY = makeExport("ro", {
  readOnly: true,
  canTrim: false,
  canZero: false,
  canCache: false,
  contexts: [],
});
export const BITMAPS = makeExport("vm", {
  size: 0x123456789a,
  minimum: 4096,
  preferred: 65536,
  contexts: [BASE, "qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"],
});
export const SECRET = makeExport("secret", { tlsRequired: true });

/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO. */
export const FLAGS = 0x0d6d;
export const FLAG_DF = 0x0080;
export const FLAG_STATUS_PAYLOAD = 0x1000;
export const FLAGS_READ_ONLY = 0x010f; // HAS_FLAGS, READ_ONLY, FLUSH, FUA, MULTI_CONN

export interface Row {
  /** The rule, as the protocol document has it. */
  readonly rule: string;
  readonly table?: ExportTable;
  readonly tls?: TlsMode;
  readonly secured?: boolean;
  readonly flags?: string;
  /** Hexadecimal; the client's flags go before it. */
  readonly send: string;
  /** Hexadecimal; the greeting goes before it. */
  readonly expect: string;
  /** "go on", or how it ends. */
  readonly end?: HandshakeResult["kind"];
  readonly reason?: RegExp;
  readonly state?: Partial<Extract<HandshakeResult, { kind: "transmission" }>["state"]>;
  readonly unread?: string;
}
