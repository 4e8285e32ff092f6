/**
 * Several reads of one file at a time, with io_uring: requests are put into memory that is shared with
 * the kernel, one system call begins all of them, and their results appear in that memory. Follows
 * io_uring_setup(2), io_uring_enter(2) and linux/io_uring.h; numbers are those of x86-64 and aarch64.
 *
 * The data go to memory that is mapped here and unmapped only when no read is under way: what the kernel
 * writes to can never be memory that serves something else by then.
 *
 * @module
 */
import { EINTR, fail, lastErrno, mayLoadNow, prepareErrno } from "./errno.ts";

const SYMBOLS = {
  setup: { name: "syscall", parameters: ["i64", "u32", "buffer"], result: "i32" },
  enter: {
    name: "syscall",
    parameters: ["i64", "i32", "u32", "u32", "u32", "pointer", "usize"],
    result: "i32",
  },
  mmap: {
    parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"],
    result: "pointer",
  },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
} as const;

type Calls = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

let table: Calls | null = mayLoadNow() ? load() : null;

function load(): Calls {
  prepareErrno();
  return Deno.dlopen("libc.so.6", SYMBOLS).symbols;
}

const NR_SETUP = 425n, NR_ENTER = 426n;
/**
 * Flags of setup: only the thread that made it uses it, and results appear when that thread leaves the kernel
 * anyway. With DEFER_TASKRUN they would appear only when they are asked for, which poll(2) does not see.
 */
const SINGLE_ISSUER = 1 << 12, COOP_TASKRUN = 1 << 8;
/** Flag of enter: wait for completions. */
const GETEVENTS = 1;
/** Features: both rings are mapped at once; and one that is as old as OP_READ. */
const FEAT_SINGLE_MMAP = 1, FEAT_RW_CUR_POS = 8;
const FEATURES_NEEDED = FEAT_SINGLE_MMAP | FEAT_RW_CUR_POS;
const OFFSET_RINGS = 0n, OFFSET_ENTRIES = 0x1000_0000n;
const PROT_READ_WRITE = 3, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20;
const MAP_POPULATE = 0x8000;
const MAP_FAILED = 2n ** 64n - 1n;

/** struct io_uring_params, as 32-bit words: their number, and where some are. */
const PARAMS_WORDS = 30;
const SQ_ENTRIES = 0, CQ_ENTRIES = 1, FLAGS = 2, FEATURES = 5;
/** Words that tell the place of something in the mapped rings, in bytes. */
const SQ_HEAD = 10, SQ_TAIL = 11, SQ_MASK = 12, SQ_ARRAY = 16;
const CQ_HEAD = 20, CQ_TAIL = 21, CQ_MASK = 22, CQ_CQES = 25;
/** struct io_uring_sqe and io_uring_cqe: sizes in words, and words in them. */
const SQE_WORDS = 16, CQE_WORDS = 4;
const SQE_FD = 1, SQE_OFFSET = 2, SQE_ADDRESS = 4, SQE_LENGTH = 6, SQE_USER_DATA = 8;
const CQE_USER_DATA = 0, CQE_RESULT = 2;
const OP_READ = 22;
const WORD_BYTES = 4, TWO_32 = 2 ** 32;
/** Negative errno of what the kernel did not take. */
const NOT_TAKEN = -11;

/** A read that is over. */
export interface ReadCompletion {
  /** What it was begun with. */
  readonly tag: number;
  /** Bytes that were read, or a negative errno. */
  readonly result: number;
}

/** Reads of one file into one piece of memory, several at a time. */
export interface ReadRing {
  /** Where the data go. */
  readonly memory: Uint8Array<ArrayBuffer>;
  /** Further reads that can be begun. */
  readonly room: number;
  /** Reads that were begun and whose completion was not taken. */
  readonly inFlight: number;
  /** Polls as readable while a completion can be taken. */
  readonly descriptor: number;
  /** Changes with each completion, as far as was known when this thread left the kernel last. */
  readonly progress: number;
  /**
   * Begins with the next `submit` or `wait` to read `length` bytes from `offset` of the file to `place` in
   * the memory. There has to be room.
   */
  begin(tag: number, place: number, length: number, offset: number): void;
  /** Hands over to the kernel what was begun, if anything was; does not wait. */
  submit(): void;
  /** Submits, and waits until a completion can be taken. Something has to be in flight. */
  wait(): void;
  /** The next completion, or null if there is none at present. */
  next(): ReadCompletion | null;
  /** Gives everything back. Nothing may be in flight, and the memory must not be touched any more. */
  close(): void;
}

