/**
 * A write-ahead log in a local file: what was written to a disk, in order, until the disk itself has
 * made it durable. "Durable" here means on this host: a host that is lost takes it along.
 *
 * The rules. A record that was synced is found again after a crash, and so is every record before it,
 * back to the oldest one that was not released. Room of released records is used again only once a
 * header that leaves them out is durable; a header is never written while the one before it is not. A
 * file with records that nobody took over is never begun anew.
 *
 * @module
 */
import type { Random } from "../../block/context.ts";
import { BlockError, toBlockError } from "../../block/errors.ts";
import type { Maybe } from "../../block/types.ts";
import type { LogEnd, Writer } from "../hooks.ts";
import type { FileAccess, RawFile } from "../../sys/file_access.ts";
import {
  decodeHeader,
  encodeHeader,
  HEADER_BYTES,
  isHeader,
  isSound,
  isTagUpTo,
  objectTag,
  readRecordHead,
  RECORD_BYTES,
  type RecordHead,
  type RecordKind,
  recordSpan,
  RING_AT,
  sealRecord,
  type WalHeader,
} from "./format.ts";
import {
  WAL_BYTES_MAX,
  WAL_BYTES_MIN,
  WAL_CLAIMS_MAX,
  WAL_RECORD_DATA_BYTES_MAX,
} from "./limits.ts";

const NOBODY = "0".repeat(32);

/** What a write-ahead log is opened with. */
export interface WalOptions {
  /** The file; it is made if there is none. */
  readonly path: string;
  /** Bytes of the file, if it is made or has no records. */
  readonly bytes: number;
}

/** Something that was done to the disk. */
export interface WalRecord {
  /** What. */
  readonly kind: Exclude<RecordKind, "wrap">;
  /** Bytes of the disk. */
  readonly offset: number;
  readonly length: number;
  /** What was written, good until the next record is asked for; empty unless it is a write. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** A record that is to be added; `data` is empty unless it is a write. */
interface NewRecord {
  readonly kind: WalRecord["kind"];
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array;
  readonly tag: number;
}

/** What is said of a record that is added. */
export interface AppendOptions {
  /** The log object that the disk is filling; what was added before is in it, or in one before it. */
  readonly object?: number;
  /** Told the place of the record at the moment when it is there. */
  readonly added?: (start: WalPosition) => void;
}

/** Records that are done again together. */
export interface WalChunk {
  /** Oldest first; none if there are no more. */
  readonly records: readonly WalRecord[];
  /** The place behind them. */
  readonly end: WalPosition;
}

/** A place between two records. */
export interface WalPosition {
  /** Number of the record behind it. */
  readonly number: number;
  /** Bytes of the ring that were used before it, counted through all rounds. */
  readonly total: number;
}

/** A write-ahead log. */
export class WriteAheadLog {
  readonly #file: RawFile;
  readonly #random: Random;
  #header: WalHeader;
  /** Bytes of the use's id. */
  #use: Uint8Array<ArrayBuffer>;
  #head: WalPosition;
  /** Oldest record that is needed: as released, and as the durable header has it. */
  #tail: WalPosition;
  #durableTail: WalPosition;
  /** The tail of a header that is written and not durable, or null. */
  #pendingTail: WalPosition | null = null;
  #syncedTotal: number;
  #flushing: Promise<void> | null = null;
  #failure: BlockError | null = null;
  /** Those that wait for room, in order. */
  #waiting: {
    readonly span: number;
    readonly go: () => void;
    readonly fail: (e: unknown) => void;
  }[] = [];
  readonly #scratch = new Uint8Array(recordSpan(WAL_RECORD_DATA_BYTES_MAX));

  private constructor(file: RawFile, header: WalHeader, random: Random) {
    this.#file = file;
    this.#random = random;
    this.#header = header;
    this.#use = Uint8Array.fromHex(header.use);
    this.#tail = { number: header.tailNumber, total: header.tailPlace };
    this.#durableTail = this.#tail;
    this.#head = this.#findEnd();
    this.#syncedTotal = this.#head.total;
  }

