/**
 * The table of internal snapshots: docs/interop/qcow2.rst of QEMU, section "Snapshots". Entries have
 * variable length, so a table is decoded through a function that gets bytes of it. Pure otherwise.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import {
  L1_BYTES_MAX,
  SNAPSHOT_EXTRA_BYTES_MAX,
  SNAPSHOT_TABLE_BYTES_MAX,
  SNAPSHOT_TEXT_BYTES_MAX,
} from "../limits.ts";
import { badImage, decodeText, getU64, roundUp8, setU64, viewOf } from "./numbers.ts";

/** Bytes of the fixed part of an entry. */
export const SNAPSHOT_ENTRY_BYTES = 40;
/** Extra data that version 3 asks for: 64-bit size of the VM state, size of the disk. */
const REQUIRED_EXTRA_BYTES = 16;
/** Extra data that is known: those two and the instruction count. */
const KNOWN_EXTRA_BYTES = 24;
/** The instruction count of a guest that does not count. */
const NO_INSTRUCTION_COUNT = 0xffff_ffff_ffff_ffffn;

/** One internal snapshot. Change it by making a copy with a spread. */
export interface Snapshot {
  /** Where its L1 table is in the file, bytes. */
  readonly l1Offset: number;
  /** Entries of its L1 table. */
  readonly l1Size: number;
  /** What tells it from the others; QEMU gives "1", "2" … */
  readonly id: string;
  /** The name that it was given. */
  readonly name: string;
  /** When it was taken: seconds since 1970, and ns within that second. */
  readonly seconds: number;
  /** Part of `created` below a second, ns. */
  readonly nanoseconds: number;
  /** How long the guest had run, ns. */
  readonly guestTimeNs: bigint;
  /** Bytes of VM state, which follows the disk in the cluster mapping. */
  readonly vmStateBytes: bigint;
  /** Size of the disk then, bytes; null if the entry does not say (it is that of the image). */
  readonly size: number | null;
  /** Instructions that the guest had run, or null if they were not counted or the entry does not say. */
  readonly instructionCount: bigint | null;
  /** Length of the extra data as found, bytes: 0 in old images, at least 16 in good ones of version 3. */
  readonly extraBytes: number;
  /** Extra data past what is known, as found. */
  readonly unknownExtra: Uint8Array;
}

/** Gets `length` bytes at `offset` of the table; past the end of the file they are zeroes. */
export type TableSource = (offset: number, length: number) => Uint8Array;

/** What to do about damage that a repair can put right: refuse the table, or cut and count. */
export type SnapshotDamage = "refuse" | "cut";

/** A decoded table. */
export interface SnapshotTable {
  /** The snapshots, in the order of the table. */
  readonly snapshots: readonly Snapshot[];
  /** Bytes of the table in the file, without padding after the last entry. */
  readonly bytes: number;
  /** Entries whose extra data was cut because there is too much of it. */
  readonly extraCut: number;
  /** Entries at the end that were left out because the table is too big. */
  readonly dropped: number;
}

interface Entry {
  readonly snapshot: Snapshot;
  readonly end: number;
  readonly cut: boolean;
}

function tooBig(path: string, reason: string): BlockError {
  return new BlockError("EFBIG", `Cannot use ${path}: ${reason}; a check with repair mends that`);
}

