/**
 * A disk with a write-ahead log in front: a flush is done once the local file has everything, which
 * takes one fdatasync instead of a round trip to the store. What the disk below has not made durable
 * lives on this host alone until it has; whoever takes the volume over elsewhere does not see it.
 *
 * The disk takes changes in the order of the log, one at a time: a record is added once the disk has
 * taken those before it, and says which log object the disk is filling then. The log is synced before an
 * object with those writes is created, and a record is released only when the volume has it. So what the
 * volume has is always what it had at the log's first record, changed by the first some of its records.
 *
 * A recovery does those again, in order, that the volume may not have. They go to the volume in chunks:
 * each is one log object, which is there as a whole or not at all, and what it had is released before the
 * next one is sent. So whoever takes the volume over meanwhile, too, finds it as it was after some of its
 * writes (docs/log-disk.md has the argument).
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { chain, ensure, oneByOne } from "../../block/maybe.ts";
import type { Backend, Maybe } from "../../block/types.ts";
import type { Writer, WriterHooks } from "../hooks.ts";
import { REDO_RECORDS_MAX, WAL_DRAIN_SHARE, WAL_RECORD_DATA_BYTES_MAX } from "./limits.ts";
import type { WalChunk, WalPosition, WalRecord, WriteAheadLog } from "./write_ahead_log.ts";

/** How a write-ahead log takes part in what a writer does. */
export function walHooks(wal: WriteAheadLog): WriterHooks {
  return {
    beforeClaim: async (volume, last, next) => {
      wal.checkOwner(volume, last);
      await wal.claim(next, last);
    },
    beforeCreate: () => wal.sync(),
  };
}

/** The disk below, as far as a write-ahead log needs it. */
export type DiskBelow = Required<Pick<Backend, "trim" | "zero">> & Backend & {
  /** Why nothing can be written any more; null while it can. */
  readonly failure: BlockError | null;
  /** The log object that the next change goes to, or one before it. */
  readonly position: number;
  /** Bytes of data, less than which go into one log object if they are written at once after a flush. */
  readonly objectBytes: number;
};

/** What a disk with a write-ahead log is made of. */
export interface WalDiskOptions {
  /** The disk, attached for writing with the hooks of `wal`; it is owned from now on. */
  readonly disk: DiskBelow;
  /** The log; it is owned from now on. */
  readonly wal: WriteAheadLog;
  /** The volume's id. */
  readonly volume: string;
  /** Who has attached the disk. */
  readonly writer: Writer;
  /** Told of what was recovered. */
  readonly log: Log;
}

const PLAIN = { fua: false };

/** Does a record again, as far as the disk has room for it: it may have shrunk since. */
function redo(disk: DiskBelow, record: WalRecord): Maybe<void> {
  const length = Math.min(record.length, disk.geometry.size - record.offset);
  if (length <= 0) return;
  const { kind, offset, data } = record;
  if (kind === "write") return disk.write(data.subarray(0, length), offset, PLAIN);
  if (kind === "trim") return disk.trim(offset, length, PLAIN);
  return disk.zero(offset, length, { fua: false, mayTrim: false, fastOnly: false });
}

/** Gives the disk what its log has and it has not; the log is then the new writer's. */
async function recover({ disk, wal, volume, writer, log }: WalDiskOptions): Promise<void> {
  const { records } = wal;
  if (records > 0) log.info(`Recovering ${records} records of write-ahead log ${wal.path}`);
  for (let chunk = nextChunk(); chunk.records.length > 0; chunk = nextChunk()) {
    // A disk on which all is durable has room for them: they are taken at once, and nothing comes between.
    await oneByOne(chunk.records, (record) => redo(disk, record));
    await disk.flush();
    wal.release(chunk.end);
    await wal.settle();
  }
  await wal.begin(volume, writer);

  function nextChunk(): WalChunk {
    return wal.oldest(disk.objectBytes, REDO_RECORDS_MAX);
  }
}

/**
 * Makes the disk. What the log has is put on the volume, durably, before this is done. If that fails
 * both are closed and nothing of the log is lost.
 */
export async function openWalDisk(options: WalDiskOptions): Promise<Backend> {
  try {
    await recover(options);
    return new WalDisk(options);
  } catch (error) {
    await Promise.allSettled([options.disk[Symbol.asyncDispose](), options.wal.close()]);
    throw error;
  }
}

/** A long write in parts of one record each. */
function* partsOf(from: Uint8Array): Generator<[part: Uint8Array, at: number]> {
  for (let at = 0; at < from.length; at += WAL_RECORD_DATA_BYTES_MAX) {
    yield [from.subarray(at, at + WAL_RECORD_DATA_BYTES_MAX), at];
  }
}

class WalDisk implements Backend {
  readonly #disk: DiskBelow;
  readonly #wal: WriteAheadLog;
  /** Where the record of the change is that the log has and the disk has not taken yet. */
  #taking: WalPosition | null = null;
  /** The last of those changes that wait for room, or for one that does. */
  #waiting: Promise<void> | null = null;
  #draining: Promise<void> | null = null;
  readonly capabilities = { synchronous: false, fua: true };

