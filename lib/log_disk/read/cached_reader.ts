/**
 * Reads data of immutable log objects: from lines in memory, from a disk cache, and by GETs of ranges
 * that do for many lines at once. A line is fetched once however many want it, and its checksum is
 * verified before anybody gets to see it. What is in memory is given at once, without a promise.
 * Objects never change, so nothing here is ever stale.
 *
 * Memory: lines have a bound (`LineCache`), and so have GETs in flight (`GetBudget`). Lines that come are
 * copied to whoever waits for them right away, so a long read holds no more than that.
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import type { Maybe } from "../../block/types.ts";
import {
  type LineReader,
  ObjectGone,
  objectName,
  type Origin,
  type Piece,
} from "../line_reader.ts";
import { LINE_BYTES, ORIGINS_MAX } from "../limits.ts";
import { CHECK_BYTES, isLineIntact, lineDataBytes, lineOffset } from "../log_object.ts";
import { logKey } from "../names.ts";
import type { DiskCache } from "./disk_cache.ts";
import { GetBudget, type Purpose } from "./get_budget.ts";
import {
  GET_BYTES_MAX,
  GET_GAP_LINES_MAX,
  IN_FLIGHT_BYTES_MAX,
  RAM_CACHE_BYTES_MIN,
} from "./limits.ts";
import { LineCache } from "./line_cache.ts";

/** What a CachedReader works with. */
export interface CachedReaderOptions {
  /** Volumes by their place: the disk's own, and those that it was cloned from. */
  readonly origins: readonly Origin[];
  /** Memory for lines, bytes; at least RAM_CACHE_BYTES_MIN is taken. */
  readonly ramBytes: number;
  /** Bytes of GETs in flight at most; IN_FLIGHT_BYTES_MAX if left out. */
  readonly inFlightBytes?: number;
  /** Lines on disk, which the reader then owns. */
  readonly disk: DiskCache | null;
  /** Whom to tell of damage that was got round. */
  readonly log: Log;
  /** Gives up all that is in flight. */
  readonly signal: AbortSignal;
}

/** What was read so far. */
export interface ReadCounts {
  /** Lines found in memory, found on disk, and fetched. */
  readonly ramHits: number;
  readonly diskHits: number;
  readonly misses: number;
  /** GETs, and their bytes. */
  readonly gets: number;
  readonly getBytes: number;
  /** Bytes of those that were read ahead. */
  readonly aheadBytes: number;
  /** GETs whose bytes were damaged. */
  readonly damaged: number;
}

/** An object of which something is wanted. */
interface Wanted {
  readonly origin: number;
  readonly seq: number;
  readonly headerBytes: number;
  readonly dataBytes: number;
  /** The number by which caches know it. */
  readonly key: number;
  readonly pieces: WantedPiece[];
}

interface WantedPiece {
  readonly at: number;
  readonly length: number;
  /** Null if it is only wanted in the cache. */
  readonly into: Uint8Array | null;
}

/** Lines that came, by number. */
type Lines = ReadonlyMap<number, Uint8Array<ArrayBuffer>>;

function keyOf(origin: number, seq: number): number {
  return seq * ORIGINS_MAX + origin;
}

/** The reader. */
export class CachedReader implements LineReader, AsyncDisposable {
  readonly #options: CachedReaderOptions;
  readonly #cache: LineCache;
  readonly #budget: GetBudget;
  /** Lines that are being fetched, by object. */
  readonly #inFlight = new Map<number, Map<number, Promise<Lines>>>();
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #ahead = new Set<Promise<void>>();
  #ramHits = 0;
  #diskHits = 0;
  #misses = 0;
  #gets = 0;
  #getBytes = 0;
  #aheadBytes = 0;
  #damaged = 0;

  /** Nothing is read yet. */
  constructor(options: CachedReaderOptions) {
    this.#options = options;
    this.#cache = new LineCache(Math.max(options.ramBytes, RAM_CACHE_BYTES_MIN));
    this.#budget = new GetBudget(options.inFlightBytes ?? IN_FLIGHT_BYTES_MAX);
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
  }

  /** What was read so far. */
  get counts(): ReadCounts {
    return {
      ramHits: this.#ramHits,
      diskHits: this.#diskHits,
      misses: this.#misses,
      gets: this.#gets,
      getBytes: this.#getBytes,
      aheadBytes: this.#aheadBytes,
      damaged: this.#damaged,
    };
  }

  /** Bytes of memory in use: lines, and GETs in flight. */
  get memoryBytes(): number {
    return this.#cache.bytes + this.#budget.bytes;
  }

