/**
 * Golden bytes of the options of a handshake: one row for each rule of the protocol document (quoted).
 *
 * @module
 */
import { OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX } from "../../lib/nbd/limits.ts";
import { ascii, digits, makeExport, tableOf } from "./fixtures.ts";
import {
  ABORT,
  ACK,
  BITMAPS,
  counted,
  DISK,
  ERR_EXT_HEADER_REQD,
  ERR_INVALID,
  ERR_TOO_BIG,
  ERR_UNKNOWN,
  ERR_UNSUP,
  EXPORT_NAME,
  exportReply,
  EXTENDED_HEADERS,
  FIXED_NO_ZEROES,
  FLAG_DF,
  FLAGS,
  FLAGS_READ_ONLY,
  GO,
  INFO,
  infoData,
  LIST,
  LIST_META,
  option,
  PEEK_EXPORT,
  READ_ONLY,
  refused,
  REP_INFO,
  reply,
  type Row,
  SECRET,
  SERVER,
  STRUCTURED_REPLY,
} from "./handshake_messages.ts";

export const OPTION_ROWS: Row[] = [
  // Flags of the client.
  {
    rule: "the server MUST close the TCP connection if it does not recognize the client's flags",
    flags: "00000004",
    send: option(LIST),
    expect: "",
    end: "close",
    reason: /unknown flags, 0x4/,
  },
  {
    rule: "a high bit of the client's flags is unknown too",
    flags: "80000003",
    send: "",
    expect: "",
    end: "close",
    reason: /0x80000003/,
  },
  {
    rule: "In non-fixed newstyle only one option can be set (NBD_OPT_EXPORT_NAME)",
    flags: "00000000",
    send: option(EXPORT_NAME, ascii("disk")),
    expect: "0000000000100000" + digits(FLAGS, 16) + "00".repeat(124),
    end: "transmission",
    state: { exportName: "disk", structured: false, extended: false, contexts: [], flags: FLAGS },
  },
  {
    rule: "a client that did not set FIXED_NEWSTYLE has no other option",
    flags: "00000000",
    send: option(LIST),
    expect: "",
    end: "close",
    reason: /knows EXPORT_NAME alone/,
  },
  // EXPORT_NAME
  {
    rule: "S: 124 bytes, zeroes (reserved) (unless NBD_FLAG_C_NO_ZEROES was negotiated)",
    flags: FIXED_NO_ZEROES,
    send: option(EXPORT_NAME, ascii("disk")) + "2560",
    expect: "0000000000100000" + digits(FLAGS, 16),
    end: "transmission",
    unread: "2560",
  },
  {
    rule: 'A special, "empty", name is reserved for a "default" export',
    flags: FIXED_NO_ZEROES,
    send: option(EXPORT_NAME),
    expect: "0000000000100000" + digits(FLAGS, 16),
    end: "transmission",
    state: { exportName: "disk" },
  },
  {
    rule: "If the chosen export does not exist … the server MUST terminate the session",
    send: option(EXPORT_NAME, ascii("none")),
    expect: "",
    end: "close",
    reason: /export "none" does not exist/,
  },
  {
    rule: "that string … MUST be no longer than 4096 bytes",
    send: option(EXPORT_NAME, "61".repeat(4097)),
    expect: "",
    end: "close",
    reason: /impossible name/,
  },
  {
    rule: "MUST NOT contain NUL characters",
    send: option(EXPORT_NAME, "640069"),
    expect: "",
    end: "close",
    reason: /impossible name/,
  },
  {
    rule: "Once extended headers are successfully requested, a client MUST NOT use EXPORT_NAME",
    send: option(EXTENDED_HEADERS) + option(EXPORT_NAME, ascii("disk")),
    expect: reply(EXTENDED_HEADERS, ACK),
    end: "close",
    reason: /extended headers/,
  },
  {
    rule: "EXPORT_NAME after STRUCTURED_REPLY: SEND_DF MUST be 1 if READ supports it",
    flags: FIXED_NO_ZEROES,
    send: option(STRUCTURED_REPLY) + option(EXPORT_NAME, ascii("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) + "0000000000100000" + digits(FLAGS | FLAG_DF, 16),
    end: "transmission",
    state: { structured: true, extended: false, flags: FLAGS | FLAG_DF },
  },
  // ABORT
  {
    rule: "NBD_OPT_ABORT: The server MUST reply with NBD_REP_ACK",
    send: option(ABORT),
    expect: reply(ABORT, ACK),
    end: "close",
    reason: /client ended/,
  },
  {
    rule: "a server SHOULD ignore any data sent by the client [with ABORT]",
    send: option(ABORT, "00112233"),
    expect: reply(ABORT, ACK),
    end: "close",
  },
  // LIST
  {
    rule: "Return zero or more NBD_REP_SERVER replies … followed by NBD_REP_ACK",
    table: tableOf(DISK, READ_ONLY),
    send: option(LIST),
    expect: reply(LIST, SERVER, counted("disk") + ascii("a disk")) +
      reply(LIST, SERVER, counted("ro")) + reply(LIST, ACK),
  },
  {
    rule: "zero exports are a list as well",
    table: tableOf(),
    send: option(LIST),
    expect: reply(LIST, ACK),
  },
  {
    rule: "the server SHOULD reject a [LIST] request that includes data with ERR_INVALID",
    send: option(LIST, "00"),
    expect: refused(LIST, ERR_INVALID, "Cannot list exports: LIST takes no data"),
  },
  {
    rule: "MAY omit entries … if TLS has not been negotiated … and the entry is TLS-only",
    table: tableOf(DISK, SECRET),
    tls: "optional",
    send: option(LIST),
    expect: reply(LIST, SERVER, counted("disk") + ascii("a disk")) + reply(LIST, ACK),
  },
  // Unknown options
  {
    rule: "messages which they do not implement MUST [be replied to] with NBD_REP_ERR_UNSUP",
    send: option(PEEK_EXPORT, ascii("x")) + option(LIST),
    expect: refused(PEEK_EXPORT, ERR_UNSUP, "Cannot do PEEK_EXPORT: the option is unknown here") +
      reply(LIST, SERVER, counted("disk") + ascii("a disk")) + reply(LIST, ACK),
  },
  {
    rule: "the server MUST NOT fail to parse the next message received",
    send: option(0xffffffff, "ff".repeat(5000)) + option(ABORT),
    expect: refused(0xffffffff, ERR_UNSUP, "Cannot do 0xffffffff: the option is unknown here") +
      reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "the option length allows the server to skip: also what is too long to look at",
    send: option(99, "00".repeat(OPTION_DATA_BYTES_MAX + 1)) + option(ABORT),
    expect: refused(99, ERR_UNSUP, "Cannot do 0x63: the option is unknown here") +
      reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "ERR_TOO_BIG: The request or the reply is too large to process",
    send: option(LIST_META, "00".repeat(OPTION_DATA_BYTES_MAX + 1)) + option(ABORT),
    expect: refused(
      LIST_META,
      ERR_TOO_BIG,
      `Cannot do LIST_META_CONTEXT: more than ${OPTION_DATA_BYTES_MAX} bytes of data`,
    ) + reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "if a server believes a client's behaviour constitutes a denial of service",
    send: "49484156454f5054" + digits(99, 32) + digits(OPTION_SKIP_BYTES_MAX + 1, 32),
    expect: "",
    end: "close",
    reason: /1048577 bytes/,
  },
  {
    rule: "C: 64 bits, 0x49484156454F5054: anything else is no option",
    send: "49484156454f5055" + digits(LIST, 32) + digits(0, 32),
    expect: "",
    end: "close",
    reason: /not an option/,
  },
  // STRUCTURED_REPLY and EXTENDED_HEADERS
  {
    rule: "the server SHOULD reject a [STRUCTURED_REPLY] that includes data with ERR_INVALID",
    send: option(STRUCTURED_REPLY, "00"),
    expect: refused(
      STRUCTURED_REPLY,
      ERR_INVALID,
      "Cannot agree on structured replies: STRUCTURED_REPLY takes no data",
    ),
  },
  {
    rule: "the server SHOULD reject an [EXTENDED_HEADERS] that includes data with ERR_INVALID",
    send: option(EXTENDED_HEADERS, "00"),
    expect: refused(
      EXTENDED_HEADERS,
      ERR_INVALID,
      "Cannot agree on extended headers: EXTENDED_HEADERS takes no data",
    ),
  },
  {
    rule: "ERR_EXT_HEADER_REQD: the server is unable to downgrade to structured replies",
    send: option(EXTENDED_HEADERS) + option(STRUCTURED_REPLY),
    expect: reply(EXTENDED_HEADERS, ACK) +
      refused(
        STRUCTURED_REPLY,
        ERR_EXT_HEADER_REQD,
        "Cannot go back to structured replies: extended headers were agreed on",
      ),
  },
  {
    rule: "A client MAY request structured replies first [before extended headers]",
    send: option(STRUCTURED_REPLY) + option(EXTENDED_HEADERS) + option(GO, infoData("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) + reply(EXTENDED_HEADERS, ACK) +
      exportReply(GO, 1 << 20, FLAGS | FLAG_DF) + reply(GO, ACK),
    end: "transmission",
    state: { structured: true, extended: true, blockSizeAgreed: false },
  },
  // INFO and GO
  {
    rule: "the server MUST send at least one NBD_REP_INFO, with an NBD_INFO_EXPORT",
    send: option(INFO, infoData("disk")),
    expect: exportReply(INFO, 1 << 20, FLAGS) + reply(INFO, ACK),
  },
  {
    rule: "NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE where asked for",
    send: option(INFO, infoData("", 3, 2, 1)),
    expect: exportReply(INFO, 1 << 20, FLAGS) +
      reply(INFO, REP_INFO, "0001" + ascii("disk")) +
      reply(INFO, REP_INFO, "0002" + ascii("a disk")) +
      reply(INFO, REP_INFO, "0003" + "00000001" + "00001000" + "04000000") + reply(INFO, ACK),
  },
  {
    rule: "The server MUST ignore any information requests it does not understand",
    send: option(INFO, infoData("disk", 0x7fff, 0, 2, 2)),
    expect: exportReply(INFO, 1 << 20, FLAGS) + reply(INFO, REP_INFO, "0002" + ascii("a disk")) +
      reply(INFO, ACK),
  },
  {
    rule: "an export without a description has no NBD_INFO_DESCRIPTION",
    table: tableOf(READ_ONLY),
    send: option(INFO, infoData("ro", 2)),
    expect: exportReply(INFO, 1 << 20, FLAGS_READ_ONLY) + reply(INFO, ACK),
  },
  {
    rule: "A server with size constraints other than the default … MUST [advertise them]",
    table: tableOf(BITMAPS),
    send: option(GO, infoData("vm")),
    expect: exportReply(GO, 0x123456789an, FLAGS) +
      reply(GO, REP_INFO, "0003" + "00001000" + "00010000" + "04000000") + reply(GO, ACK),
    end: "transmission",
    state: { blockSizeAgreed: false },
  },
  {
    rule: "after a successful reply to NBD_OPT_GO transmission mode is entered immediately",
    send: option(GO, infoData("disk", 3)) + "256095",
    expect: exportReply(GO, 1 << 20, FLAGS) +
      reply(GO, REP_INFO, "0003" + "00000001" + "00001000" + "04000000") + reply(GO, ACK),
    end: "transmission",
    state: { exportName: "disk", blockSizeAgreed: true, secured: false },
    unread: "256095",
  },
  {
    rule: "ERR_UNKNOWN: The chosen export does not exist … SHOULD NOT send NBD_REP_INFO",
    send: option(GO, infoData("none", 3)) + option(INFO, infoData('n\u0085"')),
    expect: refused(GO, ERR_UNKNOWN, 'Cannot open export "none": it does not exist') +
      refused(INFO, ERR_UNKNOWN, 'Cannot describe export "n\\u0085\\"": it does not exist'),
  },
  {
    rule: "If no name is specified this specifies the default export (if any)",
    table: { ...tableOf(DISK), defaultExport: null },
    send: option(GO, infoData("")),
    expect: refused(
      GO,
      ERR_UNKNOWN,
      "Cannot open the default export: there is none, ask for an export by name",
    ),
  },
  {
    rule: "an export whose name is empty goes before the default one",
    table: tableOf(DISK, makeExport("", { size: 512 })),
    send: option(INFO, infoData("")),
    expect: exportReply(INFO, 512, FLAGS) + reply(INFO, ACK),
  },
  {
    rule: "length of name MUST be no larger than the option data length - 6",
    send: option(GO, digits(7, 32) + ascii("disk") + "0000") +
      option(GO, digits(0xffffffff, 32) + ascii("disk") + "0000") + option(GO, "0000") +
      option(GO, counted("disk")),
    expect: refused(GO, ERR_INVALID, "Cannot open the export: the data end too early").repeat(4),
  },
  {
    rule: "16 bits x n - list of information requests, neither more nor less",
    send: option(INFO, counted("disk") + "0002" + "0003") +
      option(INFO, counted("disk") + "0000" + "00"),
    expect: refused(
      INFO,
      ERR_INVALID,
      "Cannot describe the export: 2 bytes for 2 information types",
    ) + refused(INFO, ERR_INVALID, "Cannot describe the export: 1 bytes for 0 information types"),
  },
  {
    rule: "a string is a sequence of UTF-8 code points, which … MUST NOT contain NUL",
    send: option(GO, digits(2, 32) + "c328" + "0000") + option(GO, digits(1, 32) + "00" + "0000") +
      option(GO, infoData("x".repeat(4097))),
    expect: refused(
      GO,
      ERR_INVALID,
      "Cannot open the export: the name is not a string of up to 4096 bytes",
    ).repeat(3),
  },
  {
    rule: "error messages SHOULD be no longer than 256 bytes, whatever the client sends",
    send: option(GO, infoData("x".repeat(4096))),
    expect: refused(
      GO,
      ERR_UNKNOWN,
      `Cannot open export "${"x".repeat(64)}…": it does not exist`,
    ),
  },
];
