/**
 * The calls of the C library that files need, as one table. All of them are in the fast form:
 * `usize`, `isize` and `i64` arguments have to be bigints (a number there is several times slower)
 * and pointers to memory are "buffer" arguments. Lengths below 2^31 come back as `i32`.
 *
 * @module
 */
import { mayLoadNow, prepareErrno } from "./errno.ts";

const SYMBOLS = {
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  fsync: { parameters: ["i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  /** Off this thread: errno is lost. */
  fdatasyncAsync: {
    name: "fdatasync",
    parameters: ["i32"],
    result: "i32",
    nonblocking: true,
  },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  /** Gives the errno itself. */
  posix_fadvise: { parameters: ["i32", "i64", "i64", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "buffer"], result: "i32" },
  ioctl: { parameters: ["i32", "usize", "buffer"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
} as const;

/** The calls, by name. */
export type Libc = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: Libc | null = mayLoadNow() ? load() : null;

function load(): Libc {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

/** The table of this thread; errno can be read after each of its calls. Needs the ffi permission. */
export function libc(): Libc {
  return table ??= load();
}
