/**
 * A window on a stream of bytes: what decoders look at without waiting. It holds what has not been
 * understood yet and the chunk that came last, no more; waiting happens once a chunk, not once a record.
 *
 * @module
 */
import { WINDOW_BYTES } from "./limits.ts";

/** A window on a stream. Bytes from `at` to `end` of `bytes` are there. */
export class ByteWindow {
  /** The memory; another one after `fill`. */
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(WINDOW_BYTES);
  /** The memory as numbers. */
  view: DataView<ArrayBuffer> = new DataView(this.bytes.buffer);
  /** First byte that is not understood yet: moved on by the decoder. */
  at = 0;
  /** Behind the last byte that is there. */
  end = 0;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #dropped = 0;

  /** Locks the stream; `cancel` gives it up. */
  constructor(input: ReadableStream<Uint8Array>) {
    this.#reader = input.getReader();
  }

  /** Bytes that are there. */
  get length(): number {
    return this.end - this.at;
  }

  /** Where in the stream `at` is, in bytes. */
  get position(): number {
    return this.#dropped + this.at;
  }

  /** Waits for more bytes; false at the end of the stream. What is before `at` is gone afterwards. */
  async fill(): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#reader.read();
      if (done) return false;
      if (value.length === 0) continue;
      this.#add(value);
      return true;
    }
  }

  /** Waits until there are that many bytes; false if the stream ends before. */
  async atLeast(count: number): Promise<boolean> {
    while (this.length < count) if (!await this.fill()) return false;
    return true;
  }

  /** Gives the stream up. */
  async cancel(): Promise<void> {
    await this.#reader.cancel();
  }

  #add(chunk: Uint8Array): void {
    if (this.end + chunk.length > this.bytes.length) this.#makeRoom(chunk.length);
    this.bytes.set(chunk, this.end);
    this.end += chunk.length;
  }

  #makeRoom(count: number): void {
    const left = this.bytes.subarray(this.at, this.end);
    if (2 * (left.length + count) > this.bytes.length) {
      this.bytes = new Uint8Array(2 * (left.length + count));
      this.view = new DataView(this.bytes.buffer);
      this.bytes.set(left);
    } else {
      this.bytes.copyWithin(0, this.at, this.end);
    }
    this.#dropped += this.at;
    this.end = left.length;
    this.at = 0;
  }
}
