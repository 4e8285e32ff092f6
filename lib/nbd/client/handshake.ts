/**
 * The client's side of the handshake: fixed newstyle (and the little that the older newstyle can),
 * STARTTLS, extended headers or structured replies, base:allocation, then GO; or the list of exports.
 * Pure: it is written as Steps. Implements the sections "Newstyle negotiation", "Fixed newstyle
 * negotiation" and "TLS support" of the NBD protocol document.
 *
 * @module
 */
import { BlockError, type Errno } from "../../block/errors.ts";
import { DEVICE_BYTES_MAX } from "../../block/limits.ts";
import { ProtocolError } from "../../stream/frame.ts";
import {
  BASE_ALLOCATION,
  HANDSHAKE,
  INFO,
  INIT_MAGIC,
  OPTION,
  OPTION_MAGIC,
  optionName,
  REPLY,
  replyName,
} from "../constants.ts";
import { OPTION_REPLIES_MAX } from "./limits.ts";
import {
  checkFlags,
  decodeMetaContext,
  decodeReplyHeader,
  decodeServer,
  encodeInfo,
  encodeMeta,
  encodeName,
  encodeOption,
  explainRefusal,
  type ExportFacts,
  FactsCollector,
  isError,
  type OptionReply,
  REPLY_HEADER_BYTES,
} from "./option_messages.ts";
import { encrypt, send, type Steps, take } from "./steps.ts";

/** What the client wants of a server. */
export interface HandshakeWish {
  /** The export, "" for the default one. */
  readonly exportName: string;
  /** Encrypt, or fail. */
  readonly tls: boolean;
  /** The metadata context that block status is to tell, if the server has it; base:allocation if left out. */
  readonly context?: string;
}

/** How both sides talk from now on. */
export interface Terms {
  /** Under TLS. */
  readonly encrypted: boolean;
  /** Structured replies; true as well if `extended`. */
  readonly structured: boolean;
  /** Extended headers. */
  readonly extended: boolean;
}

/** The end of a handshake that leads to the transmission phase. */
export interface Negotiated extends Terms {
  /** The name that was asked for. */
  readonly exportName: string;
  /** Bytes. */
  readonly size: number;
  /** What the server tells of it. */
  readonly facts: ExportFacts;
  /** The id of the metadata context of the wish, or null if there is no such context. */
  readonly statusContext: number | null;
}

/** One export of a list. */
export interface ListedExport {
  /** The name to ask for. */
  readonly name: string;
  /** For a human, control characters replaced; null if there is none. */
  readonly description: string | null;
  /** Null if the server does not tell: `problem` says why. */
  readonly facts: ExportFacts | null;
  /** Metadata contexts; empty if there are none or the server does not tell. */
  readonly contexts: readonly string[];
  /** Why the server tells nothing of this export, or null. */
  readonly problem: string | null;
}

/** What a server tells of itself. */
export interface ServerList extends Terms {
  /** In the server's order. */
  readonly exports: readonly ListedExport[];
}

/** The old magic that followed NBDMAGIC before there were options. */
const OLDSTYLE_MAGIC = 0x00420281861253n;
/** Zeroes behind the reply to EXPORT_NAME. */
const PADDING_BYTES = 124;

