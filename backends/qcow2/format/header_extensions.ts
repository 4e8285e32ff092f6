/**
 * Header extensions of a qcow2 image: docs/interop/qcow2.rst of QEMU, sections "Header extensions" to
 * "Full disk encryption header pointer". What is not known is kept as found.
 *
 * @module
 */
import {
  BACKING_FORMAT_BYTES_MAX,
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAPS_MAX,
  HEADER_EXTENSIONS_MAX,
} from "../limits.ts";
import { badImage, decodeText, getU64, roundUp8, setU64, viewOf } from "./numbers.ts";

/** Types of header extensions. */
const END = 0, BACKING_FORMAT = 0xe279_2aca, FEATURE_TABLE = 0x6803_f857, BITMAPS = 0x2385_2875;
const ENCRYPTION = 0x0537_be77, DATA_FILE = 0x4441_5441;
/** Bytes of type and length, of the bitmaps extension, of a row of the feature name table. */
const START_BYTES = 8, BITMAPS_BYTES = 24, FEATURE_BYTES = 48;
/** The feature name table's number for each set of features. */
const FEATURE_KINDS = ["incompatible", "compatible", "autoclear"];

/** An extension that is not known. */
export interface HeaderExtension {
  /** Its type: 0 to 2^32 - 1. */
  readonly type: number;
  /** Its data, without padding. */
  readonly data: Uint8Array;
}

/** Where the bitmaps of an image are. */
export interface BitmapsExtension {
  /** How many: at least 1. */
  readonly count: number;
  /** Length of the directory, bytes. */
  readonly directoryBytes: number;
  /** Where the directory is in the file, bytes. */
  readonly directoryOffset: number;
}

/** A row of the feature name table. */
export interface FeatureName {
  /** Which set of features. */
  readonly kind: "incompatible" | "compatible" | "autoclear";
  /** Bit number: 0 to 63. */
  readonly bit: number;
  /** Its name: at most 46 bytes of UTF-8. */
  readonly name: string;
}

/** All extensions of a header. */
export interface DecodedExtensions {
  /** See `QcowHeader.backingFormat`. */
  readonly backingFormat: string | null;
  /** See `QcowHeader.dataFile`. */
  readonly dataFile: string | null;
  /** See `QcowHeader.featureTable`. */
  readonly featureTable: Uint8Array | null;
  /** See `QcowHeader.bitmaps`. */
  readonly bitmaps: BitmapsExtension | null;
  /** See `QcowHeader.unknownExtensions`. */
  readonly unknown: readonly HeaderExtension[];
}

/** The extensions as they come; `problem` is told once, then it ends. */
function* walk(
  area: Uint8Array,
  start: number,
  problem: (reason: string) => void,
): Generator<HeaderExtension> {
  const view = viewOf(area);
  let count = 0;
  for (let at = start; at + START_BYTES <= area.length;) {
    const type = view.getUint32(at), length = view.getUint32(at + 4);
    if (type === END) return;
    const from = at + START_BYTES;
    if (length > area.length - from) {
      return problem(`header extension 0x${type.toString(16)} at ${at} is longer than its place`);
    }
    count += 1;
    if (count > HEADER_EXTENSIONS_MAX) {
      return problem(`it has more than ${HEADER_EXTENSIONS_MAX} header extensions`);
    }
    yield { type, data: area.slice(from, from + length) };
    at = from + roundUp8(length);
  }
}

/** The feature name table, if there is one; damage is not looked at. `area` ends where extensions have to. */
export function findFeatureTable(area: Uint8Array, start: number): Uint8Array | null {
  for (const { type, data } of walk(area, start, () => {})) {
    if (type === FEATURE_TABLE) return data;
  }
  return null;
}

/** The rows of a feature name table; rows of unknown kinds and names that are no text are left out. */
export function decodeFeatureTable(table: Uint8Array): FeatureName[] {
  const names: FeatureName[] = [];
  for (let at = 0; at + FEATURE_BYTES <= table.length; at += FEATURE_BYTES) {
    const row = table.subarray(at, at + FEATURE_BYTES);
    const kind = FEATURE_KINDS[row[0] ?? 0], bit = row[1] ?? 0;
    const end = row.indexOf(0, 2);
    const name = new TextDecoder().decode(row.subarray(2, end < 0 ? FEATURE_BYTES : end));
    const known = kind === "incompatible" || kind === "compatible" || kind === "autoclear";
    if (known && bit < 64 && name !== "") names.push({ kind, bit, name });
  }
  return names;
}

/** A feature name table of these rows; a name is cut after 46 bytes. */
export function encodeFeatureTable(names: readonly FeatureName[]): Uint8Array {
  const table = new Uint8Array(names.length * FEATURE_BYTES);
  names.forEach(({ kind, bit, name }, index) => {
    const at = index * FEATURE_BYTES;
    table[at] = FEATURE_KINDS.indexOf(kind);
    table[at + 1] = bit;
    table.set(new TextEncoder().encode(name).subarray(0, FEATURE_BYTES - 2), at + 2);
  });
  return table;
}

