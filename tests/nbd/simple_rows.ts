/**
 * Golden bytes of requests that are answered with simple replies: one row for each rule (quoted).
 *
 * @module
 */
import {
  BLOCK_STATUS,
  CACHE,
  COOKIE,
  DF,
  DISC,
  EINVAL,
  EIO,
  ENOSPC,
  ENOTSUP,
  EPERM,
  type Exchange,
  FAST_ZERO,
  FLUSH,
  FUA,
  NO_HOLE,
  PAYLOAD_LEN,
  ramp,
  READ,
  REQ_ONE,
  request,
  simple,
  TRIM,
  WRITE,
  WRITE_ZEROES,
} from "./transmission_messages.ts";
import { BlockError } from "../../lib/block/errors.ts";

const MIB = 1 << 20;

export const SIMPLE_ROWS: Exchange[] = [
  {
    rule: "S: 32 bits magic, 32 bits error (MAY be zero), 64 bits cookie, length bytes of data",
    send: `
      25609513         # NBD_REQUEST_MAGIC
      0000             # command flags
      0000             # NBD_CMD_READ
      ${COOKIE}
      0000000000000102 # offset
      00000004         # length
    `,
    expect: `
      67446698         # NBD_SIMPLE_REPLY_MAGIC
      00000000         # error
      ${COOKIE}
      02030405
    `,
    calls: ["read 258+4"],
  },
  {
    rule: "C: (length bytes of data if the request is of type NBD_CMD_WRITE)",
    send: request(WRITE, 0, 3, 0, "aabbcc") + request(READ, 0, 4),
    expect: simple(0) + simple(0, "aabbcc03"),
    calls: ["write 0+3", "read 0+4"],
  },
  {
    rule: "MUST NOT reply to a command that has FUA set until the data is persisted",
    send: request(WRITE, 1, 1, FUA, "aa") + request(TRIM, 0, 512, FUA) +
      request(WRITE_ZEROES, 0, 512, FUA),
    expect: simple(0).repeat(3),
    calls: ["write 1+1 fua", "trim 0+512 fua", "zero 0+512 fua mayTrim"],
  },
  {
    rule: "the server MUST accept all commands with [FUA] set (even by ignoring the bit)",
    send: request(READ, 0, 1, FUA) + request(FLUSH, 0, 0, FUA) + request(CACHE, 0, 1, FUA),
    expect: simple(0, "00") + simple(0) + simple(0),
    calls: ["read 0+1", "flush 0+0", "cache 0+1"],
  },
  {
    rule: "NO_HOLE: the area MUST be fully provisioned",
    send: request(WRITE_ZEROES, 0, 512) + request(WRITE_ZEROES, 0, 512, NO_HOLE),
    expect: simple(0).repeat(2),
    calls: ["zero 0+512 mayTrim", "zero 0+512"],
  },
  {
    rule: "FAST_ZERO: MUST fail quickly with NBD_ENOTSUP unless [faster than a write]",
    // The disk of the tests cannot zero 4096 bytes fast.
    send: request(WRITE_ZEROES, 0, 512, FAST_ZERO) + request(WRITE_ZEROES, 0, 4096, FAST_ZERO) +
      request(WRITE_ZEROES, 0, 4096, FAST_ZERO | NO_HOLE),
    expect: simple(0) + simple(ENOTSUP).repeat(2),
    calls: ["zero 0+512 mayTrim fastOnly", "zero 0+4096 mayTrim fastOnly", "zero 0+4096 fastOnly"],
  },
  {
    rule: "SHOULD NOT return NBD_ENOTSUP except [for] NBD_CMD_FLAG_FAST_ZERO",
    ram: { without: ["trim", "zero", "cache"] },
    send: request(TRIM, 0, 512) + request(CACHE, 0, 512) + request(WRITE_ZEROES, 0, 4096) +
      request(WRITE_ZEROES, 0, 4096, FAST_ZERO),
    expect: simple(EINVAL).repeat(2) + simple(0) + simple(ENOTSUP),
    // The Device zeroes by writing.
    calls: ["write 0+4096"],
  },
  {
    rule: "SHOULD return NBD_ENOSPC if it receives a write request … beyond the size",
    send: request(WRITE, MIB - 1, 2, 0, "aabb") + request(WRITE_ZEROES, MIB - 1, 2) +
      request(WRITE, 2n ** 63n, 2, 0, "aabb") + request(WRITE_ZEROES, 2n ** 64n - 1n, 0xffffffff),
    expect: simple(ENOSPC).repeat(4),
    calls: [],
  },
  {
    rule: "SHOULD return NBD_EINVAL if it receives a read or trim request … beyond the size",
    send: request(READ, MIB - 1, 2) + request(TRIM, MIB, 1) + request(CACHE, MIB - 4, 5) +
      request(READ, MIB - 1, 1),
    expect: simple(EINVAL).repeat(3) + simple(0, "ff"),
    calls: [`read ${MIB - 1}+1`],
  },
  {
    rule: "offsets are unsigned 64-bit numbers: none near 2^53, 2^63 and 2^64 wraps or is rounded",
    send: [
      2n ** 53n - 1n,
      2n ** 53n,
      2n ** 53n + 1n,
      2n ** 63n - 1n,
      2n ** 63n,
      2n ** 64n - 4n,
      2n ** 64n - 1n,
    ].map((offset) => request(READ, offset, 4) + request(TRIM, offset, 0xffffffff)).join(""),
    expect: simple(EINVAL).repeat(14),
    calls: [],
  },
  {
    rule: "any client request with a length larger than the maximum payload size will fail",
    ram: { size: 2 ** 40, content: new Uint8Array(1) },
    send: request(READ, 0, (64 << 20) + 1) + request(READ, 0, 0xffffffff),
    expect: simple(EINVAL).repeat(2),
    calls: [],
  },
  {
    rule: "commands that do not require a payload MAY [have] a length larger than the maximum",
    ram: { size: 2 ** 40, content: new Uint8Array(1) },
    send: request(TRIM, 0, 0xffffffff) + request(WRITE_ZEROES, 2 ** 39, 0xffffffff) +
      request(CACHE, 2 ** 40 - 0xffffffff, 0xffffffff),
    expect: simple(0).repeat(3),
    calls: [
      "trim 0+4294967295",
      "zero 549755813888+4294967295 mayTrim",
      "cache 1095216660481+4294967295",
    ],
  },
  {
    rule: "the server SHOULD NOT disconnect [for a length of 0]",
    send: request(READ, 0, 0) + request(WRITE, 0, 0) + request(TRIM, 0, 0) +
      request(WRITE_ZEROES, 0, 0) + request(CACHE, 0, 0) + request(BLOCK_STATUS, 0, 0),
    expect: simple(EINVAL).repeat(6),
    calls: [],
  },
  {
    rule: "NBD_EINVAL if the request is not aligned to the minimum block size",
    ram: { minimum: 512 },
    send: request(READ, 1, 512) + request(WRITE, 0, 3, 0, "000000") + request(READ, 512, 512),
    expect: simple(EINVAL).repeat(2) + simple(0, ramp(512, 512)),
    calls: ["read 512+512"],
  },
  {
    rule: "SHOULD return NBD_EPERM if it receives a write or trim request on a read-only export",
    ram: { readOnly: true },
    send: request(WRITE, 0, 1, 0, "aa") + request(TRIM, 0, 1) + request(WRITE_ZEROES, 0, 1) +
      request(READ, 0, 1) + request(FLUSH, 0, 0),
    expect: simple(EPERM).repeat(3) + simple(0, "00") + simple(0),
    calls: ["read 0+1"],
  },
  {
    rule: "If [READ_ONLY] is set, the server MUST error subsequent write operations",
    shownReadOnly: true,
    send: request(WRITE, 0, 1, FUA, "aa") + request(TRIM, 0, 1) + request(WRITE_ZEROES, 0, 1) +
      request(READ, 0, 1),
    expect: simple(EPERM).repeat(3) + simple(0, "00"),
    calls: ["read 0+1"],
  },
  {
    rule: "For a flush request, length and offset MUST be set to all-zero",
    send: request(FLUSH, 0, 1) + request(FLUSH, 1, 0) + request(FLUSH, 2n ** 63n, 0) +
      request(FLUSH, 0, 0),
    expect: simple(EINVAL).repeat(3) + simple(0),
    calls: ["flush 0+0"],
  },
  {
    rule: "The server SHOULD return NBD_EINVAL if it receives an unknown command",
    send: request(8, 0, 4) + request(0xffff, 0, 4) + request(READ, 0, 1),
    expect: simple(EINVAL).repeat(2) + simple(0, "00"),
    calls: ["read 0+1"],
  },
  {
    rule:
      "SHOULD return NBD_EINVAL if it receives an unknown command flag, or one [not] applicable",
    send: request(READ, 0, 1, 0x8000) + request(READ, 0, 1, DF) + request(READ, 0, 1, NO_HOLE) +
      request(WRITE, 0, 1, NO_HOLE, "aa") + request(WRITE, 0, 2, PAYLOAD_LEN, "aabb") +
      request(TRIM, 0, 1, FAST_ZERO) + request(FLUSH, 0, 0, REQ_ONE) +
      request(CACHE, 0, 1, DF) + request(WRITE_ZEROES, 0, 1, DF) + request(READ, 0, 1),
    expect: simple(EINVAL).repeat(9) + simple(0, "00"),
    calls: ["read 0+1"],
  },
  {
    rule: "Servers SHOULD reply with NBD_EINVAL to BLOCK_STATUS without [selected] contexts",
    send: request(BLOCK_STATUS, 0, 512),
    expect: simple(EINVAL),
    calls: [],
  },
  {
    rule: "It also SHOULD map the EDQUOT and EFBIG errors to NBD_ENOSPC; what is no errno is EIO",
    ram: {
      before: (verb, offset) => {
        if (verb === "flush") return undefined;
        if (offset === 0) throw new BlockError("EDQUOT");
        if (offset === 1) throw new BlockError("EFBIG");
        if (offset === 2) throw new BlockError("EOVERFLOW");
        if (offset === 3) throw new TypeError("a bug");
        return undefined;
      },
    },
    send: [0, 1, 2, 3, 4].map((offset) => request(WRITE, offset, 1, 0, "aa")).join(""),
    expect: simple(ENOSPC).repeat(2) + simple(EINVAL) + simple(EIO) + simple(0),
  },
  {
    rule: "There is no reply to an NBD_CMD_DISC; nothing counts after it",
    send: request(READ, 0, 1) + request(DISC, 0, 0) + request(READ, 0, 1) + "00".repeat(99),
    expect: simple(0, "00"),
    calls: ["read 0+1"],
    finished: true,
  },
];
