/**
 * What an open image holds, as extents: as `qemu-img map` would tell it, what layers below hold included.
 *
 * @module
 */
import { EXTENTS_PER_CALL_MAX } from "../../../lib/block/limits.ts";
import type { Extent } from "../../../lib/block/types.ts";
import { COMPRESSED, DATA, emptyRun, mapRun, UNALLOCATED, ZERO_ALLOCATED } from "./mapping.ts";
import { isPreallocated } from "./preallocated.ts";
import type { ImageState } from "./state.ts";

/** Data that was never written lies in a hole of the file: it is zeroes, too. */
function dataExtent(state: ImageState, host: number, length: number): Extent {
  const { raw, length: end } = state.guestFile;
  if (!isPreallocated(state)) return { length, allocated: true, zero: false };
  if (host >= end) return { length, allocated: true, zero: true };
  const [first] = raw.extents(host, Math.min(length, end - host), 1);
  if (first === undefined) return { length, allocated: true, zero: false };
  return { length: first.length, allocated: true, zero: !first.data };
}

/** The first extent at `offset`, of at most `length` bytes. */
export function extentAt(state: ImageState, offset: number, length: number): Extent {
  const run = emptyRun();
  mapRun(state, offset, length, run);
  if (run.kind === DATA) return dataExtent(state, run.host, run.length);
  if (run.kind === COMPRESSED) return { length: run.length, allocated: true, zero: false };
  const { backing } = state;
  if (run.kind !== UNALLOCATED || backing === null || offset >= backing.size) {
    return { length: run.length, allocated: run.kind === ZERO_ALLOCATED, zero: true };
  }
  return backing.extent(offset, Math.min(run.length, backing.size - offset));
}

/** The extents of a range, neighbours of one state put together; stops short after the most that may be. */
export function extentsOf(state: ImageState, offset: number, length: number): Extent[] {
  const extents: Extent[] = [];
  let last: { length: number; allocated: boolean; zero: boolean } | null = null;
  for (let at = offset; at < offset + length;) {
    const next = extentAt(state, at, offset + length - at);
    at += next.length;
    if (last !== null && last.allocated === next.allocated && last.zero === next.zero) {
      last.length += next.length;
      continue;
    }
    if (extents.length === EXTENTS_PER_CALL_MAX) break;
    last = { ...next };
    extents.push(last);
  }
  return extents;
}
