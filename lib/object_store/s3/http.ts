/**
 * One HTTP exchange over `fetch`: a request that is whole, an answer that is whole, a time-out on both.
 * What goes wrong says whether the request may have reached the server.
 *
 * Deno's `fetch` sends a request a second time, by itself, if a connection that was used before ends
 * without an answer; a PUT as well. A creation may therefore find its own object there.
 *
 * @module
 */
import type { Clock } from "../../block/context.ts";
import { ANSWER_BYTES_MAX, IDLE_CONNECTIONS_MAX } from "./limits.ts";

/** A request, signed and complete. */
export interface HttpRequest {
  /** "GET", "PUT" … */
  readonly method: string;
  /** Where to. */
  readonly url: string;
  /** Headers; `host` and `content-length` are added from the rest. */
  readonly headers: Readonly<Record<string, string>>;
  /** The body, or null. */
  readonly body: Uint8Array<ArrayBuffer> | null;
  /** Time in ms that the exchange may take. */
  readonly timeoutMs: number;
}

/** An answer that came whole. */
export interface HttpAnswer {
  /** Status code. */
  readonly status: number;
  /** Headers. */
  readonly headers: Headers;
  /** The body. */
  readonly body: Uint8Array<ArrayBuffer>;
}

/** No whole answer came. */
export class HttpError extends Error {
  /** The server may have the request; false if the connection was never made. */
  readonly mayBeSent: boolean;

  /** `message` says what happened, in a few words. */
  constructor(message: string, mayBeSent: boolean, cause: unknown) {
    super(message, { cause });
    this.name = "HttpError";
    this.mayBeSent = mayBeSent;
  }
}

/** Makes exchanges. */
export interface HttpClient {
  /** One exchange. Throws HttpError, or the signal's reason if it aborts. */
  exchange(request: HttpRequest, signal: AbortSignal | undefined): Promise<HttpAnswer>;
  /** Closes its connections. */
  close(): void;
}

/** What `fetch` says, without the address, which stands in the message around it already. */
function innermost(error: unknown): string {
  const { cause } = error instanceof Error ? error : {};
  const text = cause instanceof Error ? cause.message : error instanceof Error ? error.message : "";
  return text.replace(/^error sending request.*?\): (?=client error)/, "")
    .replace(/^client error \(\w+\): /, "");
}

/** The connection was not made, so nothing was sent on it. */
function isBeforeSending(error: unknown): boolean {
  return error instanceof TypeError && error.cause instanceof Error &&
    error.cause.message.includes("client error (Connect)");
}

class TimedOut extends Error {}

/** Makes a client. `caCertificates` are PEM texts that are trusted besides the system's. */
export function httpClient(clock: Clock, caCertificates: readonly string[] = []): HttpClient {
  const client = Deno.createHttpClient({
    http2: false,
    poolMaxIdlePerHost: IDLE_CONNECTIONS_MAX,
    caCerts: [...caCertificates],
  });

  async function exchange(
    request: HttpRequest,
    signal: AbortSignal | undefined,
  ): Promise<HttpAnswer> {
    signal?.throwIfAborted();
    const { method, url, headers, body, timeoutMs } = request;
    const deadline = new AbortController(), done = new AbortController();
    clock.sleep(timeoutMs, done.signal).then(
      () => deadline.abort(new TimedOut(`no answer within ${Math.round(timeoutMs / 1000)} s`)),
      () => undefined,
    );
    const signals = signal === undefined ? [deadline.signal] : [deadline.signal, signal];
    try {
      const response = await fetch(url, {
        client,
        method,
        headers,
        body,
        redirect: "manual",
        signal: AbortSignal.any(signals),
      });
      const wanted = response.headers.get("content-length");
      if (Number(wanted ?? 0) > ANSWER_BYTES_MAX) {
        await response.body?.cancel();
        throw new Error(`the answer has ${wanted} bytes, which is too long`);
      }
      const bytes = new Uint8Array(await response.arrayBuffer());
      if (wanted !== null && method !== "HEAD" && Number(wanted) !== bytes.length) {
        throw new Error(`${bytes.length} bytes of ${wanted} came`);
      }
      return { status: response.status, headers: response.headers, body: bytes };
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof TimedOut) throw new HttpError(error.message, true, error);
      throw new HttpError(innermost(error), !isBeforeSending(error), error);
    } finally {
      done.abort(new Error("the exchange is over"));
    }
  }

  return { exchange, close: () => client.close() };
}
