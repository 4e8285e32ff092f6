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

/** Something that a client did to the disk. */
export interface Operation {
  /** Unique, from 1. */
  readonly id: number;
  readonly kind: "write" | "zero" | "trim";
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
  image.fill(kind === "write" ? id : 0, block, block + count);
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
}

/** What one writer has done to the log. */
export interface Reign {
  readonly epoch: number;
  readonly nonce: string;
  /** The disk when it claimed the log. */
  readonly before: Image;
  /** The disk after its last object. */
  readonly after: Image;
}

/** All writers in the order of the log. */
export function reigns(created: ReadonlyMap<string, Uint8Array>): Reign[] {
  const found: { epoch: number; nonce: string; before: Image; after: Image }[] = [];
  const image = new Int32Array(BLOCKS);
  for (let seq = 1;;) {
    const bytes = created.get(logKey(seq));
    if (bytes === undefined) return found;
    const header = decodeLogHeader(bytes, logKey(seq)), { epoch, nonce } = header;
    if (header.claim) {
      const before = image.slice();
      found.push({ epoch, nonce, before, after: before });
    }
    const reign = found.at(-1);
    assert.ok(reign !== undefined, "a log begins with a claim");
    assert.equal(
      nonce,
      reign.nonce,
      `${logKey(seq)} is of another writer than the claim before it`,
    );
    applyObject(image, bytes, header);
    reign.after = image.slice();
    seq = header.next;
  }
}
