/**
 * Every filter that dmu brings along: a new one is a new file and one line here.
 *
 * @module
 */
import type { AnyFilterType } from "../block/registry.ts";
import { blocksize } from "./blocksize.ts";
import { cache } from "./cache.ts";
import { cow } from "./cow.ts";
import { delay } from "./delay.ts";
import { error } from "./error.ts";
import { log } from "./log.ts";
import { partition } from "./partition.ts";
import { readahead } from "./readahead.ts";
import { readonly } from "./readonly.ts";
import { retry } from "./retry.ts";
import { slice } from "./slice.ts";
import { throttle } from "./throttle.ts";
import { torn } from "./torn.ts";
import { verify } from "./verify.ts";

/** The filters, in alphabetical order. */
export const filters: readonly AnyFilterType[] = [
  blocksize,
  cache,
  cow,
  delay,
  error,
  log,
  partition,
  readahead,
  readonly,
  retry,
  slice,
  throttle,
  torn,
  verify,
];
