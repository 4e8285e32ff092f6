/**
 * Waiting for many descriptors with epoll(7), level-triggered: what a wait costs depends on how many are
 * ready, and not on how many there are. The POLL_ bits of poll.ts are those of epoll too.
 *
 * @module
 */
import { EINTR, fail, lastErrno } from "./errno.ts";
import { closeDescriptor } from "./socket.ts";
import {
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLL_CTL_MOD,
  socketCalls,
} from "./socket_calls.ts";

/** With other bits: told once when a descriptor becomes ready, and not for as long as it is. */
export const POLL_EDGE = 1 << 31;

/** struct epoll_event: the bits, and 64 bits of the caller's; packed on x86-64 alone. */
const PACKED = Deno.build.arch === "x86_64";
const EVENT_WORDS = PACKED ? 3 : 4;
const TAG_AT = PACKED ? 1 : 2;

/** A set of descriptors to wait for, each with a tag. */
export class EpollSet {
  /** Its own descriptor. */
  readonly fd: number;
  readonly #event = new Int32Array(EVENT_WORDS);
  readonly #eventBytes = new Uint8Array(this.#event.buffer);
  readonly #results: Int32Array<ArrayBuffer>;
  readonly #resultBytes: Uint8Array<ArrayBuffer>;
  readonly #most: number;

  /** An empty set, of which one wait gives up to `most` descriptors. */
  constructor(most: number) {
    this.#most = most;
    this.#results = new Int32Array(EVENT_WORDS * most);
    this.#resultBytes = new Uint8Array(this.#results.buffer);
    this.fd = socketCalls().epoll_create1(EPOLL_CLOEXEC);
    if (this.fd < 0) fail("open", "an epoll set");
  }

  /** Waits for POLL_ bits of a descriptor, too. `tag` is an integer of 32 bits that results have. */
  add(fd: number, events: number, tag: number): void {
    this.#control(EPOLL_CTL_ADD, fd, events, tag);
  }

  /** Waits for other bits of a descriptor. */
  change(fd: number, events: number, tag: number): void {
    this.#control(EPOLL_CTL_MOD, fd, events, tag);
  }

  /** Does not wait for a descriptor any more; before it is closed. */
  remove(fd: number): void {
    this.#control(EPOLL_CTL_DEL, fd, 0, 0);
  }

  /**
   * Waits until a descriptor is ready or `timeout_ms` (-1: for ever) have passed. Gives how many results
   * there are: 0 after the time, or if a signal came. Those that did not fit come next time.
   */
  wait(timeout_ms: number): number {
    const ready = socketCalls().epoll_wait(this.fd, this.#resultBytes, this.#most, timeout_ms);
    if (ready >= 0) return ready;
    if (lastErrno() !== EINTR) fail("wait for", "descriptors");
    return 0;
  }

  /** The tag of a result of the last wait. */
  tag(index: number): number {
    return this.#results[index * EVENT_WORDS + TAG_AT] ?? 0;
  }

  /** Its POLL_ bits. */
  events(index: number): number {
    return this.#results[index * EVENT_WORDS] ?? 0;
  }

  /** Closes the set; the descriptors in it stay open. */
  close(): void {
    closeDescriptor(this.fd);
  }

  #control(operation: number, fd: number, events: number, tag: number): void {
    this.#event[0] = events;
    this.#event[TAG_AT] = tag;
    if (socketCalls().epoll_ctl(this.fd, operation, fd, this.#eventBytes) !== 0) {
      fail("wait for", `descriptor ${fd}`);
    }
  }
}
