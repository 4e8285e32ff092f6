/**
 * The numbers of the control plane, each with a name, in one place.
 *
 * @module
 */

/** Longest value of a node that the daemon writes, in bytes: with its path it has to fit a message. */
export const VALUE_BYTES_MAX = 3_072;
/** Longest list below one node of a wish: filters, endpoints. */
export const WISH_LIST_MAX = 64;
/** Time in ms between two looks at statistics, and at counts of open files. */
export const STATISTICS_MS = 1_000;
/** Nodes of statistics that one look writes at most; the rest has its turn at the next one. */
export const STATISTICS_NODES_MAX = 1_024;
/** Time in ms that changes of open files are collected before they are written. */
export const FILES_MS = 20;
/** Open files whose nodes one look compares with what they should be. */
export const FILES_CHECKED_MAX = 256;
/** How often a change of the tree is tried as a transaction. */
export const CHANGE_TRIES = 20;
/** Time in ms that a change of a target waits for the tree to show it. */
export const SHOW_MS_MAX = 5_000;
/** Longest reply to a CONTROL command, in bytes. */
export const REPLY_BYTES_MAX = 4_095;
/** Longest text of an action, in characters. */
export const ACTION_TEXT_MAX = 255;
/** Most hooks of a configuration, and most words of a hook's command. */
export const HOOKS_MAX = 256, HOOK_WORDS_MAX = 64;
/** Sockets, and xenbus files, that one control plane is reached through. */
export const CONTROL_SOCKETS_MAX = 16;
