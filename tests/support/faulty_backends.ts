/**
 * Backends with a fault each, for tests that must fail: a check that never finds anything proves
 * nothing. They are loaded with `--backend` and are memory apart from their fault, which begins
 * with the write number that is their option: they behave while a client sets up its files.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import {
  countOption,
  type OptionSchema,
  optionSchema,
  sizeOption,
} from "../../lib/block/options.ts";
import type { Backend, BackendType, Opened } from "../../lib/block/types.ts";

/** What all of them are told. */
export interface FaultyOptions {
  readonly size: number;
  readonly after: number;
}

const options: OptionSchema<FaultyOptions> = optionSchema<FaultyOptions>({
  size: sizeOption({ summary: "bytes of the device" }),
  after: countOption({
    summary: "writes that are carried out before the first fault",
    default: 100,
  }),
});

/** What happens to write number `number` (from 0) once it is past `after`. */
type Fault = (memory: Uint8Array, from: Uint8Array, offset: number) => void;

function faultyMemory({ size, after }: FaultyOptions, fault: Fault): Backend {
  const memory = new Uint8Array(size);
  let writes = 0;
  return {
    geometry: { size, minimum: 1, preferred: 4096, maximum: 32 * 1024 * 1024, readOnly: false },
    capabilities: { synchronous: true, fua: true },
    read: (into, offset): void => into.set(memory.subarray(offset, offset + into.length)),
    write(from, offset): void {
      writes++;
      // Every tenth, so that the client goes on for a while.
      if (writes > after && writes % 10 === 0) fault(memory, from, offset);
      else memory.set(from, offset);
    },
    flush: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function faultyType(name: string, summary: string, fault: Fault): BackendType<FaultyOptions> {
  return {
    name,
    summary,
    options,
    argument: "size",
    open: (given: FaultyOptions, _context: OpenContext): Promise<Opened> =>
      Promise.resolve({ backend: faultyMemory(given, fault) }),
  };
}

/** Writes fail with EIO. */
export const failingWrites: BackendType<FaultyOptions> = faultyType(
  "failing-writes",
  "memory whose writes fail",
  (_memory, _from, offset) => {
    throw new BlockError("EIO", `Cannot write at ${offset}: this is a test`);
  },
);

/** Writes are answered and forgotten. */
export const lostWrites: BackendType<FaultyOptions> = faultyType(
  "lost-writes",
  "memory that forgets writes",
  () => {},
);

/** One bit of what is written flips. */
export const flippedBits: BackendType<FaultyOptions> = faultyType(
  "flipped-bits",
  "memory that flips a bit in a write",
  (memory, from, offset) => {
    memory.set(from, offset);
    const at = offset + (from.length >> 1);
    memory[at] = (memory[at] ?? 0) ^ 1;
  },
);
