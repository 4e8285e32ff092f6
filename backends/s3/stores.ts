/**
 * From options to object stores: a bucket, or a folder, and those of a clone's parents.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { ResolveParent } from "../../lib/log_disk/context.ts";
import { openFolderStore } from "../../lib/object_store/folder.ts";
import { connectS3 } from "../../lib/object_store/s3/mod.ts";
import type { ObjectStore } from "../../lib/object_store/types.ts";
import type { BucketOptions, FolderOptions } from "./options.ts";

/** What opening a store needs of a context. */
export type StoreContext = Pick<OpenContext, "clock" | "random" | "log" | "files" | "readOnly">;

/** Opens stores of one kind. */
export interface StoreKind<O> {
  /** The store that options name. */
  open(options: O, context: StoreContext): Promise<ObjectStore>;
  /** Options for the store at an address, which is the name of one; null if it is of another kind. */
  at(address: string, options: O): O | null;
}

const S3_ADDRESS = "s3://", FOLDER_ADDRESS = "dir:";

/** Buckets. A parent is reached through the endpoint, and with the credentials, of the clone. */
export const buckets: StoreKind<BucketOptions> = {
  open: ({ path, endpoint, region, style, profile, credentials, ca }, context) =>
    connectS3({
      path,
      endpoint,
      region,
      style: style === "auto" ? undefined : style,
      profile,
      credentialsFile: credentials,
      caFile: ca,
    }, context),
  at: (address, options) =>
    address.startsWith(S3_ADDRESS) ? { ...options, path: address.slice(S3_ADDRESS.length) } : null,
};

/** Folders. */
export const folders: StoreKind<FolderOptions> = {
  open: ({ path }, context) => openFolderStore(path, context),
  at: (address, options) =>
    address.startsWith(FOLDER_ADDRESS)
      ? { ...options, path: address.slice(FOLDER_ADDRESS.length) }
      : null,
};

/** Opens the stores of parents, as those of `options` are opened. `wrap` sees each of them. */
export function parentsOf<O>(
  kind: StoreKind<O>,
  options: O,
  context: StoreContext,
  wrap: (store: ObjectStore) => ObjectStore = (store) => store,
): ResolveParent {
  return async (address) => {
    const above = kind.at(address, options);
    if (above !== null) return wrap(await kind.open(above, { ...context, readOnly: true }));
    throw new BlockError(
      "EOPNOTSUPP",
      `Cannot open the parent ${address}: a clone and its parent are in stores of one kind`,
    );
  };
}
