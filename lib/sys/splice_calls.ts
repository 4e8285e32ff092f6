/**
 * The calls of the C library that move data by way of pipes, and their constants on Linux (the same on
 * x86-64 and aarch64).
 *
 * @module
 */
import { mayLoadNow, prepareErrno } from "./errno.ts";

const SYMBOLS = {
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  /** From a file, at an offset in memory. */
  fill: {
    name: "splice",
    parameters: ["i32", "buffer", "i32", "pointer", "usize", "u32"],
    result: "i32",
  },
  /** From a pipe. */
  drain: {
    name: "splice",
    parameters: ["i32", "pointer", "i32", "pointer", "usize", "u32"],
    result: "i32",
  },
} as const;

/** The calls, by name. */
export type SpliceCalls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: SpliceCalls | null = mayLoadNow() ? load() : null;

function load(): SpliceCalls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

/** The table of this thread; errno can be read after each of its calls. Needs the ffi permission. */
export function spliceCalls(): SpliceCalls {
  return table ??= load();
}

/** Flags of splice. */
export const SPLICE_F_NONBLOCK = 2, SPLICE_F_MORE = 4;
/** Flags of pipe2. */
export const O_CLOEXEC = 0o2000000, O_NONBLOCK = 0o4000;
/** Command of fcntl: the size of a pipe. */
export const F_SETPIPE_SZ = 1031;