interface Greeting {
  readonly fixed: boolean;
  readonly noZeroes: boolean;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function* greet(): Steps<Greeting> {
  const magics = view(yield* take(16, "the server closed the connection without a greeting"));
  const init = magics.getBigUint64(0), style = magics.getBigUint64(8);
  if (init !== INIT_MAGIC) {
    throw new ProtocolError(
      `Cannot connect: this is no NBD server, its greeting is 0x${init.toString(16)}`,
    );
  }
  if (style === OLDSTYLE_MAGIC) {
    throw new BlockError(
      "EOPNOTSUPP",
      "Cannot connect: the server speaks the oldstyle protocol, which is not supported",
    );
  }
  if (style !== OPTION_MAGIC) {
    throw new ProtocolError(`Cannot connect: the server's second magic is 0x${style.toString(16)}`);
  }
  const flags = view(yield* take(2)).getUint16(0);
  const answer = flags & (HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES);
  const bytes = new Uint8Array(4);
  view(bytes).setUint32(0, answer);
  yield* send(bytes);
  return {
    fixed: (flags & HANDSHAKE.FIXED_NEWSTYLE) !== 0,
    noZeroes: (flags & HANDSHAKE.NO_ZEROES) !== 0,
  };
}

/** Takes leave as the protocol asks, then fails. */
function* giveUp(errno: Errno, message: string): Steps<never> {
  yield* send(encodeOption(OPTION.ABORT));
  throw new BlockError(errno, message);
}

function* nextReply(option: number): Steps<OptionReply> {
  const header = yield* take(REPLY_HEADER_BYTES);
  const { type, length } = decodeReplyHeader(header, option);
  return { type, data: yield* take(length) };
}

/** Sends an option and hands replies to `each` until the last one, ACK or an error, which it returns. */
function* ask(
  option: number,
  bytes: Uint8Array,
  partType: number | null = null,
  each: (data: Uint8Array) => void = () => {},
): Steps<OptionReply> {
  yield* send(bytes);
  for (let count = 0; count <= OPTION_REPLIES_MAX; count += 1) {
    const reply = yield* nextReply(option);
    if (reply.type === REPLY.ERR_SHUTDOWN) {
      yield* giveUp("ESHUTDOWN", "Cannot connect: the server is shutting down");
    }
    if (reply.type === REPLY.ACK || isError(reply.type)) return reply;
    if (reply.type !== partType) {
      throw new ProtocolError(
        `Cannot go on after ${optionName(option)}: the server answers ${replyName(reply.type)}`,
      );
    }
    each(reply.data);
  }
  throw new ProtocolError(
    `Cannot go on after ${optionName(option)}: it got more than ${OPTION_REPLIES_MAX} replies`,
  );
}

function* startTls(fixed: boolean): Steps<void> {
  if (!fixed) {
    throw new BlockError("EOPNOTSUPP", "Cannot begin TLS: the server knows no options");
  }
  const reply = yield* ask(OPTION.STARTTLS, encodeOption(OPTION.STARTTLS));
  if (isError(reply.type)) {
    const [errno, reason] = explainRefusal(reply);
    yield* giveUp(errno, `Cannot begin TLS: the server refuses, ${reason}`);
  }
  yield* encrypt();
}

/** Asks for an option that changes how both sides talk; true if the server agrees. */
function* agree(option: number): Steps<boolean> {
  const reply = yield* ask(option, encodeOption(option));
  if (reply.type === REPLY.ERR_TLS_REQD) {
    const [errno, reason] = explainRefusal(reply);
    yield* giveUp(errno, `Cannot connect: the server refuses, ${reason}`);
  }
  return !isError(reply.type);
}

function* settleTerms(fixed: boolean, tls: boolean): Steps<Terms> {
  if (tls) yield* startTls(fixed);
  if (!fixed) return { encrypted: false, structured: false, extended: false };
  const extended = yield* agree(OPTION.EXTENDED_HEADERS);
  const structured = extended || (yield* agree(OPTION.STRUCTURED_REPLY));
  return { encrypted: tls, structured, extended };
}

function* selectContext(name: Uint8Array, wanted: string): Steps<number | null> {
  const option = OPTION.SET_META_CONTEXT;
  const ids: number[] = [];
  const bytes = encodeMeta(option, name, [wanted]);
  const reply = yield* ask(option, bytes, REPLY.META_CONTEXT, (data) => {
    const context = decodeMetaContext(data);
    if (context.name !== wanted || ids.length > 0) {
      throw new ProtocolError(
        "Cannot go on after SET_META_CONTEXT: the server selects what was not asked for",
      );
    }
    ids.push(context.id);
  });
  return isError(reply.type) ? null : ids[0] ?? null;
}

type InfoAnswer = { readonly facts: ExportFacts } | { readonly refusal: OptionReply };

function* askInfo(option: number, name: Uint8Array): Steps<InfoAnswer> {
  const collector = new FactsCollector();
  const bytes = encodeInfo(option, name, [INFO.BLOCK_SIZE, INFO.DESCRIPTION, INFO.NAME]);
  const reply = yield* ask(option, bytes, REPLY.INFO, (data) => collector.add(data));
  return isError(reply.type) ? { refusal: reply } : { facts: collector.finish() };
}

function* askByName(name: Uint8Array, padded: boolean): Steps<ExportFacts> {
  yield* send(encodeOption(OPTION.EXPORT_NAME, name));
  const length = 10 + (padded ? PADDING_BYTES : 0);
  const reply = view(
    yield* take(length, "the server closed the connection, most likely there is no such export"),
  );
  return {
    size: reply.getBigUint64(0),
    flags: checkFlags(reply.getUint16(8)),
    blockSizes: null,
    description: null,
    canonicalName: null,
  };
}

function sizeOf(facts: ExportFacts, name: string): number {
  if (facts.size > BigInt(DEVICE_BYTES_MAX)) {
    throw new BlockError(
      "EOVERFLOW",
      `Cannot use the export ${JSON.stringify(name)}: its size is ${facts.size} bytes, at most ` +
        `${DEVICE_BYTES_MAX} are supported`,
    );
  }
  return Number(facts.size);
}

/**
 * Opens an export. Ends with the transmission phase begun; throws BlockError if the server refuses
 * (ENOENT for no such export, EACCES if it wants TLS …) and ProtocolError if it breaks the protocol.
 */
export function* negotiateExport(wish: HandshakeWish): Steps<Negotiated> {
  const { exportName, context = BASE_ALLOCATION } = wish;
  const name = encodeName(exportName);
  const { fixed, noZeroes } = yield* greet();
  const terms = yield* settleTerms(fixed, wish.tls);
  const statusContext = terms.structured ? yield* selectContext(name, context) : null;
  const answer = fixed ? yield* askInfo(OPTION.GO, name) : null;
  let facts: ExportFacts;
  if (answer !== null && "facts" in answer) {
    facts = answer.facts;
  } else if (answer === null || answer.refusal.type === REPLY.ERR_UNSUP) {
    if (terms.extended) {
      throw new ProtocolError("Cannot open the export: a server with extended headers refuses GO");
    }
    facts = yield* askByName(name, !noZeroes);
  } else {
    const [errno, reason] = explainRefusal(answer.refusal);
    const quoted = JSON.stringify(exportName);
    return yield* giveUp(errno, `Cannot open the export ${quoted}: the server refuses, ${reason}`);
  }
  return { ...terms, exportName, size: sizeOf(facts, exportName), facts, statusContext };
}

function* listContexts(name: Uint8Array): Steps<string[]> {
  const option = OPTION.LIST_META_CONTEXT;
  const contexts: string[] = [];
  const bytes = encodeMeta(option, name, []);
  const reply = yield* ask(option, bytes, REPLY.META_CONTEXT, (data) => {
    contexts.push(decodeMetaContext(data).name);
  });
  return isError(reply.type) ? [] : contexts;
}

function* describe(
  entry: { readonly name: string; readonly description: string | null },
  structured: boolean,
): Steps<ListedExport> {
  const name = encodeName(entry.name);
  const answer = yield* askInfo(OPTION.INFO, name);
  if ("refusal" in answer) {
    const problem = explainRefusal(answer.refusal)[1];
    return { ...entry, facts: null, contexts: [], problem };
  }
  const { facts } = answer;
  const contexts = structured ? yield* listContexts(name) : [];
  const description = facts.description ?? entry.description;
  return { name: entry.name, description, facts, contexts, problem: null };
}

/** Lets go as the protocol asks; whether the server answers does not matter. */
function* leave(): Steps<void> {
  yield* send(encodeOption(OPTION.ABORT));
}

function* begin(wish: HandshakeWish): Steps<Terms> {
  const { fixed } = yield* greet();
  if (!fixed) {
    throw new BlockError("EOPNOTSUPP", "Cannot ask about exports: the server knows no options");
  }
  return yield* settleTerms(fixed, wish.tls);
}

/** Describes the one export of the wish, without opening it. */
export function* negotiateInfo(wish: HandshakeWish): Steps<ServerList> {
  encodeName(wish.exportName);
  const terms = yield* begin(wish);
  const entry = { name: wish.exportName, description: null };
  const listed = yield* describe(entry, terms.structured);
  yield* leave();
  return { ...terms, exports: [listed] };
}

/** Lists the exports of a server and describes each. Throws as `negotiateExport` does. */
export function* negotiateList(wish: HandshakeWish): Steps<ServerList> {
  const terms = yield* begin(wish);
  const entries: ReturnType<typeof decodeServer>[] = [];
  const bytes = encodeOption(OPTION.LIST);
  const reply = yield* ask(OPTION.LIST, bytes, REPLY.SERVER, (data) => {
    entries.push(decodeServer(data));
  });
  if (isError(reply.type)) {
    const [errno, reason] = explainRefusal(reply);
    yield* giveUp(errno, `Cannot list the exports: the server refuses, ${reason}`);
  }
  const exports: ListedExport[] = [];
  for (const entry of entries) exports.push(yield* describe(entry, terms.structured));
  yield* leave();
  return { ...terms, exports };
}
