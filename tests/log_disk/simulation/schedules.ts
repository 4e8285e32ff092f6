/**
 * All schedules of a few parties that share buckets. A party is code that calls stores; each of its calls
 * takes effect and is answered in one instant, and the parties' calls come in any order: all orders are
 * tried. Besides, as often as a scenario allows, a party is killed before any of its calls, or a creation has
 * an unclear outcome in any of the ways of the store in memory: no effect, an effect without a reply, or an
 * effect at any later time.
 *
 * What a party does next depends on nothing but what its calls have told it, so two schedules that lead to the
 * same buckets, and have told all parties the same, go on alike: only one of them is followed. What is tried
 * is all the same every schedule there is, and not a choice of them. A schedule is tried from its beginning, since
 * a party cannot be copied.
 *
 * Where that is too much, the number of times that a party is stopped to let another one go first is bounded.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import { crc32 } from "node:zlib";
import {
  type ByteRange,
  type ObjectEntry,
  type ObjectStore,
  type StoreCallOptions,
  type StoreCounts,
  StoreError,
} from "../../../lib/object_store/types.ts";
import { type MemoryBucket, MemoryStore } from "../../support/memory_store.ts";

/** Buckets by their address. */
export type Buckets = ReadonlyMap<string, MemoryBucket>;

/** How a party has ended: well, with an error, or it was killed. */
export type Ending =
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly error: Error }
  | { readonly kind: "killed" };

/** Somebody who calls stores. */
export interface Party {
  readonly name: string;
  /** What it does; `storeAt` gives its store on a bucket. */
  readonly run: (storeAt: (address: string) => ObjectStore) => Promise<unknown>;
  /** The calls that others can come between; all if left out. */
  readonly stopsAt?: (verb: Verb, address: string, key: string) => boolean;
}

/** What is asked of a store. */
export type Verb = "create" | "get" | "list" | "delete";

/** What is explored. */
export interface Scenario {
  /** The buckets at the beginning; each schedule has copies. */
  readonly buckets: Buckets;
  readonly parties: readonly Party[];
  /** Parties that may be killed in a schedule, and creations that may go wrong. */
  readonly kills: number;
  readonly faults: number;
  /** How often a party that could go on has to wait for others; Infinity for all schedules there are. */
  readonly preemptions: number;
}

/** How a schedule has ended. */
export interface Outcome {
  readonly buckets: Buckets;
  /** How each party has ended, by its name. */
  readonly endings: ReadonlyMap<string, Ending>;
  /** Creations went wrong. */
  readonly hasFaults: boolean;
  /** What happened, in order. */
  readonly steps: readonly string[];
}

/** What was explored. */
export interface Explored {
  /** Situations that differ, and schedules that were followed to their end. */
  readonly situations: number;
  readonly schedules: number;
}

/** What can happen to a call that waits. */
const FATES = ["go", "kill", "unclear", "lost-reply", "late"] as const;
type Fate = typeof FATES[number];

/** What happens next: something to the call of a party, or a creation that comes late. */
type Choice = { readonly party: number; readonly fate: Fate } | { readonly late: number };

interface Waiting {
  readonly verb: Verb;
  readonly what: string;
  readonly go: (fate: Fate) => void;
}

interface Late {
  readonly what: string;
  readonly effect: () => void;
}

/** Lets everything run that waits for no choice. */
function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => resolve()));
}

function sumOf(bytes: Uint8Array): string {
  return `${bytes.length}:${crc32(bytes).toString(16)}`;
}

/** A party in a schedule. */
class Actor {
  waiting: Waiting | null = null;
  ending: Ending | null = null;
  /** All that its calls have told it. */
  told = "";
  readonly party: Party;

  constructor(party: Party, storeAt: (actor: Actor, address: string) => ObjectStore) {
    this.party = party;
    party.run((address) => storeAt(this, address)).then(
      () => this.ending = { kind: "done" },
      (cause: unknown) => {
        const error = cause instanceof Error ? cause : new Error(String(cause));
        this.ending = { kind: "failed", error };
      },
    );
  }

