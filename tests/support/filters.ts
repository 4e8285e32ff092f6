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
