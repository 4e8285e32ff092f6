/**
 * The calls of the C library for memory that is a file, and for sockets that take many pieces of memory
 * at once. Addresses are numbers of 64 bits.
 *
 * @module
 */
import { mayLoadNow, prepareErrno } from "./errno.ts";

const SYMBOLS = {
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "usize" },
  munmap: { parameters: ["usize", "usize"], result: "i32" },
  madvise: { parameters: ["usize", "usize", "i32"], result: "i32" },
  mincore: { parameters: ["usize", "usize", "buffer"], result: "i32" },
  fstatfs: { parameters: ["i32", "buffer"], result: "i32" },
  futimens: { parameters: ["i32", "buffer"], result: "i32" },
  process_vm_writev: {
    parameters: ["i32", "buffer", "usize", "buffer", "usize", "usize"],
    result: "i32",
  },
  recvmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
} as const;

/** The calls, by name. */
export type MapCalls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: MapCalls | null = mayLoadNow() ? load() : null;

function load(): MapCalls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

/** The table of this thread; errno can be read after each of its calls. Needs the ffi permission. */
export function mapCalls(): MapCalls {
  return table ??= load();
}