  /**
   * Fills all pieces; at once if they are in memory. Throws ObjectGone, EIO for damage, and
   * StoreError; by then nothing is written to any piece any more.
   */
  read(pieces: readonly Piece[]): Maybe<void> {
    let missing: Map<number, Wanted> | null = null;
    for (const piece of pieces) {
      const { origin, seq, at, into } = piece;
      if (this.#copyCached(keyOf(origin, seq), at, into)) continue;
      missing ??= new Map();
      want(missing, piece, { at, length: into.length, into });
    }
    return missing === null ? undefined : this.#serveAll(missing, "demand");
  }

  /** Gets pieces into memory. Failures are nobody's: whoever reads them finds out. */
  prefetch(pieces: readonly (Omit<Piece, "into"> & { readonly length: number })[]): void {
    if (this.#signal.aborted) return;
    const wanted = new Map<number, Wanted>();
    for (const piece of pieces) {
      want(wanted, piece, { at: piece.at, length: piece.length, into: null });
    }
    const running = this.#serveAll(wanted, "ahead").catch(() => {});
    this.#ahead.add(running);
    running.then(() => this.#ahead.delete(running));
  }

  /** Keeps copies of lines, with their checksums, that are in memory anyway since they were just written. */
  offer(seq: number, lines: readonly Uint8Array[]): void {
    for (const [line, stored] of lines.entries()) {
      const data = stored.subarray(0, stored.length - CHECK_BYTES);
      this.#cache.put(keyOf(0, seq), line, Uint8Array.from(data));
    }
  }

  /** An object is deleted: what is in memory of it is room for others. */
  forget(origin: number, seq: number): void {
    this.#cache.forget(keyOf(origin, seq));
  }

  /** Gives up what is in flight, waits for its end, and closes the disk cache. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new BlockError("ESHUTDOWN", "Cannot read: the disk is being closed"));
    await Promise.all(this.#ahead);
    this.#options.disk?.close();
  }

  /** Copies what is wanted if all of it is in memory. */
  #copyCached(key: number, at: number, into: Uint8Array): boolean {
    let line = Math.floor(at / LINE_BYTES), from = at % LINE_BYTES, done = 0;
    while (done < into.length) {
      const bytes = this.#cache.get(key, line);
      if (bytes === null || from >= bytes.length) return false;
      const part = bytes.subarray(from, from + into.length - done);
      into.set(part, done);
      done += part.length;
      line += 1;
      from = 0;
    }
    this.#ramHits += 1;
    return true;
  }

  #serveAll(wanted: ReadonlyMap<number, Wanted>, purpose: Purpose): Promise<void> {
    return allEnded(Array.from(wanted.values(), (each) => this.#serve(each, purpose)));
  }

  /** Gets what is wanted of one object. */
  async #serve(wanted: Wanted, purpose: Purpose): Promise<void> {
    const work: Promise<void>[] = [], missing: number[] = [];
    for (const line of linesOf(wanted)) {
      const bytes = this.#local(wanted, line);
      const fetching = bytes === null ? this.#inFlight.get(wanted.key)?.get(line) : undefined;
      if (bytes !== null) deliver(wanted, line, bytes);
      else if (fetching === undefined) missing.push(line);
      else work.push(fetching.then((lines) => deliverAll(wanted, [line], lines)));
    }
    for (const run of runsOf(missing)) {
      const fetching = this.#fetch(wanted, run, purpose);
      work.push(fetching.then((lines) => deliverAll(wanted, run, lines)));
    }
    await allEnded(work);
  }

  /** A line that is in memory or on disk. */
  #local(wanted: Wanted, line: number): Uint8Array<ArrayBuffer> | null {
    const held = this.#cache.get(wanted.key, line);
    if (held !== null) {
      this.#ramHits += 1;
      return held;
    }
    const { origin, seq, key } = wanted;
    const kept = this.#options.disk?.get({ volume: this.#origin(origin).volume, seq, line }) ??
      null;
    if (kept === null) return null;
    this.#diskHits += 1;
    this.#cache.put(key, line, kept);
    return kept;
  }

  #origin(origin: number): Origin {
    const found = this.#options.origins[origin];
    if (found !== undefined) return found;
    throw new BlockError("EIO", `Cannot read: the volume has no ancestor ${origin}`);
  }

  #name({ origin, seq }: Wanted): string {
    return objectName(this.#origin(origin), seq);
  }

