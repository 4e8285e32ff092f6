/**
 * The one validator: what the Device checks of a request before a backend sees it, and of a geometry
 * before a backend is accepted. Which errno stands for what follows the NBD protocol document,
 * section "Error values": a write past the end is ENOSPC, a read or trim past it EINVAL.
 *
 * @module
 */
import { BlockError } from "./errors.ts";
import {
  DEVICE_BYTES_MAX,
  MINIMUM_BLOCK_BYTES_MAX,
  PREFERRED_BLOCK_BYTES_MAX,
  REQUEST_BYTES_MAX,
} from "./limits.ts";
import {
  FLAG_FAST_ONLY,
  FLAG_FUA,
  FLAG_MAY_TRIM,
  type Operation,
  type Request,
} from "./request.ts";
import type { Geometry } from "./types.ts";

const FLAGS_ALLOWED: Readonly<Record<Operation, number>> = {
  read: 0,
  write: FLAG_FUA,
  flush: 0,
  trim: FLAG_FUA,
  zero: FLAG_FUA | FLAG_MAY_TRIM | FLAG_FAST_ONLY,
  cache: 0,
  extents: 0,
};

/** True if the operation changes what is stored. */
export function changesData(operation: Operation): boolean {
  return operation === "write" || operation === "zero" || operation === "trim";
}

/** True for operations whose request carries data in either direction. */
export function carriesData(operation: Operation): boolean {
  return operation === "read" || operation === "write";
}

function refuse(errno: "EINVAL" | "ENOSPC", request: Request, reason: string): never {
  const { operation, offset, length } = request;
  throw new BlockError(errno, `Cannot ${operation} ${length} bytes at ${offset}: ${reason}`);
}

/** Throws the BlockError that a bad request deserves: EINVAL, ENOSPC, EROFS. */
export function validateRequest(request: Request, geometry: Geometry): void {
  const { operation, offset, length, data } = request;
  if ((request.flags & ~FLAGS_ALLOWED[operation]) !== 0) {
    refuse("EINVAL", request, `flags 0x${request.flags.toString(16)} do not apply`);
  }
  if (operation === "flush") {
    if (offset !== 0 || length !== 0) refuse("EINVAL", request, "a flush has no range");
    return;
  }
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0) {
    refuse("EINVAL", request, "not a range of bytes");
  }
  if (length < 1) refuse("EINVAL", request, "the length has to be at least 1");
  if (geometry.readOnly && changesData(operation)) {
    throw new BlockError("EROFS", `Cannot ${operation}: the device is read-only`);
  }
  if (offset > geometry.size - length) {
    const errno = operation === "write" || operation === "zero" ? "ENOSPC" : "EINVAL";
    refuse(errno, request, `the device ends at ${geometry.size}`);
  }
  if (
    geometry.minimum > 1 && (offset % geometry.minimum !== 0 || length % geometry.minimum !== 0)
  ) {
    refuse("EINVAL", request, `not aligned to ${geometry.minimum} bytes`);
  }
  if (carriesData(operation)) {
    if (length > REQUEST_BYTES_MAX) {
      refuse("EINVAL", request, `at most ${REQUEST_BYTES_MAX} bytes go in one request`);
    }
    if (data.length !== length && request.located !== true) {
      refuse("EINVAL", request, `the buffer has ${data.length} bytes`);
    }
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}

/** Throws EINVAL if a backend's geometry breaks the contract. */
export function validateGeometry(geometry: Geometry, name: string): void {
  const { size, minimum, preferred, maximum } = geometry;
  const check = (holds: boolean, what: string): void => {
    if (!holds) throw new BlockError("EINVAL", `Cannot use the backend of ${name}: ${what}`);
  };
  check(
    Number.isSafeInteger(size) && size >= 0 && size <= DEVICE_BYTES_MAX,
    `its size is ${size}, 0 to ${DEVICE_BYTES_MAX} bytes are possible`,
  );
  check(
    isPowerOfTwo(minimum) && minimum <= MINIMUM_BLOCK_BYTES_MAX,
    `its minimum block is ${minimum}, a power of two up to ${MINIMUM_BLOCK_BYTES_MAX} is possible`,
  );
  check(size % minimum === 0, `its size ${size} is not a multiple of its minimum block ${minimum}`);
  check(
    isPowerOfTwo(preferred) && preferred >= minimum && preferred >= 512 &&
      preferred <= PREFERRED_BLOCK_BYTES_MAX,
    `its preferred block is ${preferred}, a power of two from 512 (and its minimum ${minimum}) to ` +
      `${PREFERRED_BLOCK_BYTES_MAX} is possible`,
  );
  check(
    Number.isSafeInteger(maximum) && maximum >= preferred && maximum % preferred === 0,
    `its maximum I/O is ${maximum}, a multiple of its preferred block ${preferred} is possible`,
  );
}
