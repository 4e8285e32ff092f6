/**
 * A part of a device as a device of its own: what `slice` and `partition` are.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import { chain } from "../../block/maybe.ts";
import type { Backend, Extent } from "../../block/types.ts";
import { nextOf, wrap } from "./wrap.ts";

/** Extents cut to `length` bytes. */
export function cutExtents(extents: readonly Extent[], length: number): Extent[] {
  const cut: Extent[] = [];
  let left = length;
  for (const extent of extents) {
    if (left === 0) break;
    cut.push(extent.length <= left ? extent : { ...extent, length: left });
    left -= Math.min(extent.length, left);
  }
  return cut;
}

/**
 * The `size` bytes at `start` of a device; `what` names them in messages. Errno: EINVAL if they are not
 * on the device, or not aligned to its smallest block. The part cannot be resized.
 */
export function windowOn(backend: Backend, start: number, size: number, what: string): Backend {
  const { minimum, size: whole } = backend.geometry;
  const refuse = (reason: string): never => {
    throw new BlockError("EINVAL", `Cannot use ${what}, ${size} bytes at ${start}: ${reason}`);
  };
  if (start > whole - size) refuse(`the device below ends at ${whole}`);
  if (start % minimum !== 0 || size % minimum !== 0) {
    refuse(`the device below has blocks of ${minimum} bytes`);
  }
  const next = nextOf(backend);
  return wrap(backend, {
    geometry: (below) => ({ ...below, size }),
    drops: ["resize"],
    verbs: {
      read: (into, offset) => next.read(into, start + offset),
      write: (from, offset, options) => next.write(from, start + offset, options),
      trim: (offset, length, options) => next.trim(start + offset, length, options),
      zero: (offset, length, options) => next.zero(start + offset, length, options),
      cache: (offset, length) => next.cache(start + offset, length),
      extents: (offset, length) =>
        chain(next.extents(start + offset, length), (found) => cutExtents(found, size - offset)),
    },
  });
}
