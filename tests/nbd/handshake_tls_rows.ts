/**
 * Golden bytes of TLS and shutdown in a handshake: one row for each rule (quoted).
 *
 * @module
 */
import { ascii, tableOf } from "./fixtures.ts";
import {
  ABORT,
  ACK,
  counted,
  DISK,
  ERR_INVALID,
  ERR_POLICY,
  ERR_SHUTDOWN,
  ERR_TLS_REQD,
  ERR_UNKNOWN,
  EXPORT_NAME,
  exportReply,
  EXTENDED_HEADERS,
  FIXED_NO_ZEROES,
  FLAGS,
  GO,
  INFO,
  infoData,
  LIST,
  LIST_META,
  metaData,
  option,
  refused,
  reply,
  type Row,
  SECRET,
  SERVER,
  SET_META,
  STARTTLS,
  STRUCTURED_REPLY,
} from "./handshake_messages.ts";

export const TLS_ROWS: Row[] = [
  // TLS
  {
    rule: "NOTLS: if the server receives STARTTLS it MUST respond with NBD_REP_ERR_POLICY",
    send: option(STARTTLS) + option(ABORT),
    expect: refused(STARTTLS, ERR_POLICY, "Cannot start TLS: it is not configured here") +
      reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "NOTLS: the server MUST NOT respond with NBD_REP_ERR_TLS_REQD",
    table: tableOf(DISK, SECRET),
    send: option(GO, infoData("secret")),
    expect: refused(GO, ERR_UNKNOWN, 'Cannot open export "secret": it does not exist'),
  },
  {
    rule: "prior to negotiating TLS, it MUST reply [to STARTTLS] with NBD_REP_ACK",
    tls: "required",
    flags: FIXED_NO_ZEROES,
    send: option(STARTTLS),
    expect: reply(STARTTLS, ACK),
    end: "starttls",
  },
  {
    rule: "NBD_REP_ERR_INVALID if the client included data [in STARTTLS]",
    tls: "optional",
    send: option(STARTTLS, "00"),
    expect: refused(STARTTLS, ERR_INVALID, "Cannot start TLS: STARTTLS takes no data"),
  },
  {
    rule: "STARTTLS when TLS has already been negotiated … MUST reply with ERR_INVALID",
    tls: "required",
    secured: true,
    send: option(STARTTLS),
    expect: refused(STARTTLS, ERR_INVALID, "Cannot start TLS: it is in use"),
  },
  {
    rule: "FORCEDTLS: any other option, INFO and unsupported ones included: ERR_TLS_REQD",
    tls: "required",
    send: [LIST, INFO, GO, STRUCTURED_REPLY, SET_META, EXTENDED_HEADERS, 99].map((number) =>
      option(number)
    ).join(""),
    expect: [
      "LIST",
      "INFO",
      "GO",
      "STRUCTURED_REPLY",
      "SET_META_CONTEXT",
      "EXTENDED_HEADERS",
      "0x63",
    ].map((name, index) =>
      refused(
        [LIST, INFO, GO, STRUCTURED_REPLY, SET_META, EXTENDED_HEADERS, 99][index] ?? 0,
        ERR_TLS_REQD,
        `Cannot do ${name}: this server requires TLS`,
      )
    ).join(""),
  },
  {
    rule: "FORCEDTLS: ABORT is answered without TLS",
    tls: "required",
    send: option(ABORT),
    expect: reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "FORCEDTLS: EXPORT_NAME when TLS has not been initiated MUST terminate the session",
    tls: "required",
    send: option(EXPORT_NAME, ascii("disk")),
    expect: "",
    end: "close",
    reason: /requires TLS/,
  },
  {
    rule: "the server MUST NOT send ERR_TLS_REQD if TLS has already been initiated",
    table: tableOf(SECRET),
    tls: "required",
    secured: true,
    send: option(LIST) + option(GO, infoData("none")) + option(GO, infoData("secret")),
    expect: reply(LIST, SERVER, counted("secret")) + reply(LIST, ACK) +
      refused(GO, ERR_UNKNOWN, 'Cannot open export "none": it does not exist') +
      exportReply(GO, 1 << 20, FLAGS) + reply(GO, ACK),
    end: "transmission",
    state: { secured: true },
  },
  {
    rule: "SELECTIVETLS: MUST reply with ERR_TLS_REQD if that export is TLS-only",
    table: tableOf(DISK, SECRET),
    tls: "optional",
    send: option(INFO, infoData("secret", 3)) + option(GO, infoData("none")),
    expect: refused(
      INFO,
      ERR_TLS_REQD,
      'Cannot describe export "secret" without TLS: it does not exist or needs TLS',
    ) + refused(
      GO,
      ERR_TLS_REQD,
      'Cannot open export "none" without TLS: it does not exist or needs TLS',
    ),
  },
  {
    rule: "SELECTIVETLS: an export that is not TLS-only is open to all",
    table: tableOf(DISK, SECRET),
    tls: "optional",
    send: option(GO, infoData("disk")),
    expect: exportReply(GO, 1 << 20, FLAGS) + reply(GO, ACK),
    end: "transmission",
    state: { secured: false },
  },
  {
    rule: "where nothing is hidden an unknown export is ERR_UNKNOWN",
    tls: "optional",
    send: option(GO, infoData("none")),
    expect: refused(GO, ERR_UNKNOWN, 'Cannot open export "none": it does not exist'),
  },
  {
    rule: "SELECTIVETLS: EXPORT_NAME on a TLS-only export … MUST terminate the session",
    table: tableOf(DISK, SECRET),
    tls: "optional",
    send: option(EXPORT_NAME, ascii("secret")),
    expect: "",
    end: "close",
    reason: /needs TLS/,
  },
  {
    rule: "MUST NOT send ERR_TLS_REQD in response to any option other than INFO, GO, EXPORT_NAME",
    table: tableOf(DISK, SECRET),
    tls: "optional",
    send: option(STRUCTURED_REPLY) + option(LIST_META, metaData("secret")),
    expect: reply(STRUCTURED_REPLY, ACK) +
      refused(
        LIST_META,
        ERR_UNKNOWN,
        'Cannot list metadata contexts: the export "secret" does not exist',
      ),
  },
  {
    rule: "bytes behind STARTTLS come before TLS: a third party may have put them there",
    tls: "optional",
    send: option(STARTTLS) + "16",
    expect: "",
    end: "close",
    reason: /between STARTTLS and TLS/,
  },
  // Shutdown
  {
    rule: "SHOULD error further options received (other than ABORT) with ERR_SHUTDOWN",
    table: { ...tableOf(DISK), stopping: true },
    send: option(GO, infoData("disk")) + option(LIST) + option(ABORT),
    expect: refused(GO, ERR_SHUTDOWN, "Cannot do GO: the server is shutting down") +
      refused(LIST, ERR_SHUTDOWN, "Cannot do LIST: the server is shutting down") +
      reply(ABORT, ACK),
    end: "close",
  },
  // No room
  {
    rule: "where there is no room, what leads out of the handshake is refused and the rest is not",
    table: { ...tableOf(DISK), full: "there are 2 connections already" },
    tls: "optional",
    send: option(GO, infoData("disk")) + option(STARTTLS) + option(ABORT),
    expect: refused(GO, ERR_POLICY, "Cannot do GO: there are 2 connections already") +
      refused(STARTTLS, ERR_POLICY, "Cannot do STARTTLS: there are 2 connections already") +
      reply(ABORT, ACK),
    end: "close",
  },
  {
    rule: "where there is no room, EXPORT_NAME ends the connection",
    table: { ...tableOf(DISK), full: "there are 2 connections already" },
    send: option(EXPORT_NAME, ascii("disk")),
    expect: "",
    end: "close",
    reason: /2 connections already/,
  },
  {
    rule: "the server cannot return an error after EXPORT_NAME: hard disconnect",
    table: { ...tableOf(DISK), stopping: true },
    send: option(EXPORT_NAME, ascii("disk")),
    expect: "",
    end: "close",
    reason: /shutting down/,
  },
];
