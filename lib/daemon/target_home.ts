/**
 * A target in a thread of its own: opens the storage there, and serves the connections that are handed
 * over with the blocking driver. Between two waits it does what the main thread asks for.
 *
 * @module
 */
import { defaultRegistry } from "../../backends/mod.ts";
import { BlockError } from "../block/errors.ts";
import { BufferPool } from "../block/pool.ts";
import { makeRequest } from "../block/request.ts";
import { Statistics } from "../block/statistics.ts";
import type { Management } from "../block/types.ts";
import { TURN_BATCH_BYTES } from "../driver/limits.ts";
import { SessionLoop } from "../driver/session_loop.ts";
import { threadLog } from "../driver/thread_log.ts";
import { WakeCounter } from "../driver/wake.ts";
import { SharedGate } from "../handle/shared_gate.ts";
import { NbdServerSession } from "../nbd/server_session.ts";
import { VectorPool } from "../sys/io_vector.ts";
import { closeDescriptor } from "../sys/socket.ts";
import type { WorkerScope } from "../sys/worker_scope.ts";
import { ThreadClock } from "./context.ts";
import { registerModule } from "./external_backend.ts";
import { SCARCE_PARTIAL_BYTES, SCARCE_SWEEP_MS } from "./limits.ts";
import { type LocalTarget, openTarget } from "./target.ts";
import {
  type DeviceShape,
  type FromTargetThread,
  plainError,
  type ThreadConnectionStart,
  type ThreadRequest,
  type ThreadResult,
  type ThreadStart,
  type ThreadTask,
  type ThreadVerb,
  type ToTargetThread,
} from "./target_messages.ts";

const VERBS: readonly ThreadVerb[] = [
  "snapshots",
  "createSnapshot",
  "applySnapshot",
  "deleteSnapshot",
  "commit",
  "reset",
  "crash",
];

/** The thread's side of a target. */
export class TargetHome {
  readonly #scope: WorkerScope;
  readonly #counter = new WakeCounter();
  readonly #giveUp = new AbortController();
  readonly #clock = new ThreadClock();
  readonly #vectors = new VectorPool();
  #target: LocalTarget | null = null;
  #loop: SessionLoop | null = null;
  /** Tasks whose result is not known yet. */
  #tasks = 0;
  #closed = false;

  /** Waits for the first message. */
  constructor(scope: WorkerScope) {
    this.#scope = scope;
    scope.addEventListener("message", (event) => this.#hear(event.data));
  }

  #hear(message: ToTargetThread): void {
    switch (message.kind) {
      case "start":
        // An error must reach the other thread as one of this thread, not as a rejection nobody hears.
        this.#run(message).catch((error: unknown) => reportError(error));
        return;
      case "give-up":
        this.#giveUp.abort();
        return;
      case "connection":
        this.#serve(message);
        break;
      case "stop":
        this.#loop?.stop(message.id);
        break;
      case "cut":
        this.#loop?.cut(message.id, new Error(message.reason));
        break;
      case "task":
        this.#begin(message.id, message.task);
    }
    this.#counter.heard();
  }

  async #run(start: ThreadStart): Promise<void> {
    const target = await this.#open(start);
    if (target === null) return;
    const { wakeFd, limits: { sendStall_ms, scarceSweep_ms = SCARCE_SWEEP_MS } } = start;
    const { pool } = target.device;
    const loop = new SessionLoop({
      wakeFd,
      now_ms: () => this.#clock.now() / 1000,
      waits: () => this.#waits(target),
      scarce: () => pool.scarce,
      scarceSweep_ms,
      scarcePartialBytes: SCARCE_PARTIAL_BYTES,
      ...(sendStall_ms === undefined ? {} : { sendStall_ms }),
      ended: (id, cause) =>
        this.#tell({ kind: "ended", id, cause: cause === null ? null : plainError(cause) }),
    });
    this.#target = target;
    this.#loop = loop;
    const verbs = VERBS.filter((verb) => target.management?.[verb] !== undefined);
    this.#tell({ kind: "opened", shape: this.#shape(target), verbs, epollFd: loop.fd });
    while (!this.#closed) {
      // Storage that breaks its word, or a task, needs the event loop: both then have their turns.
      const signals = this.#loop === null ? 0 : this.#waits(target) ? loop.turn() : loop.run();
      if (signals > 0) await this.#counter.caughtUp(signals);
      else await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  /** Something is under way that needs the event loop. */
  #waits({ device }: LocalTarget): boolean {
    return this.#tasks > 0 || device.inFlight > 0;
  }

