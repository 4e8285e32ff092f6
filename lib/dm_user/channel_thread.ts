/**
 * The thread that reads a channel of the real device: reads of it can only block, one thread each.
 * Both sides are in this one module, since a thread of a bundled program can be started from the bundle
 * alone: the thread's name tells which side it is. The thread stops between messages; a message
 * whose header was read is read to its end, which never waits.
 *
 * @module
 */
import { setImmediate } from "node:timers";
import type { Clock } from "../block/context.ts";
import { becomeIoFlusher, INTERRUPTED, readChannel } from "../sys/channel.ts";
import { currentThread, wakeThread } from "../sys/signal.ts";
import { isWorkerNamed, type WorkerScope, workerScope } from "../sys/worker_scope.ts";
import { type Order, ringMemory, RingReader, RingWriter, type WriterEnd } from "./channel_ring.ts";
import { HEADER_BYTES } from "./constants.ts";
import {
  BIO_BYTES_MAX,
  CHANNEL_MESSAGE_BYTES_MAX,
  CHANNEL_PIECE_BYTES,
  CHANNEL_TURN_US,
  CHANNEL_WAKE_MS_MAX,
  CHANNEL_WAKE_MS_MIN,
} from "./limits.ts";
import { messagePayload } from "./message.ts";

/** The name of such a thread. */
const THREAD_NAME = "dmu:channel";

/** What the home thread sends to begin with; after that the two talk through the ring. */
interface Start {
  readonly fd: number;
  readonly memory: SharedArrayBuffer;
}

/** Why a channel's thread has ended; an error if it died of a fault in the program. */
export type ThreadEnd = WriterEnd | { readonly kind: "error"; readonly reason: string };

/** The home thread's handle on the thread of one channel. */
export class ChannelThread {
  readonly #ring: RingReader;
  readonly #worker: Worker;
  readonly #clock: Clock;
  readonly #pieces: Uint8Array<ArrayBuffer>[] = [];
  #death: ThreadEnd | null = null;
  #abandoned = false;
  #abandonment: Promise<void> | null = null;
  #turn_us: number;

  /** Starts reading `fd`, which is not closed here. */
  constructor(fd: number, clock: Clock) {
    const memory = ringMemory();
    this.#ring = new RingReader(memory);
    this.#clock = clock;
    this.#turn_us = clock.now();
    this.#worker = new Worker(import.meta.url, { type: "module", name: THREAD_NAME });
    this.#worker.addEventListener("message", (event: MessageEvent) => {
      const piece: Uint8Array<ArrayBuffer> = event.data;
      this.#pieces.push(piece);
      this.#ring.wake();
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.#death = { kind: "error", reason: event.message };
      this.#ring.wake();
    });
    const start: Start = { fd, memory };
    this.#worker.postMessage(start);
  }

  /**
   * The next bytes: whole messages, or a piece of a long one. Waits for some, and gives why the thread
   * has ended when it has and everything was taken.
   */
  async next(): Promise<Uint8Array<ArrayBuffer> | ThreadEnd> {
    if (this.#clock.now() - this.#turn_us > CHANNEL_TURN_US) await this.#letOthersRun();
    for (;;) {
      const seen = this.#ring.events, end = this.#end;
      const kind = this.#ring.next();
      if (kind === "messages") return this.#ring.takeMessages();
      const piece = kind === "mark" ? this.#pieces.shift() : undefined;
      if (piece !== undefined) {
        this.#ring.takeMark();
        return piece;
      }
      // What was put before the end is still to come, unless it never will.
      const over = kind === "nothing" || this.#abandoned || this.#death !== null;
      if (end !== null && over) return end;
      await this.#ring.changed(seen);
      this.#turn_us = this.#clock.now();
    }
  }

  /** Makes the thread end between two messages; `next` gives what was read before. */
  async stop(): Promise<void> {
    await this.#order("stop");
  }

  /** Ends the thread; what it has read is lost. Afterwards it does not touch the descriptor any more. */
  abandon(): Promise<void> {
    // Both the stream and its owner do this: whoever waits is to find nothing under way afterwards.
    this.#abandonment ??= this.#abandonOnce();
    return this.#abandonment;
  }

  async #abandonOnce(): Promise<void> {
    await this.#order("abandon");
    this.#worker.terminate();
    // Whoever still waits in `next` is not to wait for ever.
    this.#abandoned = true;
    this.#pieces.length = 0;
    this.#ring.wake();
  }

  get #end(): ThreadEnd | null {
    return this.#ring.end ?? this.#death;
  }

  async #order(order: Order): Promise<void> {
    this.#ring.give(order);
    let patience_ms = CHANNEL_WAKE_MS_MIN;
    while (this.#end === null) {
      if (this.#ring.thread !== 0) wakeThread(this.#ring.thread);
      await this.#clock.sleep(patience_ms);
      patience_ms = Math.min(patience_ms * 2, CHANNEL_WAKE_MS_MAX);
    }
  }

  /** Other channels, timers and signals get their turn, though messages keep coming. */
  async #letOthersRun(): Promise<void> {
    // A timer of 0 ms takes a hundred times longer.
    await new Promise<void>((resolve) => setImmediate(resolve));
    this.#turn_us = this.#clock.now();
  }
}

