/**
 * Committing an image into its backing file: what the image holds is written there, and then the image
 * holds nothing. A crash on the way leaves both as they are: what was written already is what the image
 * shows anyway.
 *
 * @module
 */
import type { OpenContext } from "../../../lib/block/context.ts";
import { BlockError, toBlockError } from "../../../lib/block/errors.ts";
import type { RawFile } from "../../../lib/sys/file_access.ts";
import type { Layer } from "./backing.ts";
import { closeImage, type LiveImage, makeLive } from "./image.ts";
import { COMMIT_CHUNK_BYTES } from "./limits.ts";
import { emptyRun, mapRun, UNALLOCATED, ZERO_ALLOCATED, ZERO_PLAIN } from "./mapping.ts";
import { type ImageOptions, openImage, reopenBacking } from "./open.ts";
import { resizeImage } from "./resize.ts";

/** The backing file, opened to be written. */
interface Below {
  readonly size: number;
  write(from: Uint8Array, offset: number): void;
  zero(offset: number, length: number): void;
  grow(size: number): void;
  /** Durably, and closed. */
  finish(): void;
  abandon(): void;
}

const FAST = { mayTrim: true, fastOnly: false } as const;

function rawBelow(file: RawFile): Below {
  return {
    size: file.size(),
    write: (from, offset) => file.write(from, offset),
    zero: (offset, length) => {
      try {
        file.punch(offset, length);
      } catch (error) {
        if (toBlockError(error).errno !== "EOPNOTSUPP") throw error;
        writeZeroes((from, at) => file.write(from, at), offset, length);
      }
    },
    grow: (size) => file.truncate(size),
    finish: () => {
      file.flush();
      file.close();
    },
    abandon: () => file.close(),
  };
}

function imageBelow(image: LiveImage): Below {
  const { state, writer, zeroer } = image;
  return {
    size: state.header.size,
    write: (from, offset) => writer.write(from, offset),
    zero: (offset, length) => {
      if (state.layout.zeroClusters) zeroer.zero(offset, length, FAST);
      else writeZeroes((from, at) => writer.write(from, at), offset, length);
    },
    grow: (size) => resizeImage(image, size),
    finish: () => closeImage(image),
    abandon: () => closeImage(image),
  };
}

function writeZeroes(
  write: (from: Uint8Array, offset: number) => void,
  offset: number,
  length: number,
): void {
  const zeroes = new Uint8Array(Math.min(length, COMMIT_CHUNK_BYTES));
  for (let at = 0; at < length; at += zeroes.length) {
    write(zeroes.subarray(0, length - at), offset + at);
  }
}

function openBelow(layer: Layer, options: ImageOptions, context: OpenContext): Below {
  const { path, format } = layer;
  if (format === "raw") {
    return rawBelow(
      context.files.open(path, { readOnly: false, direct: false, lock: options.lock }),
    );
  }
  const settings = { ...options, path, readOnly: false, direct: false, snapshot: null };
  return imageBelow(makeLive(openImage(settings, context)));
}

/**
 * Writes what the image holds into its backing file, and empties the image. `progress` is told how many
 * bytes of the disk are done, and its size. Errno: EINVAL without a
 * backing file, EAGAIN if somebody else has it open, and what writing to it throws.
 */
export function commitDown(
  image: LiveImage,
  options: ImageOptions,
  context: OpenContext,
  progress: (done: number, total: number) => void,
): void {
  const { state, zeroer } = image, { backing } = state;
  state.requireSound();
  if (backing === null) {
    throw new BlockError("EINVAL", `Cannot commit ${state.path}: it has no backing file`);
  }
  // Its read lock would keep it from being written to.
  backing.close();
  try {
    const below = openBelow(backing, options, context);
    try {
      copyDown(image, below, progress);
    } catch (error) {
      below.abandon();
      throw error;
    }
    below.finish();
  } finally {
    state.backing = reopenBacking(state, options, context);
  }
  zeroer.drop(0, Math.ceil(state.header.size / state.layout.clusterBytes));
  state.committer.commitNow();
}

function copyDown(
  { state, reader }: LiveImage,
  below: Below,
  progress: (done: number, total: number) => void,
): void {
  const { size } = state.header, run = emptyRun();
  if (below.size < size) below.grow(size);
  const chunk = new Uint8Array(COMMIT_CHUNK_BYTES);
  for (let at = 0; at < size; at += run.length) {
    progress(at, size);
    mapRun(state, at, size - at, run);
    if (run.kind === UNALLOCATED) continue;
    if (run.kind === ZERO_PLAIN || run.kind === ZERO_ALLOCATED) {
      below.zero(at, run.length);
      continue;
    }
    run.length = Math.min(run.length, COMMIT_CHUNK_BYTES);
    const piece = chunk.subarray(0, run.length);
    reader.read(piece, at);
    below.write(piece, at);
  }
}
