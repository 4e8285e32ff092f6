/**
 * Golden bytes of metadata contexts in a handshake: one row for each rule (quoted).
 *
 * @module
 */
import { ascii, digits, tableOf } from "./fixtures.ts";
import {
  ACK,
  BASE,
  BITMAPS,
  counted,
  DISK,
  ERR_INVALID,
  ERR_TOO_BIG,
  ERR_UNKNOWN,
  exportReply,
  EXTENDED_HEADERS,
  FLAG_DF,
  FLAG_STATUS_PAYLOAD,
  FLAGS,
  GO,
  infoData,
  LIST_META,
  META_CONTEXT,
  metaData,
  option,
  refused,
  REP_INFO,
  reply,
  type Row,
  SET_META,
  STRUCTURED_REPLY,
} from "./handshake_messages.ts";

export const META_ROWS: Row[] = [
  // Metadata contexts
  {
    rule: "If zero queries are sent, then the server MUST return all the metadata contexts",
    table: tableOf(BITMAPS),
    send: option(STRUCTURED_REPLY) + option(LIST_META, metaData("vm")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii(BASE)) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii("qemu:dirty-bitmap:a")) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii("qemu:dirty-bitmap:b")) +
      reply(LIST_META, ACK),
  },
  {
    rule: "`base:` - the server MUST support this as a wildcard during LIST_META_CONTEXT",
    table: tableOf(BITMAPS),
    send: option(STRUCTURED_REPLY) + option(LIST_META, metaData("", "base:")) +
      option(LIST_META, metaData("", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:b")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii(BASE)) + reply(LIST_META, ACK) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii("qemu:dirty-bitmap:a")) +
      reply(LIST_META, META_CONTEXT, "00000000" + ascii("qemu:dirty-bitmap:b")) +
      reply(LIST_META, ACK),
  },
  {
    rule: "If none of the query strings find any contexts, the server MUST send a single ACK",
    send: option(STRUCTURED_REPLY) +
      option(LIST_META, metaData("disk", "x-foo:bar", "base:other", "nocolon", "", ":")),
    expect: reply(STRUCTURED_REPLY, ACK) + reply(LIST_META, ACK),
  },
  {
    rule: "each [selected context] with a unique metadata context ID",
    table: tableOf(BITMAPS),
    send: option(STRUCTURED_REPLY) +
      option(SET_META, metaData("vm", "qemu:dirty-bitmap:b", BASE, BASE)) +
      option(GO, infoData("vm", 3)),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(SET_META, META_CONTEXT, "00000001" + ascii(BASE)) +
      reply(SET_META, META_CONTEXT, "00000002" + ascii("qemu:dirty-bitmap:b")) +
      reply(SET_META, ACK) + exportReply(GO, 0x123456789an, FLAGS | FLAG_DF) +
      reply(GO, REP_INFO, "0003" + "00001000" + "00010000" + "04000000") + reply(GO, ACK),
    end: "transmission",
    state: { contexts: [{ id: 1, name: BASE }, { id: 2, name: "qemu:dirty-bitmap:b" }] },
  },
  {
    rule: "`base:` - the server MUST ignore this form during NBD_OPT_SET_META_CONTEXT",
    send: option(STRUCTURED_REPLY) + option(SET_META, metaData("disk", "base:")) +
      option(GO, infoData("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) + reply(SET_META, ACK) +
      exportReply(GO, 1 << 20, FLAGS | FLAG_DF) + reply(GO, ACK),
    end: "transmission",
    state: { contexts: [] },
  },
  {
    rule: "If zero queries are sent, the server MUST select no metadata contexts",
    send: option(STRUCTURED_REPLY) + option(SET_META, metaData("disk", BASE)) +
      option(SET_META, metaData("disk")) + option(GO, infoData("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(SET_META, META_CONTEXT, "00000001" + ascii(BASE)) + reply(SET_META, ACK).repeat(2) +
      exportReply(GO, 1 << 20, FLAGS | FLAG_DF) + reply(GO, ACK),
    end: "transmission",
    state: { contexts: [] },
  },
  {
    rule: "replaces all previously-set metadata contexts (including when this command fails)",
    send: option(STRUCTURED_REPLY) + option(SET_META, metaData("disk", BASE)) +
      option(SET_META, metaData("none", BASE)) + option(GO, infoData("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(SET_META, META_CONTEXT, "00000001" + ascii(BASE)) + reply(SET_META, ACK) +
      refused(
        SET_META,
        ERR_UNKNOWN,
        'Cannot select metadata contexts: the export "none" does not exist',
      ) + exportReply(GO, 1 << 20, FLAGS | FLAG_DF) + reply(GO, ACK),
    end: "transmission",
    state: { contexts: [] },
  },
  {
    rule: "it referred to the same export name that was ultimately selected",
    table: tableOf(DISK, BITMAPS),
    send: option(STRUCTURED_REPLY) + option(SET_META, metaData("vm", BASE)) +
      option(GO, infoData("disk")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      reply(SET_META, META_CONTEXT, "00000001" + ascii(BASE)) + reply(SET_META, ACK) +
      exportReply(GO, 1 << 20, FLAGS | FLAG_DF) + reply(GO, ACK),
    end: "transmission",
    state: { exportName: "disk", contexts: [] },
  },
  {
    rule: "BLOCK_STATUS_PAYLOAD: with extended headers and selected contexts alone",
    send: option(EXTENDED_HEADERS) + option(SET_META, metaData("", BASE)) +
      option(GO, infoData("disk")),
    expect: reply(EXTENDED_HEADERS, ACK) +
      reply(SET_META, META_CONTEXT, "00000001" + ascii(BASE)) + reply(SET_META, ACK) +
      exportReply(GO, 1 << 20, FLAGS | FLAG_DF | FLAG_STATUS_PAYLOAD) + reply(GO, ACK),
    end: "transmission",
    state: { contexts: [{ id: 1, name: BASE }], flags: FLAGS | FLAG_DF | FLAG_STATUS_PAYLOAD },
  },
  {
    rule: "MUST NOT be requested unless structured replies have been negotiated: ERR_INVALID",
    send: option(LIST_META, metaData("disk")) + option(SET_META, metaData("disk", BASE)),
    expect: refused(
      LIST_META,
      ERR_INVALID,
      "Cannot list metadata contexts: structured replies have to be agreed on first",
    ) + refused(
      SET_META,
      ERR_INVALID,
      "Cannot select metadata contexts: structured replies have to be agreed on first",
    ),
  },
  {
    rule: "syntactically invalid: a query length that would require reading beyond the option",
    send: option(STRUCTURED_REPLY) + option(SET_META, counted("disk") + "00000001" + "00000009aa") +
      option(LIST_META, counted("disk") + "00") + option(LIST_META, metaData("disk", BASE) + "00"),
    expect: reply(STRUCTURED_REPLY, ACK) +
      refused(
        SET_META,
        ERR_INVALID,
        "Cannot select metadata contexts: query 1 is not a string of up to 4096 bytes",
      ) +
      refused(LIST_META, ERR_INVALID, "Cannot list metadata contexts: the data end too early") +
      refused(
        LIST_META,
        ERR_INVALID,
        "Cannot list metadata contexts: 1 bytes follow the last query",
      ),
  },
  {
    rule: "the server MAY fail with NBD_REP_ERR_TOO_BIG if too many queries are requested",
    send: option(STRUCTURED_REPLY) + option(LIST_META, counted("disk") + digits(1025, 32)),
    expect: reply(STRUCTURED_REPLY, ACK) +
      refused(
        LIST_META,
        ERR_TOO_BIG,
        "Cannot list metadata contexts: at most 1024 queries go at once",
      ),
  },
];
