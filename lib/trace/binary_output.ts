/**
 * Binary traces that are written: gathers records, and gives bytes on in large pieces.
 *
 * @module
 */
import { OUTPUT_BYTES } from "./limits.ts";

/** Records on their way to bytes. */
export class BinaryOutput {
  #bytes = new Uint8Array(OUTPUT_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #end = 0;

  /** True when what is there should be taken. */
  get full(): boolean {
    return this.#end >= OUTPUT_BYTES / 2;
  }

  /** The memory as numbers; another one after `room`. */
  get view(): DataView<ArrayBuffer> {
    return this.#view;
  }

  /** Makes room for a record of that many bytes, all zero; gives where it begins. */
  room(count: number): number {
    const at = this.#end;
    this.#end += count;
    if (this.#end > this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#end);
      grown.set(this.#bytes.subarray(0, at));
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }

  /** Adds bytes as they are. */
  add(bytes: Uint8Array): void {
    const at = this.room(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** What was added since the last time. Its memory is the caller's. */
  take(): Uint8Array<ArrayBuffer> {
    const taken = this.#bytes.slice(0, this.#end);
    this.#bytes.fill(0, 0, this.#end);
    this.#end = 0;
    return taken;
  }
}
