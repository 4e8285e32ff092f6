/**
 * The map of an image at rest.
 *
 * @module
 */
import type { ImageContext, MapEntry } from "../../lib/block/image.ts";
import { L2_CACHE_BYTES } from "./live/limits.ts";
import { mapState } from "./live/map.ts";
import { closeFiles, openImage } from "./live/open.ts";

/** Entries between two turns of the event loop. */
const ENTRIES_PER_TURN = 1024;

/**
 * Where everything on the disk of an image is, or was at a snapshot (by id or name; null for now), its
 * backing files included. Takes no lock: an image that is in use gives a map of some moment.
 */
export async function* mapImage(
  path: string,
  snapshot: string | null,
  context: ImageContext,
): AsyncGenerator<MapEntry> {
  const { state } = openImage({
    path,
    readOnly: true,
    lock: false,
    direct: false,
    discard: false,
    cacheBytes: L2_CACHE_BYTES,
    snapshot,
  }, context);
  try {
    let count = 0;
    for (const entry of mapState(state)) {
      yield entry;
      count += 1;
      if (count % ENTRIES_PER_TURN !== 0) continue;
      context.progress(entry.start + entry.length, state.header.size);
      context.signal.throwIfAborted();
      await context.clock.sleep(0);
    }
  } finally {
    closeFiles(state);
  }
}
