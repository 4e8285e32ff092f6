/**
 * The loop that serves one mount from one thread: waits in poll for requests and for an eventfd, reads
 * what is there, and lets promises and messages of the thread run before it waits again.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { BufferPool, PooledBuffer } from "../block/pool.ts";
import { FUSE_ENDED, FUSE_NOTHING, readFuseRequest } from "../sys/fuse.ts";
import { clearEvent, POLL_IN, PollSet } from "../sys/poll.ts";
import { FUSE_REQUEST_BYTES_MAX, FUSE_REQUESTS_PER_TURN_MAX } from "./limits.ts";
import type { LoopClock } from "./loop_clock.ts";
import type { FuseSession } from "./session.ts";

/** Turns of the promise queue that see nearly every answer through, and cost 0.1 µs each. */
const SHORT_TURNS = 16;
/** How long an answer that takes more turns may wait, in ms. */
const SHORT_WAIT_MS = 1;

/** What a loop works with. */
export interface FuseLoopOptions {
  /** /dev/fuse, mounted; the loop does not close it. */
  readonly fd: number;
  /** Gets the requests. */
  readonly session: FuseSession;
  /** An eventfd that wakes the loop. */
  readonly wakeFd: number;
  /** Whose sleepers the loop wakes. */
  readonly clock: LoopClock;
  /** Where buffers come from. */
  readonly pool: BufferPool;
  /** Called before each wait. */
  readonly onTurn?: () => void;
}

/** A loop. */
export class FuseLoop {
  readonly #options: FuseLoopOptions;
  readonly #poll = new PollSet();
  readonly #buffer: PooledBuffer;
  #ended = false;

  /** A loop that has read nothing yet. */
  constructor(options: FuseLoopOptions) {
    this.#options = options;
    this.#buffer = options.pool.take(FUSE_REQUEST_BYTES_MAX);
  }

  /** The mount is gone and nothing more will come. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Serves until the eventfd is signalled or the mount is gone. Gives how often the eventfd was
   * signalled.
   */
  async run(): Promise<number> {
    const { fd, wakeFd, clock, onTurn } = this.#options;
    let settled = false;
    for (;;) {
      const more = this.#readSome();
      // Answers may be waiting in promises. A few turns let those run that are usual; before this
      // thread blocks for long, all of them run.
      if (settled) await new Promise<void>((resolve) => setImmediate(resolve));
      else for (let turn = 0; turn < SHORT_TURNS; turn++) await null;
      onTurn?.();
      if (this.#ended) return 0;
      this.#poll.clear();
      this.#poll.add(fd, POLL_IN);
      const wake = this.#poll.add(wakeFd, POLL_IN);
      const waitMs = clock.waitMs();
      const boundMs = more ? 0 : settled ? waitMs : SHORT_WAIT_MS;
      const ready = this.#poll.wait(waitMs < 0 ? boundMs : Math.min(boundMs, waitMs));
      settled = ready === 0 && !more && !settled;
      clock.wakeDue();
      if (ready > 0 && this.#poll.result(wake) !== 0) {
        const signals = clearEvent(wakeFd);
        if (signals > 0) return signals;
      }
    }
  }

  /** True if there may be more to read at once. */
  #readSome(): boolean {
    const { fd, session } = this.#options;
    const { bytes } = this.#buffer;
    for (let count = 0; count < FUSE_REQUESTS_PER_TURN_MAX; count++) {
      const length = readFuseRequest(fd, bytes);
      if (length === FUSE_ENDED) this.#ended = true;
      if (length === FUSE_ENDED || length === FUSE_NOTHING) return false;
      session.receive(bytes.subarray(0, length));
    }
    return true;
  }
}
