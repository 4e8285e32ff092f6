/**
 * A store that waits for the store below: calls that fail for a reason which may pass, or which somebody
 * can put right (no network, wrong credentials, a full bucket), are made again, with pauses that grow,
 * until they succeed or their signal aborts. The log says when waiting begins, now and then that it goes
 * on, and when it is over.
 *
 * When the signal of the context aborts, waiting is over: what fails then fails with what was wrong. Calls that
 * are under way, or begin then, are not cut off unless no answer comes.
 *
 * @module
 */
import type { Clock, Log, Random } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { HOLD_NEWS_MS, HOLD_PAUSE_FIRST_MS, HOLD_PAUSE_MS_MAX, LAST_CALL_MS } from "./limits.ts";
import {
  type ByteRange,
  type ObjectEntry,
  type ObjectStore,
  type StoreCallOptions,
  type StoreCounts,
  StoreError,
  type StoreErrorKind,
} from "./types.ts";

/** What waiting takes. */
export interface PatienceContext {
  /** Time. */
  readonly clock: Clock;
  /** For pauses. */
  readonly random: Random;
  /** Messages. */
  readonly log: Log;
  /** Ends all waiting. */
  readonly signal: AbortSignal;
}

/** A store that waits once it was told to. */
export interface PatientStore extends ObjectStore {
  /** From now on it waits; before, calls fail as those of the store below do. */
  beginToWait(): void;
}

/** What may pass, or be put right. An unclear outcome is for the caller, damage stays damage. */
const MAY_PASS: ReadonlySet<StoreErrorKind> = new Set<StoreErrorKind>([
  "unavailable",
  "denied",
  "expired",
  "full",
  "no-bucket",
  "skewed",
]);

/** Refusals that no waiting changes. */
function isFinal(error: StoreError): boolean {
  return !MAY_PASS.has(error.kind) || error.errno === "EROFS" || error.errno === "ENOTDIR";
}

class Patient implements PatientStore {
  readonly #below: ObjectStore;
  readonly #context: PatienceContext;
  #waits = false;
  /** Since when nothing has succeeded, and when that was last said, in µs. */
  #trouble: { readonly sinceUs: number; saidUs: number } | null = null;

  constructor(below: ObjectStore, context: PatienceContext) {
    this.#below = below;
    this.#context = context;
  }

  get name(): string {
    return this.#below.name;
  }

  get counts(): StoreCounts {
    return this.#below.counts;
  }

  beginToWait(): void {
    this.#waits = true;
  }

  async #patiently<T>(
    signal: AbortSignal | undefined,
    call: (options: StoreCallOptions) => Promise<T>,
  ): Promise<T> {
    const { signal: end } = this.#context, late = new AbortController();
    const { signal: cut } = late;
    const either = signal === undefined ? cut : AbortSignal.any([signal, cut]);
    const isOver = new AbortController();
    const onEnd = (): void => void this.#cutLater(late, isOver.signal);
    if (end.aborted) onEnd();
    end.addEventListener("abort", onEnd);
    try {
      for (let round = 0;; round += 1) {
        try {
          const result = await call({ signal: either });
          this.#succeeded();
          return result;
        } catch (error) {
          if (!this.#waits || !(error instanceof StoreError) || isFinal(error)) throw error;
          if (end.aborted) throw error;
          this.#failed(error);
          await this.#pause(round, AbortSignal.any([either, end]));
        }
      }
    } finally {
      end.removeEventListener("abort", onEnd);
      isOver.abort();
    }
  }

  /** Ends a call that nobody answers. */
  async #cutLater(call: AbortController, isOver: AbortSignal): Promise<void> {
    try {
      await this.#context.clock.sleep(LAST_CALL_MS, isOver);
    } catch {
      return; // it has ended by itself
    }
    const message = `${this.name} does not answer: given up after ${LAST_CALL_MS / 1000} s`;
    call.abort(new BlockError("ETIMEDOUT", message));
  }

  async #pause(round: number, signal: AbortSignal): Promise<void> {
    const { clock, random, signal: end } = this.#context;
    const bound = Math.min(HOLD_PAUSE_MS_MAX, HOLD_PAUSE_FIRST_MS * 2 ** Math.min(round, 20));
    try {
      await clock.sleep(bound / 2 + random.uint32() / 2 ** 32 * bound / 2, signal);
    } catch (reason) {
      // When waiting ends the call is made once more: what it fails with then is what was wrong.
      if (!end.aborted) throw reason;
    }
  }

  #failed(error: StoreError): void {
    const { clock, log } = this.#context;
    const nowUs = clock.now();
    if (this.#trouble === null) {
      this.#trouble = { sinceUs: nowUs, saidUs: nowUs };
      log.error(`${this.name}: I/O is held until this passes: ${error.message}`);
      return;
    }
    if (nowUs - this.#trouble.saidUs < HOLD_NEWS_MS * 1000) return;
    this.#trouble.saidUs = nowUs;
    const seconds = Math.round((nowUs - this.#trouble.sinceUs) / 1e6);
    log.warn(`${this.name}: I/O has been held for ${seconds} s: ${error.message}`);
  }

  #succeeded(): void {
    if (this.#trouble === null) return;
    const { clock, log } = this.#context;
    const seconds = Math.round((clock.now() - this.#trouble.sinceUs) / 1e6);
    this.#trouble = null;
    log.info(`${this.name}: it works again, I/O goes on after ${seconds} s`);
  }

  create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
    { signal }: StoreCallOptions = {},
  ): Promise<"created" | "exists"> {
    return this.#patiently(signal, (options) => this.#below.create(key, body, options));
  }

  get(
    key: string,
    range?: ByteRange,
    { signal }: StoreCallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.#patiently(signal, (options) => this.#below.get(key, range, options));
  }

  async *list(
    prefix: string,
    { signal, after = "" }: StoreCallOptions & { readonly after?: string } = {},
  ): AsyncGenerator<ObjectEntry> {
    let last = after;
    let entries = this.#entries(prefix, last, signal);
    while (true) {
      const next = await this.#patiently(signal, async () => {
        try {
          return await entries.next();
        } catch (error) {
          // A listing that failed is over: another one begins where it was.
          entries = this.#entries(prefix, last, signal);
          throw error;
        }
      });
      if (next.done === true) return;
      last = next.value.key;
      yield next.value;
    }
  }

  #entries(
    prefix: string,
    after: string,
    signal: AbortSignal | undefined,
  ): AsyncIterator<ObjectEntry> {
    const options = signal === undefined ? { after } : { after, signal };
    return this.#below.list(prefix, options)[Symbol.asyncIterator]();
  }

  delete(keys: readonly string[], { signal }: StoreCallOptions = {}): Promise<void> {
    return this.#patiently(signal, (options) => this.#below.delete(keys, options));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#below[Symbol.asyncDispose]();
  }
}

/** A store that can wait for the one below, which it owns. */
export function patientStore(below: ObjectStore, context: PatienceContext): PatientStore {
  return new Patient(below, context);
}
