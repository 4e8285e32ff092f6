/**
 * The worker of the tests of open files: uses gates and counts in a real thread.
 *
 * @module
 */
import { ActiveCount } from "../../lib/handle/active_count.ts";
import { type SharedFile, SharedGate } from "../../lib/handle/shared_gate.ts";
import { workerScope } from "../../lib/sys/worker_scope.ts";
import { SeededRandom } from "../support/context.ts";

/** Words of the memory by which a test and its workers watch each other. */
export const WATCH = {
  /** A deactivation has returned. */
  revoked: 0,
  /** A drain has ended. */
  drained: 1,
  /** Entered after a deactivation had returned. */
  lateEntries: 2,
  /** Inside after a drain had ended. */
  lateInside: 3,
  /** Calls that were told that it was they who did it. */
  activations: 4,
  deactivations: 5,
  drains: 6,
  releases: 7,
  /** Operations that entered. */
  entered: 8,
  /** Set by the test: end a churn. */
  stop: 9,
  /** Threads that wait at the start. */
  gathered: 10,
} as const;
/** Words of that memory. */
export const WATCH_WORDS = 16;

/** One round of the model check, as one thread takes part in it. */
export interface RoundMessage {
  readonly kind: "round";
  readonly memory: SharedArrayBuffer;
  readonly watch: SharedArrayBuffer;
  readonly cell: number;
  readonly threads: number;
  readonly seed: number;
  /** Turns after which this thread deactivates; -1 for never. */
  readonly deactivateAt: number;
  /** Whether this thread activates at its start. */
  readonly activates: boolean;
}

/** What the worker is told. */
export type ToGateWorker =
  | RoundMessage
  | { readonly kind: "enter"; readonly shared: SharedFile; readonly times: number }
  | { readonly kind: "leave" }
  | { readonly kind: "churn"; readonly shared: SharedFile; readonly watch: SharedArrayBuffer }
  | { readonly kind: "fail" };

/** What the worker answers. */
export interface FromGateWorker {
  readonly kind: "done";
  readonly entered: number;
}

/** Takes part in a round until the file is released. */
function runRound(message: RoundMessage): number {
  const { memory, cell, threads, seed, deactivateAt, activates } = message;
  const count = new ActiveCount(memory, cell);
  const watch = new Int32Array(message.watch);
  const random = new SeededRandom(seed);
  let inside = 0, entered = 0;
  Atomics.add(watch, WATCH.gathered, 1);
  while (Atomics.load(watch, WATCH.gathered) < threads);
  if (activates && count.activate()) Atomics.add(watch, WATCH.activations, 1);
  for (let turn = 0; count.state !== "released"; turn += 1) {
    if (turn === deactivateAt) {
      if (count.deactivate()) Atomics.add(watch, WATCH.deactivations, 1);
      Atomics.store(watch, WATCH.revoked, 1);
    }
    const late = Atomics.load(watch, WATCH.revoked) === 1;
    if (random.below(2) === 0 && inside < 4) {
      if (count.enter()) {
        inside += 1;
        entered += 1;
        if (late) Atomics.add(watch, WATCH.lateEntries, 1);
      }
    } else if (inside > 0) {
      if (Atomics.load(watch, WATCH.drained) === 1) Atomics.add(watch, WATCH.lateInside, 1);
      count.leave();
      inside -= 1;
    }
    if (count.settle()) {
      Atomics.store(watch, WATCH.drained, 1);
      Atomics.add(watch, WATCH.drains, 1);
    }
    if (random.below(4) === 0 && count.release()) Atomics.add(watch, WATCH.releases, 1);
  }
  Atomics.add(watch, WATCH.lateInside, inside);
  return entered;
}

/** Goes in and out as fast as it can. */
function churn(shared: SharedFile, memory: SharedArrayBuffer): number {
  const gate = new SharedGate(shared);
  const watch = new Int32Array(memory);
  let entered = 0;
  while (Atomics.load(watch, WATCH.stop) === 0) {
    const late = Atomics.load(watch, WATCH.revoked) === 1;
    if (!gate.enter()) continue;
    entered += 1;
    Atomics.add(watch, WATCH.entered, 1);
    if (late) Atomics.add(watch, WATCH.lateEntries, 1);
    if (Atomics.load(watch, WATCH.drained) === 1) Atomics.add(watch, WATCH.lateInside, 1);
    gate.leave();
  }
  return entered;
}

const scope = workerScope();
let gate: SharedGate | null = null;
let inside = 0;

function hear(message: ToGateWorker): number {
  switch (message.kind) {
    case "round":
      return runRound(message);
    case "enter": {
      gate = new SharedGate(message.shared);
      let entered = 0;
      for (let time = 0; time < message.times; time += 1) if (gate.enter()) entered += 1;
      inside += entered;
      return entered;
    }
    case "leave":
      for (; inside > 0; inside -= 1) gate?.leave();
      return 0;
    case "churn":
      return churn(message.shared, message.watch);
    case "fail":
      throw new Error("This thread dies on purpose");
  }
}

scope?.addEventListener("message", (event) => {
  const answer: FromGateWorker = { kind: "done", entered: hear(event.data) };
  scope.postMessage(answer);
});