function decodeEntry(
  source: TableSource,
  start: number,
  damage: SnapshotDamage,
  path: string,
  index: number,
): Entry {
  const fixed = viewOf(source(start, SNAPSHOT_ENTRY_BYTES));
  const what = `snapshot ${index + 1}`;
  const idBytes = fixed.getUint16(12), nameBytes = fixed.getUint16(14);
  const found = fixed.getUint32(36);
  const cut = found > SNAPSHOT_EXTRA_BYTES_MAX;
  if (cut && damage === "refuse") {
    throw tooBig(
      path,
      `${what} has ${found} bytes of extra data (limit: ${SNAPSHOT_EXTRA_BYTES_MAX})`,
    );
  }
  const extraAt = start + SNAPSHOT_ENTRY_BYTES;
  const kept = cut ? KNOWN_EXTRA_BYTES : found;
  const extra = source(extraAt, kept);
  const extraView = viewOf(extra);
  const idAt = extraAt + found;
  const counted = kept < KNOWN_EXTRA_BYTES
    ? NO_INSTRUCTION_COUNT
    : extraView.getBigUint64(REQUIRED_EXTRA_BYTES);
  const snapshot: Snapshot = {
    l1Offset: getU64(fixed, 0),
    l1Size: fixed.getUint32(8),
    id: decodeText(source(idAt, idBytes), path, `the id of ${what}`),
    name: decodeText(source(idAt + idBytes, nameBytes), path, `the name of ${what}`),
    seconds: fixed.getUint32(16),
    nanoseconds: fixed.getUint32(20),
    guestTimeNs: fixed.getBigUint64(24),
    vmStateBytes: kept < 8 ? BigInt(fixed.getUint32(32)) : extraView.getBigUint64(0),
    size: kept < REQUIRED_EXTRA_BYTES ? null : getU64(extraView, 8),
    instructionCount: counted === NO_INSTRUCTION_COUNT ? null : counted,
    extraBytes: kept,
    unknownExtra: extra.slice(KNOWN_EXTRA_BYTES),
  };
  return { snapshot, end: idAt + idBytes + nameBytes, cut };
}

/**
 * The `count` entries of a snapshot table (see `SNAPSHOTS_MAX`, which the header is held to). Throws
 * EFBIG for a table or extra data past its limit unless told to cut, EINVAL for names that are no text.
 * Where a snapshot's L1 table is, is not checked: see `checkSnapshot`.
 */
export function decodeSnapshotTable(
  source: TableSource,
  count: number,
  path: string,
  damage: SnapshotDamage = "refuse",
): SnapshotTable {
  const snapshots: Snapshot[] = [];
  let end = 0, extraCut = 0;
  for (let index = 0; index < count; index += 1) {
    const start = roundUp8(end);
    if (start + SNAPSHOT_ENTRY_BYTES > SNAPSHOT_TABLE_BYTES_MAX) {
      if (damage === "refuse") throw tableTooBig(path);
      return { snapshots, bytes: end, extraCut, dropped: count - index };
    }
    const entry = decodeEntry(source, start, damage, path, index);
    if (entry.end > SNAPSHOT_TABLE_BYTES_MAX) {
      if (damage === "refuse") throw tableTooBig(path);
      return { snapshots, bytes: end, extraCut, dropped: count - index };
    }
    snapshots.push(entry.snapshot);
    end = entry.end;
    extraCut += entry.cut ? 1 : 0;
  }
  return { snapshots, bytes: end, extraCut, dropped: 0 };
}

function tableTooBig(path: string): BlockError {
  return tooBig(path, `its snapshot table is too big (limit: ${SNAPSHOT_TABLE_BYTES_MAX} bytes)`);
}

