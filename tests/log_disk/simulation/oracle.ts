/**
 * What a volume ought to hold: the log from its first object on, as it was ever created, applied in the
 * plainest way. It knows no checkpoint and no deletion; void objects are those that no chain of `next` reaches.
 *
 * The disk is a few blocks, and each block says which operation wrote it.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  decodeLogHeader,
  headerBytesOf,
  isLineIntact,
  lineCount,
  lineDataBytes,
  lineOffset,
  type LogHeader,
} from "../../../lib/log_disk/log_object.ts";
import { LINE_BYTES } from "../../../lib/log_disk/limits.ts";
import { logKey } from "../../../lib/log_disk/names.ts";

/** Bytes of a block, and blocks of the disk. */
export const BLOCK_BYTES = 512, BLOCKS = 40;

/** For each block the operation that wrote it; 0 for zeroes. */
export type Image = Int32Array;

/** A disk: what is in its blocks, zeroes behind its end, and how many it has. */
export interface State {
  readonly image: Image;
  readonly blocks: number;
}

/** A disk of BLOCKS on which nothing was written. */
export function emptyState(): State {
  return { image: new Int32Array(BLOCKS), blocks: BLOCKS };
}

/** True for disks that are the same. */
export function isSame(a: State, b: State): boolean {
  return a.blocks === b.blocks && a.image.every((id, block) => id === b.image[block]);
}

/** Something that a client did to the disk. */
export interface Operation {
  /** Unique, from 1. */
  readonly id: number;
  readonly kind: "write" | "zero" | "trim" | "resize";
  /** The first block; for "resize" the one behind the new end. */
  readonly block: number;
  readonly count: number;
}

const FACTOR = 0x9e3779b1;

/** The content of a block that an operation wrote. */
export function fillBlock(into: Uint8Array, id: number, block: number): void {
  const words = new Uint32Array(into.buffer, into.byteOffset, BLOCK_BYTES / 4);
  words.fill(Math.imul(id, FACTOR) ^ block);
  words[0] = id;
}

/** The operation that wrote a block; throws if its content is none's. */
export function operationOf(bytes: Uint8Array, block: number): number {
  // A copy, so that its words can be looked at wherever it begins.
  const words = new Uint32Array(bytes.slice().buffer), [id = 0] = words;
  const rest = id === 0 ? 0 : (Math.imul(id, FACTOR) ^ block) >>> 0;
  for (let index = 1; index < words.length; index += 1) {
    if (words[index] !== rest) assert.fail(`block ${block} is garbled`);
  }
  return id;
}

/** Applies an operation. */
export function applyOperation(image: Image, { kind, id, block, count }: Operation): void {
  if (kind === "resize") image.fill(0, block);
  else image.fill(kind === "write" ? id : 0, block, block + count);
}

/** The data of an object, all lines checked. */
function dataOf(bytes: Uint8Array, header: LogHeader): Uint8Array {
  const data = new Uint8Array(header.dataBytes), headerBytes = headerBytesOf(header.extents);
  for (let line = 0; line < lineCount(header.dataBytes); line += 1) {
    const start = lineOffset(headerBytes, line), length = lineDataBytes(header.dataBytes, line);
    assert.ok(
      isLineIntact(bytes.subarray(start, start + length + 4), header.volume, header.seq, line),
    );
    data.set(bytes.subarray(start, start + length), line * LINE_BYTES);
  }
  return data;
}

function applyObject(image: Image, bytes: Uint8Array, header: LogHeader): void {
  const data = dataOf(bytes, header);
  let place = 0;
  for (const { kind, offset, length } of header.extents) {
    const first = offset / BLOCK_BYTES, count = length / BLOCK_BYTES;
    if (kind === "zero" || kind === "trim") image.fill(0, first, first + count);
    if (kind === "write") {
      for (let index = 0; index < count; index += 1) {
        const at = place + index * BLOCK_BYTES, block = first + index;
        image[block] = operationOf(data.subarray(at, at + BLOCK_BYTES), block);
      }
    }
    // What is moved is the same as before.
    if (kind === "write" || kind === "move") place += length;
  }
  image.fill(0, header.diskBytes / BLOCK_BYTES);
}

/** The disk after one object of its log. */
export interface Moment {
  readonly seq: number;
  readonly header: LogHeader;
  readonly state: State;
}

/** The log in its order, from what the disk was before it. */
export function* history(
  created: ReadonlyMap<string, Uint8Array>,
  base: State,
): Generator<Moment> {
  const image = base.image.slice();
  for (let seq = 1;;) {
    const bytes = created.get(logKey(seq));
    if (bytes === undefined) return;
    const header = decodeLogHeader(bytes, logKey(seq));
    applyObject(image, bytes, header);
    yield { seq, header, state: { image: image.slice(), blocks: header.diskBytes / BLOCK_BYTES } };
    seq = header.next;
  }
}

/** What one writer has done to the log. */
export interface Reign {
  readonly epoch: number;
  readonly nonce: string;
  /** The disk when it claimed the log. */
  readonly before: State;
  /** The disk after its last object. */
  readonly after: State;
}

/** All writers in the order of the log. */
export function reigns(
  created: ReadonlyMap<string, Uint8Array>,
  base: State = emptyState(),
): Reign[] {
  const found: { epoch: number; nonce: string; before: State; after: State }[] = [];
  for (const { seq, header: { epoch, nonce, claim }, state } of history(created, base)) {
    if (claim) found.push({ epoch, nonce, before: state, after: state });
    const reign = found.at(-1);
    assert.ok(reign !== undefined, "a log begins with a claim");
    assert.equal(
      nonce,
      reign.nonce,
      `${logKey(seq)} is of another writer than the claim before it`,
    );
    reign.after = state;
  }
  return found;
}
