/**
 * XenStore service over any pair of Web Streams, in the thread of the caller. Sockets and xenbus files
 * are served by a thread of their own: see service.ts.
 *
 * @module
 */
import { runSession } from "../stream/run_session.ts";
import type { BytePair } from "../stream/session.ts";
import { XenstoreError } from "./errors.ts";
import { type ControlResult, XenstoreSession } from "./session.ts";
import type { Store } from "./store.ts";

/** Settings of `serveXenstore`. */
export interface ServeXenstoreOptions {
  /** The domain of the peer. */
  readonly domid: number;
  /** Ends the connection at once. */
  readonly signal?: AbortSignal;
  /**
   * Answers a CONTROL for the daemon (its first word is DAEMON_COMMAND, `words` are the others) with a
   * text of at most 4095 bytes in UTF-8. Rejects with XenstoreError for its error; others become EIO.
   */
  readonly control?: (words: readonly string[]) => Promise<string>;
}

/** What comes of the daemon's work on a CONTROL. */
export async function controlResult(work: () => Promise<string>): Promise<ControlResult> {
  try {
    return { payload: new TextEncoder().encode(`${await work()}\0`) };
  } catch (error) {
    return { code: error instanceof XenstoreError ? error.code : "EIO" };
  }
}

/**
 * Serves one peer until it goes. Resolves when its watches and transactions are gone; rejects with
 * ProtocolError if it broke the protocol or left too many events unread.
 *
 * @example
 * ```ts
 * import { memoryPair } from "../stream/memory_pair.ts";
 * import { XenstoreClient } from "./client.ts";
 * import { serveXenstore } from "./server.ts";
 * import { Store } from "./store.ts";
 *
 * const [here, there] = memoryPair();
 * const serving = serveXenstore(there, new Store(), { domid: 0 });
 * const client = new XenstoreClient(here);
 * await client.write("/greeting", "hello");
 * if (await client.readText("/greeting") !== "hello") throw new Error("it was not kept");
 * await client.close();
 * await serving;
 * ```
 */
export async function serveXenstore(
  pair: BytePair,
  store: Store,
  options: ServeXenstoreOptions,
): Promise<void> {
  const { domid, signal, control } = options;
  const session: XenstoreSession = new XenstoreSession(store, {
    domid,
    ...(control === undefined ? {} : {
      control: (words): void =>
        void controlResult(() => control(words)).then((result) => session.endControl(result)),
    }),
  });
  await runSession(pair, session, signal === undefined ? {} : { signal });
  if (session.failure !== null) throw session.failure;
}
