/**
 * Changes to a header that is there: only fields of its first 104 bytes, written in one sector, so that a
 * crash leaves either the old ones or the new ones.
 *
 * @module
 */
import type { RawFile } from "../../../lib/sys/file_access.ts";
import type { QcowHeader } from "../format/header.ts";
import { setU64, viewOf } from "../format/numbers.ts";

/** A sector: written whole or not at all. */
const SECTOR_BYTES = 512;

/**
 * Stores tables and features of `header` in the file: refcount table, snapshot table, feature bits. Not
 * what is in extensions, nor names.
 */
export function patchHeader(file: RawFile, header: QcowHeader): void {
  const sector = new Uint8Array(Math.max(SECTOR_BYTES, file.alignment));
  file.read(sector, 0);
  const view = viewOf(sector);
  setU64(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  setU64(view, 64, header.snapshotsOffset);
  if (header.version === 3) {
    view.setBigUint64(72, header.incompatible);
    view.setBigUint64(80, header.compatible);
    view.setBigUint64(88, header.autoclear);
  }
  file.write(sector, 0);
}
