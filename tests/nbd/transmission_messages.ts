/**
 * Requests and replies of the transmission phase as hexadecimal text, for golden tests.
 *
 * @module
 */
import { ascii, digits, hex, type RamOptions } from "./fixtures.ts";

export const READ = 0, WRITE = 1, DISC = 2, FLUSH = 3, TRIM = 4, CACHE = 5;
export const WRITE_ZEROES = 6, BLOCK_STATUS = 7;
export const FUA = 1, NO_HOLE = 2, DF = 4, REQ_ONE = 8, FAST_ZERO = 16, PAYLOAD_LEN = 32;
export const EPERM = 1, EIO = 5, EINVAL = 22, ENOSPC = 28, EOVERFLOW = 75, ENOTSUP = 95;
export const ESHUTDOWN = 108;

/** The cookie of the tests: any 64 bits, with the highest one set. */
export const COOKIE = "fedcba9876543210";

/** Bytes of the given length as hexadecimal text: the offset's low byte, as disks of the tests hold. */
export function ramp(offset: number, length: number): string {
  return Uint8Array.from({ length }, (_, index) => offset + index).toHex();
}

/** A compact request. */
export function request(
  type: number,
  offset: number | bigint,
  length: number,
  flags = 0,
  payload = "",
): string {
  return "25609513" + digits(flags, 16) + digits(type, 16) + COOKIE + digits(offset, 64) +
    digits(length, 32) + payload;
}

/** An extended request. */
export function wideRequest(
  type: number,
  offset: number | bigint,
  length: number | bigint,
  flags = 0,
  payload = "",
): string {
  return "21e41c71" + digits(flags, 16) + digits(type, 16) + COOKIE + digits(offset, 64) +
    digits(length, 64) + payload;
}

/** A simple reply. */
export function simple(error: number, data = ""): string {
  return "67446698" + digits(error, 32) + COOKIE + data;
}

/** A structured chunk. */
export function chunk(flags: number, type: number, payload = ""): string {
  return "668e33ef" + digits(flags, 16) + digits(type, 16) + COOKIE +
    digits(hex(payload).length, 32) + payload;
}

/** An extended chunk; `offset` is that of the request. */
export function wideChunk(
  flags: number,
  type: number,
  offset: number | bigint,
  payload = "",
): string {
  return "6e8a278c" + digits(flags, 16) + digits(type, 16) + COOKIE + digits(offset, 64) +
    digits(hex(payload).length, 64) + payload;
}

/** The payload of an error chunk. */
export function errorPayload(error: number, message: string): string {
  return digits(error, 32) + digits(ascii(message).length / 2, 16) + ascii(message);
}

/** A structured reply that is one error chunk. */
export function failed(error: number, message: string): string {
  return chunk(1, 0x8001, errorPayload(error, message));
}

/** An extended reply that is one error chunk. */
export function wideFailed(error: number, offset: number | bigint, message: string): string {
  return wideChunk(1, 0x8001, offset, errorPayload(error, message));
}

/** One golden exchange. */
export interface Exchange {
  /** The rule, as the protocol document has it. */
  readonly rule: string;
  readonly ram?: RamOptions;
  /** Show the export read-only although its disk is not. */
  readonly shownReadOnly?: boolean;
  readonly send: string;
  readonly expect: string;
  /** What the disk was asked, if that matters. */
  readonly calls?: readonly string[];
  /** Nothing more is wanted afterwards. */
  readonly finished?: boolean;
}
