/**
 * When a native trace ends, without reading it: headers of blocks tell times and lengths, so that one
 * can go from one to the next.
 *
 * @module
 */
import type { RawFile } from "../sys/file_access.ts";
import {
  BLOCK_HEADER_BYTES,
  decodeBlockHeader,
  HEADER_BYTES,
  headerLength,
  isNative,
} from "./native.ts";

/** Time of the last event of the last whole block, µs; null for a file that is no native trace, or has no block. */
export function nativeEndUs(file: RawFile): number | null {
  const head = new Uint8Array(HEADER_BYTES);
  file.read(head, 0);
  if (!isNative(head)) return null;
  const size = file.size();
  const bytes = new Uint8Array(BLOCK_HEADER_BYTES);
  let endUs: number | null = null;
  for (let at = headerLength(head); at + BLOCK_HEADER_BYTES <= size;) {
    file.read(bytes, at);
    const header = decodeBlockHeader(bytes);
    at += BLOCK_HEADER_BYTES + (header?.bytes ?? 0);
    if (header === null || at > size) break;
    endUs = Math.max(endUs ?? 0, header.lastUs);
  }
  return endUs;
}
