/**
 * The numbers of XenStore, each with a name, in one place. Those called QUOTA bind domains other than 0
 * and can be changed with SET_QUOTA or CONTROL quota; the others bind everybody.
 *
 * @module
 */

const KIB = 1024, MIB = 1024 * KIB;

/** Bytes of a message header. */
export const HEADER_BYTES = 16;
/** Longest payload in either direction, in bytes; XENSTORE_PAYLOAD_MAX. */
export const PAYLOAD_BYTES_MAX = 4096;
/** Bytes of a message that a xenbus file takes, header included. */
export const XENBUS_MESSAGE_BYTES_MAX = 4096;
/** Longest path, in characters, after an optional "/local/domain/N/"; XENSTORE_REL_PATH_MAX. */
export const PATH_LENGTH_MAX = 2048;
/** Longest path of all, in characters; XENSTORE_ABS_PATH_MAX. */
export const ABSOLUTE_PATH_LENGTH_MAX = 3072;

/** Strings of the wire that are kept, so as not to make them again: a power of 2. */
export const TEXTS_KEPT = 4_096;
/** Longest string that is kept, in characters. */
export const KEPT_TEXT_LENGTH_MAX = 256;
/** Paths whose names are kept. */
export const PATHS_KEPT_MAX = 8_192;

/** Nodes that a domain may own. */
export const QUOTA_NODES = 1000;
/** Bytes of a node's record (header 24, 8 a permission, value, names of children) that a domain may not reach. */
export const QUOTA_NODE_BYTES = 2048;
/** Watches of a domain; one more is accepted, as xenstored tests "greater". */
export const QUOTA_WATCHES = 128;
/** Transactions of a connection; one more is accepted. */
export const QUOTA_TRANSACTIONS = 10;
/** Permissions of a node. */
export const QUOTA_PERMISSIONS = 5;
/** Nodes that one transaction may touch. */
export const QUOTA_TRANSACTION_NODES = 1024;

/** Bytes of the header of a node's record, as QUOTA_NODE_BYTES counts. */
export const RECORD_HEADER_BYTES = 24;
/** Bytes of one permission in a node's record. */
export const RECORD_PERMISSION_BYTES = 8;

/** Watches of one connection, domain 0 too. */
export const CONNECTION_WATCHES_MAX = 16_384;
/** Open transactions of one connection, domain 0 too. */
export const CONNECTION_TRANSACTIONS_MAX = 1_024;
/** Nodes that one transaction may touch, domain 0 too. */
export const TRANSACTION_NODES_MAX = 262_144;
/** Nodes of the whole store. */
export const STORE_NODES_MAX = 1_048_576;
/** Bytes of records of the whole store. */
export const STORE_BYTES_MAX: number = 512 * MIB;
/** Connections of one domain other than 0 to a server. */
export const DOMAIN_CONNECTIONS_MAX = 64;
/** Connections of a server. */
export const CONNECTIONS_MAX = 1_024;

/** Unsent bytes of a connection above which its further requests wait. */
export const UNSENT_PAUSE_BYTES: number = 256 * KIB;
/** Unsent bytes of a connection above which an event that is queued already is not queued again. */
export const EVENT_MERGE_BYTES: number = 64 * KIB;
/** Unsent bytes above which a connection that does not read its events is closed. */
export const UNSENT_BYTES_MAX: number = 16 * MIB;
/** The same for domains other than 0. */
export const QUOTA_UNSENT_BYTES: number = 2 * MIB;
/** Bytes of one buffer of output. */
export const OUTPUT_BUFFER_BYTES: number = 64 * KIB;
/** Buffers of output that are kept for later use. */
export const OUTPUT_BUFFERS_KEPT_MAX = 64;
/** Unsent bytes up to which a peer that is slow to read gets a buffer of their size alone. */
export const UNSENT_COMPACT_BYTES: number = 16 * KIB;

/** Bytes read from one connection of a service before the others get their turn. */
export const SERVICE_READ_BYTES: number = 16 * KIB;
/** Connections accepted from one socket before those that are there get their turn. */
export const SERVICE_ACCEPTS_PER_TURN_MAX = 16;
/** Pause of accepting in ms when descriptors or memory have run out. */
export const SERVICE_ACCEPT_PAUSE_MS = 100;
/** Connections of a service that are kept for domain 0. */
export const SERVICE_PRIVILEGED_CONNECTIONS = 128;
/** New connections a second of a domain other than 0, and how many at once before that counts. */
export const DOMAIN_CONNECTS_PER_SECOND = 200, DOMAIN_CONNECTS_AT_ONCE = 400;
/** Refusals a second, of others than domain 0, that are told one by one; the rest are counted. */
export const REFUSALS_TOLD_PER_SECOND = 10;
/** Comings and goings that the main thread has not heard of yet, above which nobody is let in. */
export const SERVICE_REPORTS_PENDING_MAX = 256;
/**
 * How long in µs a service looks for the next request before it sleeps, while requests come that fast.
 * Waking a thread takes longer than answering. Bounds what is wasted when nobody comes any more; a
 * client that asks back to back keeps one processor busy, which gives way to whoever else wants it.
 */
export const SERVICE_SPIN_US = 100;
/** Time in ms after which a service that lets nobody in looks again whether it can. */
export const SERVICE_RETRY_MS = 2;

/** Requests of a client that wait for their replies; further ones wait before they are sent. */
export const CLIENT_REQUESTS_MAX = 1_024;
/** Events that a client keeps for one iterator that does not take them; more end the iterator. */
export const CLIENT_EVENTS_MAX = 65_536;
/** How often a transaction is tried again after EAGAIN unless told. */
export const TRANSACTION_TRIES_MAX = 100;
