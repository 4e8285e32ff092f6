/**
 * The numbers and names of the XenStore protocol, as xs_wire.h and docs/misc/xenstore.txt of the Xen
 * project have them: operations, errors, features. Relies on nothing.
 *
 * @module
 */

/** Message types. */
export const OPERATION = {
  CONTROL: 0,
  DIRECTORY: 1,
  READ: 2,
  GET_PERMS: 3,
  WATCH: 4,
  UNWATCH: 5,
  TRANSACTION_START: 6,
  TRANSACTION_END: 7,
  INTRODUCE: 8,
  RELEASE: 9,
  GET_DOMAIN_PATH: 10,
  WRITE: 11,
  MKDIR: 12,
  RM: 13,
  SET_PERMS: 14,
  WATCH_EVENT: 15,
  ERROR: 16,
  IS_DOMAIN_INTRODUCED: 17,
  RESUME: 18,
  SET_TARGET: 19,
  RESTRICT: 20,
  RESET_WATCHES: 21,
  DIRECTORY_PART: 22,
  GET_FEATURE: 23,
  SET_FEATURE: 24,
  GET_QUOTA: 25,
  SET_QUOTA: 26,
} as const;

/** The name of a message type. */
export type OperationName = keyof typeof OPERATION;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(OPERATION).map(([name, number]) => [number, name]),
);

/** The name of a message type, its number in decimal if it has none. */
export function operationName(type: number): string {
  return NAMES.get(type) ?? String(type);
}

/** Errors that have a name on the wire. */
export const ERROR_CODES = [
  "EINVAL",
  "EACCES",
  "EEXIST",
  "EISDIR",
  "ENOENT",
  "ENOMEM",
  "ENOSPC",
  "EIO",
  "ENOTEMPTY",
  "ENOSYS",
  "EROFS",
  "EBUSY",
  "EAGAIN",
  "EISCONN",
  "E2BIG",
  "EPERM",
] as const;

/** An error of the wire. */
export type ErrorCode = typeof ERROR_CODES[number];

/** True for the name of an error of the wire. */
export function isErrorCode(text: string): text is ErrorCode {
  return ERROR_CODES.some((each) => each === text);
}

/** Event paths that are no nodes. */
export const INTRODUCE_DOMAIN = "@introduceDomain";
/** Fires when a domain shuts down, dies or is released. */
export const RELEASE_DOMAIN = "@releaseDomain";

/** A caller's name for its own domain, DOMID_SELF; also the first number that no domain can have. */
export const DOMID_SELF = 0x7ff0;

/** What a server can do, as bits of GET_FEATURE. */
export const FEATURE = {
  /** A watch may have a depth. */
  WATCH_DEPTH: 1 << 2,
} as const;

/** All features of this server. */
export const SERVER_FEATURES: number = FEATURE.WATCH_DEPTH;

/** First word of a CONTROL that is for the daemon and not for the store. */
export const DAEMON_COMMAND = "dmu";
