/**
 * `file`: a raw image in a file, or a block device. Goes through `context.files`, so that tests can
 * put another file layer underneath. What a file cannot do natively the Device makes up for.
 *
 * @module
 */
import type { OpenContext } from "../lib/block/context.ts";
import { BlockError, toBlockError } from "../lib/block/errors.ts";
import {
  EXTENTS_PER_CALL_MAX,
  PREFERRED_BLOCK_BYTES_MAX,
  REQUEST_BYTES_MAX,
} from "../lib/block/limits.ts";
import {
  flagOption,
  omittable,
  optionSchema,
  pathOption,
  sizeOption,
} from "../lib/block/options.ts";
import { rawImage } from "../lib/block/raw_image.ts";
import type { Backend, BackendType, Geometry, Maybe, Opened } from "../lib/block/types.ts";
import type { RawFile } from "../lib/sys/file_access.ts";
import type { MemoryMap } from "../lib/sys/memory_map.ts";

/** Options of the file backend. */
export interface FileOptions {
  /** The file or block device. */
  readonly path: string;
  /** Bytes of the file to create if there is none; without it the file has to exist. */
  readonly size?: number | undefined;
  /** Bypass the page cache. */
  readonly direct: boolean;
  /** Give back storage on trim, and on zeroing where that is allowed. */
  readonly discard: boolean;
  /** Refuse a file that somebody else has open. */
  readonly lock: boolean;
}

const PREFERRED_BYTES_MIN = 4096;

/** The block size of a file as the contract wants it: a power of two within bounds. */
function preferredSize({ alignment, blockSize }: RawFile): number {
  const atLeast = Math.max(alignment, blockSize, PREFERRED_BYTES_MIN);
  return Math.min(2 ** Math.ceil(Math.log2(atLeast)), PREFERRED_BLOCK_BYTES_MAX);
}

function findGeometry(file: RawFile): Geometry {
  const size = file.size(), minimum = file.alignment;
  if (size % minimum !== 0) {
    throw new BlockError(
      "EINVAL",
      `Cannot open ${file.path}: its size ${size} is not a multiple of the ${minimum} bytes that ` +
        "direct I/O needs, open it without direct",
    );
  }
  const preferred = preferredSize(file);
  return { size, minimum, preferred, maximum: REQUEST_BYTES_MAX, readOnly: file.readOnly };
}

/**
 * Flush that stays broken once it failed. The kernel reports lost writes once and then forgets them,
 * so that a flush after a failed one would promise what is not there.
 */
function makeFlush(file: RawFile, mayBlock: boolean): () => Maybe<void> {
  let failure: BlockError | null = null;
  const broken = (error: unknown): never => {
    failure ??= toBlockError(error);
    throw failure;
  };
  return () => {
    if (failure !== null) throw failure;
    if (!mayBlock) return file.flushAsync().catch(broken);
    try {
      return file.flush();
    } catch (error) {
      return broken(error);
    }
  };
}

function isUnsupported(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "EOPNOTSUPP";
}

/** How reads are announced: to the page cache or, past it, to the file. */
function reading(file: RawFile): Pick<Backend, "willRead" | "ahead"> {
  const { ahead } = file;
  if (ahead !== undefined) {
    return { willRead: (offset, length) => ahead.announce(offset, length), ahead };
  }
  return {
    willRead: (offset, length) => {
      try {
        file.readAhead(offset, length);
      } catch {
        // The read itself will tell what is wrong.
      }
    },
  };
}

function makeBackend(file: RawFile, { discard }: FileOptions, { mayBlock }: OpenContext): Backend {
  let geometry = findGeometry(file);
  const trim = (offset: number, length: number): void => file.discard(offset, length);
  // Made when it is asked for first: most files never need it.
  let map: MemoryMap | null | undefined;
  return {
    get geometry() {
      return geometry;
    },
    capabilities: { synchronous: mayBlock, fua: false },
    read: (into, offset) => file.read(into, offset),
    get memoryMap() {
      return map === undefined ? map = file.map?.() ?? null : map;
    },
    ...reading(file),
    write: (from, offset) => file.write(from, offset),
    flush: makeFlush(file, mayBlock),
    ...(discard ? { trim } : {}),
    zero: (offset, length, { mayTrim }) => {
      // EOPNOTSUPP of the last resort makes the Device write zeroes, or refuse if that is too slow.
      if (!mayTrim || !discard) return file.zero(offset, length);
      try {
        file.punch(offset, length);
      } catch (error) {
        if (!isUnsupported(error)) throw error;
        file.zero(offset, length);
      }
    },
    cache: (offset, length) => file.readAhead(offset, length),
    extents: (offset, length) =>
      file.extents(offset, length, EXTENTS_PER_CALL_MAX)
        .map(({ length, data, allocated }) => ({ length, allocated, zero: !data })),
    ...(file.isBlockDevice ? {} : {
      resize: (size) => {
        file.truncate(size);
        geometry = { ...geometry, size };
      },
    }),
    [Symbol.asyncDispose]: () =>
      Promise.try(() => {
        map?.release();
        map = null;
        file.close();
      }),
  };
}

function open(options: FileOptions, context: OpenContext): Opened {
  const { path, size, direct, lock } = options;
  const { readOnly } = context;
  const file = context.files.open(path, {
    readOnly,
    direct,
    lock,
    ...(size === undefined ? {} : { createSize: size }),
  });
  try {
    const backend = makeBackend(file, options, context);
    const describe = (): Record<string, string | number | boolean> => ({
      path,
      kind: file.isBlockDevice ? "block device" : "regular file",
      size: file.size(),
      allocated: file.allocated(),
      direct,
      lock,
    });
    return { backend, management: { describe } };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** The file backend. */
export const file: BackendType<FileOptions> = {
  name: "file",
  summary: "raw image in a file, or a block device",
  argument: "path",
  options: optionSchema({
    path: pathOption({ summary: "the file or block device" }),
    size: omittable(sizeOption({ summary: "size of the file to create if there is none" })),
    direct: flagOption({ summary: "bypass the page cache (O_DIRECT)", default: false }),
    discard: flagOption({ summary: "trims give storage back", default: true }),
    lock: flagOption({ summary: "refuse a file that is in use", default: true }),
  }),
  image: rawImage,
  open: (options, context) => Promise.try(open, options, context),
};
