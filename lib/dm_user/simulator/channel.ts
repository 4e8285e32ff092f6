/**
 * One open of a simulated control device: what read(2), write(2) and close(2) do there, byte for byte
 * and errno for errno. Results are those of the system calls: a count of bytes, or minus an errno.
 * docs/dm-user-semantics.md has the rules in prose.
 *
 * @module
 */
import { NO_DATA } from "../../block/request.ts";
import type { Maybe } from "../../block/types.ts";
import { HEADER_BYTES, HEADER_OFFSETS, RESPONSE_TYPES } from "../constants.ts";
import { responseTypeName, u64At } from "../message.ts";
import {
  RESULT_EBADF,
  RESULT_EINTR,
  RESULT_EINVAL,
  RESULT_ENOTBLK,
  RESULT_EOPNOTSUPP,
  RESULT_ESPIPE,
  STATUS_EIO,
} from "./bio.ts";
import type { SimulatorEventKind } from "./event.ts";
import type { PendingMessage } from "./pending_message.ts";

/** A read that waits for a message. */
export interface WaitingRead {
  /** The channel that is read. */
  readonly channel: Channel;
  /** Goes on, now that there is something; the wait is over. */
  resume(): void;
  /** Ends the wait with EINTR. */
  interrupt(): void;
}

/** What a channel needs of its target. */
export interface ChannelHost {
  /** The target was removed. */
  readonly removed: boolean;
  /** The oldest message that nobody has taken, or null. */
  take(): PendingMessage | null;
  /** A read waits; `resume` is called when it need not any more. */
  wait(read: WaitingRead): void;
  /** A read does not wait any more. */
  unwait(read: WaitingRead): void;
  /** The reads of a channel that wait. */
  waitingOf(channel: Channel): WaitingRead[];
  /** A message is over. */
  complete(message: PendingMessage, status: number, why: string): void;
  /** The last reference to a channel is gone. */
  released(channel: Channel): void;
  /** Why an answer to `seq` finds no message on the channel. */
  explain(seq: number, channel: Channel): string;
  /** Whether `note` has an effect: texts need not be made otherwise. */
  readonly listened: boolean;
  /** Tells an event. */
  note(kind: SimulatorEventKind, channel: Channel | null, seq: number | null, text: string): void;
}

/** A channel. Made by `SimulatedKernel.open`. */
export class Channel {
  /** Number of the channel, from 1, in the order of opening. */
  readonly id: number;
  readonly #host: ChannelHost;
  #inHand: PendingMessage | null = null;
  /** Messages that were read to their end and not answered. */
  readonly #awaiting = new Map<number, PendingMessage>();
  /** The READ whose data is being written, and how much of it is there. */
  #answering: PendingMessage | null = null;
  #answered = 0;
  /** The header of an answer, as far as it was written. */
  readonly #header = new Uint8Array(HEADER_BYTES);
  #headerFilled = 0;
  /** Sticky errors; 0 for none. */
  #readError = 0;
  #writeError = 0;
  #waiting = 0;
  #closed = false;
  #released = false;
  #drainWaiters: (() => void)[] = [];

  /** Belongs to `host`, which has counted it. */
  constructor(id: number, host: ChannelHost) {
    this.id = id;
    this.#host = host;
  }

  /** Closed, and nothing of it is left in the kernel. */
  get released(): boolean {
    return this.#released;
  }

