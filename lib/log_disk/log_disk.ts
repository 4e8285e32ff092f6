/**
 * A log-structured disk on an object store: the block verbs. Writes are in memory until they are
 * durable; the map says for each part of the disk in which object it is, be it in memory or not.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import { EXTENTS_PER_CALL_MAX } from "../block/limits.ts";
import { chain, oneByOne } from "../block/maybe.ts";
import type {
  Backend,
  Capabilities,
  Extent,
  Geometry,
  Maybe,
  WriteOptions,
  ZeroOptions,
} from "../block/types.ts";
import type { ObjectStore } from "../object_store/types.ts";
import {
  CHECKPOINT_SETTINGS,
  CheckpointKeeper,
  type CheckpointSettings,
} from "./checkpoint_keeper.ts";
import { claimVolume } from "./claim.ts";
import type { WriterHooks } from "./hooks.ts";
import { type DiskContext, newId, type ResolveParent } from "./context.ts";
import type { VolumeDescription } from "./description.ts";
import { emptyRun, type ExtentMap, type Place, type Run } from "./extent_map.ts";
import {
  CALL_BYTES_MAX,
  DIRTY_BYTES_MAX,
  DIRTY_BYTES_MIN,
  PUTS_MAX,
  READ_TRIES_MAX,
  SEAL_AFTER_MS,
  WHOLE_WRITE_BYTES_MAX,
} from "./limits.ts";
import {
  type LineReader,
  ObjectGone,
  type Origin,
  type Piece,
  plainLineReader,
} from "./line_reader.ts";
import {
  closeAncestors,
  type Loaded,
  loadSnapshotNamed,
  loadVolume,
  openVolume,
  type Volume,
} from "./load.ts";
import type { LogState } from "./log_state.ts";
import { readLogHeader } from "./scan.ts";
import { LogWriter, type WriterSettings } from "./writer.ts";

/** How a disk is attached. All can be left out. */
export interface AttachOptions {
  /** Attach for reading alone: nothing is claimed, and what is written elsewhere later is not seen. */
  readonly readOnly?: boolean;
  /** The snapshot to show, for reading alone; what is there now if left out. */
  readonly snapshot?: string;
  /** Bytes that are not durable yet above which writes wait; at least DIRTY_BYTES_MIN. */
  readonly dirtyBytesMax?: number;
  /** Time after which data that nobody flushes is sent, ms. */
  readonly sealAfterMs?: number;
  /** Objects on their way at a time. */
  readonly putsMax?: number;
  /** When checkpoints are made. */
  readonly checkpoints?: CheckpointSettings;
  /** Opens the store of a parent volume; clones are refused if left out. */
  readonly resolve?: ResolveParent;
  /** Takes part in what the writer does. */
  readonly hooks?: WriterHooks;
  /** Makes what reads objects; the plain way if left out. */
  readonly reader?: (origins: readonly Origin[]) => LineReader;
}

/** Smallest I/O that is efficient. */
const PREFERRED_BYTES = 4096;

function refuseParents(name: string): ResolveParent {
  return (address) => {
    throw new BlockError("EOPNOTSUPP", `Cannot open ${name}: it is a clone of ${address}`);
  };
}

function writerSettings(options: AttachOptions): WriterSettings {
  return {
    dirtyBytesMax: Math.max(options.dirtyBytesMax ?? DIRTY_BYTES_MAX, DIRTY_BYTES_MIN),
    sealAfterMs: options.sealAfterMs ?? SEAL_AFTER_MS,
    putsMax: options.putsMax ?? PUTS_MAX,
  };
}

/** What writing takes, besides the map. */
interface Writing {
  readonly writer: LogWriter;
  readonly keeper: CheckpointKeeper;
  readonly epoch: number;
  readonly nonce: string;
}

/** A log-structured disk that is open. */
export class LogDisk implements Backend {
  readonly capabilities: Capabilities = { synchronous: false, fua: true };
  readonly #volume: Volume;
  readonly #own: Origin;
  readonly #reader: LineReader;
  readonly #context: DiskContext;
  #state: LogState;
  #writing: Writing | null = null;
  #geometry: Geometry;
  #reloading: Promise<void> | null = null;
  #closed = false;
  readonly #onDurable = new Set<(seq: number) => void>();
  readonly #isSnapshot: boolean;

  private constructor(
    volume: Volume,
    own: Origin,
    loaded: Pick<Loaded, "state">,
    options: AttachOptions,
    context: DiskContext,
  ) {
    this.#volume = volume;
    this.#own = own;
    this.#state = loaded.state;
    this.#context = context;
    this.#reader = (options.reader ?? plainLineReader)(volume.origins);
    this.#isSnapshot = options.snapshot !== undefined;
    this.#geometry = this.#geometryOf(options);
  }

