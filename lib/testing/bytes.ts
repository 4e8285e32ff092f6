/**
 * Comparing bytes of a device, with messages that say where.
 *
 * @module
 */
import { AssertionError } from "node:assert/strict";
import { Buffer } from "node:buffer";
import { firstDifference } from "../block/compare.ts";

/** True if all bytes are `value`. */
export function allAre(bytes: Uint8Array, value: number): boolean {
  if (bytes.length === 0) return true;
  // Each byte is like the one before it: asked this way, it is one native call for the kit's megabytes.
  return bytes[0] === value && Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1)) === 0;
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
