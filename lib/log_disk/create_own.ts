/**
 * Creating a log object when its outcome may stay unclear: whoever does not know reads the header
 * that is there, and it tells by the writer's nonce whose object it is.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { type ObjectStore, StoreError } from "../object_store/types.ts";
import type { DiskContext } from "./context.ts";
import { CREATE_TRIES_MAX, CREATE_WAIT_MS } from "./limits.ts";
import type { LogHeader } from "./log_object.ts";
import { logKey } from "./names.ts";
import { readLogHeader } from "./scan.ts";

/** A log object that is to be created. */
export interface NewObject {
  /** Its sequence number. */
  readonly seq: number;
  /** Nonce of its writer. */
  readonly nonce: string;
  /** The whole object. Its bytes must not change any more. */
  readonly body: readonly Uint8Array<ArrayBuffer>[];
}

/** The object is there and ours; or somebody else's header is there. */
export type CreateOutcome = "ours" | LogHeader;

/** One try; "unclear" if it may have happened. */
async function tryCreate(
  store: ObjectStore,
  { seq, body }: NewObject,
  signal: AbortSignal,
): Promise<"created" | "exists" | "unclear"> {
  try {
    return await store.create(logKey(seq), body, { signal });
  } catch (error) {
    if (error instanceof StoreError && error.kind === "unclear") return "unclear";
    throw error;
  }
}

/**
 * Creates a log object, or finds out who has. Throws what the store throws; the object may then exist or
 * not, and trying again is safe.
 */
export async function createOwn(
  store: ObjectStore,
  object: NewObject,
  { clock, signal }: DiskContext,
): Promise<CreateOutcome> {
  let waitMs = CREATE_WAIT_MS;
  for (let round = 0; round < CREATE_TRIES_MAX; round += 1) {
    const outcome = await tryCreate(store, object, signal);
    if (outcome === "created") return "ours";
    const header = await readLogHeader(store, object.seq, signal);
    if (header !== null) return header.nonce === object.nonce ? "ours" : header;
    // It did not happen, or has not yet: the same once more, which can only succeed once.
    await clock.sleep(waitMs, signal);
    waitMs *= 2;
  }
  throw new BlockError(
    "EIO",
    `Cannot create ${store.name}/${
      logKey(object.seq)
    }: the outcome of ${CREATE_TRIES_MAX} tries is unclear`,
  );
}