  /**
   * Opens the file, or makes it. Throws EINVAL if the size cannot be or the file is something else, EIO
   * if it is damaged, SystemError if it cannot be opened or is in use (EAGAIN).
   */
  static async open(
    { path, bytes }: WalOptions,
    { files, random }: { readonly files: FileAccess; readonly random: Random },
  ): Promise<WriteAheadLog> {
    if (bytes < WAL_BYTES_MIN || bytes > WAL_BYTES_MAX) {
      const range = `${WAL_BYTES_MIN} to ${WAL_BYTES_MAX} are possible`;
      throw new BlockError("EINVAL", `Cannot use a write-ahead log of ${bytes} bytes: ${range}`);
    }
    const file = files.open(path, { readOnly: false, createSize: 0, direct: false, lock: true });
    try {
      const found = readHeaders(file);
      if (found !== null) {
        const log = new WriteAheadLog(file, found, random);
        if (log.records === 0) await log.#resize(bytes);
        return log;
      }
      return await WriteAheadLog.#make(file, bytes, random);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  static async #make(file: RawFile, bytes: number, random: Random): Promise<WriteAheadLog> {
    file.truncate(0);
    reserve(file, bytes);
    const header: WalHeader = {
      generation: 1,
      volume: NOBODY,
      use: newId(random),
      tailNumber: 1,
      tailPlace: 0,
      ringBytes: ringOf(bytes),
      claims: [],
    };
    // Both headers, one after the other: while the second is not there nothing can be lost.
    file.write(encodeHeader(header), HEADER_BYTES);
    await file.flushAsync();
    const next = { ...header, generation: 2 };
    file.write(encodeHeader(next), 0);
    await file.flushAsync();
    return new WriteAheadLog(file, next, random);
  }

  /** The file. */
  get path(): string {
    return this.#file.path;
  }

  /** Records that are in it. */
  get records(): number {
    return this.#head.number - this.#tail.number;
  }

  /** Bytes of the ring in use, and of the whole ring. */
  get usedBytes(): number {
    return this.#head.total - this.#durableTail.total;
  }

  get ringBytes(): number {
    return this.#header.ringBytes;
  }

  /** Somebody waits for room. */
  get isFull(): boolean {
    return this.#waiting.length > 0;
  }

  /** The volume whose writes are in it, 32 hexadecimal digits. */
  get volume(): string {
    return this.#header.volume;
  }

  /** The place behind all records that are in it now. */
  get position(): WalPosition {
    return this.#head;
  }

  /**
   * Checks that the records may be put on this volume, whose latest writer is `last`: it is the one that
   * made them, or one that was to take them over and did not get to it. Throws EBUSY, and keeps all.
   */
  checkOwner(volume: string, last: Writer): void {
    if (this.records === 0) return;
    const rest = `move the file away to go on without them, or look for what has happened first`;
    const what = `Cannot use write-ahead log ${this.path}: it has ${this.records} records`;
    if (this.volume !== volume) {
      throw new BlockError("EBUSY", `${what} of volume ${this.volume}, this is ${volume}; ${rest}`);
    }
    const { claims } = this.#header;
    if (claims.some(({ epoch, nonce }) => epoch === last.epoch && nonce === last.nonce)) return;
    const own = claims.at(-1)?.epoch ?? 0;
    throw new BlockError(
      "EBUSY",
      `${what} of epoch ${own}, and another writer has continued the volume (epoch ${last.epoch}); ` +
        rest,
    );
  }

  /**
   * Notes durably that this writer is about to take over from `last`: to be called before its claim is
   * sent. Releases what the volume has by then, as far as `last` tells.
   */
  async claim(writer: Writer, last: LogEnd): Promise<void> {
    await this.settle();
    const [maker, ...others] = this.#header.claims;
    const isMaker = maker?.epoch === last.epoch && maker.nonce === last.nonce;
    const tail = isMaker ? this.#firstMissing(last.seq) : this.#tail;
    // The one who made the records stays the first: their tags are of objects of his.
    const claims = maker === undefined
      ? [writer]
      : [maker, ...[...others, writer].slice(1 - WAL_CLAIMS_MAX)];
    await this.#put({ ...this.#header, claims }, tail);
  }

  /** Where to begin if the volume has all objects of the one who made the records up to `seq`. */
  #firstMissing(seq: number): WalPosition {
    // The last record that was added before that object was full may be in it, or behind it.
    let found = this.#tail, start = this.#tail;
    for (const { head, next } of this.#scan(this.#tail)) {
      if (isTagUpTo(head.tag, seq)) found = start;
      start = next;
    }
    return found;
  }

