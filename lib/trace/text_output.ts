/**
 * Text traces that are written: gathers lines, and gives bytes on in large pieces.
 *
 * @module
 */
import { OUTPUT_BYTES } from "./limits.ts";

/** Lines on their way to bytes. */
export class TextOutput {
  #text = "";
  readonly #encoder = new TextEncoder();

  /** True when what is there should be taken. */
  get full(): boolean {
    return this.#text.length >= OUTPUT_BYTES;
  }

  /** Adds text; lines bring their ends with them. */
  add(text: string): void {
    this.#text += text;
  }

  /** What was added since the last time, as UTF-8. */
  take(): Uint8Array<ArrayBuffer> {
    const bytes = this.#encoder.encode(this.#text);
    this.#text = "";
    return bytes;
  }
}
