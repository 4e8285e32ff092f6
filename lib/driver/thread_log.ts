/**
 * Messages for a human from a thread that cannot print them itself.
 *
 * @module
 */
import type { Log } from "../block/context.ts";

/** A log that hands each line on, with the stack of an error in it. */
export function threadLog(tell: (level: keyof Log, text: string) => void): Log {
  return {
    error: (text, cause) =>
      tell("error", cause instanceof Error ? `${text}: ${cause.stack ?? cause.message}` : text),
    warn: (text) => tell("warn", text),
    info: (text) => tell("info", text),
    debug: (text) => tell("debug", text),
  };
}
