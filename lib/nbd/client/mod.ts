/**
 * The NBD client: connections to exports, lists of exports, and the socket dialler they use if no other
 * is given.
 *
 * @module
 */
export { connectNbd, type ConnectOptions, inspectExport, listExports } from "./connect.ts";
export { type ConnectionParts, NbdConnection } from "./connection.ts";
export { type DirtyBitmapReader, openDirtyBitmap } from "./dirty_bitmap.ts";
export { addressText, type Dial, dialSocket, type Transport } from "./dial.ts";
export type { ListedExport, Negotiated, ServerList, Terms } from "./handshake.ts";
export type { BlockSizes, ExportFacts } from "./option_messages.ts";
