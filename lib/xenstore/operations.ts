/**
 * What each request of the wire does: one function an operation, all in one table. Relies on
 * connection.ts for everything but reading payloads and making replies. Malformed payloads are EINVAL.
 *
 * @module
 */
import { controlCommand } from "./control.ts";
import { DAEMON_COMMAND, DOMID_SELF, OPERATION } from "./constants.ts";
import type { StoreConnection } from "./connection.ts";
import { isQuotaName, QUOTA_DEFAULTS } from "./domains.ts";
import { XenstoreError } from "./errors.ts";
import { PAYLOAD_BYTES_MAX } from "./limits.ts";
import { allStrings, bytesOf, leadingNumber, type Message, oneString, textOf } from "./message.ts";
import { domainPath } from "./path.ts";
import { formatPermission, parsePermission, type Permission } from "./permissions.ts";
import type { TreeNode } from "./tree.ts";

/** Who asks: a connection of the store and what the wire adds to it. */
export interface Requester {
  /** Does it. */
  readonly connection: StoreConnection;
  /** Sends an event behind the reply. */
  eventAfterReply(path: string, token: string): void;
  /** The client has asked which features there are, and may use a depth. */
  knowsFeatures: boolean;
  /**
   * Takes the words behind DAEMON_COMMAND in a CONTROL and sees to it that the reply is sent later. Without
   * it there is no such command.
   */
  daemonControl?(message: Message, words: readonly string[]): void;
}

/** The payload of a reply: bytes, or characters that are bytes; null if the reply comes later. */
export type Reply = Uint8Array | string | null;

type Operation = (requester: Requester, message: Message) => Reply;

interface Entry {
  readonly run: Operation;
  /** Domain 0 only. */
  readonly privileged?: true;
  /** The transaction is not looked at. */
  readonly anyTransaction?: true;
}

const OK = "OK\0";

const UTF8 = new TextDecoder();

function malformed(what: string): XenstoreError {
  return new XenstoreError("EINVAL", `Cannot understand a request: ${what}`);
}

function unknown(): XenstoreError {
  return new XenstoreError("ENOSYS", "Cannot do this: there is no such operation");
}

function only(payload: Uint8Array): string {
  const text = oneString(payload);
  if (text === null) throw malformed("it needs exactly one string");
  return text;
}

function strings(payload: Uint8Array, count: number): string[] {
  const all = allStrings(payload);
  if (all.length !== count) throw malformed(`it has ${all.length} strings instead of ${count}`);
  return all;
}

/** Strings of which further ones do not count. */
function firstStrings(payload: Uint8Array, count: number): string[] {
  const all = allStrings(payload);
  if (all.length < count) throw malformed(`it has ${all.length} strings instead of ${count}`);
  return all;
}

function limited(reply: string): string {
  if (reply.length <= PAYLOAD_BYTES_MAX) return reply;
  throw new XenstoreError("E2BIG", `Cannot send ${reply.length} bytes: use DIRECTORY_PART`);
}

/** The only argument as the number of a domain that is not 0. */
function otherDomain(payload: Uint8Array): number {
  const domid = leadingNumber(only(payload));
  if (domid === 0) throw malformed("domain 0 is always there");
  return domid;
}

interface Listing {
  readonly generation: number;
  readonly bytes: Uint8Array;
}

/** Lists of names as they were sent, for as long as they are right. */
const LISTINGS = new WeakMap<TreeNode, Listing>();

const directory: Operation = ({ connection }, { payload, transactionId }) => {
  const node = connection.node(only(payload), transactionId);
  const kept = LISTINGS.get(node);
  if (kept?.generation === node.generation) return kept.bytes;
  if (node.children.size === 0) return "";
  const bytes = bytesOf(limited(`${[...node.children.keys()].join("\0")}\0`));
  LISTINGS.set(node, { generation: node.generation, bytes });
  return bytes;
};

const directoryPart: Operation = ({ connection }, { payload, transactionId }) => {
  const [path = "", offsetText = ""] = strings(payload, 2);
  const node = connection.node(path, transactionId);
  const offset = leadingNumber(offsetText) >>> 0;
  const head = `${node.generation}\0`;
  if (offset >= node.childBytes) return `${head}\0`;
  const list = `${[...node.children.keys()].join("\0")}\0`;
  const max = PAYLOAD_BYTES_MAX - head.length - 1;
  let end = offset;
  while (end < list.length) {
    const next = list.indexOf("\0", end);
    if (next - offset >= max) break;
    end = next + 1;
  }
  return head + list.slice(offset, end) + (end === list.length ? "\0" : "");
};

