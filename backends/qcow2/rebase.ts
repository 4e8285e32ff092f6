/**
 * Changing the backing file of an image. Safely: what the disk has from the old one and would not have from
 * the new one is copied into the image before its header names the new one. Unsafely: the header alone.
 *
 * @module
 */
import { BlockError } from "../../lib/block/errors.ts";
import type { ImageContext, RebaseRequest } from "../../lib/block/image.ts";
import {
  AUTOCLEAR_KNOWN,
  AUTOCLEAR_RAW_DATA_FILE,
  clusterBytes,
  type QcowHeader,
} from "./format/header.ts";
import { changeBacking } from "./format/header_change.ts";
import { type Layer, readLayer } from "./live/backing.ts";
import { openBacking } from "./live/chain.ts";
import { closeImage, type LiveImage, makeLive } from "./live/image.ts";
import { CACHE_BYTES_MIN, L2_CACHE_BYTES } from "./live/limits.ts";
import { emptyRun, mapRun, UNALLOCATED } from "./live/mapping.ts";
import { closeFiles, imageLayer, type ImageOptions, openImage } from "./live/open.ts";
import { REBASE_CHUNK_BYTES } from "./limits.ts";
import { readHeader } from "./read_tables.ts";

/** A sector: written whole or not at all. */
const SECTOR_BYTES = 512;

function optionsFor(path: string, readOnly: boolean, cacheBytes: number): ImageOptions {
  return { path, readOnly, lock: true, direct: false, discard: true, cacheBytes, snapshot: null };
}

/** Throws EINVAL if an image with this header can have no backing file. */
function requireBackable(path: string, header: QcowHeader, backing: string | null): void {
  if (backing === null || (header.autoclear & AUTOCLEAR_RAW_DATA_FILE) === 0n) return;
  throw new BlockError(
    "EINVAL",
    `Cannot rebase ${path}: its data file is a raw image of the disk, which has no backing file`,
  );
}

/** The new backing file, opened; null for none. */
function openNew(path: string, request: RebaseRequest, context: ImageContext): Layer | null {
  const { backing: name, format } = request;
  if (name === null) return null;
  const settings = { lock: true, cacheBytes: L2_CACHE_BYTES };
  const open = (below: string, above: readonly string[]): Layer =>
    imageLayer(openImage(optionsFor(below, true, L2_CACHE_BYTES), context, above));
  return openBacking({ name, format }, [path], { ...settings, openImage: open }, context);
}

/** Bytes from `offset` on, of at most `length`, that are known to read as zeroes without being read. */
function zeroesAt(layer: Layer | null, offset: number, length: number): number {
  if (layer === null || offset >= layer.size) return length;
  const there = Math.min(length, layer.size - offset);
  const extent = layer.extent(offset, there);
  if (!extent.zero) return 0;
  return extent.length === there ? length : extent.length;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, index) => byte === b[index]);
}

/** Copies what differs between two layers in an unallocated range of an image. */
class Copier {
  readonly #image: LiveImage;
  readonly #next: Layer | null;
  readonly #old = new Uint8Array(REBASE_CHUNK_BYTES);
  readonly #new = new Uint8Array(REBASE_CHUNK_BYTES);

  constructor(image: LiveImage, next: Layer | null) {
    this.#image = image;
    this.#next = next;
  }

