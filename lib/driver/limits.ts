/**
 * The numbers of the drivers, each with a name, in one place.
 *
 * @module
 */

const KIB = 1024, MIB = 1024 * KIB;

/** Most connections of one acceptor thread that are in their handshake; a further one evicts the oldest. */
export const HANDSHAKES_MAX = 1_024;
/** Time for a handshake in ms, waiting for the client included. */
export const HANDSHAKE_MS_MAX = 30_000;
/** Bytes that a client may send during its handshake. */
export const HANDSHAKE_BYTES_MAX: number = 32 * MIB;
/** Bytes read from a descriptor at once during a handshake. */
export const HANDSHAKE_READ_BYTES: number = 64 * KIB;
/** Connections accepted from one listener before the others get their turn. */
export const ACCEPTS_PER_TURN_MAX = 64;
/** Pause of accepting in ms when descriptors or memory have run out. */
export const ACCEPT_PAUSE_MS = 100;
/** Time for a TLS handshake in ms. */
export const TLS_HANDSHAKE_MS_MAX = 10_000;
/** Bytes that are read ahead of a session from a socket. */
export const SOCKET_READ_AHEAD_BYTES: number = 128 * KIB;
/** Bytes handed to a socket at once: whether a peer takes its replies is seen at each such piece. */
export const SEND_PIECE_BYTES: number = 512 * KIB;
/** Time in ms in which a peer has to take a piece; one that does not is disconnected. */
export const SEND_STALL_MS_MAX = 60_000;
/** Looks at each connection with bytes under way in SEND_STALL_MS_MAX: how exactly it is kept. */
export const SEND_STALL_LOOKS = 12;
/** The same while memory is scarce: looks that find a peer idle before it is disconnected. */
export const SCARCE_STALL_LOOKS = 1;
/** Time in ms that a closing socket waits for its peer to close too, so that the last bytes arrive. */
export const LINGER_MS_MAX = 1_000;
/** When a silent TCP peer is probed: seconds of silence, seconds between probes, probes. */
export const KEEP_ALIVE: {
  readonly idle_s: number;
  readonly interval_s: number;
  readonly probes: number;
} = {
  idle_s: 60,
  interval_s: 15,
  probes: 4,
};
/** Bytes that the blocking driver reads from a connection in one turn, all into the same memory. */
export const TURN_READ_BYTES: number = 512 * KIB;
/** Bytes that the blocking driver sends on a connection before others have their turn. */
export const TURN_SEND_BYTES: number = 4 * MIB;
/**
 * Unsent replies of a connection, in bytes, above which the blocking driver's requests wait: replies are
 * sent while they are in the processor's cache, and their memory is used again there.
 */
export const TURN_BATCH_BYTES: number = 512 * KIB;
/** Outputs that the blocking driver takes of a session before others have their turn. */
export const TURN_OUTPUTS_MAX = 64;
/** Bytes that the kernel takes of a unix connection before its peer has read them: a batch of replies. */
export const SEND_BUFFER_BYTES: number = 512 * KIB;
/** Connections whose events one wait of the blocking driver gives. */
export const TURN_EVENTS_MAX = 64;
/**
 * Time in µs for which the blocking driver looks for the next request before it sleeps, if the one before
 * came so soon. Waking up costs more than that where requests come one at a time.
 */
export const SPIN_US = 50;
/** Requests in one turn, and bytes moved, above which it sleeps at once. */
export const SPIN_REQUESTS_MAX = 2, SPIN_BYTES_MAX: number = 32 * KIB;
/** The shortest and the longest pause in µs in which requests of busy clients gather. */
export const GATHER_US_MIN = 20, GATHER_US_MAX = 200;
/** Requests that come together above which a pause does not get longer. */
export const GATHER_REQUESTS_MIN = 32;
/** Of the last replies what a client should still have to take after a pause: it is ready before it waits. */
export const GATHER_SLACK_MIN = 0.25, GATHER_SLACK_MAX = 0.5;
/** Bytes received in a turn above which there is no pause: a socket holds some 200 KiB. */
export const GATHER_BYTES_MAX: number = 32 * KIB;
/** Most turns without a pause after one that was too long. */
export const GATHER_RETRY_TURNS_MAX = 4_096;
/** Turns of a client that sends much, one after the other, until it is looked at who else wants to be served. */
export const TURNS_IN_A_ROW_MAX = 4;
