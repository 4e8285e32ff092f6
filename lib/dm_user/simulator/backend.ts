/**
 * A simulated dm device as a backend: what a file system does to it, filters, the NBD server and the
 * contract tests can do too. Every call is one BIO or several on their way to a daemon and back.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import { REQUEST_BYTES_MAX } from "../../block/limits.ts";
import type { Backend, Geometry, WriteOptions } from "../../block/types.ts";
import { REQUEST_FLAGS, REQUEST_TYPES, SECTOR_BYTES } from "../constants.ts";
import { RANGE_BYTES_MAX } from "../limits.ts";
import { requestTypeName } from "../message.ts";
import { type Bio, makeBio, STATUS_EOPNOTSUPP } from "./bio.ts";
import type { SimulatedDevice } from "./device.ts";

const { FUA, IDLE, NOUNMAP, PREFLUSH, SYNC } = REQUEST_FLAGS;

/** Settings of the backend. */
export interface SimulatedBackendOptions {
  /** Longest READ or WRITE of one BIO, in bytes, a multiple of 4096; REQUEST_BYTES_MAX if not told. */
  readonly bioBytesMax?: number;
}

/**
 * Opens the block device of `device` until the backend is disposed. Errors have errno EIO for what
 * the daemon fails. FUA and flush mean what the daemon makes of them; where the target takes no
 * flushes they succeed and do nothing, as in the kernel.
 */
export function simulatedBackend(
  device: SimulatedDevice,
  options: SimulatedBackendOptions = {},
): Backend {
  const close = device.open();
  const geometry: Geometry = {
    size: device.size,
    minimum: SECTOR_BYTES,
    preferred: 4096,
    maximum: options.bioBytesMax ?? REQUEST_BYTES_MAX,
    readOnly: false,
  };

  async function submit(bio: Bio): Promise<void> {
    const status = await device.submit(bio);
    if (status === 0) return;
    const errno = status === STATUS_EOPNOTSUPP ? "EOPNOTSUPP" : "EIO";
    const what = `${requestTypeName(bio.type)} of ${bio.length} bytes at sector ${bio.sector}`;
    throw new BlockError(errno, `Cannot complete a ${what}: ${device.name} failed it`);
  }

  const flush = (): Promise<void> =>
    submit(makeBio(REQUEST_TYPES.WRITE, { flags: PREFLUSH | SYNC }));

  async function range(
    type: number,
    flags: number,
    offset: number,
    length: number,
    { fua }: WriteOptions,
  ): Promise<void> {
    for (let at = 0; at < length; at += RANGE_BYTES_MAX) {
      const sector = (offset + at) / SECTOR_BYTES;
      await submit(
        makeBio(type, { flags, sector, length: Math.min(RANGE_BYTES_MAX, length - at) }),
      );
    }
    // A BIO of these types cannot carry FUA.
    if (fua) await flush();
  }

  const backend: Backend = {
    geometry,
    capabilities: { synchronous: false, fua: true },
    read: (into, offset) =>
      submit(
        makeBio(REQUEST_TYPES.READ, { flags: SYNC, sector: offset / SECTOR_BYTES, data: into }),
      ),
    write: (from, offset, { fua }) => {
      const flags = SYNC | IDLE | (fua ? FUA : 0);
      return submit(
        makeBio(REQUEST_TYPES.WRITE, { flags, sector: offset / SECTOR_BYTES, data: from }),
      );
    },
    flush,
    [Symbol.asyncDispose]: () => {
      close();
      return Promise.resolve();
    },
  };
  if (device.declares("discard")) {
    backend.trim = (offset, length, options) =>
      range(REQUEST_TYPES.DISCARD, SYNC, offset, length, options);
  }
  if (device.declares("writeZeroes")) {
    backend.zero = (offset, length, options) =>
      range(
        REQUEST_TYPES.WRITE_ZEROES,
        SYNC | (options.mayTrim ? 0 : NOUNMAP),
        offset,
        length,
        options,
      );
  }
  return backend;
}
