/**
 * Requests to one bucket: signing, attempts with pauses in between, the clock's skew, credentials that
 * end. A request is sent again if that is safe: it changes nothing when done twice, or it surely had no
 * effect. A creation that may have had one is `unclear` to the caller.
 *
 * Pauses are drawn from zero to a bound that doubles ("full jitter"), so that many clients do not come
 * back at once. Retries come out of a budget that only success fills.
 *
 * @module
 */
import type { Clock, Log, Random } from "../../block/context.ts";
import type { Errno } from "../../block/errors.ts";
import type { StoreCounter } from "../counter.ts";
import { StoreError } from "../types.ts";
import { readError, type ServerError } from "./answers.ts";
import type { CredentialSource } from "./credentials.ts";
import { meaningOf, serverError } from "./errors.ts";
import { type HttpAnswer, type HttpClient, HttpError } from "./http.ts";
import {
  ATTEMPT_MS_MAX,
  ATTEMPTS_MAX,
  BYTES_PER_MS_MIN,
  PAUSE_FIRST_MS,
  PAUSE_MS_MAX,
  RETRY_BUDGET,
  RETRY_REFUND,
} from "./limits.ts";
import { addressOf, type S3Place } from "./place.ts";
import { encodeQuery, type S3Credentials, sha256, Signer } from "./sign.ts";

/** What a caller works with. */
export interface CallerContext {
  /** Time. */
  readonly clock: Clock;
  /** For pauses. */
  readonly random: Random;
  /** For what is worth a line. */
  readonly log: Log;
  /** Who signs. */
  readonly credentials: CredentialSource;
  /** Who carries. */
  readonly http: HttpClient;
  /** What is counted. */
  readonly counts: StoreCounter;
}

/** One call. */
export interface S3Call {
  /** What it does, for messages: "create log/1". */
  readonly action: string;
  /** "GET", "PUT" … */
  readonly method: string;
  /** The key below the prefix; null for the bucket. */
  readonly key: string | null;
  /** Query by name. */
  readonly query?: readonly (readonly [name: string, value: string])[];
  /** Headers by lower-case name. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The body. */
  readonly body?: Uint8Array<ArrayBuffer>;
  /** Bytes that are expected to come, for the time-out. */
  readonly bytesIn?: number;
  /** Doing it twice is no different from doing it once. */
  readonly mayRepeat: boolean;
  /** Which of its counts goes up with each attempt. */
  readonly count: "puts" | "gets" | "lists" | "deletes";
  /** Codes of answers that are no errors. */
  readonly expected: readonly number[];
  /** What is wrong with an answer that was expected, or null. */
  readonly damage?: (answer: HttpAnswer) => string | null;
}

/** An attempt that gave no answer to go on with. */
interface Failure {
  readonly error: StoreError;
  readonly hadNoEffect: boolean;
  readonly mayPass: boolean;
  /** What the server said, if it did. */
  readonly server: ServerError | null;
  /** When it said so by its own clock, in ms since 1970. */
  readonly serverMs: number | null;
}

/** What one call has tried already. */
interface Attempts {
  made: number;
  correctedClock: boolean;
  renewed: boolean;
}

const NO_BODY = new Uint8Array();
/** The clock is corrected if it is off by more, in ms: less is no reason for a refusal. */
const SKEW_MS_MIN = 60_000;

/** The errno in what `fetch` says of a connection that could not be made. */
function connectErrno(message: string): Errno {
  if (/refused/i.test(message)) return "ECONNREFUSED";
  if (/unreachable/i.test(message)) return "ENETUNREACH";
  if (/no answer within/.test(message)) return "ETIMEDOUT";
  if (/reset|closed/i.test(message)) return "ECONNRESET";
  return "EHOSTUNREACH";
}

function unclear({ error }: Failure): StoreError {
  const message = `${error.message}; whether it happened is not known`;
  return new StoreError("unclear", message, { cause: error, errno: error.errno });
}

/** Makes calls of one bucket. */
export class S3Caller {
  readonly name: string;
  readonly #place: S3Place;
  readonly #context: CallerContext;
  readonly #signer: Signer;
  /** The server's clock is ahead of ours by so many ms. */
  #skewMs = 0;
  #budget = RETRY_BUDGET;

  constructor(name: string, place: S3Place, context: CallerContext) {
    this.name = name;
    this.#place = place;
    this.#context = context;
    this.#signer = new Signer(place.region);
  }

