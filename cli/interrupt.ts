/**
 * Work that a stop signal ends: the first one asks it to end, the second one ends the process.
 *
 * @module
 */
import { BlockError } from "../lib/block/errors.ts";
import type { CliIo } from "./io.ts";
import { EXIT_FAILED } from "./output.ts";

/** Runs `work` with a signal that aborts with EINTR, "Cannot WHAT: it was interrupted". */
export async function interruptible<T>(
  io: CliIo,
  what: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  let signals = 0;
  const removeHandler = io.onStopSignal(() => {
    signals += 1;
    if (signals > 1) io.exitNow(EXIT_FAILED);
    stop.abort(new BlockError("EINTR", `Cannot ${what}: it was interrupted`));
  });
  try {
    return await work(stop.signal);
  } finally {
    removeHandler();
  }
}
