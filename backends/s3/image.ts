/**
 * Image tools of `s3` and `dir`: those of log-structured disks, on stores of a kind.
 *
 * @module
 */
import type { ImageContext, ImageTools } from "../../lib/block/image.ts";
import type { ResolveParent } from "../../lib/log_disk/context.ts";
import { volumeTools, type VolumeOptions } from "../../lib/log_disk/tools/image_tools.ts";
import type { ServeOptions } from "./options.ts";
import { parentsOf, type StoreKind } from "./stores.ts";

/** The image tools for disks in stores of a kind. */
export function imageTools<O>(
  kind: StoreKind<O>,
): ImageTools<O & ServeOptions, VolumeOptions> {
  return volumeTools<O & ServeOptions>({
    open: (disk, context) => kind.open(disk, context),
    resolve: (disk: O, context: ImageContext): ResolveParent => parentsOf(kind, disk, context),
    snapshot: ({ snapshot }) => snapshot ?? null,
  });
}