/** A range of this process's memory that was mapped. */
class Mapping {
  readonly #pointer: Deno.PointerObject;
  readonly #length: number;
  readonly buffer: ArrayBuffer;
  /** Where it begins; below 2^53 on every machine. */
  readonly address: number;

  private constructor(pointer: Deno.PointerObject, length: number) {
    this.#pointer = pointer;
    this.#length = length;
    this.buffer = Deno.UnsafePointerView.getArrayBuffer(pointer, length);
    this.address = Number(Deno.UnsafePointer.value(pointer));
  }

  /** Null if it cannot be had. */
  static map(
    calls: Calls,
    length: number,
    flags: number,
    fd: number,
    offset: bigint,
  ): Mapping | null {
    const pointer = calls.mmap(null, BigInt(length), PROT_READ_WRITE, flags, fd, offset);
    if (pointer === null || Deno.UnsafePointer.value(pointer) === MAP_FAILED) return null;
    return new Mapping(pointer, length);
  }

  unmap(calls: Calls): void {
    calls.munmap(this.#pointer, BigInt(this.#length));
  }
}

interface Mappings {
  readonly rings: Mapping;
  readonly entries: Mapping;
  readonly memory: Mapping;
}

/** Makes a ring; -1 if this system has none, or none for us. */
function setUp(calls: Calls, params: Uint32Array<ArrayBuffer>, count: number): number {
  const bytes = new Uint8Array(params.buffer);
  // Systems that lack these flags do without.
  for (const flags of [SINGLE_ISSUER | COOP_TASKRUN, 0]) {
    params.fill(0);
    params[FLAGS] = flags;
    const fd = calls.setup(NR_SETUP, count, bytes);
    if (fd >= 0) return fd;
  }
  return -1;
}

function mapAll(
  calls: Calls,
  fd: number,
  params: Uint32Array<ArrayBuffer>,
  memoryBytes: number,
): Mappings | null {
  const word = (at: number): number => params[at] ?? 0;
  if ((word(FEATURES) & FEATURES_NEEDED) !== FEATURES_NEEDED) return null;
  const ringBytes = Math.max(
    word(SQ_ARRAY) + word(SQ_ENTRIES) * WORD_BYTES,
    word(CQ_CQES) + word(CQ_ENTRIES) * CQE_WORDS * WORD_BYTES,
  );
  const entryBytes = word(SQ_ENTRIES) * SQE_WORDS * WORD_BYTES;
  const shared = MAP_SHARED | MAP_POPULATE;
  const rings = Mapping.map(calls, ringBytes, shared, fd, OFFSET_RINGS);
  const entries = Mapping.map(calls, entryBytes, shared, fd, OFFSET_ENTRIES);
  const memory = Mapping.map(calls, memoryBytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0n);
  if (rings !== null && entries !== null && memory !== null) return { rings, entries, memory };
  for (const each of [rings, entries, memory]) each?.unmap(calls);
  return null;
}

class IoUring implements ReadRing {
  readonly memory: Uint8Array<ArrayBuffer>;
  inFlight = 0;
  readonly #calls: Calls;
  readonly #fd: number;
  readonly #file: number;
  readonly #mappings: Mappings;
  readonly #count: number;
  /** The rings and the entries, as words, and where things are in them. */
  readonly #ring: Int32Array<ArrayBuffer>;
  readonly #entries: Uint32Array<ArrayBuffer>;
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  /** Tags of what was begun and is not handed over. */
  #begun: number[] = [];
  /** What the kernel did not take. */
  readonly #refused: ReadCompletion[] = [];
  #refusals = 0;
  #isClosed = false;

