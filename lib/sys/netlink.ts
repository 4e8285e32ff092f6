/**
 * Netlink sockets of the kernel connector: datagrams with the address of their sender. Sync calls that
 * never block; errors are SystemError with the errno of the failed call. See netlink(7).
 *
 * @module
 */
import { EAGAIN, EINTR, fail, lastErrno, mayLoadNow, prepareErrno, systemError } from "./errno.ts";
import { closeDescriptor, WOULD_BLOCK } from "./socket.ts";
import { SOCK_CLOEXEC, SOCK_NONBLOCK, socketCalls } from "./socket_calls.ts";

const SYMBOLS = {
  recvfrom: {
    parameters: ["i32", "buffer", "usize", "i32", "buffer", "buffer"],
    result: "i32",
  },
  sendto: { parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"], result: "i32" },
} as const;

type Calls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: Calls | null = mayLoadNow() ? load() : null;

function load(): Calls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

function calls(): Calls {
  return table ??= load();
}

const AF_NETLINK = 16, SOCK_DGRAM = 2, NETLINK_CONNECTOR = 11;
const SOL_NETLINK = 270, NETLINK_ADD_MEMBERSHIP = 1;
const SOL_SOCKET = 1, SO_RCVBUFFORCE = 33;
const MSG_TRUNC = 0x20, MSG_DONTWAIT = 0x40;
const ENOBUFS = 105;
/** struct sockaddr_nl: family, padding, port id, groups. */
const ADDRESS_BYTES = 12;

/** What `receiveFrom` gives when datagrams were lost because nobody took them in time. */
export const DATAGRAMS_LOST: number = -2;

/** Who sent a datagram, or who is to get it. */
export interface NetlinkAddress {
  /** Port id: 0 is the kernel. */
  readonly port: number;
  /** Bits of the groups that it goes to: bit 0 is group 1. */
  readonly groups: number;
}

const ADDRESS = new Uint8Array(ADDRESS_BYTES);
const ADDRESS_VIEW = new DataView(ADDRESS.buffer);
const LENGTH = new Uint32Array(1);
const LENGTH_BYTES = new Uint8Array(LENGTH.buffer);
const INT = new Int32Array(1);
const INT_BYTES = new Uint8Array(INT.buffer);

function encodeAddress({ port, groups }: NetlinkAddress): Uint8Array<ArrayBuffer> {
  const address = new Uint8Array(ADDRESS_BYTES);
  const view = new DataView(address.buffer);
  view.setUint16(0, AF_NETLINK, true);
  view.setUint32(4, port, true);
  view.setUint32(8, groups, true);
  return address;
}

/**
 * Opens a socket of the kernel connector and gives it a port id: non-blocking, close-on-exec. Throws
 * EPROTONOSUPPORT where the kernel has none, EPERM …
 */
export function openConnector(): number {
  const type = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  const fd = socketCalls().socket(AF_NETLINK, type, NETLINK_CONNECTOR);
  if (fd < 0) fail("open", "a socket of the kernel connector");
  const address = encodeAddress({ port: 0, groups: 0 });
  if (socketCalls().bind(fd, address, address.length) !== 0) {
    const number = lastErrno();
    closeDescriptor(fd);
    throw systemError(number, "bind", "a socket of the kernel connector");
  }
  return fd;
}

/** Gets what is sent to a group, whose number is 1 to 32. */
export function joinGroup(fd: number, group: number): void {
  INT[0] = group;
  if (socketCalls().setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, INT_BYTES, 4) !== 0) {
    fail("join", `group ${group} of the kernel connector`);
  }
}

/** Sets the size of the receive buffer, past the system's limit where that is allowed. False if not. */
export function forceReceiveBuffer(fd: number, bytes: number): boolean {
  INT[0] = bytes;
  return socketCalls().setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, INT_BYTES, 4) === 0;
}

/** The port id of a socket. */
export function netlinkPort(fd: number): number {
  LENGTH[0] = ADDRESS_BYTES;
  if (socketCalls().getsockname(fd, ADDRESS, LENGTH_BYTES) !== 0) {
    fail("read the address of", `socket ${fd}`);
  }
  return ADDRESS_VIEW.getUint32(4, true);
}

/**
 * Receives a datagram: its length, which is more than `into` has if it was cut; WOULD_BLOCK if there is
 * none, DATAGRAMS_LOST once after some were dropped. The sender's port id is put into `from`.
 */
export function receiveFrom(
  fd: number,
  into: Uint8Array<ArrayBuffer>,
  from: { port: number },
): number {
  for (;;) {
    LENGTH[0] = ADDRESS_BYTES;
    const flags = MSG_DONTWAIT | MSG_TRUNC;
    const count = calls().recvfrom(fd, into, BigInt(into.length), flags, ADDRESS, LENGTH_BYTES);
    if (count >= 0) {
      from.port = ADDRESS_VIEW.getUint32(4, true);
      return count;
    }
    const number = lastErrno();
    if (number === EAGAIN) return WOULD_BLOCK;
    if (number === ENOBUFS) return DATAGRAMS_LOST;
    if (number !== EINTR) fail("receive from", `socket ${fd}`);
  }
}

/**
 * Sends a datagram: false if nobody is there (any more) who takes it, or has no room for it now. Throws
 * EPERM for whoever may not send to others …
 */
export function sendTo(
  fd: number,
  bytes: Uint8Array<ArrayBuffer>,
  to: NetlinkAddress,
): boolean {
  const address = encodeAddress(to);
  const ECONNREFUSED = 111, ESRCH = 3;
  for (;;) {
    const length = BigInt(bytes.length);
    const count = calls().sendto(fd, bytes, length, MSG_DONTWAIT, address, address.length);
    if (count >= 0) return true;
    const number = lastErrno();
    if (number === EAGAIN || number === ECONNREFUSED || number === ESRCH) return false;
    if (number !== EINTR) fail("send to", `port ${to.port} of the kernel connector`);
  }
}
