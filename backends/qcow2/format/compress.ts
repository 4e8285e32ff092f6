/**
 * Compressed clusters of qcow2: raw deflate (RFC 1951) in a window of 12 bits, and zstd (RFC 8878).
 * The input of decompression is whole 512-byte sectors, so anything may follow the compressed data.
 *
 * @module
 */
import {
  constants,
  deflateRawSync,
  inflateRawSync,
  zstdCompressSync,
  zstdDecompressSync,
} from "node:zlib";
import { BlockError } from "../../../lib/block/errors.ts";
import { ZSTD_WINDOW_BITS_MAX } from "../limits.ts";
import { viewOf } from "./numbers.ts";

/** How the compressed clusters of an image are compressed. */
export type Compression = "deflate" | "zstd";

/** QEMU inflates with this window: a larger one would make clusters that it cannot read. */
const DEFLATE_WINDOW_BITS = 12;
const DEFLATE_MEMORY_LEVEL = 9;

/** RFC 8878, section 3.1.1: frame header and block header. */
const FRAME_MAGIC = 0xfd2f_b528, SKIPPABLE_MAGIC = 0x184d_2a50, SKIPPABLE_MASK = 0xffff_fff0;
const SINGLE_SEGMENT = 0x20, CHECKSUM = 0x04;
const DICTIONARY_ID_BYTES = [0, 1, 2, 4], CONTENT_SIZE_BYTES = [0, 2, 4, 8];
const BLOCK_HEADER_BYTES = 3, RLE_BLOCK = 1, RESERVED_BLOCK = 3;

function failure(reason: string, cause?: unknown): BlockError {
  return new BlockError("EIO", `Cannot decompress a cluster: ${reason}`, { cause });
}

/** Length in bytes of the zstd frame that `input` begins with. */
function frameBytes(input: Uint8Array): number {
  const view = viewOf(input);
  const need = (end: number): void => {
    if (end > input.length) throw failure("the zstd frame ends too early");
  };
  need(8);
  const magic = view.getUint32(0, true);
  if (((magic & SKIPPABLE_MASK) >>> 0) === SKIPPABLE_MAGIC) {
    need(8 + view.getUint32(4, true));
    return 8 + view.getUint32(4, true);
  }
  if (magic !== FRAME_MAGIC) throw failure("there is no zstd frame");
  const descriptor = view.getUint8(4);
  const single = (descriptor & SINGLE_SEGMENT) !== 0;
  const sizeFlag = descriptor >>> 6;
  let at = 5 + (single ? 0 : 1) + (DICTIONARY_ID_BYTES[descriptor & 3] ?? 0) +
    (single && sizeFlag === 0 ? 1 : CONTENT_SIZE_BYTES[sizeFlag] ?? 0);
  for (let last = false; !last;) {
    need(at + BLOCK_HEADER_BYTES);
    const header = view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
    last = (header & 1) === 1;
    const kind = (header >>> 1) & 3;
    if (kind === RESERVED_BLOCK) throw failure("a zstd block is of a reserved kind");
    at += BLOCK_HEADER_BYTES + (kind === RLE_BLOCK ? 1 : header >>> 3);
  }
  at += (descriptor & CHECKSUM) === 0 ? 0 : 4;
  need(at);
  return at;
}

/** Runs a decoder of zlib; what it throws becomes EIO. */
function decode(run: () => Uint8Array): Uint8Array {
  try {
    return run();
  } catch (cause) {
    throw failure(cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** One or more frames, until `length` bytes are there. */
function decompressZstd(input: Uint8Array, length: number): Uint8Array {
  const params = { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_BITS_MAX };
  const parts: Uint8Array[] = [];
  let done = 0;
  for (let at = 0; done < length;) {
    const frame = input.subarray(at, at + frameBytes(input.subarray(at)));
    const part = decode(() =>
      zstdDecompressSync(frame, { maxOutputLength: length - done, params })
    );
    parts.push(part);
    done += part.length;
    at += frame.length;
  }
  const [first] = parts;
  if (parts.length === 1 && first !== undefined) return first;
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * A decompressed cluster of exactly `length` bytes. `input` is what the L2 entry points to, whole
 * sectors; bytes after the compressed data do not matter. Throws EIO if it is damaged, too short, or
 * decompresses to more than `length` bytes, having used no more memory than a cluster and a window.
 */
export function decompressCluster(
  compression: Compression,
  input: Uint8Array,
  length: number,
): Uint8Array {
  const output = compression === "zstd"
    ? decompressZstd(input, length)
    : decode(() => inflateRawSync(input, { maxOutputLength: length }));
  if (output.length !== length) {
    throw failure(`it has ${output.length} bytes, but should have ${length}`);
  }
  return output;
}

/** The compressed form of a whole cluster, or null if that is not shorter than the cluster. */
export function compressCluster(compression: Compression, cluster: Uint8Array): Uint8Array | null {
  const output = compression === "zstd"
    ? zstdCompressSync(cluster)
    : deflateRawSync(cluster, { windowBits: DEFLATE_WINDOW_BITS, memLevel: DEFLATE_MEMORY_LEVEL });
  return output.length < cluster.length ? output : null;
}
