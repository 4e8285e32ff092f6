/**
 * Reading from an open image.
 *
 * @module
 */
import { compressedBytes, compressedOffset } from "../format/entries.ts";
import { decompressCluster } from "../format/compress.ts";
import { readLayer } from "./backing.ts";
import { COMPRESSED, DATA, emptyRun, mapRun, type Run, UNALLOCATED } from "./mapping.ts";
import type { ImageState } from "./state.ts";

/** Reads; keeps the last decompressed cluster, since small reads follow one another. */
export class Reader {
  readonly #state: ImageState;
  readonly #run: Run = emptyRun();
  #unpacked: Uint8Array | null = null;
  #unpackedHigh = 0;
  #unpackedLow = 0;

  /** For an image that is open. */
  constructor(state: ImageState) {
    this.#state = state;
  }

  /** Fills `into` with what the disk has at `offset`. Errno: EIO for damage, and what files throw. */
  read(into: Uint8Array, offset: number): void {
    const state = this.#state, run = this.#run;
    mapRun(state, offset, into.length, run);
    if (run.length === into.length) return this.#readRun(into, offset);
    let at = 0;
    for (;;) {
      const { length } = run;
      this.#readRun(into.subarray(at, at + length), offset + at);
      at += length;
      if (at === into.length) return;
      mapRun(state, offset + at, into.length - at, run);
    }
  }

  #readRun(into: Uint8Array, offset: number): void {
    const { kind, host, high, low } = this.#run;
    if (kind === DATA) this.#state.guestFile.read(into, host);
    else if (kind === UNALLOCATED) readLayer(this.#state.backing, into, offset);
    else if (kind === COMPRESSED) {
      const within = offset % this.#state.layout.clusterBytes;
      into.set(this.#unpack(high, low).subarray(within, within + into.length));
    } else into.fill(0);
  }

  /** Reads ahead what a range has in files. */
  cache(offset: number, length: number): void {
    const state = this.#state, run = this.#run;
    for (let at = offset; at < offset + length; at += run.length) {
      mapRun(state, at, offset + length - at, run);
      const { kind, host, length: count } = run;
      if (kind === DATA) state.guestFile.raw.readAhead(host, count);
      const below = state.backing;
      if (kind !== UNALLOCATED || below === null || at >= below.size) continue;
      below.cache(at, Math.min(count, below.size - at));
    }
  }

  /** Compressed data was written, perhaps where the last one was: it has to be read again. */
  forget(): void {
    this.#unpacked = null;
  }

  /** The cluster that a compressed entry points to. */
  #unpack(high: number, low: number): Uint8Array {
    if (this.#unpacked !== null && this.#unpackedHigh === high && this.#unpackedLow === low) {
      return this.#unpacked;
    }
    const { layout, header, file, hostEnd } = this.#state;
    const offset = compressedOffset(high, low, layout.clusterBits);
    const length = compressedBytes(high, low, layout.clusterBits);
    if (layout.external || offset + 1 > hostEnd) {
      this.#state.damaged(`an L2 entry says that compressed data is at ${offset}`);
    }
    const skip = offset % file.raw.alignment;
    const packed = new Uint8Array(
      Math.ceil((skip + length) / file.raw.alignment) * file.raw.alignment,
    );
    file.read(packed, offset - skip);
    const unpacked = decompressCluster(
      header.compression,
      packed.subarray(skip, skip + length),
      layout.clusterBytes,
    );
    this.#unpacked = unpacked;
    this.#unpackedHigh = high;
    this.#unpackedLow = low;
    return unpacked;
  }
}