  /** Waits until it is this call's turn. */
  turn(verb: Verb, address: string, key: string): Promise<Fate> {
    if (this.party.stopsAt?.(verb, address, key) === false) return Promise.resolve("go");
    if (this.waiting !== null) throw new Error(`${this.party.name} makes two calls at a time`);
    const { promise, resolve } = Promise.withResolvers<Fate>();
    this.waiting = { verb, what: `${verb} ${address}/${key}`, go: resolve };
    return promise;
  }

  hears(what: string): void {
    this.told += `${what};`;
  }

  kill(): void {
    this.waiting = null;
    this.ending = { kind: "killed" };
  }
}

/** A store whose calls wait for their turn. */
class TurnStore implements ObjectStore {
  readonly name: string;
  readonly #below: MemoryStore;
  readonly #bucket: MemoryBucket;
  readonly #actor: Actor;
  readonly #late: Late[];

  constructor(address: string, bucket: MemoryBucket, actor: Actor, late: Late[]) {
    this.name = address;
    this.#bucket = bucket;
    this.#below = new MemoryStore(bucket);
    this.#actor = actor;
    this.#late = late;
  }

  get counts(): StoreCounts {
    return this.#below.counts;
  }

  async create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
  ): Promise<"created" | "exists"> {
    const fate = await this.#actor.turn("create", this.name, key);
    if (fate === "late") {
      const effect = (): void => void this.#below.create(key, body);
      this.#late.push({
        what: `${this.#actor.party.name}: ${this.name}/${key} comes late`,
        effect,
      });
    }
    const outcome = fate === "go" || fate === "lost-reply"
      ? await this.#below.create(key, body)
      : "unclear";
    this.#actor.hears(fate === "go" ? outcome : "unclear");
    if (outcome !== "unclear" && fate === "go") return outcome;
    throw new StoreError("unclear", `Cannot create ${key}: no answer came (planned)`);
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array<ArrayBuffer> | null> {
    await this.#actor.turn("get", this.name, key);
    const found = await this.#below.get(key, range);
    this.#actor.hears(found === null ? "nothing" : sumOf(found));
    return found;
  }

  async *list(
    prefix: string,
    options: StoreCallOptions & { readonly after?: string } = {},
  ): AsyncGenerator<ObjectEntry> {
    await this.#actor.turn("list", this.name, prefix);
    const { after = "" } = options, entries: ObjectEntry[] = [];
    // At once, as a page of a listing is.
    for (const key of this.#bucket.keys) {
      const entry = key > after && key.startsWith(prefix) ? this.#bucket.entry(key) : null;
      if (entry !== null) entries.push(entry);
    }
    this.#actor.hears(entries.map(({ key }) => key).join());
    yield* entries;
  }

  async delete(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) return;
    await this.#actor.turn("delete", this.name, keys.join());
    await this.#below.delete(keys);
    this.#actor.hears("deleted");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }
}

/** One schedule. */
class Schedule {
  readonly steps: string[] = [];
  readonly #scenario: Scenario;
  readonly #buckets: Buckets;
  readonly #actors: readonly Actor[];
  readonly #late: Late[] = [];
  #kills = 0;
  #faults = 0;
  #preemptions = 0;
  #last: Actor | null = null;

