/**
 * `s3` and `dir`: a log-structured disk on objects, which are in a bucket or in a local folder. The disk
 * itself is lib/log_disk, the stores are lib/object_store.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";
import { openManagedDisk } from "../../lib/log_disk/managed_disk.ts";
import { type PatientStore, patientStore } from "../../lib/object_store/patience.ts";
import { probeStore } from "../../lib/object_store/probe.ts";
import type { ObjectStore } from "../../lib/object_store/types.ts";
import {
  type BucketOptions,
  dirSchema,
  type FolderOptions,
  s3Schema,
  type ServeOptions,
} from "./options.ts";
import { imageTools } from "./image.ts";
import { buckets, folders, parentsOf, type StoreKind } from "./stores.ts";

async function openDisk<O>(
  kind: StoreKind<O>,
  options: O & ServeOptions,
  context: OpenContext,
): Promise<Opened> {
  const readOnly = context.readOnly || options.snapshot !== undefined;
  // While it is opened it does not wait: what is wrong then is for whoever started it.
  const patient: PatientStore[] = [];
  const wrap = (store: ObjectStore): ObjectStore => {
    const each = patientStore(store, context);
    patient.push(each);
    return each;
  };
  const store = wrap(await kind.open(options, { ...context, readOnly }));
  // Opening is given up at once when the target is. An open disk gives up only what it waits for.
  const opening = new AbortController();
  const giveUp = (): void => opening.abort(context.signal.reason);
  context.signal.addEventListener("abort", giveUp);
  try {
    context.signal.throwIfAborted();
    if (!readOnly) await probeStore(store, context.random, { signal: context.signal });
    const opened = await openManagedDisk(store, {
      snapshot: options.snapshot ?? null,
      cacheBytes: options.cache,
      diskCache: options["disk-cache"] === undefined
        ? null
        : { folder: options["disk-cache"], bytes: options["disk-cache-size"] },
      wal: options.wal === undefined ? null : { path: options.wal, bytes: options["wal-size"] },
      readAheadBytes: options["read-ahead"],
      dirtyBytes: options.dirty,
      sealAfterMs: options["seal-after"],
      puts: options.puts,
      collects: options.collect,
      resolve: parentsOf(kind, options, context, wrap),
    }, { ...context, signal: opening.signal });
    if (options["on-error"] === "wait") { for (const each of patient) each.beginToWait(); }
    return opened;
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  } finally {
    context.signal.removeEventListener("abort", giveUp);
  }
}

/** The s3 backend. */
export const s3: BackendType<BucketOptions & ServeOptions> = {
  name: "s3",
  summary: "log-structured disk in a bucket of an S3 server",
  waits: true,
  argument: "path",
  schemes: ["s3"],
  uriOptions: true,
  options: s3Schema,
  image: imageTools(buckets),
  open: (options, context) => openDisk(buckets, options, context),
};

/** The dir backend. */
export const dir: BackendType<FolderOptions & ServeOptions> = {
  name: "dir",
  summary: "log-structured disk in a local folder, as objects",
  waits: true,
  argument: "path",
  options: dirSchema,
  image: imageTools(folders),
  open: (options, context) => openDisk(folders, options, context),
};