/** What to call feature `bit` of a set (0 incompatible, 1 compatible, 2 autoclear). */
export function featureName(table: Uint8Array | null, kind: 0 | 1 | 2, bit: number): string {
  const row = decodeFeatureTable(table ?? new Uint8Array())
    .find((each) => each.kind === FEATURE_KINDS[kind] && each.bit === bit);
  const fallback = `${FEATURE_KINDS[kind]} feature ${bit}`;
  return row === undefined ? fallback : `${row.name} (${fallback})`;
}

function decodeBitmaps(data: Uint8Array, path: string): BitmapsExtension {
  if (data.length !== BITMAPS_BYTES) {
    throw badImage(path, `its bitmaps extension has ${data.length} bytes, not ${BITMAPS_BYTES}`);
  }
  const view = viewOf(data);
  const count = view.getUint32(0), reserved = view.getUint32(4);
  const directoryBytes = getU64(view, 8), directoryOffset = getU64(view, 16);
  if (count === 0 || count > BITMAPS_MAX) {
    throw badImage(path, `it says that it has ${count} bitmaps, not 1 to ${BITMAPS_MAX}`);
  }
  if (reserved !== 0) throw badImage(path, "a reserved field of its bitmaps extension is not 0");
  if (directoryBytes > BITMAP_DIRECTORY_BYTES_MAX) {
    throw badImage(
      path,
      `its bitmap directory has ${directoryBytes} bytes (limit: ${BITMAP_DIRECTORY_BYTES_MAX})`,
    );
  }
  if (directoryOffset > Number.MAX_SAFE_INTEGER - directoryBytes) {
    throw badImage(path, `its bitmap directory is at ${directoryOffset}`);
  }
  return { count, directoryBytes, directoryOffset };
}

/**
 * The extensions in `area` (the first cluster, up to the backing file's name) from `start`.
 * `bitmapsValid` is the autoclear bit: without it the bitmaps extension is dropped. Throws EINVAL.
 */
export function decodeExtensions(
  area: Uint8Array,
  start: number,
  bitmapsValid: boolean,
  path: string,
): DecodedExtensions {
  const known = new Map<number, Uint8Array>();
  const unknown: HeaderExtension[] = [];
  const fail = (reason: string): never => {
    throw badImage(path, reason);
  };
  const named = new Set([BACKING_FORMAT, FEATURE_TABLE, BITMAPS, ENCRYPTION, DATA_FILE]);
  for (const extension of walk(area, start, fail)) {
    if (!named.has(extension.type)) unknown.push(extension);
    else if (known.has(extension.type)) {
      fail(`header extension 0x${extension.type.toString(16)} is there twice`);
    } else known.set(extension.type, extension.data);
  }
  if (known.has(ENCRYPTION)) fail("it has an encryption header, but is not encrypted");
  const text = (type: number, what: string): string | null => {
    const data = known.get(type);
    return data === undefined ? null : decodeText(data, path, what);
  };
  const backingFormat = text(BACKING_FORMAT, "the name of the backing file's format");
  if ((known.get(BACKING_FORMAT)?.length ?? 0) > BACKING_FORMAT_BYTES_MAX) {
    fail(`the name of its backing file's format has more than ${BACKING_FORMAT_BYTES_MAX} bytes`);
  }
  const bitmaps = known.get(BITMAPS);
  return {
    backingFormat: backingFormat === "" ? null : backingFormat,
    dataFile: text(DATA_FILE, "the name of the data file"),
    featureTable: known.get(FEATURE_TABLE) ?? null,
    bitmaps: bitmaps === undefined || !bitmapsValid ? null : decodeBitmaps(bitmaps, path),
    unknown,
  };
}

/** What of a header its extensions hold. */
type ExtensionFields = Omit<DecodedExtensions, "unknown"> & {
  readonly unknownExtensions: readonly HeaderExtension[];
};

function encodeBitmaps({ count, directoryBytes, directoryOffset }: BitmapsExtension): Uint8Array {
  const data = new Uint8Array(BITMAPS_BYTES);
  const view = viewOf(data);
  view.setUint32(0, count);
  setU64(view, 8, directoryBytes);
  setU64(view, 16, directoryOffset);
  return data;
}

/** The extensions of a header, with the end mark. */
export function encodeExtensions(header: ExtensionFields): Uint8Array {
  const list: HeaderExtension[] = [];
  const add = (type: number, data: Uint8Array | null): void => {
    if (data !== null) list.push({ type, data });
  };
  const bytesOf = (text: string | null): Uint8Array | null =>
    text === null ? null : new TextEncoder().encode(text);
  add(BACKING_FORMAT, bytesOf(header.backingFormat));
  add(DATA_FILE, bytesOf(header.dataFile));
  add(FEATURE_TABLE, header.featureTable);
  add(BITMAPS, header.bitmaps === null ? null : encodeBitmaps(header.bitmaps));
  list.push(...header.unknownExtensions, { type: END, data: new Uint8Array() });
  const length = list.reduce((sum, { data }) => sum + START_BYTES + roundUp8(data.length), 0);
  const area = new Uint8Array(length);
  const view = viewOf(area);
  let at = 0;
  for (const { type, data } of list) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    area.set(data, at + START_BYTES);
    at += START_BYTES + roundUp8(data.length);
  }
  return area;
}
