/**
 * The transmission phase of the server as a byte session: requests in, replies out. This file is about
 * the flow (frames, limits, the ways to end); what the commands do is in server_commands.ts.
 * Implements the section "Transmission".
 *
 * Requests that arrive faster than replies leave, or than the Device works, wait in the chunk in which
 * they came, and `ready` is false. They are taken up as soon as a reply has left or a request is done.
 * While memory is scarce, because all connections together hold much, a long read waits until it is
 * not: small requests go on, so that clients which do not read their replies slow down only what is big.
 *
 * A read that had to wait for a disk ends its turn: replies leave at once, and what the client sends for
 * them is received, and told to the storage, while the others wait for their turn.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import {
  CONNECTION_BYTES_MAX,
  CONNECTION_REQUESTS_MAX,
  SCARCE_CONNECTION_BYTES,
} from "../block/limits.ts";
import type { BufferPool } from "../block/pool.ts";
import type { Gate, ReplyVectors } from "../block/request.ts";
import type { StorageNews } from "../block/types.ts";
import { ProtocolError } from "../stream/frame.ts";
import { ReplyQueue } from "../stream/reply_queue.ts";
import type { BlockingOutput, BlockingSession } from "../stream/session.ts";
import { FrameSplitter, NO_ROOMS } from "../stream/splitter.ts";
import { COMMAND } from "./constants.ts";
import type { HandshakeState } from "./export_info.ts";
import {
  AHEAD_READS_MAX,
  BULK_FRAME_BYTES_MIN,
  OUTPUT_BATCH_BYTES,
  REQUESTS_PER_TURN_MAX,
} from "./limits.ts";
import { RequestAnnouncer } from "./request_announcer.ts";
import { COMPACT_REQUESTS, EXTENDED_REQUESTS } from "./request_format.ts";
import { RequestHeader } from "./requests.ts";
import { ServerCommands } from "./server_commands.ts";

/** What a session serves. */
export interface NbdServerSessionOptions {
  /** The storage. */
  readonly device: Device;
  /** Where access can be taken away. */
  readonly gate: Gate;
  /** What the handshake settled. */
  readonly state: HandshakeState;
  /** Bytes that came behind the handshake; they are taken up at the first `takeOutput`. */
  readonly unread?: Uint8Array;
  /** For data that are sent from storage that is memory; only a driver that knows vectors has them. */
  readonly vectors?: ReplyVectors;
  /** The driver waits for what `awaits` gives; without it the session waits itself. */
  readonly polls?: true;
  /** Unsent replies, in bytes, above which requests wait; OUTPUT_BATCH_BYTES if left out. */
  readonly batchBytes?: number;
}

const NO_VIEW = new DataView(new ArrayBuffer(0));

/** One connection in its transmission phase. */
export class NbdServerSession implements BlockingSession {
  /** Set by the driver. */
  onWake: (() => void) | null = null;

  readonly #extended: boolean;
  readonly #announcer: RequestAnnouncer;
  readonly #batchBytes: number;
  readonly #device: Device;
  readonly #pool: BufferPool;
  readonly #splitter: FrameSplitter;
  readonly #queue: ReplyQueue;
  readonly #commands: ServerCommands;
  #header = new RequestHeader();
  /** View of the chunk that is being read: one for many requests. */
  #view: DataView = NO_VIEW;
  /** Chunks that the splitter has not seen. */
  #backlog: Uint8Array[] = [];
  /** Requests wait because of a limit. */
  #stalled = false;
  /** What waits does so because a read has ended its turn, and for no other reason. */
  #paced = false;
  readonly #polls: boolean;
  /** See BlockingSession. */
  awaits: StorageNews | null = null;
  /** Reads that are under way with the storage, in their order. */
  #parked: RequestHeader[] = [];
  /** Requests that may still be served in this turn, and whether a read may end it. */
  #turnLeft = 0;
  #pacing = false;
  /** The request in `#header` waits for memory. */
  #deferred = false;
  #draining = false;
  /** No further request is wanted. */
  #leaving = false;
  #ended = false;
  #failure: ProtocolError | null = null;
  /**
   * V8 keeps it as a double, since it begins as one. As a small integer it would not fit any more after 2 GiB,
   * and then all that is compiled for sessions would be thrown away, in the midst of work.
   */
  #receivedBytes = 0.5;
  #requestCount = 0;
  /** Bytes of the last request, its payload included, and of those that come if it is like the one before. */
  #lastBytes = 0;
  #streamed = 0;