/** The thread's side: reads messages until it is told to end, or the device says so. */
class ChannelReader {
  readonly #scope: WorkerScope;
  readonly #fd: number;
  readonly #ring: RingWriter;
  readonly #scratch = new Uint8Array(CHANNEL_MESSAGE_BYTES_MAX);

  constructor(scope: WorkerScope, { fd, memory }: Start) {
    this.#scope = scope;
    this.#fd = fd;
    this.#ring = new RingWriter(memory);
  }

  run(): void {
    becomeIoFlusher();
    this.#ring.setThread(currentThread());
    let result = 1;
    while (result > 0) result = this.#message();
    this.#ring.end(-result);
  }

  /** Reads one message and passes it on. Gives 1, 0 if it was told to end, or minus an errno. */
  #message(): number {
    const header = this.#scratch.subarray(0, HEADER_BYTES);
    const result = this.#fill(header, 0, true);
    if (result <= 0) return result;
    const payload = messagePayload(this.#scratch, 0);
    const whole = HEADER_BYTES + payload;
    if (whole > CHANNEL_MESSAGE_BYTES_MAX) return this.#long(whole);
    const message = this.#scratch.subarray(0, whole);
    const rest = this.#fill(message, HEADER_BYTES, false);
    return rest > 0 && !this.#ring.put(message) ? 0 : rest;
  }

  /** A message in pieces, of which the first one begins with the header. */
  #long(whole: number): number {
    // The session says what is wrong with such a message: it gets the header and nothing more.
    const end = whole > HEADER_BYTES + BIO_BYTES_MAX ? HEADER_BYTES : whole;
    let have = HEADER_BYTES;
    for (let at = 0; at < end;) {
      if (!this.#ring.waitForPiece()) return 0;
      const piece = new Uint8Array(Math.min(end - at, CHANNEL_PIECE_BYTES));
      if (have > 0) piece.set(this.#scratch.subarray(0, have));
      const result = this.#fill(piece, have, false);
      if (result <= 0) return result;
      at += piece.length;
      have = 0;
      this.#scope.postMessage(piece, [piece.buffer]);
      if (!this.#ring.mark()) return 0;
    }
    return 1;
  }

  /** Fills `into` from `at`. Gives 1, 0 if it was told to end, or minus an errno. */
  #fill(into: Uint8Array<ArrayBuffer>, at: number, mayStop: boolean): number {
    for (let done = at; done < into.length;) {
      const { order } = this.#ring;
      if (order === "abandon" || (order === "stop" && mayStop && done === 0)) return 0;
      const count = readChannel(this.#fd, done === 0 ? into : into.subarray(done));
      if (count === INTERRUPTED) continue;
      if (count < 0) return count;
      if (count === 0) return -END_OF_FILE;
      done += count;
    }
    return 1;
  }
}

/** ENODATA: a control device never gives 0 bytes, a file at its end does. */
const END_OF_FILE = 61;

if (isWorkerNamed(THREAD_NAME)) {
  const scope = workerScope();
  scope?.addEventListener("message", (event: MessageEvent<Start>) => {
    new ChannelReader(scope, event.data).run();
  });
}
