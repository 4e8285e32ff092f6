/**
 * Comparing bytes of a device, with messages that say where.
 *
 * @module
 */
import { AssertionError } from "node:assert/strict";

/** Where two runs of bytes of the same length first differ; -1 if nowhere. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const viewA = new DataView(a.buffer, a.byteOffset, a.length);
  const viewB = new DataView(b.buffer, b.byteOffset, b.length);
  const words = Math.min(a.length, b.length) & ~3;
  let at = 0;
  while (at < words && viewA.getInt32(at) === viewB.getInt32(at)) at += 4;
  for (; at < a.length; at += 1) if (a[at] !== b[at]) return at;
  return -1;
}

/** True if all bytes are 0. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += 1) if (bytes[at] !== 0) return false;
  return true;
}

function hex(byte: number | undefined): string {
  return byte === undefined ? "nothing" : `0x${byte.toString(16).padStart(2, "0")}`;
}

/** Fails unless `actual`, read at `offset` of the device, is `expected`; `after` says what came before. */
export function expectBytes(
  actual: Uint8Array,
  expected: Uint8Array,
  offset: number,
  after: string,
): void {
  const at = firstDifference(actual, expected);
  if (at < 0 && actual.length === expected.length) return;
  throw new AssertionError({
    message: `Offset ${offset + at} reads as ${hex(actual[at])}, not ${hex(expected[at])}, ` +
      `in a read of ${expected.length} bytes at ${offset} after ${after}`,
    actual: hex(actual[at]),
    expected: hex(expected[at]),
    operator: "expectBytes",
  });
}
