/**
 * Limits of a log-structured disk. What belongs to the format is stored in each volume or object, so that
 * another number here does not make old volumes unreadable.
 *
 * @module
 */

/** Bytes in a KiB, MiB. */
const KIB = 1024, MIB = 1024 * KIB;

/** Bytes of data in a line: the unit that has a checksum of its own, and that caches keep. */
export const LINE_BYTES: number = 64 * KIB;
/** Bytes of data at which a log object is sealed. */
export const OBJECT_DATA_BYTES: number = 8 * MIB;
/** Most bytes of data in a log object that is read. */
export const OBJECT_DATA_BYTES_MAX: number = 64 * MIB;
/** Most extents in a log object. */
export const OBJECT_EXTENTS_MAX = 65_536;
/** Objects that a writer of a new volume may have unacknowledged: slots between the first of them and the last. */
export const WINDOW_SLOTS = 16;
/** Most slots in the window of a volume. */
export const WINDOW_SLOTS_MAX = 1024;
/** Largest sequence number: a sequence number and an origin share one `number`. */
export const SEQ_MAX: number = 2 ** 49 - 1;
/** A volume and its ancestors: clones of clones. */
export const ORIGINS_MAX = 16;
/** Smallest block of a volume, in bytes. */
export const BLOCK_BYTES_MIN = 512;
/** Largest block of a volume, in bytes. */
export const BLOCK_BYTES_MAX: number = 64 * KIB;
/** Longest name of a snapshot, in bytes of UTF-8: escaped, it is part of a key. */
export const SNAPSHOT_NAME_BYTES_MAX = 50;
/** Longest address of a parent volume, in bytes of UTF-8. */
export const PARENT_ADDRESS_BYTES_MAX: number = 4 * KIB;
/** Largest description (`volume`, `snap/…`) that is read, in bytes. */
export const DESCRIPTION_BYTES_MAX: number = 64 * KIB;
/** Bytes of a section of a checkpoint after which the next one is begun. */
export const SECTION_BYTES: number = 256 * KIB;
/** Largest section of a checkpoint that is read, in bytes. */
export const SECTION_BYTES_MAX: number = 64 * MIB;
/** Reads that a disk without a cache has in flight for one request. */
export const PLAIN_READS = 8;
/** Bytes of a log object that are read at first to see its header. */
export const HEAD_BYTES: number = 64 * KIB;
/** Headers that are read at a time while a log is replayed. */
export const SCAN_READS = 32;
/** Bytes of a checkpoint that are read by one request. */
export const CHECKPOINT_PART_BYTES: number = 8 * MIB;
/** Parts of a checkpoint that are read at a time. */
export const CHECKPOINT_READS = 4;
/** Times that an attach begins again because the volume was changed under it. */
export const ATTACH_TRIES_MAX = 64;
/** Times that the creation of an object is tried whose outcome stays unclear. */
export const CREATE_TRIES_MAX = 10;
/** Wait before the second of these tries, doubled for each further one, in ms. */
export const CREATE_WAIT_MS = 50;
/** Bytes that are not durable yet above which writes wait, if not told. */
export const DIRTY_BYTES_MAX: number = 64 * MIB;
/** Smallest such bound: an object that is filled and some that are on their way. */
export const DIRTY_BYTES_MIN: number = 16 * MIB;
/** Time in ms after which data that nobody flushes is sent, if not told. */
export const SEAL_AFTER_MS = 2_000;
/** Objects that are on their way at a time, if not told. */
export const PUTS_MAX = 8;
/** Longest time in ms for which a flush waits for others to join it. */
export const GATHER_MS_MAX = 10;
/** The same as a part of the time that an object takes. */
export const GATHER_SHARE = 0.5;
/** Most chances to wait for others that are left out after others did not come. */
export const GATHERS_LEFT_OUT_MAX = 16;
/** Wait in ms before objects that could not be created are tried again without a flush. */
export const RETRY_AFTER_MS = 5_000;
/** Bytes of data behind a checkpoint at which the next one is made. */
export const CHECKPOINT_AFTER_BYTES: number = 256 * MIB;
/** Log objects behind a checkpoint at which the next one is made. */
export const CHECKPOINT_AFTER_OBJECTS = 1_024;
/** Bytes of data that have to follow a checkpoint for each byte of it before the next one. */
export const CHECKPOINT_DATA_RATIO = 8;
/** Bytes of a checkpoint for each object that has to follow it before the next one. */
export const CHECKPOINT_OBJECT_BYTES: number = 4 * KIB;
/** Objects behind the last checkpoint at which a disk that is closed makes one more. */
export const CHECKPOINT_AT_END_OBJECTS = 64;
/** Longest read or write of one call, in bytes. */
export const CALL_BYTES_MAX: number = 32 * MIB;
/** Longest write that goes into one object as a whole: it is never torn. */
export const WHOLE_WRITE_BYTES_MAX: number = 4 * MIB;
/** Times that a read asks the map again because an object was deleted under it. */
export const READ_TRIES_MAX = 8;
