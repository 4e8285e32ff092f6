/**
 * The numbers of the daemon, each with a name, in one place.
 *
 * @module
 */

const MIB = 1024 * 1024;

/** Largest configuration file, in bytes. */
export const CONFIG_BYTES_MAX: number = 1 * MIB;
/** Most endpoints of one daemon. */
export const ENDPOINTS_MAX = 64;
/** Longest path of a unix socket, in bytes: sun_path of Linux without its NUL. */
export const UNIX_PATH_BYTES_MAX = 107;
/** Connections that a daemon has at once, over all its endpoints, unless told otherwise. */
export const CONNECTIONS_DEFAULT = 1_024;
/** Most connections that can be asked for. */
export const CONNECTIONS_MAX = 65_536;
/** Time in ms that requests in flight get to finish when the daemon stops; then connections are cut off. */
export const STOP_MS_MAX = 30_000;
/**
 * Time in ms that storage which does not answer gets to come back when its target is to be closed; then it is
 * given up. Less than STOP_MS_MAX, so that clients are told before they are cut off.
 */
export const GIVE_UP_MS = 10_000;
/**
 * Time in ms between two looks at who holds memory while it is scarce: a client that has stopped in the
 * middle of a request is cut off at the second one that finds it so.
 */
export const SCARCE_SWEEP_MS = 5_000;
/** Bytes of an unfinished request that do not matter then. */
export const SCARCE_PARTIAL_BYTES: number = 64 * 1024;
/** Time in ms that programs get to close the files of a simulation that stops; then they are cut off. */
export const SIMULATION_STOP_MS_MAX = 2_000;
/** Most channels of one dm-user target: each has a thread. */
export const CHANNELS_MAX = 64;
/** Longest name of a dm-user target, in bytes: a path below /dev. */
export const DM_USER_NAME_BYTES_MAX = 255;
/** A channel that has failed is opened again this often in a row … */
export const CHANNEL_FAILURES_MAX = 5;
/** … after this time in ms, but for the first time, and a row ends with a channel that lasts so long. */
export const CHANNEL_REOPEN_MS = 1_000;
/** Most endpoints of a target's own. */
export const TARGET_ENDPOINTS_MAX = 8;
/** Most listening sockets of one daemon, those of targets among them. */
export const LISTENERS_MAX = 1_024;
/** Most filters of one target. */
export const FILTERS_MAX = 16;
/** Connections to the metrics at once; more are closed. */
export const METRICS_CONNECTIONS_MAX = 64;
/** Bytes of the head of a request for metrics; more is answered with 431. */
export const METRICS_REQUEST_BYTES_MAX: number = 8 * 1024;
/** Time in ms in which a request for metrics has to come whole. */
export const METRICS_REQUEST_MS_MAX = 5_000;
/** Time in ms after which a connection to the metrics on which nothing happens is closed. */
export const METRICS_SILENCE_MS_MAX = 60_000;
/** Time in ms for which figures are told again instead of being made anew. */
export const METRICS_KEPT_MS = 250;
/** Targets whose figures are written before other work has its turn. */
export const METRICS_TARGETS_AT_ONCE = 32;
/** Time in ms between two looks at whether operations end. */
export const HEALTH_LOOK_MS = 5_000;
/** Time in ms after which a target with operations under way, of which none ends, does not answer. */
export const HEALTH_STALL_MS = 30_000;
/** Targets with a thread of their own; more are served on the main thread. */
export const TARGET_THREADS_MAX = 32;
