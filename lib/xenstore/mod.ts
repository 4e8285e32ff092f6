/**
 * XenStore: the wire format, a store with transactions and watches, service over Web Streams, a thread
 * that serves unix sockets, the semantics of the xenbus file, and a client.
 *
 * @module
 */
export * from "./client.ts";
export type { WatchEvent } from "./client_events.ts";
export { Operations, type XenstoreOperations } from "./client_operations.ts";
export * from "./connection.ts";
export * from "./constants.ts";
export * from "./domains.ts";
export * from "./errors.ts";
export { Ledger } from "./ledger.ts";
export * as limits from "./limits.ts";
export * from "./message.ts";
export { absolutePath, baseName, childPath, domainPath, isNodePath, parentPath } from "./path.ts";
export * from "./permissions.ts";
export * from "./server.ts";
export * from "./service.ts";
export {
  type ControlResult,
  type DaemonControl,
  XenstoreSession,
  type XenstoreSessionOptions,
} from "./session.ts";
export * from "./store.ts";
export { type Touched, Transaction } from "./transaction.ts";
export { type Generations, recordBytes, Tree, type TreeNode } from "./tree.ts";
export { type Change, type Watch, WatchTable } from "./watches.ts";
export { domainOfUser } from "./users.ts";
export * from "./xenbus.ts";
