/**
 * What is wrong with a trace.
 *
 * @module
 */

/** The bytes are no trace, or not one that can be understood. The message says what is wrong. */
export class TraceError extends Error {
  /** `message` completes "Cannot read the trace: ". */
  constructor(message: string, options?: { readonly cause?: unknown }) {
    super(`Cannot read the trace: ${message}`, options);
    this.name = "TraceError";
  }
}