  /** Serves `device` through `gate` as the handshake has settled. */
  constructor(options: NbdServerSessionOptions) {
    const { device, gate, state, unread, vectors = null } = options;
    this.#receivedBytes = 0;
    this.#extended = state.extended;
    this.#polls = options.polls === true && device.ahead?.news !== undefined;
    this.#batchBytes = options.batchBytes ?? OUTPUT_BATCH_BYTES;
    const format = state.extended ? EXTENDED_REQUESTS : COMPACT_REQUESTS;
    this.#device = device;
    this.#announcer = new RequestAnnouncer(device, format, {
      extended: state.extended,
      waitsAlone: !this.#polls,
    });
    this.#pool = device.pool;
    this.#splitter = new FrameSplitter(format, device.pool);
    // Data that are sent from storage that is memory are read only then: the Device shall know if that is slow.
    const sentIn = (us: number, bytes: number): void => device.noteSent(us, bytes);
    this.#queue = new ReplyQueue(device.pool, { vectors, sentIn });
    this.#commands = new ServerCommands(
      { device, gate, state, locates: vectors !== null },
      this.#queue,
      this.#completed,
    );
    if (unread === undefined || unread.length === 0) return;
    this.#backlog.push(unread);
    this.#stalled = true;
  }

  /** Requests that the Device has not done yet. */
  get inFlight(): number {
    return this.#commands.inFlight;
  }

  /** Bytes of a request that has arrived in part, and of those that wait. */
  get pendingBytes(): number {
    return this.#splitter.pending;
  }

  /** Bytes that the client has sent so far in this phase. */
  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** Requests that were begun so far. */
  get requestCount(): number {
    return this.#requestCount;
  }

  /**
   * How the client broke the protocol, null if it did not. It may show after `receive`, when a request
   * that had to wait is looked at; the session is finished then, and its driver ends as if all were well.
   */
  get failure(): ProtocolError | null {
    return this.#failure;
  }

  /** False while requests wait for earlier ones, and when no more are wanted. */
  get ready(): boolean {
    if (this.#ended || this.#leaving) return false;
    return this.#paced ? this.#announcer.waiting < AHEAD_READS_MAX : !this.#stalled;
  }

  /** See BlockingSession. */
  get paced(): boolean {
    return this.#paced;
  }

  /** DISC was received or `stop` called, and all is answered; or the protocol was broken. */
  get finished(): boolean {
    if (this.#failure !== null && !this.#ended) return true;
    return (this.#ended || this.#leaving) && this.#commands.inFlight === 0;
  }

  /** Takes what the client sent. Throws ProtocolError if that is no request. */
  receive(chunk: Uint8Array): void {
    // After DISC nothing may come; whatever does is ignored.
    if (this.#ended || this.#leaving) return;
    this.#receivedBytes += chunk.length;
    if (this.#device.wantsAhead) {
      const whole = this.pendingBytes === 0 && this.#backlog.length === 0;
      this.#announcer.look(chunk, whole);
      this.#device.toldAhead();
    } else this.#announcer.lose();
    this.#backlog.push(chunk);
    if (!this.#paced) this.#drain();
    if (this.#failure !== null) throw this.#failure;
  }

  /** See BlockingSession. */
  inputRooms(): readonly Uint8Array<ArrayBuffer>[] {
    if (this.#backlog.length > 0) return NO_ROOMS;
    // Requests are announced from chunks.
    return this.#splitter.rooms(this.#device.wantsAhead ? 0 : this.#streamed);
  }

  /** See BlockingSession. */
  receivedInto(count: number): void {
    if (this.#ended || this.#leaving) return;
    this.#receivedBytes += count;
    if (this.#splitter.filled(count)) this.#announcer.lose();
    else this.#announcer.passed(count);
    if (count === 0) return;
    if (!this.#paced) this.#drain();
    if (this.#failure !== null) throw this.#failure;
  }

  /** See BlockingSession. */
  releaseInput(): boolean {
    // The payload of a write in flight may lie in the chunk.
    if (this.#commands.inFlight > 0) return false;
    const last = this.#backlog.pop();
    if (last === undefined) this.#splitter.detach();
    else this.#backlog.push(last.slice());
    this.#view = NO_VIEW;
    return true;
  }

  /** What is to be sent next. Requests that had to wait for replies to leave are served on the way. */
  takeOutput(): BlockingOutput | null {
    if (this.#ended) return null;
    let output = this.#paced ? this.#queue.takeOutput() : null;
    if (this.#stalled && output === null) {
      this.#drain();
      if (!this.#stalled) this.onWake?.();
    }
    output ??= this.#queue.takeOutput();
    if (output === null || !this.#stalled) return output;
    const release = (): void => {
      output.release();
      if (this.#stalled && !this.#full()) this.onWake?.();
    };
    return { ...output, release };
  }

  /**
   * The server goes down: requests in flight are answered when they are done, those that arrived after
   * them with ESHUTDOWN as far as the limits allow, and then the session is finished.
   */
  stop(): void {
    if (this.#ended || this.#leaving) return;
    this.#commands.stopping = true;
    this.#drain();
    this.#leave();
    this.onWake?.();
  }

  /** The connection is gone: requests in flight are left to finish, nothing is sent any more. */
  end(_cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#leave();
    this.#queue.close();
    this.#commands.close();
  }

  #leave(): void {
    this.#leaving = true;
    this.#stalled = this.#paced = false;
    this.awaits = null;
    this.#parked = [];
    this.#announcer.forget();
    this.#deferred = false;
    this.#pool.forget(this.#plenty);
    this.#splitter.reset();
    this.#backlog = [];
    this.#view = NO_VIEW;
  }

  /** True if no further request may be taken yet. */
  #full(): boolean {
    const { unsentBytes } = this.#queue;
    const { inFlight, dataBytes, replyBytes } = this.#commands;
    const bytesMax = this.#pool.scarce ? SCARCE_CONNECTION_BYTES : CONNECTION_BYTES_MAX;
    return inFlight >= CONNECTION_REQUESTS_MAX ||
      unsentBytes + dataBytes >= bytesMax ||
      unsentBytes - replyBytes >= this.#batchBytes;
  }

  /** Serves the requests that have arrived, as far as the limits allow. */
  #drain(): void {
    if (this.#draining || this.#leaving) return;
    this.#draining = true;
    const { stopping } = this.#commands;
    const paced = this.#device.readsAhead && !stopping;
    this.#turnLeft = stopping ? Infinity : REQUESTS_PER_TURN_MAX;
    this.#pacing = paced;
    try {
      if (paced || this.#parked.length > 0) this.#serveParked(false);
      while (!this.#leaving) {
        this.#stalled = this.#turnLeft <= 0 || this.#full() || (paced && this.#allParked());
        if (this.#stalled || !this.#next()) break;
      }
      // Nothing else is to be done than to wait for the storage.
      const idle = this.#turnLeft === REQUESTS_PER_TURN_MAX && this.#parked.length > 0;
      this.awaits = idle && this.#polls ? this.#device.ahead?.news ?? null : null;
      if (idle && this.awaits === null) this.#serveParked(true);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#failure = error;
      this.#leave();
    } finally {
      this.#draining = false;
    }
    if (this.#parked.length > 0) this.#stalled = true;
    this.#paced = this.#stalled && paced && !this.#leaving && !this.#full() &&
      (!this.#deferred || this.#parked.length > 0);
    // What is kept for speed must not keep memory alive while the connection is idle.
    if (!this.#stalled) {
      this.#view = NO_VIEW;
      this.#commands.forgetMemory();
    }
  }

  /**
   * Serves those of the parked reads that are there, as far as the limits allow; with `wait` at least one,
   * if there are any.
   */
  #serveParked(wait: boolean): void {
    const before = this.#turnLeft;
    this.#look(false);
    while (this.#parked.length > 0 && !this.#full()) {
      this.#parked = this.#parked.filter((header) => {
        if (this.#isUnderWay(header) || this.#full()) return true;
        this.#serve(header);
        return false;
      });
      if (!wait || this.#turnLeft !== before) return;
      this.#look(true);
    }
  }

  /** The time that it takes is not that of the read that comes next. */
  #look(wait: boolean): void {
    const { ahead } = this.#device;
    if (ahead === null) return;
    ahead.look(wait);
    this.#device.toldAhead();
  }

  /** True if what comes next are reads that the storage is not told of before others are done. */
  #allParked(): boolean {
    const { waiting, untold } = this.#announcer;
    const { length } = this.#parked;
    return untold > 0 && length > 0 && length >= waiting - untold;
  }

  /** True for a read that would wait for the storage, which works on it. */
  #isUnderWay({ type, offset, length }: RequestHeader): boolean {
    if (type !== COMMAND.READ || this.#commands.stopping) return false;
    return this.#device.ahead?.isUnderWay(offset, length) === true;
  }

  /** Serves one request, or parks it; false if there is none that can be served now. */
  #next(): boolean {
    if (!this.#deferred && !this.#decodeNext()) return false;
    const header = this.#header;
    const mustWait = this.#mustWait(header);
    // What came before the end is answered.
    this.#deferred = mustWait || (header.type === COMMAND.DISC && this.#parked.length > 0);
    if (this.#deferred) {
      this.#stalled = true;
      if (mustWait) this.#pool.awaitPlenty(this.#plenty);
      return false;
    }
    this.#requestCount += 1;
    if (this.#pacing && this.#isUnderWay(header)) {
      this.#parked.push(header);
      this.#device.noteParked();
      this.#header = new RequestHeader();
    } else this.#serve(header);
    return true;
  }

  #serve(header: RequestHeader): void {
    this.#turnLeft -= 1;
    if (header.type === COMMAND.READ) this.#announcer.served();
    if (header.type === COMMAND.DISC) return this.#leave();
    this.#commands.run(header, this.#splitter);
    // The replies so far leave before the next read is waited for.
    if (this.#pacing && header.type === COMMAND.READ && this.#device.readsWait) this.#turnLeft = 0;
  }

  /** Decodes the next request into the header; false if there is none yet. */
  #decodeNext(): boolean {
    const splitter = this.#splitter;
    while (!splitter.next()) {
      const chunk = this.#backlog.shift();
      if (chunk === undefined) return false;
      splitter.push(chunk);
    }
    const { bytes, start, end } = splitter;
    const length = end - start;
    this.#streamed = length >= BULK_FRAME_BYTES_MIN && length === this.#lastBytes ? length : 0;
    this.#lastBytes = length;
    const view = this.#view;
    if (view.buffer !== bytes.buffer || view.byteOffset !== bytes.byteOffset) {
      this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    if (this.#extended) this.#header.decodeExtended(this.#view, start);
    else this.#header.decodeCompact(this.#view, start);
    return true;
  }

  /** True for a read that needs much memory while there is little. Writes have theirs already. */
  #mustWait({ type, length }: RequestHeader): boolean {
    return type === COMMAND.READ && length > SCARCE_CONNECTION_BYTES && this.#pool.scarce &&
      !this.#commands.stopping;
  }

  readonly #plenty = (): void => {
    this.onWake?.();
  };

  readonly #completed = (): void => {
    if (this.#stalled) this.#drain();
    else if (this.#commands.inFlight === 0) this.#commands.forgetMemory();
    this.onWake?.();
  };
}
