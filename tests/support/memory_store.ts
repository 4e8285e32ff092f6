/**
 * An object store in memory with faults on demand, for simulations.
 *
 * The fault model. The objects are one `MemoryBucket`, which any number of stores share, as several
 * hosts share a bucket. A call takes effect in one instant, between its begin and its end: its `plan`
 * may hold it before its effect and after it for as long as it likes (a promise that never resolves is
 * a host that was killed there), and decides how it ends. Consistency is S3's: whatever took effect is
 * seen by all that takes effect later; nothing blinks. Nothing here reads a clock or draws a number
 * except through what it is given, and nothing is awaited but the plan: the same plan gives the same run.
 *
 * A creation can end in ways that the client must not confuse:
 *
 * - `fail`: no effect, and an error that says so;
 * - `unclear`: no effect, but the client cannot know;
 * - `lost-reply`: it took effect, but the client cannot know;
 * - `late`: the client gives up and cannot know; the effect comes later, when the plan lets it (a request
 *   that a proxy or a retransmission brings to the server after its sender has gone).
 *
 * @module
 */
import type { Clock } from "../../lib/block/context.ts";
import type { SeededRandom } from "../../lib/testing/random.ts";
import type { Maybe } from "../../lib/block/types.ts";
import {
  checkKey,
  type ObjectEntry,
  type ObjectStore,
  type StoreCallOptions,
  type StoreCounts,
  StoreError,
  type StoreErrorKind,
} from "../../lib/object_store/types.ts";

/** One call, as a plan sees it. */
export interface StoreCall {
  /** The name of the store that it was made on: the client. */
  readonly client: string;
  /** Calls of that store before it. */
  readonly number: number;
  /** What is asked. A listing is one call for each page. */
  readonly verb: "create" | "get" | "list" | "delete";
  /** The key, the prefix of a listing, or the first key to delete. */
  readonly key: string;
}

/** How a call ends: as it should, or with one of the faults that the head of this file tells of. */
export type Fate = "done" | { readonly fail: StoreErrorKind } | "unclear" | "lost-reply" | "late";

/** What happens to calls. */
export interface StorePlan {
  /** How the call will end; asked when it begins. */
  fate(call: StoreCall): Fate;
  /**
   * Where a call stands: before its effect, after it, and (`late`) before an effect that comes after the
   * client was told that it cannot know. The call goes on when this is done.
   */
  pass(call: StoreCall, point: "before" | "after" | "late"): Maybe<void>;
}

/** Everything is done at once. */
export const PLAIN_PLAN: StorePlan = { fate: () => "done", pass: () => undefined };

/** Chances of faults, each once in so many calls; absent: never. */
export interface FaultRates {
  readonly fail?: number;
  readonly unclear?: number;
  readonly lostReply?: number;
  readonly late?: number;
  /** Longest delay in ms before and after an effect. */
  readonly delayMsMax?: number;
  /** Longest delay in ms of a late effect; `delayMsMax` if absent. */
  readonly lateMsMax?: number;
}

/** A plan whose faults and delays are drawn from `random`; delays pass on `clock`. */
export function randomPlan(random: SeededRandom, clock: Clock, rates: FaultRates): StorePlan {
  const happens = (rate: number | undefined): boolean => rate !== undefined && random.oneIn(rate);
  const delayMsMax = rates.delayMsMax ?? 0;
  return {
    fate: ({ verb }) => {
      if (happens(rates.fail)) return { fail: "unavailable" };
      if (verb !== "create") return "done";
      if (happens(rates.unclear)) return "unclear";
      if (happens(rates.lostReply)) return "lost-reply";
      return happens(rates.late) ? "late" : "done";
    },
    pass: (_, point) => {
      const most = point === "late" ? rates.lateMsMax ?? delayMsMax : delayMsMax;
      return most === 0 ? undefined : clock.sleep(random.below(most + 1));
    },
  };
}

interface Stored {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly modifiedMs: number;
}

/** The objects, and what may be done to them behind the stores' backs. */
export class MemoryBucket {
  readonly #objects = new Map<string, Stored>();
  #sorted: string[] | null = null;
  readonly #wall: () => number;

  /** `wall` gives the time of objects in ms since 1970; all have the time 0 if left out. */
  constructor(wall: () => number = () => 0) {
    this.#wall = wall;
  }

  /** All keys in order. */
  get keys(): readonly string[] {
    return this.#sorted ??= [...this.#objects.keys()].sort();
  }