  /** Fetches a run of lines, most of which nobody fetches yet. */
  #fetch(wanted: Wanted, run: readonly number[], purpose: Purpose): Promise<Lines> {
    const { key } = wanted;
    const flight = this.#inFlight.get(key) ?? new Map<number, Promise<Lines>>();
    this.#inFlight.set(key, flight);
    const fetching = this.#fetchRun(wanted, run, purpose).finally(() => {
      for (const line of run) if (flight.get(line) === fetching) flight.delete(line);
      if (flight.size === 0 && this.#inFlight.get(key) === flight) this.#inFlight.delete(key);
    });
    for (const line of run) if (!flight.has(line)) flight.set(line, fetching);
    return fetching;
  }

  async #fetchRun(
    wanted: Wanted,
    run: readonly number[],
    purpose: Purpose,
  ): Promise<Lines> {
    const first = run[0] ?? 0, last = run.at(-1) ?? 0;
    let lines = await this.#get(wanted, first, last, purpose);
    if (typeof lines === "number") {
      // What was damaged on its way may come through another time.
      this.#options.log.warn(
        `Line ${lines} of ${this.#name(wanted)} came damaged, reading it again`,
      );
      lines = await this.#get(wanted, first, last, purpose);
    }
    if (typeof lines === "number") {
      const place = `its data from byte ${lines * LINE_BYTES} on is damaged (wrong checksum)`;
      throw new BlockError("EIO", `Cannot read ${this.#name(wanted)}: ${place}`);
    }
    this.#misses += lines.size;
    const { volume } = this.#origin(wanted.origin), { seq } = wanted;
    for (const [line, bytes] of lines) {
      this.#cache.put(wanted.key, line, bytes);
      this.#options.disk?.put({ volume, seq, line }, bytes);
    }
    return lines;
  }

  /** One GET: the lines, or the number of one that is damaged or missing. */
  async #get(
    wanted: Wanted,
    first: number,
    last: number,
    purpose: Purpose,
  ): Promise<Lines | number> {
    const { seq, headerBytes, dataBytes } = wanted, { store, volume } = this.#origin(wanted.origin);
    const offset = lineOffset(headerBytes, first);
    const length = lineOffset(headerBytes, last) + lineDataBytes(dataBytes, last) + CHECK_BYTES -
      offset;
    await this.#budget.take(length, purpose);
    try {
      this.#signal.throwIfAborted();
      this.#gets += 1;
      const bytes = await store.get(logKey(seq), { offset, length }, { signal: this.#signal });
      if (bytes === null) throw new ObjectGone(this.#name(wanted), wanted.origin, seq);
      this.#getBytes += bytes.length;
      if (purpose === "ahead") this.#aheadBytes += bytes.length;
      const lines = new Map<number, Uint8Array<ArrayBuffer>>();
      for (let line = first; line <= last; line += 1) {
        const at = lineOffset(headerBytes, line) - offset, data = lineDataBytes(dataBytes, line);
        if (!isLineIntact(bytes.subarray(at, at + data + CHECK_BYTES), volume, seq, line)) {
          this.#damaged += 1;
          return line;
        }
        lines.set(line, bytes.slice(at, at + data));
      }
      return lines;
    } finally {
      this.#budget.give(length, purpose);
    }
  }
}

/** Waits until all have ended; throws what the first of them threw, if any did. */
async function allEnded(work: readonly Promise<void>[]): Promise<void> {
  for (const ended of await Promise.allSettled(work)) {
    if (ended.status === "rejected") throw ended.reason;
  }
}

/** Adds a piece to what is wanted of its object. */
function want(
  wanted: Map<number, Wanted>,
  { origin, seq, headerBytes, dataBytes }: Omit<Piece, "into">,
  piece: WantedPiece,
): void {
  const key = keyOf(origin, seq), found = wanted.get(key);
  if (found !== undefined) found.pieces.push(piece);
  else wanted.set(key, { origin, seq, headerBytes, dataBytes, key, pieces: [piece] });
}

/** The lines that pieces are in, ascending, each once. Throws EIO for what is past the data. */
function linesOf({ seq, pieces, dataBytes }: Wanted): number[] {
  const lines = new Set<number>();
  for (const { at, length } of pieces) {
    if (at + length > dataBytes) {
      const reason = `${length} bytes at ${at} are past its data of ${dataBytes} bytes`;
      throw new BlockError("EIO", `Cannot read ${logKey(seq)}: ${reason}`);
    }
    const last = Math.floor((at + length - 1) / LINE_BYTES);
    for (let line = Math.floor(at / LINE_BYTES); line <= last; line += 1) lines.add(line);
  }
  return [...lines].sort((a, b) => a - b);
}

/** Runs of lines that one GET each is to fetch; short gaps are fetched as well. */
function runsOf(lines: readonly number[]): number[][] {
  const runs: number[][] = [];
  for (const line of lines) {
    const run = runs.at(-1), first = run?.[0] ?? line, last = run?.at(-1) ?? line;
    const joins = line - last - 1 <= GET_GAP_LINES_MAX &&
      (line - first + 1) * (LINE_BYTES + CHECK_BYTES) <= GET_BYTES_MAX;
    if (run === undefined || !joins) runs.push([line]);
    else for (let next = last + 1; next <= line; next += 1) run.push(next);
  }
  return runs;
}

/** Copies what a line has of what is wanted. */
function deliver({ pieces }: Wanted, line: number, bytes: Uint8Array<ArrayBuffer>): void {
  const start = line * LINE_BYTES, end = start + bytes.length;
  for (const { at, length, into } of pieces) {
    const from = Math.max(at, start), to = Math.min(at + length, end);
    if (into !== null && from < to) into.set(bytes.subarray(from - start, to - start), from - at);
  }
}

function deliverAll(wanted: Wanted, numbers: readonly number[], lines: Lines): void {
  for (const number of numbers) {
    const bytes = lines.get(number);
    if (bytes !== undefined) deliver(wanted, number, bytes);
  }
}