  /** How much of a range both layers have zeroes for: whole subclusters, or all of it. */
  skip(offset: number, length: number): number {
    const { backing, layout } = this.#image.state;
    const before = zeroesAt(backing, offset, length);
    const both = before === 0 ? 0 : Math.min(before, zeroesAt(this.#next, offset, length));
    return both === length ? both : Math.max(0, both - (offset + both) % layout.subclusterBytes);
  }

  /** At most REBASE_CHUNK_BYTES; runs of units that differ are written in one call. */
  copy(offset: number, length: number): void {
    const { state } = this.#image;
    const before = this.#old.subarray(0, length), after = this.#new.subarray(0, length);
    readLayer(state.backing, before, offset);
    readLayer(this.#next, after, offset);
    const unit = state.layout.subclusterBytes;
    let from = -1;
    for (let at = 0; at < length;) {
      const end = Math.min(length, Math.floor((offset + at) / unit) * unit + unit - offset);
      const differs = !same(before.subarray(at, end), after.subarray(at, end));
      if (differs && from < 0) from = at;
      if (!differs && from >= 0) {
        this.#write(before.subarray(from, at), offset + from);
        from = -1;
      }
      at = end;
    }
    if (from >= 0) this.#write(before.subarray(from, length), offset + from);
  }

  #write(bytes: Uint8Array, offset: number): void {
    const { writer, zeroer, state } = this.#image;
    const zeroes = state.layout.zeroClusters && bytes.every((byte) => byte === 0);
    if (!zeroes) return writer.write(bytes, offset);
    zeroer.zero(offset, bytes.length, { mayTrim: true, fastOnly: false });
  }
}

async function copyDifferences(
  image: LiveImage,
  next: Layer | null,
  context: ImageContext,
): Promise<void> {
  const { state } = image, { size } = state.header;
  const copier = new Copier(image, next), run = emptyRun();
  for (let at = 0; at < size;) {
    context.signal.throwIfAborted();
    mapRun(state, at, size - at, run);
    const end = at + run.length;
    if (run.kind !== UNALLOCATED) at = end;
    while (at < end) {
      const skipped = copier.skip(at, end - at);
      at += skipped;
      if (skipped > 0) continue;
      // Chunks end at chunk borders, so that units are never cut in two.
      const border = (Math.floor(at / REBASE_CHUNK_BYTES) + 1) * REBASE_CHUNK_BYTES;
      const stop = Math.min(end, border);
      copier.copy(at, stop - at);
      at = stop;
      context.progress(at, size);
      await context.clock.sleep(0);
      context.signal.throwIfAborted();
    }
    context.progress(at, size);
  }
}

async function rebaseSafely(
  path: string,
  request: RebaseRequest,
  context: ImageContext,
): Promise<void> {
  const cacheBytes = Math.max(L2_CACHE_BYTES, CACHE_BYTES_MIN);
  const image = makeLive(openImage(optionsFor(path, false, cacheBytes), context));
  const { state } = image;
  try {
    requireBackable(path, state.header, request.backing);
    const next = openNew(path, request, context);
    try {
      await copyDifferences(image, next, context);
      state.committer.commitNow();
      state.writeBacking({
        backingFile: request.backing,
        // A format that was found out is recorded: the next program need not guess.
        backingFormat: request.format ?? next?.format ?? null,
      });
    } finally {
      next?.close();
    }
  } catch (error) {
    closeFiles(state);
    throw error;
  }
  closeImage(image);
}

async function rebaseUnsafely(
  path: string,
  { backing, format }: RebaseRequest,
  context: ImageContext,
): Promise<void> {
  const file = context.files.open(path, { readOnly: false, direct: false, lock: true });
  try {
    const header = readHeader(file);
    requireBackable(path, header, backing);
    const area = new Uint8Array(clusterBytes(header));
    file.read(area, 0);
    const { ahead, sector } = changeBacking(area, header, {
      ...header,
      autoclear: header.autoclear & AUTOCLEAR_KNOWN,
      backingFile: backing,
      backingFormat: backing === null ? null : format,
    }, SECTOR_BYTES);
    for (const { offset, bytes } of ahead) file.write(bytes, offset);
    if (ahead.length > 0) await file.flushAsync();
    file.write(sector, 0);
    await file.flushAsync();
  } finally {
    file.close();
  }
}

/**
 * Gives an image another backing file, or none, durably. Unless that is unsafe, both the old and the new one
 * are opened, and the disk has the same content afterwards; when it is broken off, the old one still stands.
 * Throws ELOOP if the new one leads back to the image, EINVAL for an image with a raw data file, and what
 * opening throws.
 */
export function rebaseImage(
  path: string,
  request: RebaseRequest,
  context: ImageContext,
): Promise<void> {
  return request.unsafe
    ? rebaseUnsafely(path, request, context)
    : rebaseSafely(path, request, context);
}
