/**
 * `slice`: a part of the device below.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { omittable, optionSchema, sizeOption } from "../block/options.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { windowOn } from "./shared/window.ts";

/** Options of slice, in bytes. */
export interface SliceOptions {
  /** Where the part begins. */
  readonly offset: number;
  /** How long it is; up to the end if left out. */
  readonly size?: number | undefined;
}

function open(next: Backend, { offset, size }: SliceOptions): Opened {
  const whole = next.geometry.size;
  if (offset > whole) {
    throw new BlockError(
      "EINVAL",
      `Cannot use a slice at ${offset}: the device below ends at ${whole}`,
    );
  }
  return { backend: windowOn(next, offset, size ?? whole - offset, "a slice") };
}

/** The filter. */
export const slice: FilterType<SliceOptions> = {
  name: "slice",
  summary: "a part of the device below",
  options: optionSchema({
    offset: sizeOption({ summary: "where the part begins", default: 0 }),
    size: omittable(sizeOption({ summary: "its size; up to the end if left out" })),
  }),
  open: (next, options) => Promise.try(open, next, options),
};