  /** Bytes of all objects. */
  get bytes(): number {
    let sum = 0;
    for (const { bytes } of this.#objects.values()) sum += bytes.length;
    return sum;
  }

  /** The object itself; a change of these bytes is damage. */
  peek(key: string): Uint8Array<ArrayBuffer> | null {
    return this.#objects.get(key)?.bytes ?? null;
  }

  /** Its entry, or null. */
  entry(key: string): ObjectEntry | null {
    const stored = this.#objects.get(key);
    if (stored === undefined) return null;
    return { key, size: stored.bytes.length, modifiedMs: stored.modifiedMs };
  }

  /** Adds an object unless there is one. */
  add(key: string, bytes: Uint8Array<ArrayBuffer>): boolean {
    if (this.#objects.has(key)) return false;
    this.#objects.set(key, { bytes, modifiedMs: this.#wall() });
    this.#sorted = null;
    return true;
  }

  /** Removes an object if there is one. */
  remove(key: string): void {
    if (this.#objects.delete(key)) this.#sorted = null;
  }

  /** The same objects in a bucket of its own: what a crash of everything at this instant leaves. */
  copy(): MemoryBucket {
    const copy = new MemoryBucket(this.#wall);
    for (const [key, stored] of this.#objects) copy.#objects.set(key, stored);
    return copy;
  }
}

function joined(body: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(body.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of body) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Entries of one page of a listing. */
const PAGE_ENTRIES = 1000;

/** A client's view of a bucket. */
export class MemoryStore implements ObjectStore {
  readonly name: string;
  readonly bucket: MemoryBucket;
  #plan: StorePlan;
  #calls = 0;
  readonly #counts = {
    puts: 0,
    gets: 0,
    lists: 0,
    deletes: 0,
    bytesOut: 0,
    bytesIn: 0,
    retries: 0,
  };

  constructor(bucket: MemoryBucket, plan: StorePlan = PLAIN_PLAN, name = "memory") {
    this.bucket = bucket;
    this.#plan = plan;
    this.name = name;
  }

  get counts(): StoreCounts {
    return { ...this.#counts };
  }

  /** Calls made so far, pages of listings among them. */
  get calls(): number {
    return this.#calls;
  }

  /** From the next call on. */
  set plan(plan: StorePlan) {
    this.#plan = plan;
  }

  async #call<T>(
    verb: StoreCall["verb"],
    key: string,
    signal: AbortSignal | undefined,
    effect: () => T,
  ): Promise<T> {
    signal?.throwIfAborted();
    const call: StoreCall = { client: this.name, number: this.#calls, verb, key };
    this.#calls += 1;
    const plan = this.#plan;
    const fate = plan.fate(call);
    const unclear = (): StoreError =>
      new StoreError("unclear", `Cannot ${verb} ${key}: no answer came (planned)`);
    await plan.pass(call, "before");
    if (fate === "late") {
      void (async (): Promise<void> => {
        await plan.pass(call, "late");
        effect();
      })();
    }
    const failed = typeof fate === "object" || fate === "unclear" || fate === "late";
    const result = failed ? null : { value: effect() };
    await plan.pass(call, "after");
    signal?.throwIfAborted();
    if (typeof fate === "object") {
      throw new StoreError(fate.fail, `Cannot ${verb} ${key}: ${fate.fail} (planned)`);
    }
    if (result === null || fate === "lost-reply") throw unclear();
    return result.value;
  }

  async create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
    { signal }: StoreCallOptions = {},
  ): Promise<"created" | "exists"> {
    checkKey(key);
    const bytes = joined(body);
    this.#counts.puts += 1;
    this.#counts.bytesOut += bytes.length;
    return await this.#call(
      "create",
      key,
      signal,
      () => this.bucket.add(key, bytes) ? "created" : "exists",
    );
  }

  async get(
    key: string,
    range?: { readonly offset: number; readonly length: number },
    { signal }: StoreCallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer> | null> {
    checkKey(key);
    this.#counts.gets += 1;
    const found = await this.#call("get", key, signal, () => {
      const bytes = this.bucket.peek(key);
      if (bytes === null) return null;
      return range === undefined
        ? bytes.slice()
        : bytes.slice(range.offset, range.offset + range.length);
    });
    this.#counts.bytesIn += found?.length ?? 0;
    return found;
  }

  async *list(
    prefix: string,
    { signal, after = "" }: StoreCallOptions & { readonly after?: string } = {},
  ): AsyncGenerator<ObjectEntry> {
    let from = after;
    while (true) {
      this.#counts.lists += 1;
      const page = await this.#call("list", prefix, signal, () => this.#page(prefix, from));
      yield* page;
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE_ENTRIES) return;
      from = last.key;
    }
  }

  #page(prefix: string, after: string): ObjectEntry[] {
    const page: ObjectEntry[] = [];
    for (const key of this.bucket.keys) {
      if (key <= after || !key.startsWith(prefix)) continue;
      const entry = this.bucket.entry(key);
      if (entry !== null) page.push(entry);
      if (page.length === PAGE_ENTRIES) break;
    }
    return page;
  }

  async delete(keys: readonly string[], { signal }: StoreCallOptions = {}): Promise<void> {
    for (const key of keys) checkKey(key);
    const [first] = keys;
    if (first === undefined) return;
    this.#counts.deletes += 1;
    await this.#call("delete", first, signal, () => {
      for (const key of keys) this.bucket.remove(key);
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}
