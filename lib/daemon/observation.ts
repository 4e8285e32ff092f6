/**
 * What others may know of a running daemon: its figures, its spans for OpenTelemetry, and whether it is
 * well. Told at its start what to look at, and then in which phase the daemon is.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import type { PoolFigures } from "../block/pool.ts";
import type { OpenFileTable } from "../handle/table.ts";
import type { DaemonPhase, MeasuredDaemon, MeasuredTarget } from "./metrics.ts";
import { type MetricsEndpoint, MetricsServer } from "./metrics_server.ts";
import type { ServedTarget } from "./targets.ts";
import { startTelemetry, telemetryIsOn } from "./telemetry.ts";

/** What is looked at. */
export interface ObservationOptions {
  readonly version: string;
  readonly targets: Iterable<ServedTarget>;
  readonly files: OpenFileTable;
  /** All buffers. */
  buffers(): PoolFigures;
  /** NBD connections now, and as many as there may be. */
  connections(): { readonly count: number; readonly max: number };
  readonly log: Log;
}

function* measured(targets: Iterable<ServedTarget>): Generator<MeasuredTarget> {
  for (const { wish: { name, spec: { kind } }, state, error, target } of targets) {
    yield {
      name,
      kind,
      state,
      error,
      device: target?.device ?? null,
      storage: target?.management?.statistics?.() ?? null,
    };
  }
}

/** The daemon as others see it. */
export class Observation {
  readonly #options: ObservationOptions;
  #phase: DaemonPhase = "starting";
  #server: MetricsServer | null = null;
  #endTelemetry: (() => void) | null = null;

  /** Nothing is shown before `start`. */
  constructor(options: ObservationOptions) {
    this.#options = options;
  }

  /** Where metrics are served, or null. */
  get address(): string | null {
    return this.#server?.address ?? null;
  }

  /** Serves metrics, if an endpoint is given. Throws BlockError if that cannot be. */
  async start(endpoint: MetricsEndpoint | null): Promise<void> {
    if (endpoint !== null) {
      this.#server = await MetricsServer.start(endpoint, this.#view(), this.#options.log);
    }
    if (!telemetryIsOn((name) => Deno.env.get(name))) return;
    this.#endTelemetry = startTelemetry(this.#options.files, this.#options.version);
  }

  /** The daemon is in another phase now; after "failed" it can only stop. */
  enter(phase: DaemonPhase): void {
    if (this.#phase !== "failed" || phase === "stopping") this.#phase = phase;
  }

  /** Shows nothing any more. */
  async stop(): Promise<void> {
    this.#endTelemetry?.();
    this.#endTelemetry = null;
    const server = this.#server;
    this.#server = null;
    await server?.close();
  }

  #view(): MeasuredDaemon {
    const { version, targets, files, buffers, connections } = this.#options;
    const phase = (): DaemonPhase => this.#phase;
    return {
      version,
      files,
      get pool(): PoolFigures {
        return buffers();
      },
      get phase(): DaemonPhase {
        return phase();
      },
      get targets(): Iterable<MeasuredTarget> {
        return measured(targets);
      },
      get connections(): { readonly count: number; readonly max: number } {
        return connections();
      },
    };
  }
}
