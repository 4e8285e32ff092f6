/**
 * Random requests with what their outcome has to be, from a model of its own: for property tests.
 *
 * The first half of the disk is never written and reads as its offset's low byte, with every other
 * 32 KiB of it a hole that reads as zeroes. In the second half each write has a slot of its own, so
 * that order does not matter.
 *
 * @module
 */
import type { SeededRandom } from "../support/context.ts";
import type { Extent } from "../../lib/block/types.ts";
import { compact, extended } from "./fixtures.ts";
import {
  BLOCK_STATUS,
  CACHE,
  DF,
  EINVAL,
  ENOSPC,
  FAST_ZERO,
  FLUSH,
  FUA,
  NO_HOLE,
  PAYLOAD_LEN,
  READ,
  REQ_ONE,
  TRIM,
  WRITE,
  WRITE_ZEROES,
} from "./transmission_messages.ts";
import type { Asked } from "./reply_reader.ts";

export const DISK_BYTES = 1 << 20;
const HALF = DISK_BYTES / 2;
const STRIPE = 32 << 10;
const SLOT = 512;

/** Style of replies. */
export type Style = "simple" | "structured" | "extended";

/** A request and its outcome. */
export interface Planned {
  readonly cookie: bigint;
  readonly bytes: Uint8Array;
  readonly asked: Asked;
  /** NBD error values that are right; 0 is success. */
  readonly errors: readonly number[];
  /** What a read has to begin with: all of it that is never written. */
  readonly data: Uint8Array | null;
  /** What the disk has to hold afterwards. */
  readonly written: { readonly offset: number; readonly bytes: Uint8Array } | null;
}

function isHole(offset: number): boolean {
  return offset < HALF && Math.floor(offset / STRIPE) % 2 === 1;
}

const CONTENT = new Uint8Array(DISK_BYTES);
for (let at = 0; at < DISK_BYTES; at++) CONTENT[at] = isHole(at) ? 0 : at;

/** The content of the disk before anything is written. */
export function diskContent(): Uint8Array {
  return CONTENT.slice();
}

/** What `extents` of that disk tells. */
export function diskExtents(offset: number, length: number): Extent[] {
  const runs: Extent[] = [];
  for (let at = offset; at < offset + length;) {
    const end = at < HALF ? (Math.floor(at / STRIPE) + 1) * STRIPE : DISK_BYTES;
    runs.push({ length: end - at, allocated: !isHole(at), zero: isHole(at) });
    at = end;
  }
  return runs;
}

/** An offset that is likely to be interesting. */
function someOffset(random: SeededRandom): bigint {
  const near = [0n, BigInt(HALF), BigInt(DISK_BYTES), 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n];
  const kind = random.below(4);
  if (kind < 2) return BigInt(random.below(HALF));
  const base = near[random.below(near.length)] ?? 0n;
  const moved = base + BigInt(random.below(1025) - 512);
  return kind === 2 ? BigInt.asUintN(64, moved) : BigInt.asUintN(64, -moved);
}

function someLength(random: SeededRandom, wide: boolean): bigint {
  const kind = random.below(8);
  if (kind < 4) return BigInt(random.below(8192));
  if (kind < 6) return BigInt(random.below(256 << 10));
  if (kind === 6) return BigInt(2 ** 32 - 1 - random.below(2));
  return wide ? 2n ** 64n - 1n - BigInt(random.below(2)) : 0n;
}

/** Makes the `index`-th request of a run. */
export function planRequest(random: SeededRandom, style: Style, index: number): Planned {
  const kinds = [READ, READ, READ, WRITE, WRITE_ZEROES, FLUSH, TRIM, CACHE, BLOCK_STATUS, 77];
  const type = kinds[random.below(kinds.length)] ?? READ;
  if (type === WRITE) return planWrite(random, style, index);
  const wide = style === "extended";
  const offset = type === FLUSH && random.below(4) > 0 ? 0n : someOffset(random);
  const length = type === FLUSH && offset === 0n ? 0n : someLength(random, wide);
  // Zeroing and trimming inside the disk would disturb what reads expect.
  const harmless = type !== WRITE_ZEROES && type !== TRIM;
  const moved = harmless ? offset : offset | 2n ** 40n;
  const flags = someFlags(random);
  const cookie = cookieOf(random, index);
  const bytes = wide
    ? extended(type, cookie, moved, length, { flags })
    : compact(type, cookie, moved, Number(length), { flags });
  const asked = { read: type === READ, offset: moved, length };
  const errors = expectedErrors(type, flags, moved, length, style);
  const data = errors[0] === 0 && type === READ
    ? CONTENT.slice(Number(moved), Math.min(Number(moved + length), HALF))
    : null;
  return { cookie, bytes, asked, errors, data, written: null };
}

function planWrite(random: SeededRandom, style: Style, index: number): Planned {
  const wide = style === "extended";
  const cookie = cookieOf(random, index);
  const slot = HALF + index * SLOT;
  const length = 1 + random.below(SLOT);
  const inside = slot + SLOT <= DISK_BYTES && random.below(8) > 0;
  const offset = inside ? BigInt(slot) : BigInt(DISK_BYTES - length) + 1n;
  const payload = new Uint8Array(length).fill(index & 0xff);
  const flags = (random.below(2) === 0 ? FUA : 0) | (wide ? PAYLOAD_LEN : 0);
  const bytes = wide
    ? extended(WRITE, cookie, offset, length, { flags, payload })
    : compact(WRITE, cookie, offset, length, { flags, payload });
  return {
    cookie,
    bytes,
    asked: { read: false, offset, length: BigInt(length) },
    errors: [inside ? 0 : ENOSPC],
    data: null,
    written: inside ? { offset: slot, bytes: payload } : null,
  };
}

function cookieOf(random: SeededRandom, index: number): bigint {
  return BigInt(random.uint32()) << 32n | BigInt(index);
}

function someFlags(random: SeededRandom): number {
  const flags = [0, 0, 0, 0, FUA, DF, REQ_ONE, NO_HOLE, FAST_ZERO, FUA | DF, 0x8000];
  return flags[random.below(flags.length)] ?? 0;
}

const EOVERFLOW = 75;

/** The errors that the protocol document allows for a request without payload. */
function expectedErrors(
  type: number,
  flags: number,
  offset: bigint,
  length: bigint,
  style: Style,
): readonly number[] {
  const allowed: Record<number, number> = {
    [READ]: FUA | (style === "simple" ? 0 : DF),
    [FLUSH]: FUA,
    [TRIM]: FUA,
    [CACHE]: FUA,
    [WRITE_ZEROES]: FUA | NO_HOLE | FAST_ZERO,
    [BLOCK_STATUS]: FUA | REQ_ONE,
  };
  const valid = allowed[type];
  if (valid === undefined || (flags & ~valid) !== 0) return [EINVAL];
  if (type === BLOCK_STATUS && style === "simple") return [EINVAL];
  if (type === FLUSH) return [offset === 0n && length === 0n ? 0 : EINVAL];
  if (length === 0n) return [EINVAL, ENOSPC];
  if (offset + length > BigInt(DISK_BYTES)) {
    return type === WRITE_ZEROES ? [ENOSPC] : [EINVAL, EOVERFLOW];
  }
  return [0];
}
