/**
 * Requests whose results are to come: each is answered once, with its result, with EINTR when its
 * caller got a signal, or with an error when the mount ends.
 *
 * @module
 */
import type { PooledBuffer } from "../block/pool.ts";
import type { Maybe } from "../block/types.ts";

/** How a request is answered. */
export interface ReplyPlan {
  /** Names the request. */
  readonly unique: number;
  /** What has it under way. */
  readonly kind: "stream" | "disk";
  /** The result is there: a count, or minus an errno. */
  readonly done: (count: number) => void;
  /** It failed by exception. */
  readonly failed: (error: unknown) => void;
  /** The caller got a signal; makes the result come soon. */
  readonly interrupt: () => void;
  /** Released when the outcome is there, answered or not. */
  readonly buffer: PooledBuffer | null;
}

/** The pending requests of one mount. */
export class PendingReplies {
  readonly #plans = new Map<number, ReplyPlan>();

  /** How many there are. */
  get count(): number {
    return this.#plans.size;
  }

  /** Answers when the outcome is there: at once if it is. */
  settle(outcome: Maybe<number>, plan: ReplyPlan): void {
    if (typeof outcome === "number") {
      plan.done(outcome);
      plan.buffer?.release();
      return;
    }
    this.#plans.set(plan.unique, plan);
    outcome.then(
      (count) => this.drop(plan.unique) && plan.done(count),
      (error: unknown) => this.drop(plan.unique) && plan.failed(error),
    ).then(() => plan.buffer?.release());
  }

  /** The caller of a request got a signal. A request that is answered already is none of ours. */
  interrupt(unique: number): void {
    this.#plans.get(unique)?.interrupt();
  }

  /** Takes a request out, which then is not answered here. False if it was answered before. */
  drop(unique: number): boolean {
    return this.#plans.delete(unique);
  }

  /** Takes all requests of a kind out, or all, and gives them. */
  takeAll(kind?: ReplyPlan["kind"]): ReplyPlan[] {
    const taken = [...this.#plans.values()].filter((plan) => (kind ?? plan.kind) === plan.kind);
    for (const { unique } of taken) this.#plans.delete(unique);
    return taken;
  }
}
