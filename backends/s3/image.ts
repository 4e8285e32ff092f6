/**
 * Image tools of `s3` and `dir`: those of log-structured disks, on stores of a kind.
 *
 * @module
 */
import { BlockError } from "../../lib/block/errors.ts";
import type { ImageContext, ImageTools } from "../../lib/block/image.ts";
import type { ResolveParent } from "../../lib/log_disk/context.ts";
import { type VolumeOptions, volumeTools } from "../../lib/log_disk/tools/image_tools.ts";
import type { ServeOptions } from "./options.ts";
import type { StoreKind } from "./stores.ts";

/** Opens the stores of parents; unlike those of a disk that is served they may be written to. */
function parents<O>(kind: StoreKind<O>, disk: O, context: ImageContext): ResolveParent {
  return async (address) => {
    const above = kind.at(address, disk);
    if (above !== null) return await kind.open(above, context);
    const reason = "a clone and its parent are in stores of one kind";
    throw new BlockError("EOPNOTSUPP", `Cannot open the parent ${address}: ${reason}`);
  };
}

/** The image tools for disks in stores of a kind. */
export function imageTools<O>(kind: StoreKind<O>): ImageTools<O & ServeOptions, VolumeOptions> {
  return volumeTools<O & ServeOptions>({
    open: (disk, context) => kind.open(disk, context),
    resolve: (disk, context) => parents(kind, disk, context),
    snapshot: ({ snapshot }) => snapshot ?? null,
  });
}
