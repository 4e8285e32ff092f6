/**
 * The numbers of the NBD server, each with a name, in one place. What a connection may have in
 * flight stands in lib/block/limits.ts. "Section" means a section of the NBD protocol document.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../block/limits.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** Longest string (export name, description, query, error message) in bytes of UTF-8; section "Conventions". */
export const STRING_BYTES_MAX = 4_096;
/** Longest part of a client's text that is repeated in an error message, in characters. */
export const QUOTED_LENGTH_MAX = 64;
/** Longest data of an option that is looked at, in bytes; a longer one is skipped and ERR_TOO_BIG. */
export const OPTION_DATA_BYTES_MAX: number = 64 * KIB;
/** Longest data of an option that is skipped, in bytes; a longer one ends the connection. */
export const OPTION_SKIP_BYTES_MAX: number = 1 * MIB;
/** Options of one connection, before and after STARTTLS each. */
export const OPTIONS_PER_HANDSHAKE_MAX = 16_384;
/** Bytes of options that a client may send ahead of the answers. */
export const HANDSHAKE_AHEAD_BYTES_MAX: number = 256 * KIB;
/** Unsent replies, in bytes, above which no further option is answered. */
export const HANDSHAKE_OUTPUT_BYTES_MAX: number = 64 * KIB;
/** Queries of one LIST_META_CONTEXT or SET_META_CONTEXT. */
export const META_QUERIES_MAX = 1_024;
/** Metadata contexts that one connection may select. */
export const META_CONTEXTS_MAX = 64;
/** Largest payload of one request, in bytes: what BLOCK_SIZE announces, and above which a connection ends. */
export const PAYLOAD_BYTES_MAX: number = REQUEST_BYTES_MAX;
/** Descriptors of one block status chunk; section "Structured reply types". */
export const DESCRIPTORS_PER_CHUNK_MAX: number = 2 ** 20;
/** Longest extent that a 32-bit descriptor tells, in bytes: a multiple of every minimum block. */
export const COMPACT_EXTENT_BYTES_MAX: number = 2 ** 32 - 64 * KIB;
/** Shortest read, in bytes, that is worth a look for holes. */
export const SPARSE_READ_BYTES_MIN: number = 64 * KIB;
/** Most pieces (data and holes) that a read is sent in; one with more goes as a whole. */
export const SPARSE_PIECES_MAX = 64;
/** Shortest run of zeroes in a read, in bytes, that is sent as a hole of its own. */
export const SPARSE_HOLE_BYTES_MIN: number = 16 * KIB;
/** What a block status in flight counts towards the bytes of its connection: extents take memory too. */
export const STATUS_IN_FLIGHT_BYTES: number = 2 * MIB;
/** Unsent replies, in bytes, above which the requests that have arrived wait. */
export const OUTPUT_BATCH_BYTES: number = 4 * MIB;
/** Requests of one connection that are served before what they have to say is sent, and others have their turn. */
export const REQUESTS_PER_TURN_MAX = 256;
/** Bytes of a request and its payload from which on receiving the payload by itself costs less than copying it. */
export const BULK_FRAME_BYTES_MIN: number = 32 * KIB;
/** Shortest read, in bytes, whose data are sent from storage that is memory: shorter ones are copied. */
export const LOCATE_BYTES_MIN = 1_024;
/** Reads of one connection that the storage is told of before they are served. */
export const AHEAD_READS_MAX = 128;
