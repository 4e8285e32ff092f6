/**
 * Changing the header of an image that is there: as bytes to be written in an order in which a crash
 * leaves the old header or the new one. All that has to change at one moment is in the first sector;
 * the name of a backing file that does not fit there is put where neither the old name nor the old
 * extensions are.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import { BACKING_NAME_BYTES_MAX } from "../limits.ts";
import { encodeFields, encodeHeader, headerLengthFor, type QcowHeader } from "./header.ts";
import { encodeExtensions } from "./header_extensions.ts";
import { getU64, setU64, viewOf } from "./numbers.ts";

/** Where the name of the backing file is said to be, and how long it is. */
const AT_BACKING_OFFSET = 8, AT_BACKING_LENGTH = 16;
/** Bytes that extensions may have beyond what is known of them: stale ones are not. */
const UNKNOWN_EXTENSION_BYTES = 64;

/** What has to be written for a new header. */
export interface HeaderChange {
  /** What nothing leads to yet. It has to be durable before the first sector is written; often empty. */
  readonly ahead: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
  /** The first sector, which puts the new header in force. */
  readonly sector: Uint8Array;
}

/**
 * The first sector of an image with the fixed fields of `header`; everything else in it stays as it is
 * in `sector`, the one that is there.
 */
export function changeFields(sector: Uint8Array, header: QcowHeader): Uint8Array {
  const changed = sector.slice();
  encodeFields(header, viewOf(changed));
  return changed;
}

/** A first sector with these extensions; null if they do not fit. */
function sectorWith(header: QcowHeader, unit: number, area: Uint8Array): Uint8Array | null {
  const extensions = encodeExtensions(header), start = headerLengthFor(header);
  if (start + extensions.length > unit) return null;
  const sector = new Uint8Array(unit);
  sector.set(area.subarray(0, start));
  encodeFields(header, viewOf(sector));
  sector.set(extensions, start);
  return sector;
}

/** A place of whole units for `length` bytes that the header of now does not use; -1 if there is none. */
function freePlace(area: Uint8Array, header: QcowHeader, length: number, unit: number): number {
  const up = (at: number): number => Math.ceil(at / unit) * unit;
  const view = viewOf(area);
  const nameAt = getU64(view, AT_BACKING_OFFSET);
  const nameEnd = nameAt + view.getUint32(AT_BACKING_LENGTH);
  const extensions = headerLengthFor(header) + encodeExtensions(header).length;
  let place = up(extensions + UNKNOWN_EXTENSION_BYTES);
  const overlaps = nameAt !== 0 && place < up(nameEnd) &&
    place + up(length) > Math.floor(nameAt / unit) * unit;
  if (overlaps) place = up(nameEnd);
  return place + length <= area.length ? place : -1;
}

function pointTo(sector: Uint8Array, offset: number, length: number): void {
  const view = viewOf(sector);
  setU64(view, AT_BACKING_OFFSET, offset);
  view.setUint32(AT_BACKING_LENGTH, length);
}

/**
 * What has to be written for an image to have another backing file. `area` is its first cluster as it is,
 * `now` what that says, `next` what it is to say, `unit` what a disk writes whole, in bytes. If it is
 * needed for room the feature name table, which is for messages alone, is left out. Throws ENAMETOOLONG,
 * and EINVAL if there is no room in the cluster.
 */
export function changeBacking(
  area: Uint8Array,
  now: QcowHeader,
  next: QcowHeader,
  unit: number,
): HeaderChange {
  const name = new TextEncoder().encode(next.backingFile ?? "");
  if (name.length > BACKING_NAME_BYTES_MAX) {
    throw new BlockError(
      "ENAMETOOLONG",
      `Cannot store the backing file name: it has ${name.length} bytes (limit: ${BACKING_NAME_BYTES_MAX})`,
    );
  }
  for (const featureTable of [next.featureTable, null]) {
    const header = { ...next, featureTable };
    const sector = sectorWith(header, unit, area);
    if (sector === null) continue;
    const end = headerLengthFor(header) + encodeExtensions(header).length;
    if (end + name.length <= unit) {
      pointTo(sector, name.length === 0 ? 0 : end, name.length);
      sector.set(name, end);
      return { ahead: [], sector };
    }
    const offset = freePlace(area, now, name.length, unit);
    if (offset < 0) continue;
    const bytes = new Uint8Array(Math.ceil(name.length / unit) * unit);
    bytes.set(name);
    pointTo(sector, offset, name.length);
    return { ahead: [{ offset, bytes }], sector };
  }
  // Extensions of more than a sector, or a cluster that is too small for two names: there is no safe way.
  const whole = encodeHeader(next);
  const ahead = [{ offset: unit, bytes: whole.subarray(unit) }];
  return { ahead: whole.length > unit ? ahead : [], sector: whole.subarray(0, unit) };
}
