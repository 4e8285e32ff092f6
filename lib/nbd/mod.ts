/**
 * The NBD protocol: numbers and URIs, the server's handshake and transmission phase as pure state
 * machines, service over Web Streams, and the client.
 *
 * @module
 */
export * from "./client/mod.ts";
export * from "./constants.ts";
export * from "./export_info.ts";
export { type HandshakeOptions, type HandshakeResult, type TlsMode } from "./haggling.ts";
export { ServerHandshake } from "./handshake_server.ts";
export * from "./limits.ts";
export * from "./server.ts";
export { NbdServerSession, type NbdServerSessionOptions } from "./server_session.ts";
export * from "./uri.ts";
