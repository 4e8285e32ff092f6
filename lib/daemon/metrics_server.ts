/**
 * The figures and the health of a daemon over HTTP: "/metrics", "/healthz" and "/". On node:http, which
 * can limit connections and the time that a request may take.
 *
 * @module
 */
import http from "node:http";
import type { Log } from "../block/context.ts";
import { BlockError } from "../block/errors.ts";
import { formatEndpoint, type TcpEndpoint, type UnixEndpoint } from "./endpoint.ts";
import {
  METRICS_CONNECTIONS_MAX,
  METRICS_KEPT_MS,
  METRICS_REQUEST_BYTES_MAX,
  METRICS_REQUEST_MS_MAX,
  METRICS_SILENCE_MS_MAX,
} from "./limits.ts";
import { openListeners } from "./listeners.ts";
import { Health, type MeasuredDaemon, metricsText } from "./metrics.ts";
import { METRICS_CONTENT_TYPE } from "./metrics_text.ts";

/** Where metrics can be served. */
export type MetricsEndpoint = UnixEndpoint | TcpEndpoint;

/** A reply. */
interface Page {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

const PLAIN = "text/plain; charset=utf-8";
const HELP = "dmu: /metrics has figures for Prometheus, /healthz tells whether all is well\n";

/** A server of metrics. */
export class MetricsServer {
  /** Where it is: an http URL, or an endpoint "unix:PATH". */
  readonly address: string;
  readonly #server: http.Server;
  readonly #health: Health;
  readonly #remove: () => void;

  private constructor(address: string, server: http.Server, health: Health, remove: () => void) {
    this.address = address;
    this.#server = server;
    this.#health = health;
    this.#remove = remove;
  }

  /** Listens and answers. Throws BlockError: EADDRINUSE and the like. */
  static async start(
    endpoint: MetricsEndpoint,
    daemon: MeasuredDaemon,
    log: Log,
  ): Promise<MetricsServer> {
    const [listener] = await openListeners([endpoint]);
    if (listener === undefined) throw new BlockError("EINVAL", "Cannot serve metrics: no socket");
    const { fd, address } = listener;
    const health = new Health(daemon);
    const pages = new Pages(daemon, health);
    const server = http.createServer({
      maxHeaderSize: METRICS_REQUEST_BYTES_MAX,
      headersTimeout: METRICS_REQUEST_MS_MAX,
      requestTimeout: METRICS_REQUEST_MS_MAX,
      keepAliveTimeout: METRICS_SILENCE_MS_MAX,
    }, (request, response) => {
      pages.answer(request).then((page) => send(request, response, page), (error: unknown) => {
        log.error(`Cannot answer for metrics: ${error instanceof Error ? error.stack : error}`);
        send(request, response, { status: 500, type: PLAIN, text: "it has failed\n" });
      });
    });
    server.maxConnections = METRICS_CONNECTIONS_MAX;
    server.setTimeout(METRICS_SILENCE_MS_MAX);
    // The descriptor is node's from here on, which closes it; the file of a unix socket is not.
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ fd }, resolve);
    });
    server.on("error", (error) => log.warn(`metrics: ${error.message}`));
    const file = address.kind === "unix" ? identity(address.path) : null;
    const remove = (): void => {
      if (address.kind !== "unix" || identity(address.path) !== file) return;
      Deno.removeSync(address.path);
    };
    const where = address.kind === "unix"
      ? formatEndpoint(endpoint)
      : `http://${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
    return new MetricsServer(where, server, health, remove);
  }

  /** Ends all connections and stops listening. */
  async close(): Promise<void> {
    this.#health[Symbol.dispose]();
    this.#remove();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}

/** Tells one socket file from another that has taken its place. */
function identity(path: string): string | null {
  try {
    const { dev, ino } = Deno.lstatSync(path);
    return `${dev}:${ino}`;
  } catch {
    return null;
  }
}

/** What is answered to requests. */
class Pages {
  readonly #daemon: MeasuredDaemon;
  readonly #health: Health;
  #text: Promise<string> | null = null;
  #made = -Infinity;

  constructor(daemon: MeasuredDaemon, health: Health) {
    this.#daemon = daemon;
    this.#health = health;
  }

  async answer(request: http.IncomingMessage): Promise<Page> {
    const { method, url = "/", headers } = request;
    const path = url.split("?", 1)[0];
    const page = path === "/metrics"
      ? this.#metrics
      : path === "/healthz"
      ? this.#healthz
      : path === "/"
      ? this.#help
      : null;
    if (page === null) return { status: 404, type: PLAIN, text: `there is no such page\n${HELP}` };
    if (method !== "GET" && method !== "HEAD") {
      return { status: 405, type: PLAIN, text: "only GET and HEAD are answered\n" };
    }
    if (headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0) {
      return { status: 413, type: PLAIN, text: "a request has no body here\n" };
    }
    return await page();
  }

  readonly #help = (): Page => ({ status: 200, type: PLAIN, text: HELP });

  readonly #healthz = (): Page => {
    const reasons = this.#health.reasons();
    const status = reasons.length === 0 ? 200 : 503;
    const text = JSON.stringify({ healthy: status === 200, phase: this.#daemon.phase, reasons });
    return { status, type: "application/json", text: `${text}\n` };
  };

  /** Who asks more often than every METRICS_KEPT_MS gets what was told before. */
  readonly #metrics = async (): Promise<Page> => {
    const now = performance.now();
    if (this.#text === null || now - this.#made >= METRICS_KEPT_MS) {
      this.#made = now;
      this.#text = metricsText(this.#daemon);
    }
    return { status: 200, type: METRICS_CONTENT_TYPE, text: await this.#text };
  };
}

function send(request: http.IncomingMessage, response: http.ServerResponse, page: Page): void {
  const { status, type, text } = page;
  const body = new TextEncoder().encode(text);
  const head: Record<string, string | number> = {
    "content-type": type,
    "content-length": body.length,
    "cache-control": "no-store",
  };
  if (status === 405) head["allow"] = "GET, HEAD";
  // What follows the head of such a request is not read.
  if (status === 413 || status === 405) head["connection"] = "close";
  response.writeHead(status, head);
  response.end(request.method === "HEAD" ? undefined : body);
}
