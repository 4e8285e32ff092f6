/**
 * The seam between drivers and protocols: a byte session is a pure protocol state machine with a
 * Device behind it; a byte pair is what the streams driver moves its bytes over. Relies on nothing.
 *
 * @module
 */
import type { ReplyVector } from "../block/request.ts";
import type { StorageNews } from "../block/types.ts";

/** Bytes on their way out. A PooledBuffer is one. */
export interface OutputBuffer<B extends ArrayBufferLike = ArrayBufferLike> {
  /** What to send. */
  readonly bytes: Uint8Array<B>;
  /** Gives the memory back; called once, when the bytes were sent or never will be. */
  release(): void;
}

/** Hears that `bytes` bytes were handed to the kernel in `us` µs. */
export type SentIn = (us: number, bytes: number) => void;

/** An output of a session that the blocking driver runs. */
export interface BlockingOutput extends OutputBuffer<ArrayBuffer> {
  /** What is sent in place of `bytes`, which are empty then; null for most outputs. */
  readonly vector: ReplyVector | null;
  /** Wants to know how long it took to hand so many bytes of it to the kernel, in µs; nobody does if null or absent. */
  readonly sentIn?: SentIn | null;
}

/** A protocol over bytes. It opens nothing and reads no clock; every driver can run it. */
export interface ByteSession {
  /**
   * Takes the next bytes of the peer, of any length from 1. The session may keep the chunk: the
   * driver does not touch it again. Throws ProtocolError if the peer broke the protocol: the
   * driver then ends the connection at once and sends nothing more. A session that wants to send a
   * last word puts it into its output and becomes `finished` instead.
   */
  receive(chunk: Uint8Array): void;
  /** False while no more input is wanted (too much in flight, too much unsent): back-pressure. */
  readonly ready: boolean;
  /** The next bytes to send, or null. The driver calls `release` after they are sent. */
  takeOutput(): OutputBuffer | null;
  /**
   * Nothing more will be sent (past what `takeOutput` still gives) or wanted: the driver sends what
   * is left and closes. After `end` it becomes true as soon as no work is in flight any more; the
   * driver waits for that, so that nothing of a session is left when its driver is done.
   */
  readonly finished: boolean;
  /** Set by the driver. Called when output, `ready` or `finished` changed outside `receive`. */
  onWake: (() => void) | null;
  /**
   * No more input comes and no more output is taken: the input ended or the session was finished
   * (`cause` undefined), or the connection was lost or aborted (`cause` is why). Called exactly
   * once, last. Work in flight is left to finish, buffers are freed. Must not throw.
   */
  end(cause: unknown): void;
}

/**
 * A session that the blocking driver can run: one buffer serves all connections of a thread, and what a
 * connection may pin is bounded without its session's help.
 */
export interface BlockingSession extends ByteSession {
  /** See ByteSession; system calls take no shared memory. */
  takeOutput(): BlockingOutput | null;
  /**
   * The driver wants to use the memory of the chunk that it gave last again: the session copies what it
   * still needs of it. False if it cannot, because work in flight uses it: the memory is then its own.
   */
  releaseInput(): boolean;
  /**
   * Where the driver should put what comes next, piece by piece, if that is no memory of its own: long
   * messages are not copied. It then calls `receivedInto`. Empty if there are no such places.
   */
  inputRooms(): readonly Uint8Array<ArrayBuffer>[];
  /** `count` bytes, 0 too, were received into what `inputRooms` gave. Throws as `receive` does. */
  receivedInto(count: number): void;
  /** Bytes of the input that wait, those of a part of a frame too. */
  readonly pendingBytes: number;
  /** Bytes of input so far. */
  readonly receivedBytes: number;
  /** Requests that were begun so far. */
  readonly requestCount: number;
  /** How the peer broke the protocol, null if it did not; it may show without `receive` throwing. */
  readonly failure: Error | null;
  /**
   * Requests wait only for their turn: after each output others, and what has come
   * meanwhile, have their turn.
   */
  readonly paced: boolean;
  /**
   * Nothing is to be done before the storage has something, or the peer sends something: the driver then
   * asks for output again. Null if that is not so.
   */
  readonly awaits: StorageNews | null;
  /** Takes no more input: answers what is in flight, and then is `finished`. */
  stop(): void;
}

/**
 * Both directions of a connection. `write` of the writable resolves when the bytes are not needed
 * any more (sent or copied), since callers reuse buffers afterwards; a write that hangs is settled
 * soon after the stream is aborted (or the readable is cancelled). Chunks read belong to the reader.
 */
export interface BytePair {
  /** What the peer sends. */
  readonly readable: ReadableStream<Uint8Array>;
  /** What is sent to the peer; `close` sends all before it and then ends this direction. */
  readonly writable: WritableStream<Uint8Array>;
}
