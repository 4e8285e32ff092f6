/**
 * Waiting for descriptors with poll(2), and an eventfd(2) that wakes whoever waits. A thread that is in
 * `PollSet.wait` runs nothing else: no messages, no promises.
 *
 * @module
 */
import { EAGAIN, EINTR, fail, lastErrno } from "./errno.ts";
import { closeDescriptor } from "./socket.ts";
import { EFD_CLOEXEC, EFD_NONBLOCK, socketCalls } from "./socket_calls.ts";

/** Something can be read, or accepted, or the stream has ended. */
export const POLL_IN = 1;
/** Something can be written. */
export const POLL_OUT = 4;
/** What poll reports without being asked: an error, a connection gone, a descriptor that is not open. */
export const POLL_ERROR = 8, POLL_HANGUP = 16, POLL_INVALID = 32;

/** Bytes of struct pollfd: fd, events, revents. */
const ENTRY_BYTES = 8;

/**
 * A list of descriptors to wait for. Filling it anew for each wait is cheap (10 ns an entry); a list
 * that is long and stays the same may also be kept.
 */
export class PollSet {
  #bytes = new Uint8Array(64 * ENTRY_BYTES);
  #words = new Int32Array(this.#bytes.buffer);
  #halves = new Int16Array(this.#bytes.buffer);
  #count = 0;

  /** Descriptors in the list. */
  get count(): number {
    return this.#count;
  }

  /** Empties the list. */
  clear(): void {
    this.#count = 0;
  }

  /** Adds a descriptor with POLL_ bits and gives its index. */
  add(fd: number, events: number): number {
    const index = this.#count++;
    if (this.#count * ENTRY_BYTES > this.#bytes.length) this.#grow();
    this.#words[index * 2] = fd;
    this.#words[index * 2 + 1] = events & 0xffff;
    return index;
  }

  /** Waits for other POLL_ bits of the descriptor at an index. */
  change(index: number, events: number): void {
    this.#halves[index * 4 + 2] = events;
  }

  /**
   * Waits until a descriptor is ready or `timeout_ms` (-1: for ever) have passed. Gives how many are
   * ready: 0 after the time, or if a signal came.
   */
  wait(timeout_ms: number): number {
    const ready = socketCalls().poll(this.#bytes, BigInt(this.#count), timeout_ms);
    if (ready >= 0) return ready;
    if (lastErrno() !== EINTR) fail("wait for", `${this.#count} descriptors`);
    // After an error the kernel has written no results: those of an earlier wait must not be seen.
    for (let i = 0; i < this.#count; i++) this.#halves[i * 4 + 3] = 0;
    return 0;
  }

  /** POLL_ bits that the last wait found for an index. */
  result(index: number): number {
    return this.#halves[index * 4 + 3] ?? 0;
  }

  #grow(): void {
    const bytes = new Uint8Array(this.#bytes.length * 2);
    bytes.set(this.#bytes);
    this.#bytes = bytes;
    this.#words = new Int32Array(bytes.buffer);
    this.#halves = new Int16Array(bytes.buffer);
  }
}

/** Lets another thread run that waits for this processor, if there is one. */
export function yieldProcessor(): void {
  socketCalls().sched_yield();
}

const COUNTER = new BigUint64Array(1);
const COUNTER_BYTES = new Uint8Array(COUNTER.buffer);

/** Makes an eventfd: non-blocking, close-on-exec, not signalled. Any thread may signal it. */
export function openEvent(): number {
  const fd = socketCalls().eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) fail("open", "an eventfd");
  return fd;
}

/** Signals an event: it polls as POLL_IN until it is cleared. Signals are counted. */
export function signalEvent(fd: number): void {
  COUNTER[0] = 1n;
  if (socketCalls().write(fd, COUNTER_BYTES, 8n) === 8) return;
  // A counter that cannot grow any more is signalled already.
  if (lastErrno() !== EAGAIN) fail("signal", `eventfd ${fd}`);
}

/** Clears an event and gives how often it was signalled since it was cleared before, 0 if never. */
export function clearEvent(fd: number): number {
  if (socketCalls().read(fd, COUNTER_BYTES, 8n) === 8) return Number(COUNTER[0]);
  if (lastErrno() !== EAGAIN) fail("clear", `eventfd ${fd}`);
  return 0;
}

/** Closes an event. */
export function closeEvent(fd: number): void {
  closeDescriptor(fd);
}