  /**
   * Opens a volume, for writing unless told otherwise. The disk takes over the store. Throws ENOENT if there is
   * no volume, EIO naming the object for what is damaged or lost, EAGAIN, and what the store throws; then
   * the store is still the caller's.
   */
  static async attach(
    store: ObjectStore,
    context: DiskContext,
    options: AttachOptions = {},
  ): Promise<LogDisk> {
    const volume = await openVolume(store, options.resolve ?? refuseParents(store.name), context);
    const [own] = volume.origins;
    if (own === undefined) throw new RangeError("A volume has no store");
    try {
      if (options.snapshot !== undefined) {
        const state = await loadSnapshotNamed(volume, options.snapshot, context);
        return new LogDisk(volume, own, { state }, options, context);
      }
      if (options.readOnly === true) {
        return new LogDisk(volume, own, await loadVolume(volume, context), options, context);
      }
      const nonce = newId(context), { hooks = null } = options;
      const loaded = await claimVolume(volume, nonce, context, hooks);
      const disk = new LogDisk(volume, own, loaded, options, context);
      disk.#begin(nonce, loaded, options);
      return disk;
    } catch (error) {
      await closeAncestors(volume.origins);
      throw error;
    }
  }

  #begin(nonce: string, { state, checkpoint }: Loaded, options: AttachOptions): void {
    const { description } = this.#volume, { store } = this.#own, { hooks } = options;
    const writer = new LogWriter(
      store,
      state.map,
      state.diskBytes,
      {
        volume: description.id,
        nonce,
        epoch: state.epoch,
        first: state.next,
        windowSlots: description.windowSlots,
      },
      writerSettings(options),
      {
        beforeCreate: hooks?.beforeCreate.bind(hooks) ?? null,
        sealed: ({ dataBytes }) => keeper.sealed(dataBytes),
        durable: ({ seq, lines }) => {
          this.#reader.offer?.(seq, lines);
          for (const tell of this.#onDurable) tell(seq);
        },
      },
      this.#context,
    );
    const keeper = new CheckpointKeeper(
      store,
      state.map,
      {
        begin: () => {
          writer.sealNow();
          return {
            volume: description.id,
            nonce,
            seq: writer.sealed,
            epoch: state.epoch,
            next: writer.position,
            diskBytes: writer.diskBytes,
            blockBytes: description.blockBytes,
            detached: false,
          };
        },
        whenDurable: (seq) => writer.whenDurable(seq),
      },
      options.checkpoints ?? CHECKPOINT_SETTINGS,
      {
        objects: state.replayedObjects,
        bytes: state.replayedBytes,
        lastBytes: checkpoint?.size ?? 0,
      },
      this.#context,
    );
    this.#writing = { writer, keeper, epoch: state.epoch, nonce };
  }

