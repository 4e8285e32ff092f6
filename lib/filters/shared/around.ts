/**
 * For filters that do the same to several verbs: what happens around a call, whichever it is.
 *
 * @module
 */
import type { Errno } from "../../block/errors.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  type Operation,
  OPERATIONS,
} from "../../block/request.ts";
import type { Maybe } from "../../block/types.ts";
import type { Next, Verbs } from "./wrap.ts";

/** A call that passes a filter. Offset and length are bytes, 0 for a flush. */
export interface Call {
  /** The verb. */
  readonly operation: Operation;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** FLAG_ bits. */
  readonly flags: number;
}

/** What is done around a call; `run` makes the call, as often as it is called. */
export type Around = <T>(call: Call, run: () => Maybe<T>) => Maybe<T>;

/** Operations that filters act on if not told: those that move or change data. */
export const USUAL_OPERATIONS: readonly Operation[] = ["read", "write", "flush", "trim", "zero"];

/** Errors that storage reports: what `error` can make up and `retry` can try again. */
export const STORAGE_ERRNOS: readonly Errno[] = [
  "EIO",
  "ENOSPC",
  "ENOMEM",
  "EAGAIN",
  "EBUSY",
  "ETIMEDOUT",
  "EREMOTEIO",
  "ENXIO",
  "ENODEV",
  "EPERM",
  "EROFS",
  "EINVAL",
  "EOPNOTSUPP",
  "ESHUTDOWN",
];

/** The verbs of the next layer with `around` around those of `operations`; others are not among them. */
export function aroundVerbs(
  next: Next,
  around: Around,
  operations: readonly Operation[] = OPERATIONS,
): Partial<Verbs> {
  const fuaFlag = (fua: boolean): number => fua ? FLAG_FUA : 0;
  const make = (operation: Operation, offset: number, length: number, flags = 0): Call => ({
    operation,
    offset,
    length,
    flags,
  });
  const all: Omit<Verbs, "resize"> = {
    read: (into, offset) =>
      around(make("read", offset, into.length), () => next.read(into, offset)),
    write: (from, offset, options) =>
      around(
        make("write", offset, from.length, fuaFlag(options.fua)),
        () => next.write(from, offset, options),
      ),
    flush: () => around(make("flush", 0, 0), () => next.flush()),
    trim: (offset, length, options) =>
      around(
        make("trim", offset, length, fuaFlag(options.fua)),
        () => next.trim(offset, length, options),
      ),
    zero: (offset, length, options) => {
      const flags = fuaFlag(options.fua) | (options.mayTrim ? FLAG_MAY_TRIM : 0) |
        (options.fastOnly ? FLAG_FAST_ONLY : 0);
      return around(
        make("zero", offset, length, flags),
        () => next.zero(offset, length, options),
      );
    },
    cache: (offset, length) =>
      around(make("cache", offset, length), () => next.cache(offset, length)),
    extents: (offset, length) =>
      around(make("extents", offset, length), () => next.extents(offset, length)),
  };
  return Object.fromEntries(
    Object.entries(all).filter(([name]) => operations.some((operation) => operation === name)),
  );
}
