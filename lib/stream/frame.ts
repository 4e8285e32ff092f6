/**
 * What a frame is: the only thing the framing layer knows of a protocol. Relies on nothing; each
 * protocol (NBD, dm-user, FUSE, xenstore) supplies a FrameFormat for each of its phases.
 *
 * @module
 */

/** The peer broke the protocol: what it sent cannot be understood, so the connection ends. */
export class ProtocolError extends Error {
  /** `message` reads "Cannot do X: reason". */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ProtocolError";
  }
}

/** Tells where frames begin and end. Stateless: the same bytes give the same answer. */
export interface FrameFormat {
  /** Bytes from which on `frameLength` is worth asking, at least 1. */
  readonly headerLengthMin: number;
  /** Longest frame in bytes, header included; a longer one is a ProtocolError. */
  readonly frameLengthMax: number;
  /**
   * Whole length in bytes of the frame that begins at `start`, or 0 if it cannot be told from
   * bytes[start, end) yet. Throws ProtocolError if the bytes are no frame. It must be able to
   * tell the length of a frame that is there as a whole.
   */
  frameLength(bytes: Uint8Array, start: number, end: number): number;
}