  /** Makes a call. Throws StoreError, or the signal's reason. */
  async call(call: S3Call, signal?: AbortSignal): Promise<HttpAnswer> {
    const attempts: Attempts = { made: 0, correctedClock: false, renewed: false };
    while (true) {
      signal?.throwIfAborted();
      const credentials = await this.#context.credentials.current();
      const result = await this.#attempt(call, credentials, signal);
      attempts.made += 1;
      if (!("error" in result)) {
        if (attempts.made === 1) this.#budget = Math.min(RETRY_BUDGET, this.#budget + RETRY_REFUND);
        return result;
      }
      if (!call.mayRepeat && !result.hadNoEffect) throw unclear(result);
      const again = await this.#canMend(result, attempts, credentials) ||
        (result.mayPass && await this.#pause(call, attempts, result, signal));
      if (!again) throw result.error;
      this.#context.counts.retries += 1;
    }
  }

  async #attempt(
    call: S3Call,
    credentials: S3Credentials,
    signal: AbortSignal | undefined,
  ): Promise<HttpAnswer | Failure> {
    const { clock, http, counts } = this.#context;
    const { method, query = [], body } = call;
    const { origin, host, path } = addressOf(this.#place, call.key);
    const headers = this.#signer.sign(
      {
        method,
        path,
        query,
        headers: { ...call.headers, host },
        payloadHash: sha256(body ?? NO_BODY),
      },
      credentials,
      clock.wall() + this.#skewMs,
    );
    // fetch makes it from the address.
    delete headers.host;
    const bytes = (body?.length ?? 0) + (call.bytesIn ?? 0);
    counts[call.count] += 1;
    counts.bytesOut += method === "PUT" ? bytes : 0;
    const url = `${origin}${path}${query.length === 0 ? "" : `?${encodeQuery(query)}`}`;
    const timeoutMs = ATTEMPT_MS_MAX + bytes / BYTES_PER_MS_MIN;
    try {
      const answer = await http.exchange(
        { method, url, headers, body: body ?? null, timeoutMs },
        signal,
      );
      return this.#judge(call, answer);
    } catch (error) {
      if (error instanceof HttpError) return this.#notAnswered(call, error);
      throw error;
    }
  }

  #notAnswered(call: S3Call, error: HttpError): Failure {
    const { endpoint } = this.#place;
    const message =
      `Cannot ${call.action} of ${this.name}: ${endpoint.host} does not answer: ${error.message}`;
    const errno = connectErrno(error.message);
    return {
      error: new StoreError("unavailable", message, { cause: error, errno }),
      hadNoEffect: !error.mayBeSent,
      mayPass: true,
      server: null,
      serverMs: null,
    };
  }

  #judge(call: S3Call, answer: HttpAnswer): HttpAnswer | Failure {
    const { status, headers, body } = answer;
    const action = `${call.action} of ${this.name}`;
    if (call.expected.includes(status)) {
      const damage = call.damage?.(answer) ?? null;
      if (damage === null) return answer;
      const error = new StoreError("corrupt", `Cannot ${action}: ${damage}`);
      return { error, hadNoEffect: false, mayPass: true, server: null, serverMs: null };
    }
    const server = readError(status, headers, body);
    const meaning = meaningOf(server);
    const serverMs = Date.parse(headers.get("date") ?? "");
    return {
      error: serverError(action, server),
      hadNoEffect: meaning.hadNoEffect,
      mayPass: meaning.mayPass,
      server,
      serverMs: Number.isNaN(serverMs) ? null : serverMs,
    };
  }

  /** Does something about a failure that another attempt alone would not help. Once for each call. */
  async #canMend(
    { error: { kind }, serverMs }: Failure,
    attempts: Attempts,
    credentials: S3Credentials,
  ): Promise<boolean> {
    if (kind === "skewed" && serverMs !== null && !attempts.correctedClock) {
      attempts.correctedClock = true;
      return this.#correctClock(serverMs);
    }
    if (kind === "expired" && !attempts.renewed) {
      attempts.renewed = true;
      return await this.#context.credentials.renew(credentials) !== null;
    }
    return false;
  }

  #correctClock(serverMs: number): boolean {
    const skewMs = serverMs - this.#context.clock.wall();
    const seconds = Math.round(skewMs / 1000);
    // Other calls of the same moment may have done it already; then this one only tries again.
    if (Math.abs(skewMs - this.#skewMs) < SKEW_MS_MIN) return true;
    this.#skewMs = skewMs;
    const direction = seconds > 0 ? "behind" : "ahead of";
    this.#context.log.warn(
      `${this.name}: this machine's clock is ${
        Math.abs(seconds)
      } s ${direction} the server's; requests are signed with the server's time`,
    );
    return true;
  }

  /** Waits before the next attempt; false if there is to be none. */
  async #pause(
    call: S3Call,
    { made }: Attempts,
    { error }: Failure,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    if (made >= ATTEMPTS_MAX || this.#budget < 1) return false;
    this.#budget -= 1;
    const { clock, random, log } = this.#context;
    const bound = Math.min(PAUSE_MS_MAX, PAUSE_FIRST_MS * 2 ** (made - 1));
    log.debug(`${error.message}; attempt ${made + 1} of ${call.action} follows`);
    await clock.sleep(random.uint32() / 2 ** 32 * bound, signal);
    return true;
  }
}