  constructor(
    calls: Calls,
    fd: number,
    file: number,
    params: Uint32Array<ArrayBuffer>,
    mappings: Mappings,
  ) {
    const place = (at: number): number => (params[at] ?? 0) / WORD_BYTES;
    this.#calls = calls;
    this.#fd = fd;
    this.#file = file;
    this.#mappings = mappings;
    this.#count = params[SQ_ENTRIES] ?? 0;
    this.memory = new Uint8Array(mappings.memory.buffer);
    const ring = new Int32Array(mappings.rings.buffer);
    this.#ring = ring;
    this.#entries = new Uint32Array(mappings.entries.buffer);
    this.#sqHead = place(SQ_HEAD);
    this.#sqTail = place(SQ_TAIL);
    this.#cqHead = place(CQ_HEAD);
    this.#cqTail = place(CQ_TAIL);
    this.#cqes = place(CQ_CQES);
    this.#sqMask = ring[place(SQ_MASK)] ?? 0;
    this.#cqMask = ring[place(CQ_MASK)] ?? 0;
    // Entries are used in their order: what stands in the array never changes.
    for (let at = 0; at < this.#count; at++) ring[place(SQ_ARRAY) + at] = at;
  }

  /** There are twice as many places for completions: they cannot overflow. */
  get room(): number {
    return this.#count - this.inFlight;
  }

  get descriptor(): number {
    return this.#fd;
  }

  get progress(): number {
    // Whoever still looks at it must not touch memory that is gone.
    return this.#isClosed ? 0 : Atomics.load(this.#ring, this.#cqTail) + this.#refusals;
  }

  begin(tag: number, place: number, length: number, offset: number): void {
    if (this.room <= 0) throw new Error("Cannot begin to read: the ring is full");
    const entries = this.#entries;
    const tail = Atomics.load(this.#ring, this.#sqTail) + this.#begun.length;
    const at = (tail & this.#sqMask) * SQE_WORDS;
    const address = this.#mappings.memory.address + place;
    entries.fill(0, at, at + SQE_WORDS);
    entries[at] = OP_READ;
    entries[at + SQE_FD] = this.#file;
    entries[at + SQE_OFFSET] = offset % TWO_32;
    entries[at + SQE_OFFSET + 1] = Math.floor(offset / TWO_32);
    entries[at + SQE_ADDRESS] = address % TWO_32;
    entries[at + SQE_ADDRESS + 1] = Math.floor(address / TWO_32);
    entries[at + SQE_LENGTH] = length;
    entries[at + SQE_USER_DATA] = tag;
    this.#begun.push(tag);
    this.inFlight += 1;
  }

  submit(): void {
    if (this.#begun.length > 0) this.#enter(0);
  }

  wait(): void {
    while (this.#refused.length === 0 && !this.#hasCompletion()) this.#enter(1);
  }

  next(): ReadCompletion | null {
    const refused = this.#refused.pop();
    if (refused === undefined && !this.#hasCompletion()) return null;
    this.inFlight -= 1;
    if (refused !== undefined) return refused;
    const ring = this.#ring;
    const head = Atomics.load(ring, this.#cqHead);
    const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS;
    const completion = {
      tag: ring[at + CQE_USER_DATA] ?? 0,
      result: ring[at + CQE_RESULT] ?? 0,
    };
    Atomics.store(ring, this.#cqHead, head + 1);
    return completion;
  }

  close(): void {
    if (this.inFlight > 0) throw new Error("Cannot close a ring: reads are in flight");
    this.#isClosed = true;
    const { rings, entries, memory } = this.#mappings;
    for (const each of [rings, entries, memory]) each.unmap(this.#calls);
    this.#calls.close(this.#fd);
  }

  #hasCompletion(): boolean {
    const ring = this.#ring;
    return Atomics.load(ring, this.#cqHead) !== Atomics.load(ring, this.#cqTail);
  }

  /** Hands over what was begun, and waits for a completion if `least` is 1. */
  #enter(least: 0 | 1): void {
    const ring = this.#ring;
    const tail = Atomics.load(ring, this.#sqTail);
    Atomics.store(ring, this.#sqTail, tail + this.#begun.length);
    for (;;) {
      const count = this.#begun.length;
      const taken = this.#calls.enter(
        NR_ENTER,
        this.#fd,
        count,
        least,
        GETEVENTS,
        null,
        0n,
      );
      if (taken < 0 && lastErrno() === EINTR) continue;
      if (taken < 0 && count === 0) fail("wait for", "io_uring");
      this.#handedOver(Math.max(taken, 0));
      return;
    }
  }

  /** What the kernel did not take, for want of memory, is refused: it is read in another way. */
  #handedOver(taken: number): void {
    const ring = this.#ring;
    const begun = this.#begun;
    this.#begun = [];
    if (taken === begun.length) return;
    Atomics.store(ring, this.#sqTail, Atomics.load(ring, this.#sqHead));
    this.#refusals += begun.length - taken;
    for (const tag of begun.slice(taken)) this.#refused.push({ tag, result: NOT_TAKEN });
  }
}

/**
 * Opens a ring for up to `count` reads (a power of two) of a file at a time, into `memoryBytes` of memory
 * of its own. Null where the system has no io_uring or does not allow it to this process.
 */
export function openReadRing(file: number, count: number, memoryBytes: number): ReadRing | null {
  const calls = table ??= load();
  const params = new Uint32Array(PARAMS_WORDS);
  const fd = setUp(calls, params, count);
  if (fd < 0) return null;
  const mappings = mapAll(calls, fd, params, memoryBytes);
  if (mappings !== null) return new IoUring(calls, fd, file, params, mappings);
  calls.close(fd);
  return null;
}