const write: Operation = ({ connection }, { payload, transactionId }) => {
  const end = payload.indexOf(0);
  if (end < 0) throw malformed("the path does not end");
  // The chunk that it came in goes; the value stays.
  connection.write(textOf(payload, 0, end), payload.slice(end + 1), transactionId);
  return OK;
};

const setPermissions: Operation = ({ connection }, { payload, transactionId }) => {
  const [path, ...texts] = allStrings(payload);
  if (path === undefined || texts.length === 0) throw malformed("it has no permission");
  const permissions: Permission[] = [];
  for (const text of texts) {
    const permission = parsePermission(text);
    if (permission === null) throw malformed("a permission is wrong");
    permissions.push(permission);
  }
  connection.setPermissions(path, permissions, transactionId);
  return OK;
};

const watch: Operation = (requester, { payload }) => {
  const texts = allStrings(payload);
  const [path, token, depthText] = texts;
  const count = requester.knowsFeatures ? 3 : 2;
  if (path === undefined || token === undefined || texts.length > count) {
    throw malformed("it needs a path and a token");
  }
  if (depthText !== undefined && !/^\d{1,9}$/.test(depthText)) throw malformed("no such depth");
  requester.connection.watch(
    path,
    token,
    depthText === undefined ? {} : { depth: Number(depthText) },
  );
  requester.eventAfterReply(path, token);
  return OK;
};

const unwatch: Operation = ({ connection }, { payload }) => {
  const [path = "", token = ""] = strings(payload, 2);
  connection.unwatch(path, token);
  return OK;
};

const startTransaction: Operation = ({ connection }, { transactionId }) => {
  if (transactionId !== 0) {
    throw new XenstoreError("EBUSY", "Cannot start a transaction: it would be inside another");
  }
  return `${connection.startTransaction()}\0`;
};

const endTransaction: Operation = ({ connection }, { payload, transactionId }) => {
  const how = only(payload);
  if (how !== "T" && how !== "F") throw malformed("it has to be T or F");
  connection.endTransaction(transactionId, how === "T");
  return OK;
};

const introduce: Operation = ({ connection }, { payload }) => {
  const [domid = "", , port = ""] = firstStrings(payload, 3);
  if (leadingNumber(port) === 0) throw malformed("there is no such event channel");
  connection.store.introduce(leadingNumber(domid));
  return OK;
};

const isIntroduced: Operation = ({ connection }, { payload }) => {
  const domid = leadingNumber(only(payload));
  const introduced = connection.store.domains.find(domid)?.introduced === true;
  return domid === DOMID_SELF || introduced ? "T\0" : "F\0";
};

const setTarget: Operation = ({ connection }, { payload }) => {
  const [domid = "", target = ""] = firstStrings(payload, 2);
  connection.store.setTarget(leadingNumber(domid), leadingNumber(target));
  return OK;
};

const release: Operation = ({ connection }, { payload }) => {
  connection.store.release(otherDomain(payload));
  return OK;
};

const resume: Operation = ({ connection }, { payload }) => {
  connection.store.resume(otherDomain(payload));
  return OK;
};

function domainNumber(text: string): number {
  // Servers that do not have these operations answer ENOSYS, and so does what cannot be meant.
  if (!/^\d{1,5}$/.test(text)) throw unknown();
  return Number(text);
}

const getFeature: Operation = (requester, { payload }) => {
  const { domains } = requester.connection.store;
  if (payload.length === 0 || (payload.length === 1 && payload[0] === 0)) {
    requester.knowsFeatures = true;
    return `${domains.get(requester.connection.domid).features}\0`;
  }
  const domid = domainNumber(only(payload));
  if (!requester.connection.privileged) {
    throw new XenstoreError("EACCES", "Cannot ask: no permission");
  }
  return `${domains.introduced(domid).features}\0`;
};

const setFeature: Operation = ({ connection }, { payload }) => {
  const texts = allStrings(payload);
  const domid = domainNumber(texts[0] ?? "");
  const [, value = ""] = strings(payload, 2);
  const features = Number(value);
  const { domains } = connection.store;
  if (!/^\d{1,10}$/.test(value) || (features & ~domains.get(0).features) !== 0) {
    throw malformed("there are no such features");
  }
  domains.introduced(domid).features = features;
  return OK;
};