  /** Opens the target; null if it cannot be, or not here, which the main thread hears. */
  async #open(start: ThreadStart): Promise<LocalTarget | null> {
    const { config, plugins, statistics, pool: memory, limits: { plentyBytes } } = start;
    const plenty = plentyBytes === undefined ? {} : { plentyBytesMax: plentyBytes };
    try {
      const registry = defaultRegistry();
      for (const path of plugins) await registerModule(registry, path);
      const target = await openTarget(config, {
        registry,
        pool: new BufferPool({ memory, ...plenty }),
        log: threadLog((level, text) => this.#tell({ kind: "log", level, text })),
        giveUp: this.#giveUp.signal,
        mayBlock: true,
        clock: this.#clock,
        statistics: new Statistics(statistics),
      });
      if (target.device.features.synchronous) return target;
      await target.close();
      this.#tell({ kind: "waits" });
    } catch (error) {
      this.#tell({ kind: "failed", error: plainError(error) });
    }
    return null;
  }

  #serve({ id, fd, state, unread, file }: ThreadConnectionStart): void {
    const target = this.#target, loop = this.#loop;
    try {
      if (target === null || loop === null) throw new Error("the target is closed");
      const { device } = target;
      const session = new NbdServerSession({
        device,
        gate: new SharedGate(file),
        state,
        unread,
        batchBytes: TURN_BATCH_BYTES,
        vectors: this.#vectors,
        polls: true,
      });
      loop.add(id, fd, session);
    } catch (error) {
      closeDescriptor(fd);
      this.#tell({ kind: "ended", id, cause: plainError(error) });
    }
  }

  #begin(id: number, task: ThreadTask): void {
    const target = this.#target;
    if (target === null) return;
    this.#tasks += 1;
    this.#clock.now();
    const end = (result: ThreadResult): void => {
      this.#tasks -= 1;
      this.#closed ||= task.verb === "close";
      this.#tell({ kind: "done", id, shape: this.#shape(target), result });
    };
    this.#do(target, task).then(
      end,
      (error: unknown) => end({ ok: false, error: plainError(error) }),
    );
  }

  async #do(target: LocalTarget, task: ThreadTask): Promise<ThreadResult> {
    switch (task.verb) {
      case "submit":
        return await submit(target, task.request);
      case "resize":
        await target.device.resize(task.size);
        return { ok: true, value: null };
      case "bitmap":
        await target.bitmap(task.command);
        return { ok: true, value: null };
      case "manage":
        return { ok: true, value: await manage(target.management ?? {}, task.name, task.argument) };
      case "close":
        this.#loop?.close(new BlockError("ESHUTDOWN", "the target is closed"));
        this.#loop = null;
        await target.close();
        return { ok: true, value: null };
    }
  }

  #shape({ device: { geometry, features }, bitmaps }: LocalTarget): DeviceShape {
    return { geometry, features, bitmaps };
  }

  #tell(message: FromTargetThread): void {
    this.#scope.postMessage(message);
  }
}

async function submit({ device }: LocalTarget, asked: ThreadRequest): Promise<ThreadResult> {
  const { operation, offset, length, flags, bitmap } = asked;
  const data = operation === "read" ? new Uint8Array(length) : asked.data;
  const request = makeRequest(operation, offset, length, { flags, data, bitmap });
  await device.submit(request);
  const { extents, runs } = request;
  return {
    ok: true,
    value: operation === "read" ? data : null,
    ...(extents === undefined ? {} : { extents }),
    ...(runs === undefined ? {} : { runs }),
  };
}

function manage(management: Management, verb: ThreadVerb, argument: string): unknown {
  switch (verb) {
    case "snapshots":
    case "reset":
    case "crash":
      return management[verb]?.();
    case "commit":
      return management.commit?.();
    default:
      return management[verb]?.(argument);
  }
}
