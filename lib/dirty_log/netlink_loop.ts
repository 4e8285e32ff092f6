/**
 * Serves a kernel over a socket of the connector, from a thread that blocks in poll: a request that has
 * come is answered before the next one is read, and its answer goes to the address that it came from.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import {
  DATAGRAMS_LOST,
  forceReceiveBuffer,
  joinGroup,
  openConnector,
  receiveFrom,
  sendTo,
} from "../sys/netlink.ts";
import { clearEvent, POLL_IN, PollSet } from "../sys/poll.ts";
import { closeDescriptor, WOULD_BLOCK } from "../sys/socket.ts";
import { CONNECTOR_GROUP } from "./constants.ts";
import {
  DATAGRAM_BYTES_MAX,
  IDLE_MS,
  RECEIVE_BUFFER_BYTES,
  REQUESTS_PER_TURN_MAX,
} from "./limits.ts";
import type { LogSession } from "./session.ts";

/** Opens a socket that gets the kernel's requests. Throws SystemError as openConnector does. */
export function listenForLogs(): number {
  const fd = openConnector();
  try {
    // Without the right to it the system's own size has to do: the kernel asks again for what is lost.
    forceReceiveBuffer(fd, RECEIVE_BUFFER_BYTES);
    joinGroup(fd, CONNECTOR_GROUP);
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
  return fd;
}

/** What a loop works with; it closes none of it. */
export interface NetlinkLoopOptions {
  /** From `listenForLogs`. */
  readonly fd: number;
  /** The eventfd that makes `run` return. */
  readonly wakeFd: number;
  readonly session: LogSession;
  readonly log: Log;
}

/** See the top of the file. */
export class NetlinkLoop {
  readonly #options: NetlinkLoopOptions;
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(DATAGRAM_BYTES_MAX);
  readonly #from = { port: 0 };

  /** A loop that has read nothing yet. */
  constructor(options: NetlinkLoopOptions) {
    this.#options = options;
    this.#poll.add(options.wakeFd, POLL_IN);
    this.#poll.add(options.fd, POLL_IN);
  }

  /** Serves until the eventfd is signalled; gives how often it was. */
  run(): number {
    const { session, wakeFd } = this.#options;
    for (;;) {
      if (this.#poll.wait(IDLE_MS) === 0) session.settle();
      if (this.#poll.result(0) !== 0) return clearEvent(wakeFd);
      if (this.#poll.result(1) !== 0) this.#serve();
    }
  }

  #serve(): void {
    for (let count = 0; count < REQUESTS_PER_TURN_MAX; count += 1) {
      if (!this.#serveOne()) return;
    }
  }

  #serveOne(): boolean {
    const { fd, session, log } = this.#options;
    const length = receiveFrom(fd, this.#into, this.#from);
    if (length === WOULD_BLOCK) return false;
    if (length === DATAGRAMS_LOST) {
      log.warn("Requests were lost because too many came at once: the kernel sends them again");
      return true;
    }
    // What was cut is foreign: its header says more than is there.
    const reply = session.handle(this.#into.subarray(0, Math.min(length, this.#into.length)));
    if (reply === null) return true;
    if (!sendTo(fd, reply, { port: this.#from.port, groups: 0 })) {
      log.debug(`Port ${this.#from.port} of the connector takes no reply`);
    }
    return true;
  }
}
