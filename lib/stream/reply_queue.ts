/**
 * The outgoing side of a byte session: packs replies of a batch into pooled arenas, so that many
 * small and medium replies leave in one write. A reply may be filled at once or later; a reply that
 * is still pending holds up none of the others, since order between replies does not matter.
 * Relies on lib/block/pool.ts for memory.
 *
 * @module
 */
import type { BufferPool, PooledBuffer } from "../block/pool.ts";
import type { ReplyVector, ReplyVectors, StorageMap } from "../block/request.ts";
import { ARENA_BYTES, ARENA_REPLY_BYTES_MAX } from "./limits.ts";
import type { BlockingOutput, SentIn } from "./session.ts";

/** Room for one reply in the output. */
export interface Reply {
  /** Where the reply goes; its content is undefined until it is filled whole. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The reply is filled: it may be sent. Ends the use of `bytes`. */
  done(): void;
  /** Keeps only the first `length` bytes (1 to the present length); `bytes` is another view then. */
  shrink(length: number): void;
  /** The reply is not sent. Ends the use of `bytes`. */
  cancel(): void;
}

/** Memory that replies are packed into. */
interface Arena {
  readonly buffer: PooledBuffer;
  /** Bytes handed out, from the start. */
  used: number;
  /** Pending replies, runs that wait to be taken and runs that were taken and not released. */
  references: number;
}

/** Consecutive finished replies of one arena. */
interface Run {
  readonly arena: Arena;
  readonly start: number;
  end: number;
  /** Null for a run that is no more than that. */
  readonly gathered: Gathered | null;
}

/** Finished replies that lie in several arenas and in storage that is memory. */
interface Gathered {
  readonly vector: ReplyVector;
  /** Each as often as there are pieces of it. */
  readonly arenas: Arena[];
  bytes: number;
}

const NOTHING = new Uint8Array(0);

/** Its header, and its data. */
const PIECES_OF_A_REPLY = 2;

// What only a Region calls on its queue; assigned inside the class, so that it stays private.
let finish: (queue: ReplyQueue, region: Region, send: boolean) => void;
let shorten: (queue: ReplyQueue, region: Region, length: number) => void;

class Region implements Reply {
  bytes: Uint8Array<ArrayBuffer>;
  readonly arena: Arena;
  readonly start: number;
  readonly #queue: ReplyQueue;
  #pending = true;

  constructor(queue: ReplyQueue, arena: Arena, start: number, length: number) {
    this.#queue = queue;
    this.arena = arena;
    this.start = start;
    this.bytes = arena.buffer.bytes.subarray(start, start + length);
  }

