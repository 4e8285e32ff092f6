/**
 * Whether an image has tables for data that was never written (`preallocation=metadata`): then its holes
 * tell of zeroes that its tables do not know of. Found as QEMU finds it: there is less storage than clusters
 * in use.
 *
 * @module
 */
import type { RawFile } from "../../../lib/sys/file_access.ts";
import { refcountBlockOffset, refcountCodec } from "../format/entries.ts";
import { clusterBytes, type QcowHeader } from "../format/header.ts";
import { viewOf } from "../format/numbers.ts";
import type { ImageState } from "./state.ts";

/** Clusters with a refcount; counting ends at `enough`. */
function countUsed(file: RawFile, header: QcowHeader, clusters: number, enough: number): number {
  const cluster = clusterBytes(header);
  const codec = refcountCodec(header.refcountOrder);
  const perBlock = cluster * 8 / codec.bits;
  const table = new Uint8Array(header.refcountTableClusters * cluster);
  file.read(table, header.refcountTableOffset);
  const view = viewOf(table), block = new Uint8Array(cluster);
  let used = 0;
  for (let first = 0; first < clusters && used < enough; first += perBlock) {
    const at = first / perBlock * 8;
    if (at >= table.length) break;
    const offset = refcountBlockOffset(view.getUint32(at), view.getUint32(at + 4));
    if (offset === 0 || offset >= file.size()) continue;
    file.read(block, offset);
    const end = Math.min(perBlock, clusters - first);
    for (let index = 0; index < end; index += 1) used += codec.get(block, index) === 0 ? 0 : 1;
  }
  return used;
}

/** True if many more clusters are in use than there is storage for. */
function hasPreallocatedTables(file: RawFile, header: QcowHeader): boolean {
  const cluster = clusterBytes(header);
  const stored = Math.floor(file.allocated() / cluster);
  const enough = Math.max(Math.floor(stored * 10 / 9), stored + 2);
  const clusters = Math.ceil(file.size() / cluster);
  return clusters >= enough && countUsed(file, header, clusters, enough) >= enough;
}

/** Tells of an image whether its tables were made before its data: found out once, as QEMU does it. */
const preallocated = new WeakMap<ImageState, boolean>();

/** True if holes in the file of an open image tell of zeroes that its tables do not know of. */
export function isPreallocated(state: ImageState): boolean {
  const known = preallocated.get(state);
  if (known !== undefined) return known;
  const found = hasPreallocatedTables(state.file.raw, state.header);
  preallocated.set(state, found);
  return found;
}
