/**
 * Backends that are broken on purpose, each with one bug, for the test of the contract kit.
 *
 * @module
 */
import { setImmediate } from "node:timers/promises";
import { memory } from "../../backends/memory.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend, Extent, Maybe, WriteOptions } from "../../lib/block/types.ts";
import { testContext } from "../../lib/testing/mod.ts";

/** Bytes of the device that is broken. */
export const SIZE = 3 * 2 ** 20;
/** Options of a plain write. */
export const PLAIN: WriteOptions = { fua: false };
/** A memory backend whose verbs can be replaced. */
export type Planted = { -readonly [K in keyof Backend]: Backend[K] };

/** A sound backend to plant a bug into. */
export async function sound(size = SIZE): Promise<Planted> {
  const { backend } = await memory.open({ size, limit: 2 ** 30 }, testContext());
  const planted: Planted = {
    geometry: backend.geometry,
    capabilities: backend.capabilities,
    read: (into, offset) => backend.read(into, offset),
    write: (from, offset, options) => backend.write(from, offset, options),
    flush: () => backend.flush(),
    trim: (offset, length, options) => backend.trim?.(offset, length, options),
    zero: (offset, length, options) => backend.zero?.(offset, length, options),
    extents: (offset, length) => backend.extents?.(offset, length) ?? [],
    resize: (newSize) => {
      void backend.resize?.(newSize);
      planted.geometry = backend.geometry;
    },
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
  return planted;
}

/** The same with every verb in a promise, as an asynchronous backend has it. */
export function makeLater(backend: Planted): Planted {
  const { read, write, flush, trim, zero, extents } = backend;
  const later = async <T>(call: () => Maybe<T>): Promise<T> => {
    await setImmediate();
    return await call();
  };
  return Object.assign(
    backend,
    {
      capabilities: { synchronous: false, fua: true },
      read: (into, offset) => later(() => read(into, offset)),
      write: (from, offset, options) => later(() => write(from, offset, options)),
      flush: () => later(() => flush()),
      trim: (offset, length, options) => later(() => trim?.(offset, length, options)),
      zero: (offset, length, options) => later(() => zero?.(offset, length, options)),
      extents: (offset, length) => later(() => extents?.(offset, length) ?? []),
    } satisfies Partial<Planted>,
  );
}

/** A bug. */
export interface Bug {
  /** What is wrong: completes "contract kit finds a backend that …". */
  readonly what: string;
  /** The names of the cases that have to find it. */
  readonly by: RegExp;
  /** Plants it. */
  readonly plant: (backend: Planted) => void;
  /** What the case that finds it says. */
  readonly message: RegExp;
}

/** The bugs. */
export const BUGS: readonly Bug[] = [
  {
    what: "writes one byte too far to the right",
    by: /first, middle/,
    plant: (backend) => {
      const { write } = backend;
      backend.write = (from, offset, options) =>
        write(from, Math.min(offset + 1, SIZE - from.length), options);
    },
    message: /reads as/,
  },
  {
    what: "loses the last byte of a long write",
    by: /every length/,
    plant: (backend) => {
      const { write } = backend;
      backend.write = (from, offset, options) =>
        write(from.length > 65536 ? from.subarray(0, -1) : from, offset, options);
    },
    message: /reads as/,
  },
  {
    what: "writes whole blocks over what is beside",
    by: /first, middle/,
    plant: (backend) => {
      const { write } = backend;
      backend.write = (from, offset, options) => {
        const start = offset - offset % 512;
        const block = new Uint8Array(Math.min(Math.ceil(from.length / 512) * 512, SIZE - start));
        block.set(from.subarray(0, block.length - (offset - start)), offset - start);
        return write(block, start, options);
      };
    },
    message: /reads as/,
  },
  {
    what: "takes offsets modulo 2 MiB",
    by: /far apart/,
    plant: (backend) => {
      const { read, write } = backend;
      const wrap = (offset: number, length: number): number =>
        offset >= 2 ** 21 && offset + length < SIZE ? offset % 2 ** 21 : offset;
      backend.write = (from, offset, options) => write(from, wrap(offset, from.length), options);
      backend.read = (into, offset) => read(into, wrap(offset, into.length));
    },
    message: /reads as/,
  },
  {
    what: "does not fill all of a read",
    by: /several pages/,
    plant: (backend) => {
      const { read } = backend;
      backend.read = (into, offset) =>
        read(into.length > 4096 ? into.subarray(0, -3) : into, offset);
    },
    message: /reads as/,
  },
  {
    what: "keeps the buffer of a read and writes to it later",
    by: /buffers alone/,
    plant: (backend) => {
      const { read } = backend;
      backend.read = (into, offset) => {
        setTimeout(() => into.fill(0), 0);
        return read(into, offset);
      };
    },
    message: /after the call it was given to was done/,
  },
  {
    what: "writes to the buffer of a read a moment later",
    by: /buffers alone/,
    plant: (backend) => {
      const { read } = backend;
      backend.read = (into, offset) => {
        queueMicrotask(() => into.fill(0));
        return read(into, offset);
      };
    },
    message: /after the call it was given to was done/,
  },
  {
    what: "keeps the buffer of a write and stores it at the next flush",
    by: /buffers alone/,
    plant: (backend) => {
      const { flush, read, write } = backend;
      const kept: { from: Uint8Array; offset: number }[] = [];
      const store = (): void => {
        for (const { from, offset } of kept.splice(0)) void write(from, offset, PLAIN);
      };
      backend.write = (from, offset, options) => {
        kept.push({ from, offset });
        if (options.fua) store();
      };
      backend.flush = () => {
        store();
        return flush();
      };
      backend.read = (into, offset) => {
        store();
        return read(into, offset);
      };
    },
    message: /reads as/,
  },
  {
    what: "changes the buffer of a write",
    by: /first, middle/,
    plant: (backend) => {
      const { write } = backend;
      backend.write = (from, offset, options) => {
        void write(from, offset, options);
        from.reverse();
      };
    },
    message: /changed the buffer/,
  },
  {
    what: "touches memory beside the buffer of a read",
    by: /pieces/,
    plant: (backend) => {
      const { read } = backend;
      backend.read = (into, offset) => {
        new Uint8Array(into.buffer)[into.byteOffset + into.length] = 0;
        return read(into, offset);
      };
    },
    message: /outside its buffer/,
  },
  {
    what: "does nothing when it zeroes",
    by: /nothing beside it \(plain\)/,
    plant: (backend) => {
      backend.zero = () => {};
    },
    message: /reads as/,
  },
  {
    what: "does nothing when it zeroes with mayTrim",
    by: /nothing beside it \(mayTrim\)/,
    plant: (backend) => {
      const { zero } = backend;
      backend.zero = (offset, length, options) =>
        options.mayTrim ? undefined : zero?.(offset, length, options);
    },
    message: /reads as/,
  },
  {
    what: "zeroes although it refuses to do so fast",
    by: /nothing beside it \(fastOnly\)/,
    plant: (backend) => {
      const { zero } = backend;
      backend.zero = (offset, length, options) => {
        void zero?.(offset, length, options);
        if (options.fastOnly) throw new BlockError("EOPNOTSUPP");
      };
    },
    message: /reads as/,
  },
  {
    what: "makes holes although it may not",
    by: /as allocated/,
    plant: (backend) => {
      const { zero } = backend;
      backend.zero = (offset, length, options) =>
        zero?.(offset, length, { ...options, mayTrim: true });
    },
    message: /not allocated/,
  },
  {
    what: "damages what is beside a trim",
    by: /trims a range/,
    plant: (backend) => {
      const { trim } = backend;
      backend.trim = (offset, length, options) => {
        const start = offset - offset % 4096;
        return trim?.(start, Math.min(length + offset - start, SIZE - start), options);
      };
    },
    message: /reads as/,
  },
  {
    what: "fails to read what was trimmed",
    by: /trims a range/,
    plant: (backend) => {
      const { read, trim, write, zero } = backend;
      let gone = { offset: 0, length: 0 };
      backend.trim = (offset, length, options) => {
        gone = { offset, length };
        return trim?.(offset, length, options);
      };
      backend.write = (from, offset, options) => {
        gone = { offset: 0, length: 0 };
        return write(from, offset, options);
      };
      backend.zero = (offset, length, options) => {
        gone = { offset: 0, length: 0 };
        return zero?.(offset, length, options);
      };
      backend.read = (into, offset) => {
        if (offset < gone.offset + gone.length && gone.offset < offset + into.length) {
          throw new BlockError("EIO", "Cannot read: trimmed");
        }
        return read(into, offset);
      };
    },
    message: /trimmed/,
  },
  {
    what: "calls everything zero",
    by: /extents that are true/,
    plant: (backend) => {
      backend.extents = (_, length) => [{ length, allocated: true, zero: true }];
    },
    message: /not all zero/,
  },
  {
    what: "calls everything a hole that is not zero",
    by: /as allocated/,
    plant: (backend) => {
      backend.extents = (_, length) => [{ length, allocated: false, zero: false }];
    },
    message: /not allocated/,
  },
  {
    what: "gives no extents for short ranges",
    by: /extents that are true/,
    plant: (backend) => {
      const { extents } = backend;
      backend.extents = (offset, length) => length < 512 ? [] : extents?.(offset, length) ?? [];
    },
    message: /gave none/,
  },
  {
    what: "gives extents that reach past its end",
    by: /extents that are true/,
    plant: (backend) => {
      const { extents } = backend;
      backend.extents = (offset, length) => {
        const found: Maybe<Extent[]> = extents?.(offset, length) ?? [];
        if (found instanceof Promise || offset + length < SIZE) return found;
        return [...found.slice(0, -1), { length: SIZE, allocated: true, zero: false }];
      };
    },
    message: /past the end of the device/,
  },
  {
    what: "rounds the start of extents down",
    by: /extents that are true/,
    plant: (backend) => {
      const { extents } = backend;
      backend.extents = (offset, length) =>
        extents?.(offset - offset % 2 ** 20, length + offset % 2 ** 20) ?? [];
    },
    message: /begins past the range/,
  },
  {
    what: "says it is synchronous but returns a promise from flush",
    by: /no promise/,
    plant: (backend) => {
      backend.flush = () => Promise.resolve();
    },
    message: /returned a promise/,
  },
  {
    what: "says it is synchronous but returns a promise from extents",
    by: /no promise/,
    plant: (backend) => {
      const { extents } = backend;
      backend.extents = (offset, length) => Promise.resolve(extents?.(offset, length) ?? []);
    },
    message: /returned a promise/,
  },
  {
    what: "rejects a flush with an error that has no errno",
    by: / flushes/,
    plant: (backend) => {
      makeLater(backend).flush = () => Promise.reject(new Error("disk on fire"));
    },
    message: /no errno: Error: disk on fire/,
  },
  {
    what: "throws an error that has no errno where it may refuse",
    by: /nothing beside it \(fastOnly\)/,
    plant: (backend) => {
      const { zero } = backend;
      backend.zero = (offset, length, options) => {
        if (options.fastOnly) throw new TypeError("not today");
        return zero?.(offset, length, options);
      };
    },
    message: /no errno: TypeError: not today/,
  },
  {
    what: "keeps old bytes when it shrinks and grows",
    by: /shrinks/,
    plant: (backend) => {
      backend.resize = (size) => {
        backend.geometry = { ...backend.geometry, size: Math.min(size, SIZE) };
      };
    },
    message: /not all zero/,
  },
  {
    what: "does not show its new size",
    by: /grows/,
    plant: (backend) => {
      backend.resize = () => {};
    },
    message: /geometry.size after/,
  },
  {
    what: "has one buffer for all reads",
    by: /reads at the same time/,
    plant: (backend) => {
      const { read } = makeLater(backend);
      let shared = new Uint8Array(0);
      backend.read = async (into, offset) => {
        if (shared.length !== into.length) shared = new Uint8Array(into.length);
        const mine = shared;
        await read(mine, offset);
        await setImmediate();
        into.set(mine);
      };
    },
    message: /reads as/,
  },
  {
    what: "loses one of two writes to the same page that overlap in time",
    by: /requests at the same time/,
    plant: (backend) => {
      const { read, write } = makeLater(backend);
      backend.write = async (from, offset, options) => {
        const start = offset - offset % 4096;
        const end = Math.min(Math.ceil((offset + from.length) / 4096) * 4096, SIZE);
        const page = new Uint8Array(end - start);
        await read(page, start);
        page.set(from, offset - start);
        await write(page, start, options);
      };
    },
    message: /reads as/,
  },
  {
    what: "never ends a flush that comes while another runs",
    by: / flushes/,
    plant: (backend) => {
      const { flush } = makeLater(backend);
      let running = false;
      backend.flush = async () => {
        if (running) return await new Promise(() => {});
        running = true;
        await flush();
        running = false;
      };
    },
    message: /never ended/,
  },
  {
    what: "fails when it is disposed twice",
    by: /disposed twice/,
    plant: (backend) => {
      const dispose = backend[Symbol.asyncDispose];
      let disposed = false;
      backend[Symbol.asyncDispose] = () => {
        if (disposed) return Promise.reject(new Error("disposed already"));
        disposed = true;
        return dispose();
      };
    },
    message: /disposed already/,
  },
  {
    what: "has an impossible geometry",
    by: /possible geometry/,
    plant: (backend) => {
      backend.geometry = { ...backend.geometry, preferred: 1000 };
    },
    message: /preferred block is 1000/,
  },
];
