/**
 * A disk with a write-ahead log in front: a flush is done once the local file has everything, which
 * takes one fdatasync instead of a round trip to the store. What the disk below has not made durable
 * lives on this host alone until it has; whoever takes the volume over elsewhere does not see it.
 *
 * Two rules make recovery simple. The log is synced before an object with those writes is created, so
 * that the volume never has more than the log; and a record is released only when the volume has it. What
 * the volume has is then always what it had at the log's first record, changed by the first some of its
 * records; doing them all over again, in order, gives the disk as it was.
 *
 * @module
 */
import type { Log } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { chain, ensure, oneByOne } from "../../block/maybe.ts";
import type { Backend, Maybe } from "../../block/types.ts";
import type { Writer, WriterHooks } from "../hooks.ts";
import { WAL_DRAIN_SHARE, WAL_RECORD_DATA_BYTES_MAX } from "./limits.ts";
import type { WalPosition, WalRecord, WriteAheadLog } from "./write_ahead_log.ts";

/** How a write-ahead log takes part in what a writer does. */
export function walHooks(wal: WriteAheadLog): WriterHooks {
  return {
    beforeClaim: async (volume, last, next) => {
      wal.checkOwner(volume, last);
      await wal.claim(next);
    },
    beforeCreate: () => wal.sync(),
  };
}

/** The disk below, as far as a write-ahead log needs it. */
export type DiskBelow = Required<Pick<Backend, "trim" | "zero">> & Backend & {
  /** Why nothing can be written any more; null while it can. */
  readonly failure: BlockError | null;
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
async function redo(disk: DiskBelow, record: WalRecord): Promise<void> {
  const length = Math.min(record.length, disk.geometry.size - record.offset);
  if (length <= 0) return;
  const { kind, offset, data } = record;
  if (kind === "write") await disk.write(data.subarray(0, length), offset, PLAIN);
  else if (kind === "trim") await disk.trim(offset, length, PLAIN);
  else await disk.zero(offset, length, { fua: false, mayTrim: false, fastOnly: false });
}

/** Gives the disk what its log has and it has not; the log is then the new writer's. */
async function recover({ disk, wal, volume, writer, log }: WalDiskOptions): Promise<void> {
  const { records } = wal;
  if (records > 0) {
    log.info(`Recovering ${records} records of write-ahead log ${wal.path}`);
    for (const record of wal.read()) await redo(disk, record);
    await disk.flush();
  }
  await wal.begin(volume, writer);
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

/** A change that the disk has not taken yet: where its record is. */
interface InFlight {
  readonly start: WalPosition;
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
  /** Changes that the log has and the disk has not taken yet, in the order of the log. */
  readonly #inFlight = new Set<InFlight>();
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
    await this.#disk.resize(size);
    await this.#disk.flush();
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

  /** Notes a change, then does it, in the order of the calls. */
  #change(
    kind: WalRecord["kind"],
    offset: number,
    length: number,
    data: Uint8Array | null,
    fua: boolean,
    work: () => Maybe<void>,
  ): Maybe<void> {
    // What waits for room has no record yet, and stands in nobody's way.
    let record: InFlight | null = null;
    const added = (start: WalPosition): void => {
      record = { start };
      this.#inFlight.add(record);
    };
    const done = ensure(
      () => chain(this.#append(kind, offset, length, data, added), work),
      () => {
        if (record !== null) this.#inFlight.delete(record);
      },
    );
    return fua ? chain(done, () => this.#sync()) : done;
  }

  #append(
    kind: WalRecord["kind"],
    offset: number,
    length: number,
    data: Uint8Array | null,
    added: (start: WalPosition) => void,
  ): Maybe<void> {
    const pending = this.#wal.append(kind, offset, length, data, added);
    if (this.#wal.usedBytes > this.#wal.ringBytes * WAL_DRAIN_SHARE) {
      this.#draining ??= this.#drain().finally(() => this.#draining = null);
    }
    return pending;
  }

  /** Makes room in the log: what the disk below has made durable is not needed in it. */
  async #drain(): Promise<void> {
    do {
      // Only what the disk has taken counts.
      const [oldest] = this.#inFlight;
      const position = oldest?.start ?? this.#wal.position;
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
