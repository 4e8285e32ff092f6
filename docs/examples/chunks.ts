/**
 * `chunks`: a disk in a folder, one sparse file for each 64 MiB that was written to. Shows what a
 * backend with real storage has to think of: durability, errors, holes, waiting.
 *
 * @module
 */
import {
  type Backend,
  type BackendType,
  BlockError,
  type OpenContext,
  optionSchema,
  pathOption,
  type RawFile,
  sizeOption,
  toBlockError,
} from "../../mod.ts";

const CHUNK_BYTES = 64 * 2 ** 20;
/** Every chunk keeps a file open. */
const CHUNKS_MAX = 512;

interface ChunksOptions {
  readonly folder: string;
  readonly size: number;
}

function makeBackend({ folder, size }: ChunksOptions, context: OpenContext): Backend {
  const { files, readOnly } = context;
  const opened = new Map<number, RawFile>();
  let failure: unknown = null;

  /** The file of a chunk; undefined if nothing was ever written to it. */
  const find = (index: number): RawFile | undefined => {
    try {
      return opened.get(index) ?? openChunk(index, {});
    } catch (error) {
      if (toBlockError(error).errno === "ENOENT") return undefined;
      throw error;
    }
  };
  const openChunk = (index: number, create: { readonly createSize?: number }): RawFile => {
    const options = { readOnly, direct: false, lock: true, ...create };
    const file = files.open(`${folder}/${index}`, options);
    opened.set(index, file);
    return file;
  };

  /** Calls `use` for each chunk of a range with the place in the chunk and in the range. */
  const inChunks = (
    offset: number,
    length: number,
    use: (index: number, inChunk: number, at: number, count: number) => void,
  ): void => {
    for (let at = 0; at < length;) {
      const index = Math.floor((offset + at) / CHUNK_BYTES);
      const inChunk = offset + at - index * CHUNK_BYTES;
      const count = Math.min(CHUNK_BYTES - inChunk, length - at);
      use(index, inChunk, at, count);
      at += count;
    }
  };
  const punch = (offset: number, length: number): void =>
    inChunks(offset, length, (index, inChunk, _, count) => find(index)?.punch(inChunk, count));

  return {
    geometry: { size, minimum: 1, preferred: 4096, maximum: 2 ** 20, readOnly },
    // Flushes are waited for off the thread, and FUA is left to the Device.
    capabilities: { synchronous: false, fua: false },
    read: (into, offset) =>
      inChunks(offset, into.length, (index, inChunk, at, count) => {
        const part = into.subarray(at, at + count);
        const file = find(index);
        if (file === undefined) part.fill(0);
        else file.read(part, inChunk);
      }),
    write: (from, offset) =>
      inChunks(offset, from.length, (index, inChunk, at, count) => {
        const file = find(index) ?? openChunk(index, { createSize: CHUNK_BYTES });
        file.write(from.subarray(at, at + count), inChunk);
      }),
    flush: async () => {
      // The system reports a lost write once; after that no flush may promise anything.
      if (failure !== null) throw failure;
      try {
        await Promise.all([...opened.values()].map((file) => file.flushAsync()));
      } catch (error) {
        failure = error;
        throw error;
      }
    },
    trim: punch,
    zero: (offset, length, { mayTrim }) => {
      // The Device writes zeroes instead, or refuses if the client wants it fast or not at all.
      if (!mayTrim) throw new BlockError("EOPNOTSUPP", "Cannot zero a chunk: it would be a hole");
      punch(offset, length);
    },
    extents: (offset, length) => {
      const extents: { length: number; allocated: boolean; zero: boolean }[] = [];
      inChunks(offset, length, (index, _inChunk, _at, count) => {
        const allocated = find(index) !== undefined;
        extents.push({ length: count, allocated, zero: !allocated });
      });
      return extents;
    },
    [Symbol.asyncDispose]: () => {
      for (const file of opened.values()) file.close();
      opened.clear();
      return Promise.resolve();
    },
  };
}

export const chunks: BackendType<ChunksOptions> = {
  name: "chunks",
  summary: "a disk in a folder, one file for each 64 MiB",
  options: optionSchema({
    folder: pathOption({ summary: "the folder, which has to exist" }),
    size: sizeOption({ summary: "size of the disk" }),
  }),
  argument: "folder",
  open: (options, context) =>
    Promise.try(() => {
      if (options.size > CHUNKS_MAX * CHUNK_BYTES) {
        const reason = `at most ${CHUNKS_MAX} chunks of ${CHUNK_BYTES} bytes are possible`;
        throw new BlockError("EINVAL", `Cannot open ${options.folder}: ${reason}`);
      }
      return { backend: makeBackend(options, context) };
    }),
};
