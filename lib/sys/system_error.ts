/**
 * The error of a failed system call. Carries the symbolic errno as `code`, as node's errors do.
 *
 * @module
 */

/** A system call failed. */
export class SystemError extends Error {
  /** Symbolic errno, for instance "ENOENT". */
  readonly code: string;
  /** The system call, for instance "open". */
  readonly call: string;

  /** `subject` says what it was done to: a path, an address. */
  constructor(code: string, call: string, subject: string, text: string) {
    super(`Cannot ${call} ${subject}: ${text}`);
    this.name = "SystemError";
    this.code = code;
    this.call = call;
  }
}
