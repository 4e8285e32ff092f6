/**
 * Reads a stream of bytes in pieces of known length: what readers of binary traces need. Holds no more
 * than the piece that is asked for and the chunk that came last.
 *
 * @module
 */

const NOTHING = new Uint8Array(0);

/** A stream of bytes, read in pieces. */
export class ByteReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #chunk: Uint8Array = NOTHING;
  #position = 0;

  /** Locks the stream; `cancel` gives it up. */
  constructor(input: ReadableStream<Uint8Array>) {
    this.#reader = input.getReader();
  }

  /** Bytes that were read so far. */
  get position(): number {
    return this.#position;
  }

  /** The next `length` bytes, fewer at the end of the stream. A view of the chunk if it holds them all. */
  async read(length: number): Promise<Uint8Array> {
    if (this.#chunk.length >= length) return this.#take(length);
    const parts: Uint8Array[] = [];
    let have = 0;
    while (have < length) {
      if (this.#chunk.length === 0 && !await this.#more()) break;
      const part = this.#take(Math.min(this.#chunk.length, length - have));
      parts.push(part);
      have += part.length;
    }
    const [first = NOTHING] = parts;
    if (parts.length <= 1) return first;
    const whole = new Uint8Array(have);
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  /** Bytes that are left in the stream; reads to its end. */
  async skipAll(): Promise<number> {
    let count = 0;
    do {
      count += this.#chunk.length;
      this.#take(this.#chunk.length);
    } while (await this.#more());
    return count;
  }

  /** Gives the stream up. */
  async cancel(): Promise<void> {
    await this.#reader.cancel();
  }

  async #more(): Promise<boolean> {
    for (;;) {
      const { done, value } = await this.#reader.read();
      if (done) return false;
      if (value.length === 0) continue;
      this.#chunk = value;
      return true;
    }
  }

  #take(length: number): Uint8Array {
    const part = this.#chunk.subarray(0, length);
    this.#chunk = this.#chunk.subarray(length);
    this.#position += length;
    return part;
  }
}
