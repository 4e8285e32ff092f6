/**
 * Golden bytes of extended requests and replies: one row for each rule of the protocol document's
 * branch for extended headers (quoted).
 *
 * @module
 */
import { digits, extentsFrom } from "./fixtures.ts";
import {
  BLOCK_STATUS,
  COOKIE,
  DF,
  DISC,
  EINVAL,
  ENOSPC,
  EOVERFLOW,
  type Exchange,
  FLUSH,
  FUA,
  PAYLOAD_LEN,
  ramp,
  READ,
  REQ_ONE,
  TRIM,
  wideChunk,
  wideFailed,
  wideRequest,
  WRITE,
  WRITE_ZEROES,
} from "./transmission_messages.ts";

const KIB = 1024, MIB = 1 << 20, TIB = 2 ** 40;

/** The payload of a status chunk of context 1. */
function status(...runs: (readonly [length: number, flags: number])[]): string {
  return "00000001" + digits(runs.length, 32) +
    runs.map(([length, flags]) => digits(length, 64) + digits(flags, 64)).join("");
}

const DATA = 0, HOLE = 3;
const SPARSE = {
  size: 8 * TIB,
  content: new Uint8Array(1),
  extents: extentsFrom([["d", 4 * KIB], ["h", 5 * TIB], ["d", 3 * TIB - 4 * KIB]]),
};

