/**
 * The numbers of traces, each with a name, in one place.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../block/limits.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** Bytes of the description in the header of a native trace. */
export const DESCRIPTION_BYTES_MAX: number = 64 * KIB;
/** Bytes of records after which a block of a native trace is closed. */
export const BLOCK_BYTES: number = 256 * KIB;
/** Bytes of records in a block at most: one record with the largest payload may follow those of a block. */
export const BLOCK_BYTES_MAX: number = BLOCK_BYTES + REQUEST_BYTES_MAX + 64;
/** Lines or records of a foreign trace that are wrong and told one by one; more are only counted. */
export const PROBLEMS_TOLD_MAX = 20;
/** Bytes of records that a recorder may be behind, where data are not kept. */
export const RING_BYTES: number = 8 * MIB;
/** The same where data are kept. */
export const RING_PAYLOAD_BYTES: number = 256 * MIB;
/** Time in ms after which a recorder writes what it has, so that a crash loses no more than that. */
export const RECORDER_WAIT_MS = 50;
/** Requests of a replay in flight, if not told. */
export const REPLAY_DEPTH = 256;
/** Requests of a replay in flight at most. */
export const REPLAY_DEPTH_MAX = 65_536;
/** Requests of a replay that are done and whose recorded completion is still awaited. */
export const REPLAY_PENDING_MAX = 131_072;
/** Time in µs before a request is due that is spent in turns of the event loop: timers are that coarse. */
export const REPLAY_SPIN_US = 2_000;
/** Longest sleep of a replay between two looks at how far it is, in ms. */
export const REPLAY_SLEEP_MS_MAX = 500;
/** Time in µs between two turns of the event loop in a replay that never waits. */
export const REPLAY_TURN_US = 30_000;
/** Requests that ended otherwise than recorded and are told one by one. */
export const MISMATCHES_TOLD_MAX = 20;
/** Bytes of data that may be written between two flushes in a trace whose crash points are looked at. */
export const CRASH_VOLATILE_BYTES_MAX: number = 1024 * MIB;
/** Bytes that a crash point copies at once. */
export const CRASH_COPY_BYTES: number = 1 * MIB;
/** Crash points of one run at most. */
export const CRASH_POINTS_MAX = 1_000_000;
/** Characters of a check's output that are kept of a crash point that fails. */
export const CRASH_OUTPUT_LENGTH_MAX = 4_096;
/** Bytes of a trace from which its format is told. */
export const DETECT_BYTES: number = 16 * KIB;
/** Bytes of a trace that are read from a file at once. */
export const READ_BYTES: number = 256 * KIB;
/** Bytes of a window on a trace, if no record in it is longer. */
export const WINDOW_BYTES: number = 256 * KIB;
/** Events after which a batch of a trace is closed, unless its format says otherwise. */
export const BATCH_EVENTS = 8_192;
/** Bytes of data in a batch after which it is closed. */
export const BATCH_BYTES: number = 4 * MIB;
/** Bytes of a line of a text trace at most. */
export const LINE_BYTES_MAX: number = 4 * KIB;
/** Fields of a line that are looked at; a line with more is wrong. */
export const LINE_FIELDS_MAX = 16;
/** Files or volumes that a trace may name. */
export const NAMES_MAX = 65_536;
/** Bytes of a name of a file or volume in a trace. */
export const NAME_BYTES_MAX = 512;
/** Bytes of data of requests under way that a writer keeps until they are done. */
export const PENDING_BYTES_MAX: number = 256 * MIB;
/** Completions that wait for their place in a trace: with more, the earliest comes before its time. */
export const COMPLETIONS_PENDING_MAX = 1_048_576;
/** Records of a block layer trace that are put in the order of their times at once. */
export const REORDER_RECORDS = 131_072;
/** Devices of a block layer trace that are told apart; records of more are wrong. */
export const TRACE_DEVICES_MAX = 128;
/** Files of a block layer trace, one a CPU. */
export const CPU_FILES_MAX = 4_096;
/** Bytes of a request in formats whose readers allocate as much: longer ones are cut in pieces. */
export const PIECE_BYTES_MAX: number = REQUEST_BYTES_MAX;
/** Pieces that a request is cut into; longer ones are left out. */
export const PIECES_MAX = 65_536;
/** Bytes that a writer gathers before it gives them on. */
export const OUTPUT_BYTES: number = 256 * KIB;
/** Requests of a trace whose completion is awaited while it is looked at; older ones never ended. */
export const PENDING_MAX = 262_144;
/** Connections of a trace that are told apart. */
export const CONNECTIONS_MAX = 65_536;
/** Bins of time in a summary; between half of them and all are in use. */
export const SUMMARY_TIME_BINS = 128;
/** Columns of a picture at most; between half of them and all are in use. */
export const PLOT_TIME_BINS = 320;
/** Rows of a heat map at most, likewise. */
export const PLOT_OFFSET_BINS = 128;
/** Characters of a title of a picture that are shown. */
export const PLOT_TITLE_LENGTH_MAX = 72;
