/**
 * Golden bytes of requests that are answered with structured replies: one row for each rule (quoted).
 *
 * @module
 */
import { BlockError } from "../../lib/block/errors.ts";
import { digits, extentsFrom } from "./fixtures.ts";
import {
  BLOCK_STATUS,
  chunk,
  COOKIE,
  DF,
  EINVAL,
  EIO,
  ENOSPC,
  EOVERFLOW,
  EPERM,
  type Exchange,
  failed,
  FLUSH,
  ramp,
  READ,
  REQ_ONE,
  request,
  simple,
  WRITE,
} from "./transmission_messages.ts";

const KIB = 1024, MIB = 1 << 20;
const FIRST_64K = ramp(0, 64 * KIB);

/** The payload of a status chunk of context 1. */
function status(...runs: (readonly [length: number, flags: number])[]): string {
  return "00000001" +
    runs.map(([length, flags]) => digits(length, 32) + digits(flags, 32)).join("");
}

const DATA = 0, HOLE = 3, ZERO = 2;

export const STRUCTURED_ROWS: Exchange[] = [
  {
    rule: "OFFSET_DATA: 64 bits offset, length - 8 bytes of data; DONE on the final chunk",
    send: request(READ, 0x102, 4),
    expect: `
      668e33ef         # NBD_STRUCTURED_REPLY_MAGIC
      0001             # NBD_REPLY_FLAG_DONE
      0001             # NBD_REPLY_TYPE_OFFSET_DATA
      ${COOKIE}
      0000000c         # length of payload
      0000000000000102 # offset
      02030405
    `,
  },
  {
    rule: "MAY use either a simple reply or a structured reply to all other requests",
    send: request(WRITE, 0, 1, 0, "aa") + request(FLUSH, 0, 0),
    expect: simple(0).repeat(2),
  },
  {
    rule: "MUST NOT use a simple reply for READ (even for the case of an early NBD_EINVAL)",
    send: request(READ, 0, 1, 0x8000),
    expect: `
      668e33ef 0001
      8001             # NBD_REPLY_TYPE_ERROR
      ${COOKIE}
      0000002f         # length of payload, 6 + 41
      00000016         # NBD_EINVAL
      0029             # message length
      43616e6e6f7420646f20524541443a20666c616773203078 # "Cannot do READ: flags 0x"
      3830303020646f206e6f74206170706c79               # "8000 do not apply"
    `,
  },
  {
    rule: "SHOULD prefer sending errors via a structured reply, with a string for a human",
    send: request(WRITE, MIB, 1, 0, "aa") + request(9, 0, 0),
    expect: failed(ENOSPC, `Cannot write 1 bytes at ${MIB}: the device ends at ${MIB}`) +
      failed(EINVAL, "Cannot do 0x9: the command is unknown"),
  },
  {
    rule: "an error message MUST NOT exceed 4096 bytes, and breaks no character",
    ram: {
      before: (verb) => {
        if (verb === "read") throw new BlockError("EIO", "€".repeat(2000));
        return undefined;
      },
    },
    send: request(READ, 0, 1),
    expect: failed(EIO, "€".repeat(1365)),
  },
  {
    rule: "what went wrong inside the server stays there",
    ram: {
      before: (verb) => {
        if (verb === "read") throw new TypeError("Cannot read a secret");
        return undefined;
      },
    },
    send: request(READ, 0, 1),
    expect: failed(EIO, "input/output error"),
  },
  {
    rule: "MUST support unfragmented reads in which the length does not exceed 65,536 bytes",
    ram: { extents: extentsFrom([["d", 4 * KIB], ["h", MIB - 4 * KIB]]) },
    send: request(READ, 0, 64 * KIB, DF),
    expect: chunk(1, 1, digits(0, 64) + FIRST_64K),
    calls: ["read 0+65536"],
  },
  {
    rule: "efficiently skip over portions that are known to contain all zeroes: OFFSET_HOLE",
    ram: { extents: extentsFrom([["h", MIB]]) },
    send: request(READ, 0, 64 * KIB),
    expect: `
      668e33ef 0001
      0002             # NBD_REPLY_TYPE_OFFSET_HOLE
      ${COOKIE}
      0000000c         # length MUST be exactly 12
      0000000000000000 # offset
      00010000         # hole size
    `,
    calls: ["extents 0+65536"],
  },
  {
    rule: "content chunks cover the entire region; DONE is on the last; zeroes may be allocated",
    ram: {
      extents: extentsFrom([["d", 32 * KIB], ["z", 16 * KIB], ["h", 16 * KIB], [
        "d",
        MIB - 64 * KIB,
      ]]),
    },
    send: request(READ, 0, 128 * KIB),
    expect: chunk(0, 1, digits(0, 64) + ramp(0, 32 * KIB)) +
      chunk(0, 2, digits(32 * KIB, 64) + digits(32 * KIB, 32)) +
      chunk(1, 1, digits(64 * KIB, 64) + ramp(64 * KIB, 64 * KIB)),
    calls: ["extents 0+131072", "read 0+32768", "read 65536+65536"],
  },
  {
    rule: "A server SHOULD try to minimize the number of chunks: small holes are sent as data",
    ram: { extents: extentsFrom([["d", 32 * KIB], ["h", 8 * KIB], ["d", MIB - 40 * KIB]]) },
    send: request(READ, 0, 64 * KIB),
    expect: chunk(1, 1, digits(0, 64) + FIRST_64K),
    calls: ["extents 0+65536", "read 0+65536"],
  },
  {
    rule: "a read below the threshold is not looked at for holes",
    ram: { extents: extentsFrom([["h", MIB]]) },
    send: request(READ, 0, 64 * KIB - 1),
    expect: chunk(1, 1, digits(0, 64) + ramp(0, 64 * KIB - 1)),
    calls: [`read 0+${64 * KIB - 1}`],
  },
  {
    rule: "when looking for holes fails the read itself tells what is wrong",
    ram: { extents: extentsFrom([["h", MIB]]) },
    send: request(READ, MIB - 1, 64 * KIB),
    expect: failed(EINVAL, `Cannot read 65536 bytes at ${MIB - 1}: the device ends at ${MIB}`),
    calls: [],
  },
  {
    rule: "permitted to reject large read requests up front with NBD_EOVERFLOW",
    ram: { size: 2 ** 40, content: new Uint8Array(1) },
    send: request(READ, 0, (64 << 20) + 1) + request(READ, 2 ** 40 - 1, (64 << 20) + 1),
    expect: failed(EOVERFLOW, "Cannot do READ: at most 67108864 bytes go in one request") +
      failed(EINVAL, "Cannot do READ: the device ends at 1099511627776"),
    calls: [],
  },
  {
    rule: "BLOCK_STATUS: context ID, then consecutive descriptors",
    ram: { extents: extentsFrom([["d", 4096], ["h", 8192], ["z", 4096], ["d", MIB - 16384]]) },
    send: request(BLOCK_STATUS, 0, 20480),
    expect: `
      668e33ef 0001
      0005             # NBD_REPLY_TYPE_BLOCK_STATUS
      ${COOKIE}
      00000024         # 4 + 4 * 8
      00000001         # context ID
      00001000 00000000
      00002000 00000003 # HOLE, ZERO
      00001000 00000002 # ZERO
      000fc000 00000000 # the final extent MAY result in a sum larger than requested
    `,
    calls: ["extents 0+20480"],
  },
  {
    rule: "The server SHOULD use different status values between consecutive descriptors",
    ram: {
      extents: () =>
        [4096, 4096, 4096].map((length, i) => ({ length, allocated: i < 2, zero: i === 2 })),
    },
    send: request(BLOCK_STATUS, 0, 65536),
    expect: chunk(1, 5, status([8192, DATA], [4096, HOLE])),
  },
  {
    rule: "the sum of the first N-1 extents MUST be less than the requested length",
    ram: {
      extents: () => [4096, 4096].map((length, i) => ({ length, allocated: true, zero: i > 0 })),
    },
    send: request(BLOCK_STATUS, 0, 4096) + request(BLOCK_STATUS, 0, 4097),
    expect: chunk(1, 5, status([4096, DATA])) + chunk(1, 5, status([4096, DATA], [4096, ZERO])),
  },
  {
    rule: "REQ_ONE: exactly one descriptor, which MUST NOT exceed the length of the request",
    ram: { extents: extentsFrom([["d", 4096], ["h", MIB - 4096]]) },
    send: request(BLOCK_STATUS, 0, 512, REQ_ONE) + request(BLOCK_STATUS, 0, 8192, REQ_ONE) +
      request(BLOCK_STATUS, 0, 512),
    expect: chunk(1, 5, status([512, DATA])) + chunk(1, 5, status([4096, DATA])) +
      chunk(1, 5, status([4096, DATA])),
  },
  {
    rule: "32 bits, length of the extent: longer ones are cut at a multiple of every block size",
    ram: { size: 2 ** 40, content: new Uint8Array(1), extents: extentsFrom([["h", 2 ** 40]]) },
    send: request(BLOCK_STATUS, 0, 0xffffffff) + request(BLOCK_STATUS, 2 ** 40 - 1, 1) +
      request(BLOCK_STATUS, 2 ** 40 - 0xffffffff, 0xffffffff, REQ_ONE),
    expect: chunk(1, 5, status([0xffff0000, HOLE])) + chunk(1, 5, status([1, HOLE])) +
      chunk(1, 5, status([0xffff0000, HOLE])),
  },
  {
    rule: "EINVAL for a BLOCK_STATUS request including sectors beyond the size of the device",
    ram: {
      size: 2 ** 53 - 1,
      content: new Uint8Array(1),
      extents: extentsFrom([["h", 2 ** 53 - 1]]),
    },
    send: request(BLOCK_STATUS, 2n ** 53n - 2n, 1) + request(BLOCK_STATUS, 2n ** 53n - 2n, 2) +
      request(BLOCK_STATUS, 2n ** 53n, 1) + request(BLOCK_STATUS, 2n ** 63n, 0xffffffff) +
      request(BLOCK_STATUS, 2n ** 64n - 1n, 1),
    expect: chunk(1, 5, status([1, HOLE])) +
      failed(
        EINVAL,
        "Cannot extents 2 bytes at 9007199254740990: the device ends at 9007199254740991",
      ) +
      failed(EINVAL, "Cannot do BLOCK_STATUS: the device ends at 9007199254740991").repeat(3),
  },
  {
    rule: "BLOCK_STATUS of a disk that cannot tell: no context, so EINVAL",
    send: request(BLOCK_STATUS, 0, 1),
    expect: failed(EINVAL, "Cannot do BLOCK_STATUS: no metadata context was selected"),
    calls: [],
  },
  {
    rule: "EPERM for a write on a read-only export",
    shownReadOnly: true,
    send: request(WRITE, 0, 1, 0, "aa"),
    expect: failed(EPERM, "Cannot do WRITE: the export is read-only"),
    calls: [],
  },
];
