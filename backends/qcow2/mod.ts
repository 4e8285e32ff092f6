/**
 * `qcow2`: disks in QEMU's image format, versions 2 and 3: docs/interop/qcow2.rst of QEMU. The format
 * itself is in `format/`, the open image in `live/`; here is what can be set and how it is put together.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import {
  checkShrink,
  type ImageContext,
  type ImageTools,
  PREALLOCATIONS,
  type ResizeOptions,
} from "../../lib/block/image.ts";
import {
  choiceOption,
  countOption,
  flagOption,
  omittable,
  optionSchema,
  pathOption,
  sizeOption,
  textOption,
} from "../../lib/block/options.ts";
import type { BackendType, Management, Opened } from "../../lib/block/types.ts";
import { checkImage } from "./check/mod.ts";
import { INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY } from "./format/header.ts";
import { mapImage } from "./map_image.ts";
import { readHeader } from "./read_tables.ts";
import { rebaseImage } from "./rebase.ts";
import { imageInfo } from "./info.ts";
import { createImage, type CreateOptions, isQcow2 } from "./create.ts";
import { closeImage, type LiveImage, makeBackend, makeLive } from "./live/image.ts";
import { CACHE_BYTES_MIN, L2_CACHE_BYTES } from "./live/limits.ts";
import { closeFiles, type ImageOptions, openImage } from "./live/open.ts";
import { commitDown } from "./live/commit_down.ts";
import { applySnapshot, createSnapshot, deleteSnapshot, listSnapshots } from "./live/snapshots.ts";
import { reserveClusters } from "./live/reserve.ts";
import { resizeImage } from "./live/resize.ts";

/** Options of the qcow2 backend. */
export interface Qcow2Options {
  /** The image file. */
  readonly path: string;
  /** Id or name of the snapshot to show, read-only, instead of what is there now. */
  readonly snapshot?: string | undefined;
  /** Most memory for L2 tables, bytes. */
  readonly "cache-size": number;
  /** Bypass the page cache. */
  readonly direct: boolean;
  /** Give back storage on trim, and on zeroing where that is allowed. */
  readonly discard: boolean;
  /** Store clusters that are written whole compressed. */
  readonly compress: boolean;
  /** Refuse files that somebody else has open. */
  readonly lock: boolean;
}

function imageOptions(options: Qcow2Options, readOnly: boolean): ImageOptions {
  const { path, snapshot, direct, discard, lock } = options;
  return {
    path,
    readOnly,
    lock,
    direct,
    discard,
    cacheBytes: Math.max(options["cache-size"], CACHE_BYTES_MIN),
    snapshot: snapshot ?? null,
  };
}

/** Facts about an open image. */
function describe({ state }: LiveImage): Record<string, string | number | boolean> {
  const { header, layout, file, backing, dataFile } = state;
  return {
    path: state.path,
    version: header.version,
    size: header.size,
    allocated: file.raw.allocated(),
    cluster: layout.clusterBytes,
    "refcount bits": 2 ** header.refcountOrder,
    subclusters: layout.extended,
    compression: header.compression,
    backing: backing === null ? "none" : `${backing.path} (${backing.format})`,
    "data file": dataFile === null ? "none" : dataFile.raw.path,
    snapshots: header.snapshotCount,
  };
}

/**
 * Refcounts that were put off when the image's last user ended, be it in a crash: they are counted anew.
 * Throws EIO if that does not make the image good.
 */
async function repairIfDirty(path: string, context: OpenContext): Promise<void> {
  const file = context.files.open(path, { readOnly: true, direct: false, lock: false });
  let dirty: boolean;
  try {
    const { incompatible } = readHeader(file);
    dirty = (incompatible & INCOMPATIBLE_DIRTY) !== 0n &&
      (incompatible & INCOMPATIBLE_CORRUPT) === 0n;
  } finally {
    file.close();
  }
  if (!dirty) return;
  context.log.warn(`${path} was not closed; its refcounts are counted anew`);
  const { corruptions, checkErrors } = await checkImage(path, "all", {
    ...context,
    progress: () => {},
  });
  if ((corruptions ?? 0) === 0 && checkErrors === 0) return;
  throw new BlockError("EIO", `Cannot open ${path} for writing: it is damaged, a check says how`);
}