/** Throws EINVAL or EFBIG if a snapshot's L1 table cannot be where the entry says. */
export function checkSnapshot(snapshot: Snapshot, clusterBytes: number, path: string): void {
  const { l1Offset, l1Size, size, name } = snapshot;
  if (l1Size * 8 > L1_BYTES_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot use ${path}: the L1 table of snapshot "${name}" has ${l1Size * 8} bytes ` +
        `(limit: ${L1_BYTES_MAX})`,
    );
  }
  if (l1Offset % clusterBytes !== 0 || l1Offset > Number.MAX_SAFE_INTEGER - L1_BYTES_MAX) {
    throw badImage(
      path,
      `the L1 table of snapshot "${name}" is at ${l1Offset}, which no cluster begins at`,
    );
  }
  if (size !== null && size > Number.MAX_SAFE_INTEGER) {
    throw new BlockError(
      "EFBIG",
      `Cannot use ${path}: snapshot "${name}" is of a disk of ${size} bytes (limit: 2^53 - 1)`,
    );
  }
}

function textBytes(text: string, what: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > SNAPSHOT_TEXT_BYTES_MAX) {
    throw new BlockError(
      "ENAMETOOLONG",
      `Cannot store a snapshot: its ${what} has ${bytes.length} bytes (limit: ${SNAPSHOT_TEXT_BYTES_MAX})`,
    );
  }
  return bytes;
}

/** Extra data to store: what was there, and never less than version 3 asks for. */
function extraFor(snapshot: Snapshot, diskSize: number): Uint8Array {
  const { instructionCount, unknownExtra, vmStateBytes, size } = snapshot;
  const counts = unknownExtra.length > 0 || instructionCount !== null ||
    snapshot.extraBytes >= KNOWN_EXTRA_BYTES;
  const known = counts ? KNOWN_EXTRA_BYTES : REQUIRED_EXTRA_BYTES;
  const extra = new Uint8Array(known + unknownExtra.length);
  const view = viewOf(extra);
  view.setBigUint64(0, vmStateBytes);
  setU64(view, 8, size ?? diskSize);
  if (counts) view.setBigUint64(16, instructionCount ?? NO_INSTRUCTION_COUNT);
  extra.set(unknownExtra, known);
  return extra;
}

function encodeSnapshot(snapshot: Snapshot, diskSize: number): Uint8Array {
  const id = textBytes(snapshot.id, "id"), name = textBytes(snapshot.name, "name");
  const extra = extraFor(snapshot, diskSize);
  const entry = new Uint8Array(
    roundUp8(SNAPSHOT_ENTRY_BYTES + extra.length + id.length + name.length),
  );
  const view = viewOf(entry);
  setU64(view, 0, snapshot.l1Offset);
  view.setUint32(8, snapshot.l1Size);
  view.setUint16(12, id.length);
  view.setUint16(14, name.length);
  view.setUint32(16, snapshot.seconds);
  view.setUint32(20, snapshot.nanoseconds);
  view.setBigUint64(24, snapshot.guestTimeNs);
  // The 32-bit field is for readers that know no extra data; what does not fit it is told there alone.
  view.setUint32(32, snapshot.vmStateBytes > 0xffff_ffffn ? 0 : Number(snapshot.vmStateBytes));
  view.setUint32(36, extra.length);
  entry.set(extra, SNAPSHOT_ENTRY_BYTES);
  entry.set(id, SNAPSHOT_ENTRY_BYTES + extra.length);
  entry.set(name, SNAPSHOT_ENTRY_BYTES + extra.length + id.length);
  return entry;
}

/**
 * A snapshot table; `diskSize` (bytes) is stored where an entry does not say its own. Throws
 * ENAMETOOLONG for an id or name past 65535 bytes, EFBIG for a table past its limit.
 */
export function encodeSnapshotTable(snapshots: readonly Snapshot[], diskSize: number): Uint8Array {
  const entries = snapshots.map((each) => encodeSnapshot(each, diskSize));
  const length = entries.reduce((sum, entry) => sum + entry.length, 0);
  if (length > SNAPSHOT_TABLE_BYTES_MAX) {
    throw new BlockError(
      "EFBIG",
      `Cannot store the snapshot table: it has ${length} bytes (limit: ${SNAPSHOT_TABLE_BYTES_MAX})`,
    );
  }
  const table = new Uint8Array(length);
  let at = 0;
  for (const entry of entries) {
    table.set(entry, at);
    at += entry.length;
  }
  return table;
}

/** True if version 3 would ask for more extra data than the entry has. */
export function snapshotIncomplete(snapshot: Snapshot): boolean {
  return snapshot.extraBytes < REQUIRED_EXTRA_BYTES;
}
