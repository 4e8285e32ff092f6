/**
 * A TCP proxy that keeps every chunk back for a time in each direction, as a long line does, and counts
 * the HTTP requests that pass. Order is kept and nothing is lost; throughput is not limited.
 *
 * @module
 */

/** A proxy that runs. */
export interface DelayProxy {
  /** `http://127.0.0.1:port`. */
  readonly endpoint: string;
  /** Requests that have passed, by method. */
  readonly requests: ReadonlyMap<string, number>;
  /** Ends all connections. */
  stop(): Promise<void>;
}

interface Pending {
  readonly dueMs: number;
  readonly bytes: Uint8Array;
}

const CHUNK_BYTES = 256 * 1024;

/** Hands on what comes after `delayMs`; ends the other side when this one ends. */
async function pump(
  from: Deno.TcpConn,
  to: Deno.TcpConn,
  delayMs: number,
  see: (bytes: Uint8Array) => void,
): Promise<void> {
  const pending: Pending[] = [];
  let wake = (): void => {};
  let ended = false;
  const writing = (async (): Promise<void> => {
    while (true) {
      const next = pending.shift();
      if (next === undefined) {
        if (ended) return;
        await new Promise<void>((resolve) => wake = resolve);
        continue;
      }
      const waitMs = next.dueMs - performance.now();
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      for (let at = 0; at < next.bytes.length;) at += await to.write(next.bytes.subarray(at));
    }
  })();
  const end = (): void => {
    ended = true;
    wake();
  };
  try {
    const chunk = new Uint8Array(CHUNK_BYTES);
    for (let count = await from.read(chunk); count !== null; count = await from.read(chunk)) {
      const bytes = chunk.slice(0, count);
      see(bytes);
      pending.push({ dueMs: performance.now() + delayMs, bytes });
      wake();
    }
  } catch {
    // A connection that is cut ends like one that is closed.
  } finally {
    end();
    await writing.catch(() => {});
  }
}

function methodOf(bytes: Uint8Array): string | null {
  const head = new TextDecoder().decode(bytes.subarray(0, 8));
  return /^(GET|PUT|POST|DELETE|HEAD) \//.exec(head)?.[1] ?? null;
}

/** Starts a proxy to an endpoint; each direction takes `delayMs` ms longer. */
export function startDelayProxy(endpoint: string, delayMs: number): DelayProxy {
  const { hostname, port } = new URL(endpoint);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const requests = new Map<string, number>();
  const connections = new Set<Deno.TcpConn>();
  const count = (bytes: Uint8Array): void => {
    const method = methodOf(bytes);
    if (method !== null) requests.set(method, (requests.get(method) ?? 0) + 1);
  };
  const serve = async (near: Deno.TcpConn): Promise<void> => {
    const far = await Deno.connect({ hostname, port: Number(port) });
    const both = [near, far];
    for (const each of both) {
      each.setNoDelay(true);
      connections.add(each);
    }
    await Promise.race([
      pump(near, far, delayMs, count),
      pump(far, near, delayMs, () => {}),
    ]);
    for (const each of both) {
      connections.delete(each);
      each.close();
    }
  };
  const accepting = (async (): Promise<void> => {
    for await (const near of listener) serve(near).catch(() => near.close());
  })();
  return {
    endpoint: `http://127.0.0.1:${listener.addr.port}`,
    requests,
    async stop(): Promise<void> {
      listener.close();
      await accepting;
      for (const each of connections) each.close();
    },
  };
}
