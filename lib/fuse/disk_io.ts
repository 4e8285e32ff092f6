/**
 * Reading, writing and deallocating a disk file: from bytes at any offset to requests that a Device
 * takes. What does not lie on whole blocks is read and, for a write, merged and written back.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { BlockError } from "../block/errors.ts";
import type { BufferPool } from "../block/pool.ts";
import { FLAG_FUA, FLAG_MAY_TRIM, makeRequest } from "../block/request.ts";
import type { Maybe } from "../block/types.ts";
import { FALLOCATE_MODES } from "./constants.ts";

const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE } = FALLOCATE_MODES;

interface Blocks {
  /** First byte of the first block. */
  readonly start: number;
  readonly length: number;
  /** The range is whole blocks. */
  readonly exact: boolean;
}

function blocksOf(device: Device, offset: number, length: number): Blocks {
  const { minimum } = device.geometry;
  const start = Math.floor(offset / minimum) * minimum;
  const end = Math.ceil((offset + length) / minimum) * minimum;
  return { start, length: end - start, exact: start === offset && end === offset + length };
}

/** Bytes of a range that are within the device. */
function within(device: Device, offset: number, length: number): number {
  return Math.max(0, Math.min(length, device.geometry.size - offset));
}

/** pread(2): the bytes read, fewer at the end of the disk. Throws or rejects with BlockError. */
export function readDisk(
  device: Device,
  pool: BufferPool,
  into: Uint8Array,
  offset: number,
): Maybe<number> {
  const length = within(device, offset, into.length);
  if (length === 0) return 0;
  const blocks = blocksOf(device, offset, length);
  if (!blocks.exact) return readPart(device, pool, into.subarray(0, length), offset, blocks);
  const data = into.subarray(0, length);
  const done = device.submit(makeRequest("read", offset, length, { data }));
  return done === undefined ? length : done.then(() => length);
}

async function readPart(
  device: Device,
  pool: BufferPool,
  into: Uint8Array,
  offset: number,
  blocks: Blocks,
): Promise<number> {
  const buffer = pool.take(blocks.length);
  try {
    const data = buffer.bytes;
    await device.submit(makeRequest("read", blocks.start, blocks.length, { data }));
    const from = offset - blocks.start;
    into.set(data.subarray(from, from + into.length));
    return into.length;
  } finally {
    buffer.release();
  }
}

/**
 * pwrite(2): the bytes written, fewer at the end of the disk, ENOSPC behind it. `from` is copied at
 * once. `durable` as with O_DSYNC. Throws or rejects with BlockError.
 */
export async function writeDisk(
  device: Device,
  pool: BufferPool,
  from: Uint8Array,
  offset: number,
  durable: boolean,
): Promise<number> {
  const length = within(device, offset, from.length);
  if (length === 0) {
    throw new BlockError("ENOSPC", `Cannot write at ${offset}: ${device.name} ends before`);
  }
  const blocks = blocksOf(device, offset, length);
  const buffer = pool.take(blocks.length);
  try {
    const data = buffer.bytes;
    if (blocks.exact) {
      data.set(from.subarray(0, length));
    } else {
      const part = from.slice(0, length);
      await device.submit(makeRequest("read", blocks.start, blocks.length, { data }));
      data.set(part, offset - blocks.start);
    }
    const flags = durable ? FLAG_FUA : 0;
    await device.submit(makeRequest("write", blocks.start, blocks.length, { data, flags }));
    return length;
  } finally {
    buffer.release();
  }
}

/** fsync(2). */
export function flushDisk(device: Device): Maybe<void> {
  return device.submit(makeRequest("flush"));
}

/**
 * fallocate(2). A punched hole has to read as zeroes, which a trim alone does not promise: it is a
 * trim where the device has one, and then zeroing. EOPNOTSUPP for other modes, and for what the
 * device would have to do by writing alone: the kernel then stops asking and writes by itself.
 */
export async function allocateDisk(
  device: Device,
  mode: number,
  offset: number,
  length: number,
): Promise<void> {
  const { trim, zero } = device.features;
  const punch = mode === (PUNCH_HOLE | KEEP_SIZE) && (trim || zero);
  const keep = (mode & ~KEEP_SIZE) === ZERO_RANGE && zero;
  if (!punch && !keep) {
    throw new BlockError("EOPNOTSUPP", `Cannot deallocate on ${device.name} in mode ${mode}`);
  }
  if (punch && trim) await device.submit(makeRequest("trim", offset, length));
  const flags = punch ? FLAG_MAY_TRIM : 0;
  await device.submit(makeRequest("zero", offset, length, { flags }));
}
