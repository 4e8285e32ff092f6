/**
 * The error of a XenStore operation: what the wire calls by name, with words for people.
 *
 * @module
 */
import { type ErrorCode, isErrorCode } from "./constants.ts";

/** An operation failed. */
export class XenstoreError extends Error {
  /** The error as the wire names it. */
  readonly code: ErrorCode;

  /** `message` reads "Cannot do X: reason". */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    // These are answers, not faults: most say that a node is not there, and nobody looks at where that
    // was found out. A stack costs ten times as much as all the rest of a request.
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(message, options);
    Error.stackTraceLimit = limit;
    this.name = "XenstoreError";
    this.code = code;
  }
}

/** The name that an error has on the wire: EINVAL for one that has none there. */
export function errorCode(name: string): ErrorCode {
  return isErrorCode(name) ? name : "EINVAL";
}
