/**
 * Whether a store really creates only what is absent. Servers differ: some answer 501, some take the
 * condition and overwrite, and one that overwrites would let two writers destroy one disk. So it is tried:
 * the same key twice, one after the other, and several times at once.
 *
 * @module
 */
import type { Random } from "../block/context.ts";
import { type ObjectStore, type StoreCallOptions, StoreError } from "./types.ts";

/** Creations of one key at once. */
const RIVALS = 4;
/** Times that an unclear outcome is answered by another try with another key. */
const TRIES_MAX = 5;
const TOKEN_BYTES = 16;

function bodyOf(number: number): Uint8Array<ArrayBuffer>[] {
  return [new TextEncoder().encode(`dmu: may objects be overwritten? (${number})`)];
}

function refusal({ name }: ObjectStore, reason: string): StoreError {
  return new StoreError(
    "unsupported",
    `Cannot write to ${name}: ${reason}; a disk there would not be safe from a second writer, so it ` +
      "can be opened read-only alone",
  );
}

type Result = "created" | "exists" | "unclear";

async function create(
  store: ObjectStore,
  key: string,
  number: number,
  options: StoreCallOptions,
): Promise<Result> {
  try {
    return await store.create(key, bodyOf(number), options);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (error.kind === "unclear") return "unclear";
    if (error.kind !== "unsupported") throw error;
    throw refusal(store, `it does not create only what is absent (${error.message})`);
  }
}

/** One after the other. True if the store has shown what it does. */
async function tryInTurn(
  store: ObjectStore,
  key: string,
  options: StoreCallOptions,
): Promise<boolean> {
  if (await create(store, key, 1, options) === "unclear") return false;
  const second = await create(store, key, 2, options);
  if (second === "unclear") return false;
  const found = await store.get(key, undefined, options);
  const isFirst = new TextDecoder().decode(found ?? new Uint8Array()).endsWith("(1)");
  if (second === "exists" && isFirst) return true;
  throw refusal(store, "it overwrites objects although it is told to create only what is absent");
}

/** All at once. True if the store has shown what it does. */
async function tryAtOnce(
  store: ObjectStore,
  key: string,
  options: StoreCallOptions,
): Promise<boolean> {
  const rivals = Array.from({ length: RIVALS }, (_, at) => create(store, key, at, options));
  const results = await Promise.all(rivals);
  if (results.filter((result) => result === "created").length > 1) {
    throw refusal(store, "of several that create the same object more than one is told it did");
  }
  return results.includes("exists");
}

/**
 * Tries whether a store creates only what is absent; leaves nothing behind. Throws StoreError: of kind
 * `unsupported` and with the reason if it does not, or what kept the store from answering.
 */
export async function probeStore(
  store: ObjectStore,
  random: Random,
  options: StoreCallOptions = {},
): Promise<void> {
  for (const attempt of [tryInTurn, tryAtOnce]) {
    for (let tries = 1;; tries += 1) {
      const token = new Uint8Array(TOKEN_BYTES);
      random.fill(token);
      const key = `probe/${token.toHex()}`;
      try {
        if (await attempt(store, key, options)) break;
      } finally {
        await store.delete([key], options);
      }
      if (tries < TRIES_MAX) continue;
      const reason = "whether it creates only what is absent could not be found out";
      throw new StoreError("unavailable", `Cannot write to ${store.name}: ${reason}`);
    }
  }
}