  #geometryOf(options: AttachOptions): Geometry {
    const { blockBytes } = this.#volume.description;
    return {
      size: this.#state.diskBytes,
      minimum: blockBytes,
      preferred: Math.max(blockBytes, PREFERRED_BYTES),
      maximum: CALL_BYTES_MAX,
      readOnly: options.readOnly === true || options.snapshot !== undefined,
    };
  }

  /** Size and I/O sizes. */
  get geometry(): Geometry {
    return this.#geometry;
  }

  /** What the volume is. */
  get volume(): VolumeDescription {
    return this.#volume.description;
  }

  /** Its own objects, then those of its ancestors. */
  get origins(): readonly Origin[] {
    return this.#volume.origins;
  }

  /** The volume with its ancestors. */
  get lineage(): Volume {
    return this.#volume;
  }

  /** Where each part of the disk is, what is not durable yet included. */
  get map(): ExtentMap {
    return this.#state.map;
  }

  /** Epoch of this attach, or of what is shown if it is for reading alone. */
  get epoch(): number {
    return this.#writing?.epoch ?? this.#state.epoch;
  }

  /** Nonce of this attach, or of the last writer if it is for reading alone. */
  get nonce(): string {
    return this.#writing?.nonce ?? this.#state.nonce;
  }

  /** The last object that the newest checkpoint of this attach includes; null if it has made none. */
  get lastCheckpoint(): number | null {
    return this.#writing?.keeper.lastSeq ?? null;
  }

  /** The last object that is durable, all before it included. */
  get durableSeq(): number {
    return this.#writing?.writer.durable ?? this.#state.seq;
  }

  /** Size of the disk after that object, bytes: another one than now while a resize is on its way. */
  get durableBytes(): number {
    return this.#writing?.writer.durableBytes ?? this.#state.diskBytes;
  }

  /** The object that the next write goes to. */
  get position(): number {
    return this.#writing?.writer.position ?? this.#state.next;
  }

  /** Bytes of data that are not durable yet. */
  get dirtyBytes(): number {
    return this.#writing?.writer.dirtyBytes ?? 0;
  }

  /** Why nothing can be written any more: another writer has taken over. Null while all is well. */
  get failure(): BlockError | null {
    return this.#writing?.writer.failure ?? null;
  }

  /** Calls `tell` whenever an object, and all before it, have become durable, until the result is called. */
  onDurable(tell: (seq: number) => void): () => void {
    this.#onDurable.add(tell);
    return () => void this.#onDurable.delete(tell);
  }

  #needWriting(): Writing {
    if (this.#writing !== null && !this.#closed) return this.#writing;
    const { name } = this.#own.store;
    throw this.#closed
      ? new BlockError("ESHUTDOWN", `Cannot write to ${name}: closed`)
      : new BlockError("EROFS", `Cannot write to ${name}: it was opened for reading`);
  }

  /** Fills `into`: from memory what is not durable, from objects the rest. */
  read(into: Uint8Array, offset: number): Maybe<void> {
    const pieces = this.#readKnown(into, offset);
    if (pieces.length === 0) return;
    // What a cache has is there at once, without a promise.
    const pending = this.#reader.read(pieces);
    return pending === undefined ? undefined : this.#readAgain(pending, into, offset);
  }

  /** Waits for a read, and reads again what was deleted meanwhile. */
  async #readAgain(first: Promise<void>, into: Uint8Array, offset: number): Promise<void> {
    let pending: Maybe<void> = first;
    for (let round = 1;; round += 1) {
      try {
        return await pending;
      } catch (error) {
        if (!(error instanceof ObjectGone) || round === READ_TRIES_MAX) throw error;
        await this.#afterGone(error);
      }
      pending = this.#reader.read(this.#readKnown(into, offset));
    }
  }

  /** An object was deleted: the map may know better by now; a map that does not is loaded anew, or not ours any more. */
  async #afterGone(gone: ObjectGone): Promise<void> {
    if (this.#liveBytes(gone) === 0) return;
    const writing = this.#writing;
    if (writing === null) {
      if (this.#isSnapshot) throw gone;
      this.#reloading ??= this.#reload().finally(() => this.#reloading = null);
      await this.#reloading;
      return;
    }
    const { signal } = this.#context, seq = writing.writer.durable + 1;
    const header = await readLogHeader(this.#own.store, seq, signal);
    if (header === null || header.nonce === writing.nonce) throw gone;
    throw new BlockError(
      "EIO",
      `Cannot read ${this.#own.store.name}: another writer has taken it over (epoch ${header.epoch})`,
    );
  }

  /** Bytes of an object that the map points to. */
  #liveBytes({ origin, seq }: ObjectGone): number {
    return this.map.objects(origin).get(seq)?.liveBytes ?? 0;
  }

  async #reload(): Promise<void> {
    const { state } = await loadVolume(this.#volume, this.#context);
    this.#state = state;
    this.#geometry = { ...this.#geometry, size: state.diskBytes };
  }

  /** Fills what is zeroes or in memory; gives the pieces that have to be read. */
  #readKnown(into: Uint8Array, offset: number): Piece[] {
    const pieces: Piece[] = [], run = emptyRun(), end = offset + into.length;
    for (let at = offset; at < end; at += run.length) {
      this.map.find(at, end - at, run);
      const part = into.subarray(at - offset, at - offset + run.length);
      if (run.kind !== "data") {
        part.fill(0);
        continue;
      }
      const segment = run.origin === 0 ? this.#writing?.writer.segment(run.seq) : null;
      if (segment) segment.read(part, run.at);
      else pieces.push(this.#piece(run, part));
    }
    return pieces;
  }

  #piece({ origin, seq, at }: Readonly<Run>, into: Uint8Array): Piece {
    const object = this.map.objects(origin).get(seq);
    if (object === null) throw new RangeError(`The map knows no object ${seq}`);
    const { headerBytes, dataBytes } = object;
    return { origin, seq, headerBytes, dataBytes, at, into };
  }

  /** Hint that a range is going to be read. */
  cache(offset: number, length: number): void {
    if (this.#reader.prefetch === undefined) return;
    const pieces: (Omit<Piece, "into"> & { length: number })[] = [], run = emptyRun();
    const end = Math.min(offset + length, this.#geometry.size);
    for (let at = offset; at < end; at += run.length) {
      this.map.find(at, end - at, run);
      if (run.kind !== "data") continue;
      if (run.origin === 0 && this.#writing?.writer.segment(run.seq)) continue;
      const { into: _, ...piece } = this.#piece(run, NOTHING);
      pieces.push({ ...piece, length: run.length });
    }
    if (pieces.length > 0) this.#reader.prefetch(pieces);
  }

  /** Stores `from`: in memory, or durably with FUA. */
  write(from: Uint8Array, offset: number, { fua }: WriteOptions): Maybe<void> {
    const { writer } = this.#needWriting();
    const done = from.length <= WHOLE_WRITE_BYTES_MAX
      ? writePart(writer, from, offset)
      : oneByOne(partsOf(from, offset), ([part, at]) => writePart(writer, part, at));
    return fua ? chain(done, () => writer.flush()) : done;
  }

  /** Done when everything that was written before is durable. */
  flush(): Maybe<void> {
    if (this.#writing === null) return;
    return this.#needWriting().writer.flush();
  }

  /** Makes a range a hole. */
  trim(offset: number, length: number, { fua }: WriteOptions): Maybe<void> {
    const { writer } = this.#needWriting();
    writer.clear("trim", offset, length);
    return fua ? writer.flush() : undefined;
  }

  /** Makes a range zeroes: a hole if that may be, else zeroes that keep their place. */
  zero(offset: number, length: number, { mayTrim, fua }: ZeroOptions): Maybe<void> {
    const { writer } = this.#needWriting();
    writer.clear(mayTrim ? "trim" : "zero", offset, length);
    return fua ? writer.flush() : undefined;
  }

  /** What is a hole, zeroes, or data. */
  extents(offset: number, length: number): Extent[] {
    const extents: { length: number; allocated: boolean; zero: boolean }[] = [];
    const run = emptyRun(), end = offset + length;
    for (let at = offset; at < end; at += run.length) {
      this.map.find(at, end - at, run);
      const allocated = run.kind !== "hole", zero = run.kind !== "data", last = extents.at(-1);
      if (last?.allocated === allocated && last.zero === zero) last.length += run.length;
      else if (extents.length === EXTENTS_PER_CALL_MAX) break;
      else extents.push({ length: run.length, allocated, zero });
    }
    return extents;
  }

  /** Changes the size, durably. Throws EINVAL for a size that is no multiple of a block. */
  async resize(size: number): Promise<void> {
    const { writer } = this.#needWriting(), { blockBytes } = this.volume;
    if (size % blockBytes !== 0) {
      throw new BlockError(
        "EINVAL",
        `Cannot resize ${this.#own.store.name}: ${size} bytes are no multiple of ${blockBytes}`,
      );
    }
    writer.resize(size);
    this.#geometry = { ...this.#geometry, size };
    await writer.flush();
  }

  /**
   * Writes data again that is elsewhere in the log, as it is there: for garbage collection. `data` is what `from`
   * holds, and was on the disk at `offset`; parts that are not there any more are left out. Gives the
   * bytes that were moved. Nothing refers to `from` for that range any more once the object that `position`
   * tells is durable.
   */
  async relocate(data: Uint8Array, offset: number, from: Place): Promise<number> {
    const { writer } = this.#needWriting();
    await writer.room(data.length);
    let moved = 0;
    const run = emptyRun(), end = offset + data.length;
    for (let at = offset; at < end; at += run.length) {
      this.map.find(at, end - at, run);
      const source = { ...from, at: from.at + at - offset };
      const isThere = run.kind === "data" && run.origin === from.origin && run.seq === from.seq &&
        run.at === source.at;
      if (!isThere) continue;
      writer.move(data.subarray(at - offset, at - offset + run.length), at, source);
      moved += run.length;
    }
    return moved;
  }

  /** Makes a checkpoint of all that was written before; gives the last object that it includes. */
  checkpoint(): Promise<number> {
    return this.#needWriting().keeper.make();
  }

  /** Ends the disk: everything durable, and the log says so. Rejects if something could not be made durable. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const writing = this.#writing;
    try {
      if (writing !== null) await this.#end(writing);
    } finally {
      await closeAncestors(this.#volume.origins);
      await this.#own.store[Symbol.asyncDispose]();
    }
  }

  async #end({ writer, keeper }: Writing): Promise<void> {
    await keeper.settled();
    if (keeper.isWorthwhile && writer.failure === null) {
      await keeper.make().catch((error: unknown) => {
        const reason = error instanceof Error ? error.message : String(error);
        this.#context.log.warn(`No checkpoint was made at the end: ${reason}`);
      });
    }
    await writer.close();
  }
}

const NOTHING = new Uint8Array(0);

function writePart(writer: LogWriter, from: Uint8Array, offset: number): Maybe<void> {
  return chain(writer.room(from.length), () => writer.write(from, offset));
}

/** A long write in parts that are not torn. */
function* partsOf(from: Uint8Array, offset: number): Generator<[part: Uint8Array, offset: number]> {
  for (let at = 0; at < from.length; at += WHOLE_WRITE_BYTES_MAX) {
    yield [from.subarray(at, at + WHOLE_WRITE_BYTES_MAX), offset + at];
  }
}
