/**
 * Steps: a handshake written as one generator that reads from top to bottom, asks for bytes, gives
 * bytes, and is told when encryption has begun. It is pure: whoever runs it moves the bytes.
 *
 * @module
 */
import { ProtocolError } from "../../stream/frame.ts";
import { HANDSHAKE_BYTES_MAX } from "./limits.ts";

/** What a generator wants done before it goes on. */
export type Step =
  | { readonly kind: "take"; readonly length: number; readonly ifEnded?: string }
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  | { readonly kind: "encrypt" };

/** A conversation with a server that ends with a T. `next` takes the bytes that a "take" asked for. */
export type Steps<T> = Generator<Step, T, Uint8Array>;

const NOTHING = new Uint8Array(0);
const ENDED = "the server closed the connection during the handshake";
/** With TLS 1.3 a server looks at the certificate after the client has finished, and then hangs up. */
const ENDED_UNDER_TLS = "the server closed the connection as TLS began; it may refuse this " +
  "client's certificate, or the lack of one";

/** Asks for exactly `length` bytes. `ifEnded` says what it means if the server hangs up instead. */
export function* take(length: number, ifEnded?: string): Steps<Uint8Array> {
  if (length === 0) return NOTHING;
  return yield { kind: "take", length, ...(ifEnded === undefined ? {} : { ifEnded }) };
}

/** Gives bytes to send. */
export function* send(bytes: Uint8Array): Steps<void> {
  yield { kind: "send", bytes };
}

/** Asks for encryption; goes on when all that follows is encrypted. */
export function* encrypt(): Steps<void> {
  yield { kind: "encrypt" };
}

/**
 * Runs steps over bytes that come in chunks of any length. `receive` throws what the steps throw;
 * afterwards there is still the output, with which the steps may have taken their leave.
 */
export class StepRunner<T> {
  readonly #steps: Steps<T>;
  #input: Uint8Array[] = [];
  #inputLength = 0;
  #receivedBytes = 0;
  #wanted = 0;
  #ifEnded = ENDED;
  #output: Uint8Array[] = [];
  #result: { readonly value: T } | null = null;
  #encrypting = false;
  /** False from the beginning of TLS until the server's first bytes under it. */
  #trusted = true;

  /** Runs the steps up to the first one that needs something. */
  constructor(steps: Steps<T>) {
    this.#steps = steps;
    this.#advance(NOTHING);
  }

  /** The end of the conversation, or null. */
  get result(): { readonly value: T } | null {
    return this.#result;
  }

  /** Bytes in both directions have to be encrypted now: call `encrypted` once they are. */
  get encrypting(): boolean {
    return this.#encrypting;
  }

  /** What it means if the server hangs up now, as the reason of a message. */
  get ifEnded(): string {
    return this.#ifEnded;
  }

  /** The next bytes to send, or null. */
  takeOutput(): Uint8Array | null {
    return this.#output.shift() ?? null;
  }

  /** Takes bytes of the server. */
  receive(chunk: Uint8Array): void {
    this.#receivedBytes += chunk.length;
    if (this.#receivedBytes > HANDSHAKE_BYTES_MAX) {
      throw new ProtocolError(
        `Cannot finish the handshake: the server sent more than ${HANDSHAKE_BYTES_MAX} bytes`,
      );
    }
    this.#input.push(chunk);
    this.#inputLength += chunk.length;
    if (this.#encrypting) this.#refuseEarlyBytes();
    this.#feed();
  }

  /** Goes on after the encryption has begun. */
  encrypted(): void {
    this.#encrypting = false;
    this.#trusted = false;
    this.#advance(NOTHING);
    this.#feed();
  }

  /** The bytes that were received and not used; the runner is done with them. */
  takeRemainder(): Uint8Array {
    return this.#cut(this.#inputLength);
  }

  #feed(): void {
    while (this.#result === null && !this.#encrypting && this.#inputLength >= this.#wanted) {
      if (this.#wanted > 0) this.#trusted = true;
      this.#advance(this.#cut(this.#wanted));
    }
  }

  /** What comes in the clear before the encryption could be put in by anybody: it must not count. */
  #refuseEarlyBytes(): void {
    if (this.#inputLength > 0) {
      throw new ProtocolError(
        "Cannot begin TLS: the server sent bytes in the clear after its consent",
      );
    }
  }

  #cut(length: number): Uint8Array {
    const first = this.#input[0] ?? NOTHING;
    this.#inputLength -= length;
    if (first.length >= length) {
      if (first.length === length) this.#input.shift();
      else this.#input[0] = first.subarray(length);
      return first.subarray(0, length);
    }
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      const piece = this.#input[0] ?? NOTHING;
      const count = Math.min(piece.length, length - filled);
      bytes.set(piece.subarray(0, count), filled);
      filled += count;
      if (count === piece.length) this.#input.shift();
      else this.#input[0] = piece.subarray(count);
    }
    return bytes;
  }

  #advance(bytes: Uint8Array): void {
    let step = this.#steps.next(bytes);
    while (!step.done && step.value.kind === "send") {
      this.#output.push(step.value.bytes);
      step = this.#steps.next(NOTHING);
    }
    if (step.done) {
      this.#result = { value: step.value };
      return;
    }
    if (step.value.kind === "take") {
      this.#wanted = step.value.length;
      this.#ifEnded = step.value.ifEnded ?? (this.#trusted ? ENDED : ENDED_UNDER_TLS);
    }
    if (step.value.kind === "encrypt") {
      this.#encrypting = true;
      this.#refuseEarlyBytes();
    }
  }
}
