/**
 * Stacks for filter tests: a memory disk of any geometry, and filters on it as a spec writes them.
 *
 * @module
 */
import { memory } from "../../backends/memory.ts";
import { defaultRegistry } from "../../backends/mod.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import { SPARSE_BYTES_MAX } from "../../lib/block/limits.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { Backend, Geometry, Opened } from "../../lib/block/types.ts";
import { expectBytes } from "../../lib/testing/bytes.ts";
import { ManualClock, MemoryLog, testContext } from "./context.ts";

/** Options of a write that need not be durable. */
export const NO_FUA = { fua: false } as const;

/** A sparse disk in memory, with a geometry that differs where told. */
export async function memoryDisk(
  size: number,
  different: Partial<Geometry> = {},
): Promise<Backend> {
  const { backend } = await memory.open({ size, limit: SPARSE_BYTES_MAX }, testContext());
  const { extents, cache, trim, zero, resize } = backend;
  return {
    get geometry() {
      return { ...backend.geometry, ...different };
    },
    capabilities: backend.capabilities,
    read: (into, offset) => backend.read(into, offset),
    write: (from, offset, options) => backend.write(from, offset, options),
    flush: () => backend.flush(),
    ...(trim && zero && cache && extents && resize ? { trim, zero, cache, extents, resize } : {}),
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}

/** A disk that has nothing but the verbs that every disk has, and no FUA. */
export function bare(backend: Backend): Backend {
  return {
    get geometry() {
      return backend.geometry;
    },
    capabilities: { ...backend.capabilities, fua: false },
    read: (into, offset) => backend.read(into, offset),
    write: (from, offset) => backend.write(from, offset, NO_FUA),
    flush: () => backend.flush(),
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}

/** Puts a filter, written as `NAME:?option=value`, on a layer. */
export async function filtered(
  next: Backend,
  spec: string,
  context: Partial<OpenContext> = {},
): Promise<Opened> {
  const open = defaultRegistry().prepareFilter(parseSpec(spec));
  return await open(next, testContext(context));
}

/** Puts filters on a layer, the first one lowest. */
export async function stacked(
  next: Backend,
  specs: readonly string[],
  context: Partial<OpenContext> = {},
): Promise<Backend> {
  let top = next;
  for (const spec of specs) top = (await filtered(top, spec, context)).backend;
  return top;
}

/** A Device on a layer. */
export function deviceOn(backend: Backend): Device {
  return new Device(backend, { name: "test", clock: new ManualClock(), log: new MemoryLog() });
}

/** Bytes of one value. */
export function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

/** Reads a range. */
export async function readFrom(
  backend: Backend,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = filled(length, 0xee);
  await backend.read(bytes, offset);
  return bytes;
}

/** Lets everything happen that waits for nothing but its turn. */
export async function turns(): Promise<void> {
  for (let turn = 0; turn < 200; turn += 1) await Promise.resolve();
}

/** A layer that notes every call that passes it, as "read 0+512". */
export function watched(next: Backend): { readonly backend: Backend; readonly calls: string[] } {
  const calls: string[] = [];
  const { trim, zero, cache, extents, resize } = next;
  const note = (verb: string, offset: number, length: number, fua = false): void =>
    void calls.push(`${verb} ${offset}+${length}${fua ? " fua" : ""}`);
  const backend: Backend = {
    get geometry() {
      return next.geometry;
    },
    capabilities: next.capabilities,
    read: (into, offset) => {
      note("read", offset, into.length);
      return next.read(into, offset);
    },
    write: (from, offset, options) => {
      note("write", offset, from.length, options.fua);
      return next.write(from, offset, options);
    },
    flush: () => {
      calls.push("flush");
      return next.flush();
    },
    ...(trim === undefined ? {} : {
      trim: (offset, length, options) => {
        note("trim", offset, length, options.fua);
        return trim(offset, length, options);
      },
    }),
    ...(zero === undefined ? {} : {
      zero: (offset, length, options) => {
        note("zero", offset, length, options.fua);
        return zero(offset, length, options);
      },
    }),
    ...(cache === undefined ? {} : { cache }),
    ...(extents === undefined ? {} : { extents }),
    ...(resize === undefined ? {} : { resize }),
    [Symbol.asyncDispose]: () => next[Symbol.asyncDispose](),
  };
  return { backend, calls };
}

/** Fails unless a layer holds `expected` from its start; tells the first difference, however much it is. */
export async function expectContent(backend: Backend, expected: Uint8Array): Promise<void> {
  expectBytes(await readFrom(backend, 0, expected.length), expected, 0, "what was done");
}
