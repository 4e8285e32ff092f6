/**
 * Every kind of storage that dmu brings along: a new one is a new file and one line here.
 *
 * @module
 */
import { type AnyBackendType, Registry } from "../lib/block/registry.ts";
import { filters } from "../lib/filters/mod.ts";
import { file } from "./file.ts";
import { memory } from "./memory.ts";
import { mirror } from "./mirror/mod.ts";
import { nbd } from "./nbd.ts";
import { nullBackend } from "./null.ts";
import { pattern } from "./pattern.ts";
import { qcow2 } from "./qcow2/mod.ts";
import { dir, s3 } from "./s3/mod.ts";

/** The kinds, in alphabetical order. */
export const backends: readonly AnyBackendType[] = [
  dir,
  file,
  memory,
  mirror,
  nbd,
  nullBackend,
  pattern,
  qcow2,
  s3,
];

/** A registry with all of them and all filters, to which others can be added. */
export function defaultRegistry(): Registry {
  const registry = new Registry();
  for (const type of backends) registry.register(type);
  for (const type of filters) registry.registerFilter(type);
  return registry;
}
