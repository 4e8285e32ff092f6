/**
 * Every limit has a name and a number, here. What is past one gets a clear error.
 *
 * @module
 */

/** Bytes in a KiB, MiB, GiB. */
const KIB = 1024, MIB = 1024 * KIB;

/** Largest device, in bytes (offsets are held in a `number`). */
export const DEVICE_BYTES_MAX: number = Number.MAX_SAFE_INTEGER;
/** Largest data length of one read or write request, in bytes. */
export const REQUEST_BYTES_MAX: number = 64 * MIB;
/** Most extents that one `extents` call gives. */
export const EXTENTS_PER_CALL_MAX = 65_536;
/** Largest `geometry.minimum`, in bytes (the NBD protocol's bound). */
export const MINIMUM_BLOCK_BYTES_MAX: number = 64 * KIB;
/** Largest `geometry.preferred`, in bytes. */
export const PREFERRED_BLOCK_BYTES_MAX: number = 32 * MIB;
/** Longest target name, in bytes of UTF-8. */
export const TARGET_NAME_BYTES_MAX = 255;
/** Longest spec string, in characters. */
export const SPEC_LENGTH_MAX = 8_192;
/** Most targets of one daemon. */
export const TARGETS_MAX = 4_096;
/** Bytes that the buffer pool keeps for later use. */
export const POOL_KEPT_BYTES_MAX: number = 256 * MIB;
/** Bytes of buffers that are out above which memory is scarce: who can wait for some, waits. */
export const POOL_PLENTY_BYTES_MAX: number = 1024 * MIB;
/** Bytes of zeroes written at once where zeroing is emulated. */
export const ZERO_CHUNK_BYTES: number = 1 * MIB;
/** Requests that one connection may have in flight. */
export const CONNECTION_REQUESTS_MAX = 256;
/** Bytes of request and reply data that one connection may have in flight, besides the first request. */
export const CONNECTION_BYTES_MAX: number = 128 * MIB;
/** The same while memory is scarce, and the largest read that is then begun. */
export const SCARCE_CONNECTION_BYTES: number = 256 * KIB;
/** Most memory that the pages of one sparse memory take, in bytes; a `limit` may be lower. */
export const SPARSE_BYTES_MAX: number = 512 * 1024 * MIB;
/** Pages and gaps that one `extents` call on sparse memory looks at. */
export const SPARSE_SCAN_PAGES_MAX = 262_144;
/** Pieces that a copy or a comparison has in flight, if not told. */
export const COPY_DEPTH = 16;
/** Most pieces that a copy or a comparison may have in flight. */
export const COPY_DEPTH_MAX = 256;
/** Bytes of data in one piece of a copy or a comparison, if not told. */
export const COPY_CHUNK_BYTES: number = 1 * MIB;
/** Bytes that a copy looks at when it searches data for zeroes, if not told: what file systems allocate. */
export const COPY_ZERO_BLOCK_BYTES: number = 4 * KIB;
/** Bytes zeroed by one request of a copy where the destination can. */
export const COPY_ZERO_BYTES: number = 256 * MIB;
/** Time between two looks at the event loop by a copy whose storage never waits, in µs. */
export const COPY_TURN_US = 30_000;
/**
 * A read that takes longer, in µs, has waited for a disk: what a cache gives takes a few µs, and a disk at
 * least some ten. Long reads have more time, at so many bytes in a µs.
 */
export const SLOW_READ_US = 40, SLOW_READ_BYTES_PER_US = 500;
/** The same for sending what was not read before: that wakes up whom it is sent to, which takes some ten µs too. */
export const SLOW_SEND_US = 250;
/** Slow reads are counted up by the weight, others down by one; above the minimum more are to be expected. */
export const SLOW_READ_WEIGHT = 64, SLOW_READS_MIN = 64, SLOW_READS_MAX = 1_024;
/** So many quick reads behind a slow one say that the next one is probably quick too: what a disk has fetched ahead. */
export const QUICK_READS_MIN = 1;