  constructor({ disk, wal }: WalDiskOptions) {
    this.#disk = disk;
    this.#wal = wal;
  }

  get geometry(): Backend["geometry"] {
    return this.#disk.geometry;
  }

  read(into: Uint8Array, offset: number): Maybe<void> {
    return this.#disk.read(into, offset);
  }

  write(from: Uint8Array, offset: number, { fua }: { readonly fua: boolean }): Maybe<void> {
    if (from.length <= WAL_RECORD_DATA_BYTES_MAX) return this.#writePart(from, offset, fua);
    // Each part has one record, so that none waits for room while it holds some.
    const done = oneByOne(
      partsOf(from),
      ([part, at]) => this.#writePart(part, offset + at, false),
    );
    return fua ? chain(done, () => this.#sync()) : done;
  }

  #writePart(from: Uint8Array, offset: number, fua: boolean): Maybe<void> {
    return this.#change(
      "write",
      offset,
      from.length,
      from,
      fua,
      () => this.#disk.write(from, offset, PLAIN),
    );
  }

  trim(offset: number, length: number, { fua }: { readonly fua: boolean }): Maybe<void> {
    return this.#change(
      "trim",
      offset,
      length,
      null,
      fua,
      () => this.#disk.trim(offset, length, PLAIN),
    );
  }

  zero(
    offset: number,
    length: number,
    { fua, mayTrim, fastOnly }: { fua: boolean; mayTrim: boolean; fastOnly: boolean },
  ): Maybe<void> {
    return this.#change(
      mayTrim ? "trim" : "zero",
      offset,
      length,
      null,
      fua,
      () => this.#disk.zero(offset, length, { fua: false, mayTrim, fastOnly }),
    );
  }

  flush(): Promise<void> {
    return this.#sync();
  }

  cache(offset: number, length: number): Maybe<void> {
    return this.#disk.cache?.(offset, length);
  }

  extents(offset: number, length: number): ReturnType<NonNullable<Backend["extents"]>> {
    return this.#disk.extents?.(offset, length) ?? [{ length, allocated: true, zero: false }];
  }

  async resize(size: number): Promise<void> {
    if (this.#disk.resize === undefined) {
      throw new BlockError("EOPNOTSUPP", "Cannot resize: the disk has a fixed size");
    }
    // Nobody else fails because this cannot be done.
    let failure: unknown = null;
    await this.#inOrder(() => this.#resize(size).catch((error: unknown) => void (failure = error)));
    if (failure !== null) throw failure;
  }

  /** What is cut off must not come back: no record from before is ever done again. */
  async #resize(size: number): Promise<void> {
    await this.#disk.resize?.(size);
    await this.#disk.flush();
    this.#wal.release(this.#wal.position);
    await this.#wal.settle();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#draining;
      const end = this.#wal.position;
      await this.#disk[Symbol.asyncDispose]();
      this.#wal.release(end);
    } finally {
      await this.#wal.close();
    }
  }

  /**
   * Does `work` once all before it is done. What waits behind something that failed fails with it: it is the
   * log or the disk that failed.
   */
  #inOrder(work: () => Maybe<void>): Maybe<void> {
    const done = this.#waiting === null ? work() : this.#waiting.then(work);
    if (done === undefined) return;
    this.#waiting = done;
    const clear = (): void => {
      if (this.#waiting === done) this.#waiting = null;
    };
    done.then(clear, clear);
    return done;
  }

  /** Notes a change, then does it, in the order of the calls. */
  #change(
    kind: WalRecord["kind"],
    offset: number,
    length: number,
    data: Uint8Array | null,
    fua: boolean,
    work: () => Maybe<void>,
  ): Maybe<void> {
    const done = this.#inOrder(() =>
      ensure(
        () => chain(this.#append(kind, offset, length, data), work),
        () => this.#taking = null,
      )
    );
    return fua ? chain(done, () => this.#sync()) : done;
  }

  #append(
    kind: WalRecord["kind"],
    offset: number,
    length: number,
    data: Uint8Array | null,
  ): Maybe<void> {
    const pending = this.#wal.append(kind, offset, length, data, {
      object: this.#disk.position,
      added: (start) => this.#taking = start,
    });
    if (this.#wal.usedBytes > this.#wal.ringBytes * WAL_DRAIN_SHARE) {
      this.#startDrain();
    }
    return pending;
  }

  #startDrain(): void {
    this.#draining ??= this.#drain().finally(() => {
      this.#draining = null;
      // Somebody may have begun to wait while it ended.
      if (this.#wal.isFull) this.#startDrain();
    });
  }

  /** Makes room in the log: what the disk below has made durable is not needed in it. */
  async #drain(): Promise<void> {
    do {
      // Only what the disk has taken counts.
      const position = this.#taking ?? this.#wal.position;
      try {
        await this.#disk.flush();
        this.#wal.release(position);
        await this.#wal.settle();
      } catch (error) {
        this.#wal.failWaiting(error);
      }
    } while (this.#wal.isFull);
  }

  async #sync(): Promise<void> {
    // A disk that another writer has taken over will never have these writes.
    const { failure } = this.#disk;
    if (failure !== null) throw failure;
    await this.#wal.sync();
  }
}
