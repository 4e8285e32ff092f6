/**
 * Reserving clusters in advance: tables that map a range of the disk, and the storage behind them.
 *
 * @module
 */
import type { ImageContext, Preallocation } from "../../../lib/block/image.ts";
import { preallocate } from "../../../lib/block/raw_image.ts";
import type { LiveImage } from "./image.ts";

/**
 * Gives every cluster of a range that has none one of its own, which reads as zeroes; `falloc` and `full`
 * reserve their storage too. Durable when it is done.
 */
export async function reserveClusters(
  { state, writer }: LiveImage,
  offset: number,
  end: number,
  how: Preallocation,
  context: ImageContext,
): Promise<void> {
  const { clusterBytes, tableCoverage, external } = state.layout;
  const storage = how === "metadata" ? "off" : how;
  const first = Math.floor(offset / clusterBytes), last = Math.ceil(end / clusterBytes);
  const step = tableCoverage / clusterBytes;
  for (let at = first; at < last;) {
    const stop = Math.min((Math.floor(at / step) + 1) * step, last);
    context.signal.throwIfAborted();
    for (const { host, length } of writer.reserve(at, stop)) {
      if (external) continue;
      const quiet = { ...context, progress: () => {} };
      await preallocate(state.file.raw, host, length, storage, quiet);
    }
    at = stop;
    context.progress(at - first, last - first);
    await context.clock.sleep(0);
  }
  state.committer.commitNow();
}