export const EXTENDED_ROWS: Exchange[] = [
  {
    rule: "32-byte headers; the reply's offset MUST match the request; 64-bit lengths",
    send: `
      21e41c71         # NBD_EXTENDED_REQUEST_MAGIC
      0000             # command flags
      0000             # NBD_CMD_READ
      ${COOKIE}
      0000000000000102 # offset
      0000000000000004 # effect length
    `,
    expect: `
      6e8a278c         # NBD_EXTENDED_REPLY_MAGIC
      0001             # NBD_REPLY_FLAG_DONE
      0001             # NBD_REPLY_TYPE_OFFSET_DATA
      ${COOKIE}
      0000000000000102 # offset of the request
      000000000000000c # length of payload
      0000000000000102
      02030405
    `,
  },
  {
    rule: "the server MUST NOT use simple replies even when there is no payload",
    send: wideRequest(WRITE, 7, 2, PAYLOAD_LEN | FUA, "aabb") + wideRequest(FLUSH, 0, 0),
    expect: wideChunk(1, 0, 7) + wideChunk(1, 0, 0),
    calls: ["write 7+2 fua", "flush 0+0"],
  },
  {
    rule: "in all other cases, a server SHOULD gracefully consume length bytes of payload",
    send: wideRequest(READ, 0, 4, PAYLOAD_LEN, "00112233") +
      wideRequest(0x1234, 0, 3, PAYLOAD_LEN, "001122") + wideRequest(READ, 0, 1),
    expect: wideFailed(EINVAL, 0, "Cannot do READ: flags 0x20 do not apply") +
      wideFailed(EINVAL, 0, "Cannot do 0x1234: the command is unknown") +
      wideChunk(1, 1, 0, digits(0, 64) + "00"),
    calls: ["read 0+1"],
  },
  {
    rule: "64-bit transactions for commands that do not include a data payload",
    ram: { size: 8 * TIB, content: new Uint8Array(1) },
    send: wideRequest(TRIM, TIB, 2 * TIB) + wideRequest(WRITE_ZEROES, 0, 8 * TIB),
    expect: wideChunk(1, 0, TIB) + wideChunk(1, 0, 0),
    calls: ["trim 1099511627776+2199023255552", "zero 0+8796093022208 mayTrim"],
  },
  {
    rule: "offsets and lengths at 2^63 and 2^64 - 1 are beyond every device",
    send: wideRequest(TRIM, 2n ** 63n, 2n ** 63n) +
      wideRequest(WRITE_ZEROES, 2n ** 64n - 1n, 2n ** 64n - 1n) +
      wideRequest(READ, 0, 2n ** 63n) + wideRequest(TRIM, 0, 2n ** 53n) +
      wideRequest(TRIM, 2n ** 53n - 1n, 2n ** 53n - 1n),
    expect: wideFailed(EINVAL, 2n ** 63n, `Cannot do TRIM: the device ends at ${MIB}`) +
      wideFailed(ENOSPC, 2n ** 64n - 1n, `Cannot do WRITE_ZEROES: the device ends at ${MIB}`) +
      wideFailed(EINVAL, 0, `Cannot do READ: the device ends at ${MIB}`) +
      wideFailed(EINVAL, 0, `Cannot do TRIM: the device ends at ${MIB}`) +
      wideFailed(
        EINVAL,
        2n ** 53n - 1n,
        `Cannot trim 9007199254740991 bytes at 9007199254740991: the device ends at ${MIB}`,
      ),
    calls: [],
  },
  {
    rule: "permitted to reject large read requests up front with NBD_EOVERFLOW",
    ram: { size: 8 * TIB, content: new Uint8Array(1) },
    send: wideRequest(READ, 0, 4 * TIB),
    expect: wideFailed(
      EOVERFLOW,
      0,
      "Cannot do READ: at most 67108864 bytes go in one request",
    ),
    calls: [],
  },
  {
    rule: "[the reply's offset] MUST match even where the payload contains a different offset",
    ram: { extents: extentsFrom([["d", 80 * KIB], ["h", 32 * KIB], ["d", MIB - 112 * KIB]]) },
    send: wideRequest(READ, 64 * KIB, 64 * KIB),
    expect: wideChunk(0, 1, 64 * KIB, digits(64 * KIB, 64) + ramp(64 * KIB, 16 * KIB)) +
      wideChunk(0, 2, 64 * KIB, digits(80 * KIB, 64) + digits(32 * KIB, 32)) +
      wideChunk(1, 1, 64 * KIB, digits(112 * KIB, 64) + ramp(112 * KIB, 16 * KIB)),
  },
  {
    rule: "DF: at most one content chunk",
    ram: { extents: extentsFrom([["h", MIB]]) },
    send: wideRequest(READ, 0, 64 * KIB, DF),
    expect: wideChunk(1, 1, 0, digits(0, 64) + ramp(0, 64 * KIB)),
    calls: ["read 0+65536"],
  },
  {
    rule: "BLOCK_STATUS_EXT: context ID, descriptor count, 64-bit lengths and flags",
    ram: SPARSE,
    send: wideRequest(BLOCK_STATUS, 0, 8 * TIB),
    expect: `
      6e8a278c 0001
      0006             # NBD_REPLY_TYPE_BLOCK_STATUS_EXT
      ${COOKIE}
      0000000000000000
      0000000000000038 # 8 + 3 * 16
      00000001         # context ID
      00000003         # descriptor count
      0000000000001000 0000000000000000
      0000050000000000 0000000000000003
      000002fffffff000 0000000000000000
    `,
  },
  {
    rule: "REQ_ONE: the descriptor MUST NOT exceed the length of the request",
    ram: SPARSE,
    send: wideRequest(BLOCK_STATUS, 4 * KIB, TIB, REQ_ONE),
    expect: wideChunk(1, 6, 4 * KIB, status([TIB, HOLE])),
  },
  {
    rule: "BLOCK_STATUS with a payload: 64 bits effect length, then the context ids",
    ram: SPARSE,
    send: wideRequest(
      BLOCK_STATUS,
      0,
      12,
      PAYLOAD_LEN | REQ_ONE,
      "0000000000000200" + "00000001",
    ),
    expect: wideChunk(1, 6, 0, status([512, DATA])),
    calls: ["extents 0+512"],
  },
  {
    rule: "duplicate or unknown ids: MUST consume the payload before failing with NBD_EINVAL",
    ram: SPARSE,
    send: [
      "0000000000000200" + "00000001" + "00000001",
      "0000000000000200" + "00000002",
      "0000000000000200",
      "0000000000000200" + "0000",
      "00000200" + "00000001",
    ].map((payload) => wideRequest(BLOCK_STATUS, 0, payload.length / 2, PAYLOAD_LEN, payload)).join(
      "",
    ) +
      wideRequest(BLOCK_STATUS, 0, 12, PAYLOAD_LEN, "8000000000000000" + "00000001") +
      wideRequest(BLOCK_STATUS, 0, 512, REQ_ONE),
    expect: wideFailed(
      EINVAL,
      0,
      "Cannot do BLOCK_STATUS: its payload is not a length and contexts that were selected, each once",
    ).repeat(5) +
      wideFailed(
        EINVAL,
        0,
        "Cannot do BLOCK_STATUS: its payload asks for more than the device has",
      ) + wideChunk(1, 6, 0, status([512, DATA])),
    calls: ["extents 0+512"],
  },
  {
    rule: "a status request beyond the export's size SHOULD be NBD_EINVAL",
    ram: SPARSE,
    send: wideRequest(BLOCK_STATUS, 0, 2n ** 63n) + wideRequest(BLOCK_STATUS, 1, 8 * TIB),
    expect: wideFailed(EINVAL, 0, "Cannot do BLOCK_STATUS: the device ends at 8796093022208") +
      wideFailed(
        EINVAL,
        1,
        "Cannot extents 8796093022208 bytes at 1: the device ends at 8796093022208",
      ),
    calls: [],
  },
  {
    rule: "DISC has no reply",
    send: wideRequest(DISC, 0, 0) + wideRequest(READ, 0, 1),
    expect: "",
    finished: true,
  },
];