  /** The records, oldest first. */
  *read(): Generator<WalRecord> {
    for (const { head, data } of this.#scan(this.#tail)) {
      const { kind, offset, length } = head;
      if (kind !== "wrap") yield { kind, offset, length, data };
    }
  }

  /**
   * The oldest records, as many as have less than `dataBytes` of data together and are at most `countMax`;
   * one at least, if there is one.
   */
  oldest(dataBytes: number, countMax: number): WalChunk {
    const records: WalRecord[] = [];
    let end = this.#tail, bytes = 0;
    for (const { head, data, next } of this.#scan(this.#tail)) {
      const { kind, offset, length } = head;
      if (kind !== "wrap") {
        bytes += data.length;
        if (records.length > 0 && (bytes >= dataBytes || records.length === countMax)) break;
        records.push({ kind, offset, length, data: data.slice() });
      }
      end = next;
    }
    return { records, end };
  }

  /**
   * Forgets the records, which the volume has by now, and begins anew for this writer. What is appended
   * from here on is its.
   */
  async begin(volume: string, writer: Writer): Promise<void> {
    await this.settle();
    const use = newId(this.#random);
    await this.#put({ ...this.#header, volume, use, claims: [writer] }, this.#head);
    this.#use = Uint8Array.fromHex(use);
  }

  /**
   * Adds what is done to the disk, before it is done: at once if there is room, in order of the calls.
   * `data`, of at most WAL_RECORD_DATA_BYTES_MAX, is read before the call is done; null for what has none.
   * Throws what `sync` throws.
   */
  append(
    kind: WalRecord["kind"],
    offset: number,
    length: number,
    data: Uint8Array | null,
    { object, added = () => {} }: AppendOptions = {},
  ): Maybe<void> {
    const tag = object === undefined ? 0 : objectTag(object);
    return this.#append({ kind, offset, length, data: data ?? EMPTY, tag }, added);
  }

  /** Makes durable, on this host, all that was appended before the call. Once it failed it fails for ever. */
  async sync(): Promise<void> {
    const { total } = this.#head;
    while (this.#syncedTotal < total) await this.#flush();
    if (this.#failure !== null) throw this.#failure;
  }

  /** The volume has what is before this position: its room can be used again. */
  release(position: WalPosition): void {
    if (position.total > this.#tail.total) this.#tail = position;
    this.#writeTail();
  }

  /** Fails those that wait for room: it will not come. */
  failWaiting(error: unknown): void {
    for (const { fail } of this.#waiting.splice(0)) fail(error);
  }

  /** Closes the file. What was released is left out of it durably. */
  async close(): Promise<void> {
    try {
      await this.settle();
      if (this.#durableTail.total < this.#tail.total && this.#failure === null) {
        await this.#put(this.#header, this.#tail);
      }
    } finally {
      this.failWaiting(new BlockError("ESHUTDOWN", `Cannot write to ${this.path}: it is closed`));
      this.#file.close();
    }
  }

  #append(record: NewRecord, added: (start: WalPosition) => void): Maybe<void> {
    if (this.#failure !== null) throw this.#failure;
    const span = recordSpan(record.data.length);
    if (this.#waiting.length === 0 && this.#hasRoom(span)) return this.#write(record, added);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const go = (): void => {
      try {
        this.#write(record, added);
        resolve();
      } catch (error) {
        reject(error);
      }
    };
    this.#waiting.push({ span, go, fail: reject });
    if (this.#pendingTail !== null) this.#flush().catch(() => {});
    return promise;
  }

  /** Bytes up to the ring's end that a record of this span would have to skip. */
  #skip(span: number): number {
    const left = this.ringBytes - this.#head.total % this.ringBytes;
    return left < span ? left : 0;
  }

  #hasRoom(span: number): boolean {
    return this.usedBytes + this.#skip(span) + span <= this.ringBytes;
  }

  #write(
    record: NewRecord,
    added: (start: WalPosition) => void,
  ): void {
    try {
      const skip = this.#skip(recordSpan(record.data.length));
      if (skip >= RECORD_BYTES) this.#putRecord(WRAP);
      if (skip > 0) {
        // The record of the wrap has taken its own bytes already.
        const into = this.#head.total % this.ringBytes;
        const rest = into === 0 ? 0 : this.ringBytes - into;
        this.#head = { number: this.#head.number, total: this.#head.total + rest };
      }
      const start = this.#head;
      this.#putRecord(record);
      added(start);
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #putRecord(
    { data, ...head }: Omit<NewRecord, "kind"> & { readonly kind: RecordKind },
  ): void {
    const { number, total } = this.#head;
    const bytes = this.#scratch.subarray(0, recordSpan(data.length));
    bytes.set(data, RECORD_BYTES);
    bytes.fill(0, RECORD_BYTES + data.length);
    sealRecord(bytes, { ...head, number, dataBytes: data.length }, this.#use);
    this.#file.write(bytes, RING_AT + total % this.ringBytes);
    this.#head = { number: number + 1, total: total + bytes.length };
  }

  /** Records from a position to the end of those that are sound. */
  *#scan(
    from: WalPosition,
  ): Generator<{ head: RecordHead; data: Uint8Array<ArrayBuffer>; next: WalPosition }> {
    const { ringBytes } = this.#header;
    const buffer = new Uint8Array(recordSpan(WAL_RECORD_DATA_BYTES_MAX));
    let { number, total } = from;
    while (total - from.total < ringBytes) {
      const place = total % ringBytes, left = ringBytes - place;
      if (left < RECORD_BYTES) {
        total += left;
        continue;
      }
      this.#file.read(buffer.subarray(0, RECORD_BYTES), RING_AT + place);
      const head = readRecordHead(buffer, this.#header.use);
      if (head === null || head.number !== number) return;
      const span = recordSpan(head.dataBytes), end = RECORD_BYTES + head.dataBytes;
      if (head.dataBytes > WAL_RECORD_DATA_BYTES_MAX || span > left) return;
      this.#file.read(buffer.subarray(0, end), RING_AT + place);
      if (!isSound(buffer.subarray(0, end))) return;
      number += 1;
      total += head.kind === "wrap" ? left : span;
      yield { head, data: buffer.subarray(RECORD_BYTES, end), next: { number, total } };
    }
  }

  #findEnd(): WalPosition {
    let end = this.#tail;
    for (const { next } of this.#scan(this.#tail)) end = next;
    return end;
  }

  /** Another size, while there are no records. */
  async #resize(bytes: number): Promise<void> {
    if (ringOf(bytes) === this.ringBytes) return;
    // The number of the next record stays: the use is new, and so nothing old is taken for new.
    const use = newId(this.#random), { number } = this.#head;
    const start = { number, total: 0 };
    reserve(this.#file, bytes);
    this.#head = start;
    await this.#put({ ...this.#header, use, ringBytes: ringOf(bytes) }, start);
    this.#tail = start;
    this.#syncedTotal = 0;
    this.#use = Uint8Array.fromHex(use);
  }

  /** Writes a header with a newer tail, if there is one and no header is on its way. */
  #writeTail(): void {
    if (this.#pendingTail !== null || this.#failure !== null) return;
    if (this.#tail.total <= this.#durableTail.total) return;
    try {
      this.#writeHeader(this.#header, this.#tail);
    } catch (error) {
      this.#fail(error);
      return;
    }
    if (this.#waiting.length > 0) this.#flush().catch(() => {});
  }

  #writeHeader(next: WalHeader, tail: WalPosition): void {
    const header: WalHeader = {
      ...next,
      generation: this.#header.generation + 1,
      tailNumber: tail.number,
      tailPlace: tail.total % next.ringBytes,
    };
    this.#file.write(encodeHeader(header), header.generation % 2 * HEADER_BYTES);
    this.#header = header;
    this.#pendingTail = tail;
  }

  /** Writes a header and waits until it is durable. No other is on its way. */
  async #put(next: WalHeader, tail: WalPosition): Promise<void> {
    try {
      this.#writeHeader(next, tail);
    } catch (error) {
      throw this.#fail(error);
    }
    this.#tail = tail;
    await this.#flush();
  }

  /** Waits until what was released is durably so. Throws what `sync` throws. */
  async settle(): Promise<void> {
    while (this.#flushing !== null || this.#pendingTail !== null) await this.#flush();
  }

  /** One flush: of what is there now, or, if one is on its way, that one. Throws once it failed. */
  #flush(): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    this.#flushing ??= this.#flushNow().finally(() => this.#flushing = null);
    return this.#flushing;
  }

  async #flushNow(): Promise<void> {
    const { total } = this.#head, tail = this.#pendingTail;
    try {
      await this.#file.flushAsync();
    } catch (error) {
      throw this.#fail(error);
    }
    this.#syncedTotal = Math.max(this.#syncedTotal, total);
    if (tail === null) return;
    this.#durableTail = tail;
    this.#pendingTail = null;
    this.#wake();
    this.#writeTail();
  }

  #wake(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (!this.#hasRoom(next.span)) return;
      this.#waiting.shift();
      next.go();
    }
  }

  /** A file that failed once is not to be trusted: the kernel forgets what it could not write. */
  #fail(error: unknown): BlockError {
    this.#failure ??= toBlockError(error);
    this.failWaiting(this.#failure);
    return this.#failure;
  }
}

const EMPTY = new Uint8Array();
const WRAP = { kind: "wrap", offset: 0, length: 0, data: EMPTY, tag: 0 } as const;

function ringOf(bytes: number): number {
  return Math.floor((bytes - RING_AT) / HEADER_BYTES) * HEADER_BYTES;
}

/** Gives the file its size, with storage where that can be reserved: a full disk shows at once. */
function reserve(file: RawFile, bytes: number): void {
  file.truncate(bytes);
  try {
    file.allocate(0, bytes);
  } catch (error) {
    if (toBlockError(error).errno !== "EOPNOTSUPP") throw error;
  }
}

function newId(random: Random): string {
  const id = new Uint8Array(16);
  random.fill(id);
  return id.toHex();
}

/** The header that counts; null for a file that is to be made. Throws EINVAL and EIO. */
function readHeaders(file: RawFile): WalHeader | null {
  if (file.size() === 0) return null;
  const blocks = [0, 1].map((at) => {
    const block = new Uint8Array(HEADER_BYTES);
    file.read(block, at * HEADER_BYTES);
    return block;
  });
  const found = blocks.map(decodeHeader).filter((header) => header !== null)
    .sort((a, b) => b.generation - a.generation)[0];
  if (found !== undefined) return found;
  // Making a file writes its block 0 last, and nothing goes into it before that: then nothing is lost.
  const [first, second] = blocks.map((block) => block.every((byte) => byte === 0));
  const empty = first === true && second === true &&
    file.extents(0, file.size(), 2).every(({ data }) => !data);
  if (empty || first === true && blocks.some(isHeader)) return null;
  if (blocks.some(isHeader)) {
    throw new BlockError("EIO", `Cannot use write-ahead log ${file.path}: its headers are damaged`);
  }
  throw new BlockError("EINVAL", `Cannot use ${file.path}: it is no write-ahead log`);
}
