/**
 * What a log-structured disk works with.
 *
 * @module
 */
import type { OpenContext } from "../block/context.ts";
import type { ObjectStore } from "../object_store/types.ts";

/** Time, chance, messages, and the end: of the context that a backend is opened with. */
export type DiskContext = Pick<OpenContext, "clock" | "random" | "log" | "signal">;

/** Opens the store of a parent volume, which then belongs to the disk. */
export type ResolveParent = (address: string) => Promise<ObjectStore>;

/** A new id or nonce: 32 hexadecimal digits. */
export function newId(context: DiskContext): string {
  const bytes = new Uint8Array(16);
  context.random.fill(bytes);
  return bytes.toHex();
}