async function open(options: Qcow2Options, context: OpenContext): Promise<Opened> {
  if (!context.readOnly && options.snapshot === undefined) {
    await repairIfDirty(options.path, context);
  }
  const image = makeLive(openImage(imageOptions(options, context.readOnly), context));
  if (options.compress && (image.state.layout.external || options.direct)) {
    closeImage(image);
    const reason = options.direct ? "direct I/O is in whole blocks" : "its data is in a data file";
    throw new BlockError(
      "EINVAL",
      `Cannot compress what is written to ${options.path}: ${reason}`,
    );
  }
  return {
    backend: makeBackend(image, { mayBlock: context.mayBlock, compress: options.compress }),
    management: makeManagement(image, options, context),
  };
}

function makeManagement(
  image: LiveImage,
  options: Qcow2Options,
  context: OpenContext,
): Management {
  const { state } = image;
  const look: Management = {
    describe: () => describe(image),
    snapshots: () => listSnapshots(state),
  };
  if (state.readOnly) return look;
  return {
    ...look,
    createSnapshot: (name) => createSnapshot(state, name, context.clock.wall()),
    applySnapshot: (name) => applySnapshot(state, name),
    deleteSnapshot: (name) => deleteSnapshot(state, name),
    ...(state.header.backingFile === null ? {} : {
      commit: (progress) =>
        commitDown(image, imageOptions(options, false), context, progress ?? (() => {})),
    }),
  };
}

/** Opens an image for the span of `use`; closes it properly. */
async function withImage<T>(
  disk: Qcow2Options,
  readOnly: boolean,
  context: ImageContext,
  use: (image: LiveImage) => T | Promise<T>,
): Promise<T> {
  const image = makeLive(openImage(imageOptions(disk, readOnly), context));
  let result: T;
  try {
    result = await use(image);
  } catch (error) {
    closeFiles(image.state);
    throw error;
  }
  closeImage(image);
  return result;
}

function resize(
  disk: Qcow2Options,
  size: number,
  { shrink, preallocation }: ResizeOptions,
  context: ImageContext,
): Promise<void> {
  return withImage(disk, false, context, async (image) => {
    const before = image.state.header.size;
    checkShrink(disk.path, before, size, shrink);
    resizeImage(image, size);
    if (preallocation === "off" || size <= before) return;
    await reserveClusters(image, before, size, preallocation, context);
  });
}

/** The image tools of qcow2. */
const tools: ImageTools<Qcow2Options, CreateOptions> = {
  format: "qcow2",
  createOptions: optionSchema<CreateOptions>({
    compat: choiceOption(["0.10", "1.1"], {
      summary: "format version 2 or 3",
      default: "1.1",
    }),
    "cluster-size": sizeOption({ summary: "size of a cluster", default: 65_536 }),
    "refcount-bits": countOption({ summary: "width of a refcount", default: 16, min: 1, max: 64 }),
    "lazy-refcounts": flagOption({ summary: "write refcounts late", default: false }),
    "extended-l2": flagOption({ summary: "subclusters", default: false }),
    "compression-type": choiceOption(["zlib", "zstd"], {
      summary: "how clusters are compressed",
      default: "zlib",
    }),
    "backing-file": omittable(textOption({ summary: "file that the image stands on" })),
    "backing-fmt": omittable(choiceOption(["raw", "qcow2"], { summary: "format of that file" })),
    "data-file": omittable(textOption({ summary: "file for the data" })),
    "data-file-raw": flagOption({
      summary: "keep the data file a raw image of the disk",
      default: false,
    }),
    preallocation: choiceOption(PREALLOCATIONS, {
      summary: "what is reserved in advance",
      default: "off",
    }),
  }),
  detect: isQcow2,
  create: ({ path }, request, options, context) => createImage(path, request, options, context),
  info: ({ path }, context) => Promise.try(imageInfo, path, context),
  map: ({ path, snapshot }, context) => mapImage(path, snapshot ?? null, context),
  check: ({ path }, repair, context) => checkImage(path, repair, context),
  rebase: ({ path }, request, context) => rebaseImage(path, request, context),
  resize,
};

/** The qcow2 backend. */
export const qcow2: BackendType<Qcow2Options> = {
  name: "qcow2",
  summary: "disk image in QEMU's format, with snapshots and backing files",
  argument: "path",
  options: optionSchema<Qcow2Options>({
    path: pathOption({ summary: "the image file" }),
    snapshot: omittable(textOption({ summary: "snapshot to show, read-only" })),
    "cache-size": sizeOption({ summary: "most memory for L2 tables", default: L2_CACHE_BYTES }),
    direct: flagOption({ summary: "bypass the page cache (O_DIRECT)", default: false }),
    discard: flagOption({ summary: "trims give storage back", default: true }),
    compress: flagOption({ summary: "store whole clusters compressed", default: false }),
    lock: flagOption({ summary: "refuse a file that is in use", default: true }),
  }),
  image: tools,
  open,
};
