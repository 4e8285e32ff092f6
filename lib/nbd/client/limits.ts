/**
 * The numbers of the NBD client, each with a name, in one place: what a server, which may be hostile,
 * can make it keep or wait for. "Section" means a section of the NBD protocol document.
 *
 * @module
 */
import { STRING_BYTES_MAX } from "../limits.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** Longest data of a reply to an option, in bytes: two strings and what stands around them. */
export const OPTION_REPLY_BYTES_MAX: number = 2 * STRING_BYTES_MAX + 256;
/** Most replies to one option: exports of a list, contexts, information items. */
export const OPTION_REPLIES_MAX = 65_536;
/** Bytes that a server may send in one handshake. */
export const HANDSHAKE_BYTES_MAX: number = 64 * MIB;
/** Largest payload of a request where the server announces none, in bytes; section "Size constraints". */
export const PAYLOAD_DEFAULT_BYTES: number = 32 * MIB;
/** Smallest efficient I/O where the server announces none, in bytes; section "Size constraints". */
export const PREFERRED_DEFAULT_BYTES: number = 4 * KIB;
/** Longest range of a request without payload under 32-bit lengths, in bytes: fits every minimum block. */
export const EFFECT_BYTES_MAX: number = 2 ** 32 - 64 * KIB;
/** Requests in flight on one connection; more wait inside the client. */
export const REQUESTS_IN_FLIGHT_MAX = 256;
/** Ranges of one read that have come out of order and are not joined yet. */
export const READ_FRAGMENTS_MAX = 4_096;
/** Error chunks of one reply. */
export const ERROR_CHUNKS_MAX = 4_096;
/** Payload of an error chunk, in bytes: a string and what stands around it. */
export const ERROR_PAYLOAD_BYTES_MAX: number = STRING_BYTES_MAX + 256;
/** Descriptors of one block status chunk; section "Structured reply types". */
export const STATUS_DESCRIPTORS_MAX: number = 2 ** 20;
/** Requests are put together in buffers of this many bytes before they are sent. */
export const REQUEST_BATCH_BYTES: number = 64 * KIB;
/** A payload up to this many bytes is copied behind its request; a longer one is sent from where it lies. */
export const PAYLOAD_COPY_BYTES_MAX: number = 16 * KIB;
/** A longer payload is handed to the transport in pieces of this many bytes. */
export const PAYLOAD_PIECE_BYTES: number = 1 * MIB;
/** Connections of one backend. */
export const CONNECTIONS_MAX = 16;
/** Time for connecting and the handshake, in milliseconds, unless a shorter one is asked for. */
export const CONNECT_TIMEOUT_MS = 30_000;
/** Time for sending the last bytes of a connection, in milliseconds. */
export const GOODBYE_TIMEOUT_MS = 5_000;
/** Bytes of a socket that are read ahead. */
export const READ_AHEAD_BYTES: number = 512 * KIB;
