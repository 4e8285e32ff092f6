/**
 * A connection to an NBD server in its transmission phase: block verbs with a promise each, many in
 * flight. If the connection is lost, everything in flight fails and so does what comes later.
 *
 * @module
 */
import type { BitmapRun } from "../../block/bitmaps.ts";
import type { Clock } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import type { BufferPool } from "../../block/pool.ts";
import { NO_DATA } from "../../block/request.ts";
import type { Extent } from "../../block/types.ts";
import { runSession } from "../../stream/run_session.ts";
import type { BytePair } from "../../stream/session.ts";
import { COMMAND } from "../constants.ts";
import type { Negotiated } from "./handshake.ts";
import { GOODBYE_TIMEOUT_MS } from "./limits.ts";
import { ClientSession } from "./session.ts";

/** What a connection is made of. */
export interface ConnectionParts {
  /** The end of the handshake. */
  readonly negotiated: Negotiated;
  /** What the session runs over. */
  readonly pair: BytePair;
  /** Bytes that came behind the handshake. */
  readonly rest: Uint8Array;
  /** Lends buffers for requests. */
  readonly pool: BufferPool;
  /** Measures the time-out. */
  readonly clock: Clock;
  /** The connection fails with ETIMEDOUT if nothing moves for this long while requests wait; 0: never. */
  readonly timeoutMs: number;
  /** Drops the transport at once. */
  close(): void;
}

/** An open export. Offsets and lengths are bytes and are not checked here; flags are COMMAND_FLAG bits. */
export class NbdConnection implements AsyncDisposable {
  /** What was negotiated. */
  readonly negotiated: Negotiated;

  readonly #session: ClientSession;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #closeTransport: () => void;
  readonly #abort = new AbortController();
  readonly #over: Promise<void>;
  #inFlight = 0;
  #watching = false;
  #disposing: Promise<void> | null = null;
  #whenIdle: (() => void) | null = null;

  /** Takes over the transport. */
  constructor(parts: ConnectionParts) {
    this.negotiated = parts.negotiated;
    this.#clock = parts.clock;
    this.#timeoutMs = parts.timeoutMs;
    this.#closeTransport = () => parts.close();
    const { size, structured, extended, statusContext } = parts.negotiated;
    this.#session = new ClientSession(
      { size, structured, extended, statusContext },
      parts.pool,
    );
    this.#over = this.#run(parts.pair, parts.rest);
  }

  /** Requests that were sent or wait to be. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Why no request is taken any more, or null. */
  get refusal(): BlockError | null {
    return this.#session.refusal;
  }

  /** Resolves when the connection has ended, for whatever reason: `refusal` tells it. */
  get over(): Promise<void> {
    return this.#over;
  }

  /** Fills `into` from `offset`. */
  read(into: Uint8Array, offset: number): Promise<void> {
    return this.#request(NOTHING, COMMAND.READ, 0, offset, into.length, into);
  }

  /** Writes `from` at `offset`; FUA may be set if the server offers it. */
  write(from: Uint8Array, offset: number, flags = 0): Promise<void> {
    return this.#request(NOTHING, COMMAND.WRITE, flags, offset, from.length, from);
  }

  /** Makes completed writes durable. Only if the server offers it. */
  flush(): Promise<void> {
    return this.#request(NOTHING, COMMAND.FLUSH, 0, 0, 0);
  }

  /** Discards. Only if the server offers it. */
  trim(offset: number, length: number, flags = 0): Promise<void> {
    return this.#request(NOTHING, COMMAND.TRIM, flags, offset, length);
  }

  /** Zeroes; FUA, NO_HOLE and FAST_ZERO may be set. Only if the server offers it. */
  zero(offset: number, length: number, flags = 0): Promise<void> {
    return this.#request(NOTHING, COMMAND.WRITE_ZEROES, flags, offset, length);
  }

  /** Prefetches. Only if the server offers it. */
  cache(offset: number, length: number): Promise<void> {
    return this.#request(NOTHING, COMMAND.CACHE, 0, offset, length);
  }

  /** Block status of base:allocation, which has to be negotiated: at least one extent, maybe not all. */
  extents(offset: number, length: number): Promise<Extent[]> {
    return this.#request((extents) => extents, COMMAND.BLOCK_STATUS, 0, offset, length);
  }

  /** Block status of a dirty bitmap's context, which has to be negotiated: as `extents`. */
  dirtyRuns(offset: number, length: number): Promise<BitmapRun[]> {
    // What is the flag of a hole in base:allocation is that of a change in such a context: bit 0.
    const runsOf = (extents: Extent[]): BitmapRun[] =>
      extents.map(({ length, allocated }) => ({ length, dirty: !allocated }));
    return this.#request(runsOf, COMMAND.BLOCK_STATUS, 0, offset, length);
  }

  /** Drops the connection: everything in flight fails. */
  abort(reason: unknown): void {
    this.#abort.abort(reason);
  }

  /** Waits for what is in flight, says goodbye and closes. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposing ??= this.#dispose();
    return this.#disposing;
  }

  #request<T>(
    resultOf: (extents: Extent[]) => T,
    command: number,
    flags: number,
    offset: number,
    length: number,
    data: Uint8Array = NO_DATA,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#inFlight += 1;
      const done = (error: BlockError | null, extents: Extent[]): void => {
        this.#inFlight -= 1;
        if (this.#inFlight === 0) this.#whenIdle?.();
        if (error === null) resolve(resultOf(extents));
        else reject(error);
      };
      this.#session.submit({ command, flags, offset, length, data, done });
      if (this.#timeoutMs > 0 && !this.#watching) this.#watch();
    });
  }

  async #run(pair: BytePair, rest: Uint8Array): Promise<void> {
    try {
      if (rest.length > 0) this.#session.receive(rest);
      await runSession(pair, this.#session, { signal: this.#abort.signal });
    } catch (error) {
      // Whoever waits for a request gets the error; there may be nobody else to tell.
      this.#session.end(error);
    } finally {
      this.#closeTransport();
      this.#abort.abort();
    }
  }

  /** Looks, as long as requests wait, whether bytes move. */
  async #watch(): Promise<void> {
    this.#watching = true;
    const session = this.#session;
    try {
      while (session.busy) {
        const before = session.movedBytes;
        await this.#clock.sleep(this.#timeoutMs, this.#abort.signal);
        if (!session.busy || session.movedBytes !== before) continue;
        const reason = `nothing came from the server for ${this.#timeoutMs} ms`;
        this.abort(new BlockError("ETIMEDOUT", reason));
      }
    } catch {
      // The connection is over, and the clock says so.
    } finally {
      this.#watching = false;
    }
  }

  async #dispose(): Promise<void> {
    this.#session.leave();
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#whenIdle = resolve);
    const farewell = this.#clock.sleep(GOODBYE_TIMEOUT_MS, this.#abort.signal)
      .then(() => this.abort(new BlockError("ETIMEDOUT", "the server does not take the goodbye")))
      .catch(() => {});
    await this.#over;
    await farewell;
  }
}

const NOTHING = (): void => {};