  done(): void {
    this.#end();
    finish(this.#queue, this, true);
  }

  cancel(): void {
    this.#end();
    finish(this.#queue, this, false);
  }

  shrink(length: number): void {
    if (!this.#pending || !(length >= 1 && length <= this.bytes.length)) {
      throw new Error(`Cannot shrink a reply to ${length} bytes: it has ${this.bytes.length}`);
    }
    shorten(this.#queue, this, length);
    this.bytes = this.bytes.subarray(0, length);
  }

  #end(): void {
    if (!this.#pending) throw new Error("Cannot finish a reply: it was finished before");
    this.#pending = false;
  }
}

/** Settings of a reply queue. */
export interface ReplyQueueOptions {
  /** Where vectors come from, for `commitLocated`. */
  readonly vectors?: ReplyVectors | null;
  /** Hears how long sending took of what `commitLocated` was given, and whatever went with it. */
  readonly sentIn?: SentIn;
  /** Bytes of an arena; ARENA_BYTES if not told. Replies of more than a quarter of it get their own buffer. */
  readonly arenaBytes?: number;
}

/**
 * Replies on their way out.
 *
 * @example
 * ```ts
 * import { BufferPool } from "../block/pool.ts";
 * import { ReplyQueue } from "./reply_queue.ts";
 *
 * const queue = new ReplyQueue(new BufferPool());
 * const late = queue.reserve(16);
 * queue.append(new Uint8Array([1, 2, 3]));
 * const output = queue.takeOutput();
 * if (output?.bytes.join() !== "1,2,3") throw new Error("the pending reply held it up");
 * output.release();
 * late.cancel();
 * ```
 */
export class ReplyQueue {
  static {
    finish = (queue, region, send): void => queue.#finish(region, send);
    shorten = (queue, region, length): void => queue.#shorten(region, length);
  }

  readonly #pool: BufferPool;
  readonly #vectors: ReplyVectors | null;
  readonly #sentIn: SentIn | null;
  readonly #arenaBytes: number;
  readonly #packedMax: number;
  /** The arena that is being filled. */
  #arena: Arena | null = null;
  /** Runs that can be sent; those before `#taken` are gone already. */
  readonly #runs: Run[] = [];
  #taken = 0;
  #unsentBytes = 0;
  #pendingCount = 0;
  #closed = false;
  /** The arena of the reply that was opened and not ended. */
  #opened: Arena | null = null;
  /** Where that reply begins. */
  openStart = 0;

  /** A queue with its memory from `pool`; an idle one holds none. */
  constructor(pool: BufferPool, options: ReplyQueueOptions = {}) {
    this.#pool = pool;
    this.#vectors = options.vectors ?? null;
    this.#sentIn = options.sentIn ?? null;
    this.#arenaBytes = options.arenaBytes ?? ARENA_BYTES;
    this.#packedMax = Math.min(ARENA_REPLY_BYTES_MAX, this.#arenaBytes / 4);
  }

  /** Bytes of replies that were reserved and neither sent nor cancelled: what back-pressure is about. */
  get unsentBytes(): number {
    return this.#unsentBytes;
  }

  /** Replies that are reserved and not finished. */
  get pendingCount(): number {
    return this.#pendingCount;
  }

  /** Makes room for a reply of `length` bytes, at least 1, to be filled now or later. */
  reserve(length: number): Reply {
    const arena = this.#arenaFor(length);
    const start = arena.used;
    arena.used = start + length;
    arena.references += 1;
    this.#unsentBytes += length;
    this.#pendingCount += 1;
    return new Region(this, arena, start, length);
  }

  /**
   * The same as `reserve` without an object, for a reply that is probably filled at once: gives memory in
   * which the reply begins at `openStart`. Ends with `commit`, `drop` or `keep`, before anything else is
   * asked of the queue.
   */
  open(length: number): Uint8Array<ArrayBuffer> {
    const arena = this.#arenaFor(length);
    this.#opened = arena;
    this.openStart = arena.used;
    arena.used += length;
    arena.references += 1;
    this.#unsentBytes += length;
    return arena.buffer.bytes;
  }

  /** What of the opened reply comes behind its first `skip` bytes. */
  openPart(skip: number): Uint8Array<ArrayBuffer> {
    const arena = this.#opened;
    if (arena === null) throw new Error("Cannot look at a reply: none was opened");
    const start = this.openStart + skip;
    return arena.buffer.part(start, arena.used - start);
  }

  /** The reply that was opened is filled: it may be sent. */
  commit(): void {
    const arena = this.#takeOpened();
    this.#enqueue(arena, this.openStart, arena.used);
  }

  /**
   * The same, with data behind it that lie at an address of storage that is memory; needs `vectors`. `replace`
   * makes what is sent in place of such a reply if its data cannot be read: it is the same for all.
   */
  commitLocated(
    map: StorageMap,
    address: number,
    length: number,
    replace: ReplyVector["replace"],
  ): void {
    const arena = this.#takeOpened();
    const gathered = this.#gather(arena, map);
    gathered.vector.addMemory(
      arena.buffer.bytes.buffer,
      arena.buffer.bytes.byteOffset + this.openStart,
      arena.used - this.openStart,
    );
    gathered.vector.addMapped(map, address, length);
    gathered.vector.headBytes = arena.used - this.openStart;
    gathered.vector.replace = replace;
    gathered.arenas.push(arena);
    gathered.bytes += arena.used - this.openStart + length;
    this.#unsentBytes += length;
  }

  /** The run that replies from this arena and map are added to. */
  #gather(arena: Arena, map: StorageMap): Gathered {
    const last = this.#runs[this.#runs.length - 1]?.gathered ?? null;
    if (last !== null && last.vector.room >= PIECES_OF_A_REPLY && last.vector.takes(map)) {
      return last;
    }
    if (this.#vectors === null) throw new Error("Cannot add data: there are no vectors");
    const gathered: Gathered = { vector: this.#vectors.take(), arenas: [], bytes: 0 };
    this.#runs.push({ arena, start: 0, end: 0, gathered });
    return gathered;
  }

  /** The reply that was opened is not sent; its room is used again. */
  drop(): void {
    const arena = this.#takeOpened();
    const length = arena.used - this.openStart;
    arena.used = this.openStart;
    this.#drop(arena, length);
  }

  /** The reply that was opened is filled later. */
  keep(): Reply {
    const arena = this.#takeOpened();
    this.#pendingCount += 1;
    return new Region(this, arena, this.openStart, arena.used - this.openStart);
  }

  #takeOpened(): Arena {
    const arena = this.#opened;
    if (arena === null) throw new Error("Cannot end a reply: none was opened");
    this.#opened = null;
    return arena;
  }

  /** Adds a copy of a finished reply. */
  append(bytes: Uint8Array): void {
    const arena = this.#arenaFor(bytes.length);
    const start = arena.used;
    arena.buffer.bytes.set(bytes, start);
    arena.used = start + bytes.length;
    arena.references += 1;
    this.#unsentBytes += bytes.length;
    this.#enqueue(arena, start, arena.used);
  }

  /** The next bytes to send, or null if nothing is finished. Release them when they are sent. */
  takeOutput(): BlockingOutput | null {
    const run = this.#runs[this.#taken];
    if (run === undefined) return null;
    this.#taken += 1;
    if (this.#taken === this.#runs.length) {
      this.#runs.length = 0;
      this.#taken = 0;
    }
    if (run.gathered !== null) return this.#gatheredOutput(run.gathered);
    const { arena, start, end } = run;
    let released = false;
    return {
      bytes: arena.buffer.bytes.subarray(start, end),
      vector: null,
      sentIn: null,
      release: (): void => {
        if (released) throw new Error("Cannot release an output: it was released before");
        released = true;
        this.#unsentBytes -= end - start;
        this.#dereference(arena);
      },
    };
  }

  /** It has the properties of other outputs, in the same order: what is compiled for some serves all. */
  #gatheredOutput(gathered: Gathered): BlockingOutput {
    let released = false;
    return {
      bytes: NOTHING,
      vector: gathered.vector,
      sentIn: this.#sentIn,
      release: (): void => {
        if (released) throw new Error("Cannot release an output: it was released before");
        released = true;
        this.#dropGathered(gathered);
      },
    };
  }

  #dropGathered({ vector, arenas, bytes }: Gathered): void {
    this.#unsentBytes -= bytes;
    this.#vectors?.give(vector);
    for (const arena of arenas) this.#dereference(arena);
  }

  /**
   * Nothing is sent any more: finished replies are dropped, pending ones give their memory back when
   * they are done or cancelled. Outputs that were taken are still released by whoever has them.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (let i = this.#taken; i < this.#runs.length; i++) {
      const run = this.#runs[i];
      if (run === undefined) continue;
      if (run.gathered !== null) {
        this.#dropGathered(run.gathered);
        continue;
      }
      this.#drop(run.arena, run.end - run.start);
    }
    this.#runs.length = this.#taken = 0;
  }

  /** A reply is filled or cancelled. */
  #finish(region: Region, send: boolean): void {
    const { arena, start, bytes } = region;
    this.#pendingCount -= 1;
    if (send && !this.#closed) this.#enqueue(arena, start, start + bytes.length);
    else this.#drop(arena, bytes.length);
  }

  /** A reply gets shorter. */
  #shorten(region: Region, length: number): void {
    const { arena, start, bytes } = region;
    if (arena.used === start + bytes.length) arena.used = start + length;
    this.#unsentBytes -= bytes.length - length;
  }

