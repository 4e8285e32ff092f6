/**
 * Log objects for tests of those who read them.
 *
 * @module
 */
import { LINE_BYTES } from "../../lib/log_disk/limits.ts";
import {
  CHECK_BYTES,
  encodeLogHeader,
  lineCount,
  lineDataBytes,
  objectBytes,
  sealLine,
} from "../../lib/log_disk/log_object.ts";
import { logKey } from "../../lib/log_disk/names.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import type { MemoryBucket } from "../support/memory_store.ts";

/** Id of the volume whose objects are made, unless told. */
export const VOLUME = "0123456789abcdef0123456789abcdef";

/** An object that was made. */
export interface MadeObject {
  readonly seq: number;
  readonly headerBytes: number;
  readonly dataBytes: number;
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Puts an object with one extent of random data into a bucket. */
export function addObject(
  bucket: MemoryBucket,
  seq: number,
  dataBytes: number,
  volume = VOLUME,
): MadeObject {
  const header = encodeLogHeader({
    volume,
    nonce: VOLUME,
    seq,
    epoch: 1,
    next: seq + 1,
    diskBytes: 2 ** 40,
    dataBytes,
    claim: false,
    detach: false,
    afterDetach: false,
    extents: [{ kind: "write", offset: 0, length: dataBytes }],
  });
  const data = new Uint8Array(dataBytes);
  seededRandom(seq).fill(data);
  const whole = new Uint8Array(objectBytes(header.length, dataBytes));
  whole.set(header);
  for (let line = 0, at = header.length; line < lineCount(dataBytes); line += 1) {
    const length = lineDataBytes(dataBytes, line), end = at + length + CHECK_BYTES;
    whole.set(data.subarray(line * LINE_BYTES, line * LINE_BYTES + length), at);
    sealLine(whole.subarray(at, end), volume, seq, line);
    at = end;
  }
  bucket.add(logKey(seq), whole);
  return { seq, headerBytes: header.length, dataBytes, data };
}
