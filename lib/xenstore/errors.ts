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
    super(message, options);
    this.name = "XenstoreError";
    this.code = code;
  }
}

/** The name that an error has on the wire: EINVAL for one that has none there. */
export function errorCode(name: string): ErrorCode {
  return isErrorCode(name) ? name : "EINVAL";
}
