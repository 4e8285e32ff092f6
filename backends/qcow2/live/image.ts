/**
 * The backend of an open image: block verbs over its parts.
 *
 * @module
 */
import { PREFERRED_BLOCK_BYTES_MAX, REQUEST_BYTES_MAX } from "../../../lib/block/limits.ts";
import type { Backend, Geometry } from "../../../lib/block/types.ts";
import { closeFiles, type OpenImage } from "./open.ts";
import { extentsOf } from "./extents.ts";
import { Packer, writePacked } from "./pack.ts";
import { resizeImage } from "./resize.ts";
import { Writer } from "./write.ts";
import { Zeroer } from "./zero.ts";

const PREFERRED_BYTES_MIN = 4096;

/** Parts of an image that is open for writing. */
export interface LiveImage extends OpenImage {
  /** Writes. */
  readonly writer: Writer;
  /** Zeroes and trims. */
  readonly zeroer: Zeroer;
}

/** Adds what changes an image; of no use if it is read-only. */
export function makeLive(image: OpenImage): LiveImage {
  const writer = new Writer(image.state, image.reader);
  return { ...image, writer, zeroer: new Zeroer(image.state, writer) };
}

/** Ends an image: last commits, files closed. What fails is thrown after the files are closed. */
export function closeImage({ state }: OpenImage): void {
  try {
    if (!state.readOnly && state.failure === null) state.committer.finishNow();
  } finally {
    closeFiles(state);
  }
}

/** How the backend of an image behaves. */
export interface BackendSettings {
  /** Flushes are made on this thread. */
  readonly mayBlock: boolean;
  /** Whole clusters are stored compressed. */
  readonly compress: boolean;
}

/** The backend of an image. */
export function makeBackend(image: LiveImage, { mayBlock, compress }: BackendSettings): Backend {
  const { state, reader, writer, zeroer } = image;
  const { layout, readOnly } = state;
  const minimum = Math.max(state.file.raw.alignment, state.dataFile?.raw.alignment ?? 1);
  const preferred = Math.min(
    Math.max(compress ? layout.clusterBytes : layout.subclusterBytes, PREFERRED_BYTES_MIN),
    PREFERRED_BLOCK_BYTES_MAX,
  );
  let geometry: Geometry = {
    size: state.header.size,
    minimum,
    preferred,
    maximum: REQUEST_BYTES_MAX,
    readOnly,
  };
  let closed = false;
  const plain = (from: Uint8Array, offset: number): void => writer.write(from, offset);
  const packer = compress ? new Packer(state, reader) : null;
  return {
    get geometry() {
      // A snapshot that is applied brings its size along.
      const { size } = state.header;
      if (size !== geometry.size) geometry = { ...geometry, size };
      return geometry;
    },
    capabilities: { synchronous: mayBlock, fua: false },
    read: (into, offset) => reader.read(into, offset),
    write: packer === null
      ? plain
      : (from, offset) => writePacked(state, packer, from, offset, plain),
    flush: () => {
      if (readOnly) return;
      return mayBlock ? state.committer.commitNow() : state.committer.commitLater();
    },
    trim: (offset, length) => zeroer.trim(offset, length),
    zero: (offset, length, options) => zeroer.zero(offset, length, options),
    cache: (offset, length) => reader.cache(offset, length),
    extents: (offset, length) => extentsOf(state, offset, length),
    resize: (size) => resizeImage(image, size),
    [Symbol.asyncDispose]: async () => {
      if (closed) return;
      closed = true;
      if (!readOnly) await state.committer.settled();
      closeImage(image);
    },
  };
}