const getQuota: Operation = ({ connection }, { payload }) => {
  const { domains } = connection.store;
  const texts = allStrings(payload);
  if (payload.length === 0 || (texts.length === 1 && texts[0] === "")) {
    return `${Object.keys(QUOTA_DEFAULTS).join(" ")}\0`;
  }
  const name = texts.pop() ?? "";
  if (!isQuotaName(name) || texts.length > 1) throw unknown();
  const domid = texts[0] === undefined ? null : domains.introduced(domainNumber(texts[0])).domid;
  return `${domid === null ? domains.globalQuota(name) : domains.quota(name, domid)}\0`;
};

const setQuota: Operation = ({ connection }, { payload }) => {
  const { domains } = connection.store;
  const texts = allStrings(payload);
  const value = texts.pop() ?? "";
  const name = texts.pop() ?? "";
  if (!isQuotaName(name) || texts.length > 1) throw unknown();
  if (!/^\d{1,9}$/.test(value)) throw malformed("a quota is a number");
  if (texts[0] === undefined) domains.setGlobalQuota(name, Number(value));
  else domains.introduced(domainNumber(texts[0])).quotas.set(name, Number(value));
  return OK;
};

const domainPathOf: Operation = (_, { payload }) =>
  `${domainPath(leadingNumber(only(payload)) >>> 0)}\0`;

const control: Operation = (requester, message) => {
  const words = allStrings(message.payload);
  if (words[0] !== DAEMON_COMMAND || requester.daemonControl === undefined) {
    return controlCommand(requester.connection, words);
  }
  const text = UTF8.decode(message.payload);
  requester.daemonControl(message, text.split("\0").slice(1, words.length));
  return null;
};

const TABLE: Readonly<Record<number, Entry>> = {
  [OPERATION.CONTROL]: { run: control, privileged: true },
  [OPERATION.DIRECTORY]: { run: directory },
  [OPERATION.READ]: {
    run: ({ connection }, { payload, transactionId }) =>
      connection.read(only(payload), transactionId),
  },
  [OPERATION.GET_PERMS]: {
    run: ({ connection }, { payload, transactionId }) =>
      limited(
        connection.getPermissions(only(payload), transactionId)
          .map((each) => `${formatPermission(each)}\0`).join(""),
      ),
  },
  [OPERATION.WATCH]: { run: watch, anyTransaction: true },
  [OPERATION.UNWATCH]: { run: unwatch, anyTransaction: true },
  [OPERATION.TRANSACTION_START]: { run: startTransaction },
  [OPERATION.TRANSACTION_END]: { run: endTransaction },
  [OPERATION.INTRODUCE]: { run: introduce, privileged: true },
  [OPERATION.RELEASE]: { run: release, privileged: true },
  [OPERATION.GET_DOMAIN_PATH]: { run: domainPathOf },
  [OPERATION.WRITE]: { run: write },
  [OPERATION.MKDIR]: {
    run: ({ connection }, { payload, transactionId }) => {
      connection.mkdir(only(payload), transactionId);
      return OK;
    },
  },
  [OPERATION.RM]: {
    run: ({ connection }, { payload, transactionId }) => {
      connection.remove(only(payload), transactionId);
      return OK;
    },
  },
  [OPERATION.SET_PERMS]: { run: setPermissions },
  [OPERATION.IS_DOMAIN_INTRODUCED]: { run: isIntroduced, privileged: true },
  [OPERATION.RESUME]: { run: resume, privileged: true },
  [OPERATION.SET_TARGET]: { run: setTarget, privileged: true },
  [OPERATION.RESET_WATCHES]: {
    run: ({ connection }) => {
      connection.reset();
      return OK;
    },
  },
  [OPERATION.DIRECTORY_PART]: { run: directoryPart },
  [OPERATION.GET_FEATURE]: { run: getFeature },
  [OPERATION.SET_FEATURE]: { run: setFeature, privileged: true },
  [OPERATION.GET_QUOTA]: { run: getQuota, privileged: true },
  [OPERATION.SET_QUOTA]: { run: setQuota, privileged: true },
};

/** Does what a request asks and gives the payload of the reply. Throws XenstoreError. */
export function runOperation(requester: Requester, message: Message): Reply {
  const entry = TABLE[message.type];
  if (entry === undefined) throw unknown();
  const { connection } = requester;
  if (entry.privileged === true && !connection.privileged) {
    throw new XenstoreError("EACCES", "Cannot do this: only domain 0 may");
  }
  if (entry.anyTransaction !== true && message.transactionId !== 0) {
    connection.transaction(message.transactionId);
  }
  return entry.run(requester, message);
}