  constructor(scenario: Scenario) {
    this.#scenario = scenario;
    this.#buckets = new Map(
      [...scenario.buckets].map(([address, bucket]) => [address, bucket.copy()]),
    );
    this.#actors = scenario.parties.map((party) =>
      new Actor(party, (actor, address) => {
        const bucket = this.#buckets.get(address);
        if (bucket === undefined) throw new Error(`There is no bucket ${address}`);
        return new TurnStore(address, bucket, actor, this.#late);
      })
    );
  }

  /** What can happen next. */
  choices(): Choice[] {
    const { kills, faults, preemptions } = this.#scenario, found: Choice[] = [];
    const isBound = this.#preemptions === preemptions && this.#canGoOn(this.#last);
    for (const [party, actor] of this.#actors.entries()) {
      const { waiting } = actor;
      if (waiting === null || isBound && actor !== this.#last) continue;
      for (const fate of FATES) {
        const isFault = fate !== "go" && fate !== "kill";
        if (fate === "kill" && this.#kills === kills) continue;
        if (isFault && (this.#faults === faults || waiting.verb !== "create")) continue;
        found.push({ party, fate });
      }
    }
    for (const late of this.#late.keys()) found.push({ late });
    return found;
  }

  #canGoOn(actor: Actor | null): boolean {
    return actor !== null && actor.waiting !== null;
  }

  async take(choice: Choice): Promise<void> {
    if ("late" in choice) {
      const [late] = this.#late.splice(choice.late, 1);
      this.steps.push(late?.what ?? "");
      late?.effect();
      return await settle();
    }
    const { party, fate } = choice, actor = this.#actors[party];
    if (actor === undefined || actor.waiting === null) {
      throw new Error("Two runs were not the same");
    }
    const { waiting, party: { name } } = actor;
    this.steps.push(`${name}: ${waiting.what}${fate === "go" ? "" : ` (${fate})`}`);
    if (fate === "kill") {
      this.#kills += 1;
      return actor.kill();
    }
    if (actor !== this.#last && this.#canGoOn(this.#last)) this.#preemptions += 1;
    this.#last = actor;
    if (fate !== "go") this.#faults += 1;
    actor.waiting = null;
    waiting.go(fate);
    await settle();
  }

  /** Tells apart what goes on differently. */
  get situation(): string {
    const parts = [`${this.#kills} ${this.#faults}`];
    if (this.#scenario.preemptions < Infinity) {
      parts.push(`${this.#preemptions} ${this.#last?.party.name}`);
    }
    for (const [address, bucket] of this.#buckets) {
      for (const key of bucket.keys) {
        parts.push(`${address}/${key} ${sumOf(bucket.peek(key) ?? new Uint8Array())}`);
      }
    }
    for (const { told, ending } of this.#actors) {
      parts.push(ending?.kind === "killed" ? "killed" : told);
    }
    parts.push(...this.#late.map(({ what }) => what).sort());
    return parts.join("\n");
  }

  get outcome(): Outcome {
    const endings = new Map<string, Ending>();
    for (const { party: { name }, ending } of this.#actors) {
      if (ending === null) throw new Error(`${name} waits for something that never comes`);
      endings.set(name, ending);
    }
    const { steps } = this;
    return { buckets: this.#buckets, endings, hasFaults: this.#faults > 0, steps };
  }
}

/**
 * Follows all schedules of a scenario; `check` looks at how each has ended. Throws what `check` throws, with
 * the schedule.
 */
export async function explore(
  scenario: Scenario,
  check: (outcome: Outcome) => Promise<void>,
): Promise<Explored> {
  const seen = new Set<string>(), left: (readonly Choice[])[] = [[]];
  let schedules = 0;
  for (let begin = left.pop(); begin !== undefined; begin = left.pop()) {
    const schedule = new Schedule(scenario), taken = [...begin];
    await settle();
    for (const choice of begin) await schedule.take(choice);
    for (;;) {
      const { situation } = schedule;
      if (seen.has(situation)) break;
      seen.add(situation);
      const [first, ...others] = schedule.choices();
      if (first === undefined) {
        schedules += 1;
        const { outcome } = schedule;
        await check(outcome).catch((cause: unknown) => {
          const reason = cause instanceof Error ? cause.message : String(cause);
          throw new Error(`${reason}\n${outcome.steps.join("\n")}`, { cause });
        });
        break;
      }
      for (const other of others) left.push([...taken, other]);
      taken.push(first);
      await schedule.take(first);
    }
  }
  return { situations: seen.size, schedules };
}