  /** Messages that this channel has taken and that are not completed. */
  get outstanding(): number {
    return this.#awaiting.size + (this.#inHand === null ? 0 : 1) +
      (this.#answering === null ? 0 : 1);
  }

  /** Bytes that a read gives without waiting: the rest of a header, or of a payload, in hand. */
  get remaining(): number {
    return this.#inHand?.remaining ?? 0;
  }

  /** True if this channel awaits an answer to `seq`. */
  awaits(seq: number): boolean {
    return this.#awaiting.has(seq);
  }

  /** True if `seq` is in hand: not read to its end. */
  hasInHand(seq: number): boolean {
    return this.#inHand?.seq === seq;
  }

  /**
   * read(2). Gives bytes of a header or of a payload, never of both; without a message in hand it
   * waits for one. `signal` is a signal to the waiting thread: EINTR, nothing consumed. Errno:
   * ENOTBLK once the target is removed and nothing is in hand (sticky), EINTR, EBADF when closed.
   */
  read(into: Uint8Array, signal?: AbortSignal): Maybe<number> {
    if (this.#closed) return RESULT_EBADF;
    const result = this.#readNow(into);
    if (result !== null) return result;
    if (signal?.aborted) return RESULT_EINTR;
    return this.#readLater(into, signal);
  }

  /** pread(2): the offset is ignored. */
  pread(into: Uint8Array, _offset: number, signal?: AbortSignal): Maybe<number> {
    return this.read(into, signal);
  }

  /**
   * write(2). Gives the bytes that it took: it ends where the answer to one message ends, so a
   * caller loops on the count. Null stands for an address that cannot be read. Errno: EINVAL (sticky) after
   * an answer to a message that this channel does not await, EBADF when closed.
   */
  write(from: Uint8Array | null): number {
    if (this.#closed) return RESULT_EBADF;
    if (this.#writeError !== 0) return this.#writeError;
    const bytes = from ?? NO_DATA;
    if (this.#answering !== null) return this.#takePayload(this.#answering, bytes);
    if (bytes.length === 0) {
      this.#poison("an empty write while a header is incomplete");
      return 0;
    }
    const taken = Math.min(HEADER_BYTES - this.#headerFilled, bytes.length);
    this.#header.set(bytes.subarray(0, taken), this.#headerFilled);
    this.#headerFilled += taken;
    if (this.#headerFilled < HEADER_BYTES) return taken;
    this.#headerFilled = 0;
    return taken + this.#takeAnswer(bytes.subarray(taken));
  }

  /** pwrite(2): the offset is ignored. */
  pwrite(from: Uint8Array | null, _offset: number): number {
    return this.write(from);
  }

  /** lseek(2): ESPIPE. */
  seek(): number {
    return RESULT_ESPIPE;
  }

  /** ioctl(2): EOPNOTSUPP. */
  ioctl(): number {
    return RESULT_EOPNOTSUPP;
  }

  /** splice(2): EOPNOTSUPP. */
  splice(): number {
    return RESULT_EOPNOTSUPP;
  }

  /** fcntl(2) with O_ASYNC: EOPNOTSUPP. */
  fasync(): number {
    return RESULT_EOPNOTSUPP;
  }

  /** The event mask of poll(2): an error number taken for one, so it always says readable. */
  poll(): number {
    return RESULT_EOPNOTSUPP >>> 0;
  }

  /** A signal to every thread that waits in a read of this channel: those end with EINTR. */
  interrupt(): void {
    for (const read of this.#host.waitingOf(this)) read.interrupt();
  }

  /**
   * close(2). Every message that was taken and is not completed fails. A read that still waits keeps
   * the channel alive: it swallows the next message, which then fails. 0, or EBADF the second time.
   */
  close(): number {
    if (this.#closed) return RESULT_EBADF;
    this.#closed = true;
    if (this.#host.listened) this.#host.note("close", this, null, "");
    if (this.#waiting === 0) this.#release();
    return 0;
  }

  /** The process died: its reads end, then all its files are closed. */
  kill(): void {
    this.interrupt();
    this.close();
  }

  /** Resolves when no message is outstanding on this channel, at the latest when it is released. */
  drained(): Promise<void> {
    if (this.outstanding === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drainWaiters.push(resolve));
  }

  #readNow(into: Uint8Array): number | null {
    if (this.#readError !== 0) return this.#readError;
    if (this.#inHand === null) {
      if (this.#host.removed) {
        this.#readError = RESULT_ENOTBLK;
        return this.#readError;
      }
      this.#inHand = this.#host.take();
      if (this.#inHand === null) return null;
      if (this.#host.listened) this.#host.note("take", this, this.#inHand.seq, "");
    }
    return this.#copyOut(this.#inHand, into);
  }

  #copyOut(message: PendingMessage, into: Uint8Array): number {
    const count = message.copyOut(into);
    if (message.remaining === 0) {
      this.#inHand = null;
      this.#awaiting.set(message.seq, message);
      if (this.#host.listened) this.#host.note("sent", this, message.seq, "");
    }
    return count;
  }

  #readLater(into: Uint8Array, signal: AbortSignal | undefined): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    const finish = (result: number): void => {
      signal?.removeEventListener("abort", interrupt);
      this.#waiting -= 1;
      resolve(result);
      if (this.#closed && this.#waiting === 0) this.#release();
    };
    const interrupt = (): void => {
      this.#host.unwait(read);
      if (this.#host.listened) this.#host.note("interrupt", this, null, "");
      finish(RESULT_EINTR);
    };
    const resume = (): void => {
      const result = this.#readNow(into);
      if (result === null) throw new Error("Cannot resume a read: there is no message");
      finish(result);
    };
    const read: WaitingRead = { channel: this, resume, interrupt };
    signal?.addEventListener("abort", interrupt);
    this.#waiting += 1;
    this.#host.wait(read);
    return promise;
  }

  #poison(reason: string): void {
    this.#writeError = RESULT_EINVAL;
    if (this.#host.listened) this.#host.note("poison", this, null, reason);
  }

  /** The header of an answer is whole; gives the bytes of data taken behind it. */
  #takeAnswer(rest: Uint8Array): number {
    const seq = u64At(this.#header, HEADER_OFFSETS.seq);
    const type = u64At(this.#header, HEADER_OFFSETS.type);
    const message = this.#awaiting.get(seq);
    if (message === undefined) {
      this.#poison(`an answer to seq ${seq}, which ${this.#host.explain(seq, this)}`);
      return 0;
    }
    this.#awaiting.delete(seq);
    if (this.#host.listened) this.#host.note("answer", this, seq, responseTypeName(type));
    if (type !== RESPONSE_TYPES.SUCCESS) {
      this.#complete(message, STATUS_EIO, "answered so");
      return 0;
    }
    if (message.answerBytes === 0) {
      this.#complete(message, 0, "");
      return 0;
    }
    this.#answering = message;
    this.#answered = 0;
    return this.#takePayload(message, rest);
  }

  #takePayload(message: PendingMessage, bytes: Uint8Array): number {
    const count = Math.min(message.answerBytes - this.#answered, bytes.length);
    message.bio.data.set(bytes.subarray(0, count), this.#answered);
    this.#answered += count;
    if (this.#answered === message.answerBytes) {
      this.#answering = null;
      this.#complete(message, 0, "");
    }
    return count;
  }

  #complete(message: PendingMessage, status: number, why: string): void {
    this.#host.complete(message, status, why);
    this.#checkDrained();
  }

  #checkDrained(): void {
    if (this.outstanding !== 0 || this.#drainWaiters.length === 0) return;
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const wake of waiters) wake();
  }

  #release(): void {
    this.#released = true;
    const messages = [...this.#awaiting.values()];
    if (this.#answering !== null) messages.push(this.#answering);
    if (this.#inHand !== null) messages.push(this.#inHand);
    this.#awaiting.clear();
    this.#answering = this.#inHand = null;
    if (this.#host.listened) this.#host.note("release", this, null, "");
    messages.sort((a, b) => a.seq - b.seq);
    for (const message of messages) this.#host.complete(message, STATUS_EIO, "channel closed");
    this.#host.released(this);
    this.#checkDrained();
  }
}
