/**
 * Waiting that ends early when the target is torn down: whoever waits then goes on at once.
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";

/** Waits `ms` ms, less if the context's signal aborts. */
export async function pause({ clock, signal }: OpenContext, ms: number): Promise<void> {
  if (signal.aborted) return;
  try {
    await clock.sleep(ms, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
