/**
 * `readonly`: refuses whatever changes data.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { optionSchema } from "../block/options.ts";
import type { Backend, FilterType, Opened } from "../block/types.ts";
import { wrap } from "./shared/wrap.ts";

/** It has no options. */
export type ReadonlyOptions = Record<never, never>;

function open(next: Backend): Promise<Opened> {
  const backend = wrap(next, {
    geometry: (below) => ({ ...below, readOnly: true }),
    verbs: {
      write: () => {
        throw new BlockError("EROFS", "Cannot write: the filter readonly is in the way");
      },
    },
    drops: ["trim", "zero", "resize"],
  });
  return Promise.resolve({ backend });
}

/** The filter. */
export const readonly: FilterType<ReadonlyOptions> = {
  name: "readonly",
  summary: "refuses whatever changes data",
  options: optionSchema<ReadonlyOptions>({}),
  open,
};
