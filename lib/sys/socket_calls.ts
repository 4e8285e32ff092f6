/**
 * The calls of the C library that sockets need, as one table, and their constants on Linux (the same
 * on x86-64 and aarch64). Fast form: `usize` arguments are bigints, memory is a "buffer" argument.
 *
 * @module
 */
import { mayLoadNow, prepareErrno } from "./errno.ts";

const SYMBOLS = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  accept4: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  sched_yield: { parameters: [], result: "i32" },
  usleep: { parameters: ["u32"], result: "i32" },
  prctl: { parameters: ["i32", "usize"], result: "i32" },
  ioctl: { parameters: ["i32", "usize", "buffer"], result: "i32" },
  sysconf: { parameters: ["i32"], result: "i64" },
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32" },
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },
  chmod: { parameters: ["buffer", "u32"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  inet_pton: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  inet_ntop: { parameters: ["i32", "buffer", "buffer", "u32"], result: "pointer" },
} as const;

/** The calls, by name. */
export type SocketCalls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: SocketCalls | null = mayLoadNow() ? load() : null;

function load(): SocketCalls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

/** The table of this thread; errno can be read after each of its calls. Needs the ffi permission. */
export function socketCalls(): SocketCalls {
  return table ??= load();
}

/** Address families. */
export const AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10;
/** Socket type, and flags that go with it. */
export const SOCK_STREAM = 1, SOCK_NONBLOCK = 0o4000, SOCK_CLOEXEC = 0o2000000;
/** Option levels. */
export const SOL_SOCKET = 1, IPPROTO_TCP = 6, IPPROTO_IPV6 = 41;
/** Options of SOL_SOCKET. */
export const SO_REUSEADDR = 2,
  SO_TYPE = 3,
  SO_SNDBUF = 7,
  SO_KEEPALIVE = 9,
  SO_PEERCRED = 17,
  SO_ACCEPTCONN = 30;
/** Options of IPPROTO_TCP and IPPROTO_IPV6. */
export const TCP_NODELAY = 1,
  TCP_KEEPIDLE = 4,
  TCP_KEEPINTVL = 5,
  TCP_KEEPCNT = 6,
  IPV6_V6ONLY = 26;
/** Flags of send and recv. */
export const MSG_DONTWAIT = 0x40, MSG_NOSIGNAL = 0x4000;
/** Request of ioctl: bytes that were sent and not taken yet. */
export const SIOCOUTQ = 0x5411n;
/** Option of prctl. */
export const PR_SET_TIMERSLACK = 29;
/** Directions of shutdown. */
export const SHUT_RD = 0, SHUT_WR = 1, SHUT_RDWR = 2;
/** Commands and flags of fcntl. */
export const F_SETFD = 2, F_GETFL = 3, F_SETFL = 4, FD_CLOEXEC = 1, O_NONBLOCK = 0o4000;
/** Flags of open. */
export const O_RDONLY = 0, O_CLOEXEC = 0o2000000;
/** Operations of flock. */
export const LOCK_EX = 2, LOCK_NB = 4;
/** Flags of eventfd. */
export const EFD_NONBLOCK = 0o4000, EFD_CLOEXEC = 0o2000000;
/** Names of sysconf, and clocks. */
export const SC_NPROCESSORS_ONLN = 84, CLOCK_MONOTONIC = 1;
/** Flags and operations of epoll. */
export const EPOLL_CLOEXEC = 0o2000000, EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3;
