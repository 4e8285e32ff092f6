/**
 * Where requests of the transmission phase begin and end: the only thing that framing knows of them.
 * Implements the section "Request message", compact and extended.
 *
 * A request whose payload is too long to take ends the connection, since it could not be skipped
 * without reading it all. So does an extended WRITE that does not say that a payload follows: should
 * one follow nevertheless, a guest's data would be taken for requests.
 *
 * @module
 */
import { type FrameFormat, ProtocolError } from "../stream/frame.ts";
import {
  COMMAND,
  COMMAND_FLAG,
  commandName,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_MAGIC,
} from "./constants.ts";
import { PAYLOAD_BYTES_MAX } from "./limits.ts";

/** Bytes of a compact request without its payload. */
export const COMPACT_REQUEST_BYTES = 28;
/** Bytes of an extended request without its payload. */
export const EXTENDED_REQUEST_BYTES = 32;

/** 16 bits at `at`, which has to lie within `bytes`. */
function uint16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
}

function uint32(bytes: Uint8Array, at: number): number {
  return uint16(bytes, at) * 0x1_0000 + uint16(bytes, at + 2);
}

function checkMagic(bytes: Uint8Array, start: number, magic: number): void {
  const found = uint32(bytes, start);
  if (found === magic) return;
  throw new ProtocolError(`Cannot take a request: it begins with 0x${found.toString(16)}`);
}

function refusePayload(type: number, length: number): never {
  throw new ProtocolError(
    `Cannot take ${commandName(type)} with ${length} bytes: the limit is ${PAYLOAD_BYTES_MAX}`,
  );
}

/** Requests where extended headers were not agreed on. */
export const COMPACT_REQUESTS: FrameFormat = {
  headerLengthMin: COMPACT_REQUEST_BYTES,
  frameLengthMax: COMPACT_REQUEST_BYTES + PAYLOAD_BYTES_MAX,
  frameLength(bytes, start, end): number {
    if (end - start < COMPACT_REQUEST_BYTES) return 0;
    checkMagic(bytes, start, REQUEST_MAGIC);
    const type = uint16(bytes, start + 6);
    if (type !== COMMAND.WRITE) return COMPACT_REQUEST_BYTES;
    const length = uint32(bytes, start + 24);
    if (length > PAYLOAD_BYTES_MAX) refusePayload(type, length);
    return COMPACT_REQUEST_BYTES + length;
  },
};

/** Requests where extended headers were agreed on. */
export const EXTENDED_REQUESTS: FrameFormat = {
  headerLengthMin: EXTENDED_REQUEST_BYTES,
  frameLengthMax: EXTENDED_REQUEST_BYTES + PAYLOAD_BYTES_MAX,
  frameLength(bytes, start, end): number {
    if (end - start < EXTENDED_REQUEST_BYTES) return 0;
    checkMagic(bytes, start, EXTENDED_REQUEST_MAGIC);
    const type = uint16(bytes, start + 6);
    if ((uint16(bytes, start + 4) & COMMAND_FLAG.PAYLOAD_LEN) === 0) {
      if (type !== COMMAND.WRITE) return EXTENDED_REQUEST_BYTES;
      throw new ProtocolError("Cannot take WRITE: it does not say that a payload follows");
    }
    const length = uint32(bytes, start + 24) * 2 ** 32 + uint32(bytes, start + 28);
    if (length > PAYLOAD_BYTES_MAX) refusePayload(type, length);
    return EXTENDED_REQUEST_BYTES + length;
  },
};
