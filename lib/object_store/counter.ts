/**
 * Counting what is asked of a store.
 *
 * @module
 */
import type { StoreCounts } from "./types.ts";

/** Counts that a store adds to. */
export type StoreCounter = { -readonly [K in keyof StoreCounts]: number };

/** All zero. */
export function storeCounter(): StoreCounter {
  return { puts: 0, gets: 0, lists: 0, deletes: 0, bytesOut: 0, bytesIn: 0, retries: 0 };
}

/** Bytes of a body that comes in parts. */
export function bodyBytes(body: readonly Uint8Array[]): number {
  return body.reduce((sum, { length }) => sum + length, 0);
}
