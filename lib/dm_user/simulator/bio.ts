/**
 * What the simulated block layer submits: a BIO, and the numbers that it and the channels answer
 * with, which are those of the system calls: a count, or minus an errno.
 *
 * @module
 */
import { errnoToLinux } from "../../block/errors.ts";
import { NO_DATA } from "../../block/request.ts";
import { SECTOR_BYTES } from "../constants.ts";
import { BIO_BYTES_MAX } from "../limits.ts";

/** Status of a BIO that failed: an input/output error. */
export const STATUS_EIO: number = -errnoToLinux("EIO");
/** Status of a BIO that the device does not take. */
export const STATUS_EOPNOTSUPP: number = -errnoToLinux("EOPNOTSUPP");
/** A read was ended by a signal; it took nothing. */
export const RESULT_EINTR: number = -errnoToLinux("EINTR");
/** The channel was closed. */
export const RESULT_EBADF: number = -errnoToLinux("EBADF");
/** The target was removed. */
export const RESULT_ENOTBLK: number = -errnoToLinux("ENOTBLK");
/** An answer named no message of the channel. */
export const RESULT_EINVAL: number = -errnoToLinux("EINVAL");
/** The channel has no such operation. */
export const RESULT_EOPNOTSUPP: number = -errnoToLinux("EOPNOTSUPP");
/** The channel has no position. */
export const RESULT_ESPIPE: number = -errnoToLinux("ESPIPE");

/** One request to a block device. */
export interface Bio {
  /** REQUEST_TYPES, or any other number to see it killed. */
  readonly type: number;
  /** REQUEST_FLAGS, or any other bits to see it killed; a safe integer. */
  readonly flags: number;
  /** First sector (512 bytes), from the start of the device. */
  readonly sector: number;
  /** Bytes, whole sectors, 0 to BIO_BYTES_MAX. */
  readonly length: number;
  /** WRITE: the data; READ: filled with the data. Exactly `length` bytes; otherwise empty. */
  readonly data: Uint8Array;
}

/** A BIO, or a part of one, on its way to one target. */
export interface MappedBio extends Bio {
  /** Called once: 0, or minus an errno. */
  readonly done: (status: number) => void;
}

/** Makes a BIO; what is left out is 0 and empty. */
export function makeBio(type: number, rest: Partial<Omit<Bio, "type">> = {}): Bio {
  const { data = NO_DATA } = rest;
  const { flags = 0, sector = 0, length = data.length } = rest;
  return { type, flags, sector, length, data };
}

/** Throws RangeError for what no block layer would let through: that is a mistake of the caller. */
export function checkBio(bio: Bio, carriesData: boolean): void {
  const { type, flags, sector, length, data } = bio;
  const check = (holds: boolean, what: string): void => {
    if (!holds) throw new RangeError(`Cannot submit a BIO: ${what}`);
  };
  check(Number.isSafeInteger(type) && type >= 0, `its type is ${type}`);
  check(Number.isSafeInteger(flags) && flags >= 0, `its flags are ${flags}`);
  check(Number.isSafeInteger(sector) && sector >= 0, `its sector is ${sector}`);
  check(
    length >= 0 && length <= BIO_BYTES_MAX && length % SECTOR_BYTES === 0,
    `its length is ${length}, whole sectors up to ${BIO_BYTES_MAX} bytes are possible`,
  );
  check(
    data.length === (carriesData ? length : 0),
    `it has ${data.length} bytes of data and a length of ${length}`,
  );
}
