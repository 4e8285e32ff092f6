/**
 * The numbers of open files, each with a name, in one place.
 *
 * @module
 */

/** Open files at once, and the highest minor; the lowest is 1. */
export const MINORS_MAX = 65_536;
/** Threads besides the home thread that use one open file at once. */
export const SHARES_PER_FILE_MAX = 15;
/** Holds on one open file at once. */
export const HOLDS_PER_FILE_MAX = 1_024;
/** Time in ms for which a hold delays the release of a file that was closed or revoked. */
export const HOLD_MS_MAX = 30_000;
/** Onexit actions of one open file at once. */
export const ACTIONS_PER_FILE_MAX = 1_024;
/** Onexit actions that the actions of one open file may add while they run. */
export const ACTIONS_WHILE_ENDING_MAX = 1_024;
/** Time in ms that is waited for one onexit action before the next one runs. */
export const ACTION_MS_MAX = 60_000;
/** Longest name of an onexit action, in UTF-16 units. */
export const ACTION_NAME_LENGTH_MAX = 255;
/** Time in ms that a drain takes at most, unless told otherwise. */
export const DRAIN_MS = 30_000;
/** Longest time in ms that a drain can be told to take. */
export const DRAIN_MS_MAX = 86_400_000;
/** Time in ms between two looks at a draining file that other threads use, besides their wake-ups. */
export const SHARE_LOOK_MS = 100;