  #arenaFor(length: number): Arena {
    if (this.#closed) throw new Error("Cannot add a reply: the queue is closed");
    if (!(length >= 1)) throw new RangeError(`Cannot add a reply of ${length} bytes: it is empty`);
    if (length > this.#packedMax) return this.#newArena(length);
    const current = this.#arena;
    if (current !== null && current.used + length <= current.buffer.bytes.length) return current;
    this.#arena = this.#newArena(this.#arenaBytes);
    return this.#arena;
  }

  #newArena(bytes: number): Arena {
    return { buffer: this.#pool.take(bytes), used: 0, references: 0 };
  }

  /** Makes bytes ready to be sent, together with those before them if they follow on. */
  #enqueue(arena: Arena, start: number, end: number): void {
    const last = this.#runs[this.#runs.length - 1];
    if (last !== undefined && last.gathered !== null && last.gathered.vector.room > 0) {
      // One call sends it together with those before it.
      const { vector, arenas } = last.gathered;
      const { bytes } = arena.buffer;
      vector.addMemory(bytes.buffer, bytes.byteOffset + start, end - start);
      arenas.push(arena);
      last.gathered.bytes += end - start;
    } else if (
      last !== undefined && last.gathered === null && last.arena === arena &&
      last.end === start
    ) {
      last.end = end;
      arena.references -= 1;
    } else {
      this.#runs.push({ arena, start, end, gathered: null });
    }
  }

  #drop(arena: Arena, bytes: number): void {
    this.#unsentBytes -= bytes;
    this.#dereference(arena);
  }

  #dereference(arena: Arena): void {
    arena.references -= 1;
    if (arena.references !== 0) return;
    if (this.#arena === arena) this.#arena = null;
    arena.buffer.release();
  }
}
