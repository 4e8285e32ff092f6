/**
 * The writer's side of the log: fills segments, seals them, creates several objects at a time and
 * acknowledges in the order of the log alone.
 *
 * Order. An object counts as durable once it and all before it exist. No more than `windowSlots` objects
 * are begun from the first that is not durable on: whoever takes the log over relies on it.
 *
 * Sealing. A segment is sealed when it is full, when a flush asks for it, when its first extent is
 * `sealAfterMs` old, and before a checkpoint. Flushes of one turn of the event loop share a segment. While an
 * object that was sealed for flushes is on its way the next flush waits for it, and then for a moment for those
 * who were answered (`flush_group.ts`): whatever comes meanwhile joins it. That is what makes many
 * small durable writes cost few requests.
 *
 * Failure. An object that cannot be created stays in memory: the flushes that wait for it fail, and it is
 * tried again at the next flush, and after a time. An object of a higher epoch in one of our slots means that
 * another writer has taken over: from then on nothing is written or acknowledged any more.
 *
 * @module
 */
import { BlockError, toBlockError } from "../block/errors.ts";
import type { Maybe } from "../block/types.ts";
import type { ObjectStore } from "../object_store/types.ts";
import { damaged } from "./bytes.ts";
import type { DiskContext } from "./context.ts";
import { type CreateOutcome, createOwn } from "./create_own.ts";
import { emptyRun, type ExtentMap } from "./extent_map.ts";
import { FlushGroup } from "./flush_group.ts";
import { RETRY_AFTER_MS } from "./limits.ts";
import type { LogHeader } from "./log_object.ts";
import { logKey } from "./names.ts";
import { Segment } from "./segment.ts";

/** How a writer behaves. */
export interface WriterSettings {
  /** Bytes that are not durable yet above which writes wait. */
  readonly dirtyBytesMax: number;
  /** Time after which data that nobody flushes is sent, ms. */
  readonly sealAfterMs: number;
  /** Objects on their way at a time. */
  readonly putsMax: number;
  /** Bytes of data at which an object is sealed; at most OBJECT_DATA_BYTES_MAX. */
  readonly objectBytes: number;
}

/** Who writes, and where it begins. */
export interface WriterIdentity {
  /** Volume id. */
  readonly volume: string;
  /** Nonce of this attach. */
  readonly nonce: string;
  /** Epoch of this attach. */
  readonly epoch: number;
  /** The first slot. */
  readonly first: number;
  /** Slots that may be unacknowledged. */
  readonly windowSlots: number;
}

/** What is told of objects. */
export interface WriterEvents {
  /** Done when an object may be created; null if it may at once. */
  readonly beforeCreate: (() => Promise<void>) | null;
  /** A segment was sealed. */
  sealed(segment: Segment, headerBytes: number): void;
  /** An object, and all before it, are durable. */
  durable(segment: Segment): void;
}

interface Outgoing {
  readonly segment: Segment;
  readonly body: readonly Uint8Array<ArrayBuffer>[];
  /** It was sealed because somebody waits for it. */
  readonly forFlush: boolean;
  /** Flushes that wait for it. */
  flushes: number;
  /** When it was sealed, µs. */
  readonly sealedUs: number;
  state: "waiting" | "sent" | "created" | "failed";
}

interface Waiter {
  readonly seq: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface RoomWaiter {
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** Writes the log of one attach. */
export class LogWriter {
  readonly #store: ObjectStore;
  readonly #context: DiskContext;
  readonly #settings: WriterSettings;
  readonly #identity: WriterIdentity;
  readonly #events: WriterEvents;
  readonly #map: ExtentMap;
  #diskBytes: number;
  /** The size that the last durable object tells. */
  #durableBytes: number;
  #open: Segment | null = null;
  #next: number;
  /** Sealed and not durable, in the order of the log. */
  #outgoing: Outgoing[] = [];
  #bySeq = new Map<number, Segment>();
  #sent = 0;
  #sentForFlush = 0;
  #dirtyBytes = 0;
  /** Sequence number up to which somebody waits; the open segment is among it if it is to be sealed. */
  #wanted = 0;
  #turnBegun = false;
  readonly #group = new FlushGroup();
  #gatherRuns = false;
  #timerRuns = false;
  #retryRuns = false;
  #waiters: Waiter[] = [];
  #room: RoomWaiter[] = [];
  readonly #run = emptyRun();
  #failure: BlockError | null = null;
  #ended = false;
  readonly #end = new AbortController();
  readonly #timers: AbortSignal;

  constructor(
    store: ObjectStore,
    map: ExtentMap,
    diskBytes: number,
    identity: WriterIdentity,
    settings: WriterSettings,
    events: WriterEvents,
    context: DiskContext,
  ) {
    this.#store = store;
    this.#map = map;
    this.#diskBytes = diskBytes;
    this.#durableBytes = diskBytes;
    this.#identity = identity;
    this.#settings = settings;
    this.#events = events;
    this.#context = context;
    this.#next = identity.first;
    this.#timers = AbortSignal.any([this.#end.signal, context.signal]);
  }

  /** Why nothing can be written any more; null while it can. */
  get failure(): BlockError | null {
    return this.#failure;
  }

  /** The last object that is durable, all before it included: the claim at first. */
  get durable(): number {
    return this.#real(this.#durableEnd - 1);
  }

  /** The last object that is sealed, durable or not: the claim at first. */
  get sealed(): number {
    return this.#real(this.position - 1);
  }

  /** Between the claim and the first object lie the void slots. */
  #real(seq: number): number {
    const { first, windowSlots } = this.#identity;
    return seq < first ? first - windowSlots : seq;
  }

  /** The first slot that is not durable. */
  get #durableEnd(): number {
    return this.#outgoing[0]?.segment.seq ?? this.position;
  }

  /** The segment that the next write goes to. */
  get position(): number {
    return this.#open?.seq ?? this.#next;
  }

  /** Bytes of data that are not durable yet. */
  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  /** Size of the disk, bytes. */
  get diskBytes(): number {
    return this.#diskBytes;
  }

  /** Size of the disk after the last object that is durable, bytes. */
  get durableBytes(): number {
    return this.#durableBytes;
  }

  /** The segment with that number, if it is in memory. */
  segment(seq: number): Segment | null {
    return this.#bySeq.get(seq) ?? null;
  }

  /** Done at once if there is room for so many bytes of data, else when there is; in the order of the calls. */
  room(bytes: number): Maybe<void> {
    this.#check();
    const fits = this.#dirtyBytes === 0 || this.#dirtyBytes + bytes <= this.#settings.dirtyBytesMax;
    if (fits && this.#room.length === 0) return;
    // What holds it up may be an object that failed: this is somebody who wants it tried again.
    this.#retry();
    return new Promise((resolve, reject) => this.#room.push({ bytes, resolve, reject }));
  }

  #check(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#ended) {
      throw new BlockError("ESHUTDOWN", `Cannot write to ${this.#store.name}: closed`);
    }
  }

  /** The segment to add to, which has room for `bytes` of data. */
  #segment(bytes: number): Segment {
    const open = this.#open;
    if (open !== null) {
      if (open.dataBytes + bytes <= this.#settings.objectBytes && !open.isFull) return open;
      this.#seal(false);
    }
    return this.#openSegment();
  }

  #openSegment(): Segment {
    const { volume, nonce, epoch } = this.#identity, seq = this.#next;
    const segment = new Segment(
      { volume, nonce, seq, epoch, diskBytes: this.#diskBytes },
      this.#context.clock.now(),
    );
    this.#next += 1;
    this.#open = segment;
    this.#bySeq.set(seq, segment);
    this.#map.objects(0).add(seq, 0, 0);
    this.#armTimer();
    return segment;
  }

  /** Adds data of at most WHOLE_WRITE_BYTES_MAX, which goes into one object. There has to be `room`. */
  write(from: Uint8Array, offset: number): void {
    this.#check();
    if (this.#overwrite(from, offset)) return;
    const segment = this.#segment(from.length);
    const at = segment.write(from, offset);
    this.#map.write(offset, from.length, 0, segment.seq, at);
    this.#filled(segment, from.length);
  }

  /** True if what is there is in the open segment, in one piece: then it is changed in its place. */
  #overwrite(from: Uint8Array, offset: number): boolean {
    const open = this.#open, run = this.#run;
    if (open === null || !open.isChangeable) return false;
    this.#map.find(offset, from.length, run);
    const isHere = run.kind === "data" && run.origin === 0 && run.seq === open.seq &&
      run.length === from.length;
    if (isHere) open.overwrite(from, run.at);
    return isHere;
  }

  /** Adds zeroes or a hole. */
  clear(kind: "zero" | "trim", offset: number, length: number): void {
    this.#check();
    this.#segment(0).clear(kind, offset, length);
    if (kind === "zero") this.#map.zero(offset, length);
    else this.#map.trim(offset, length);
  }

  /** Adds data that is to be found elsewhere, as it is there; the map has to show it there in one piece. */
  move(
    from: Uint8Array,
    offset: number,
    source: { readonly origin: number; readonly seq: number; readonly at: number },
  ): void {
    this.#check();
    const segment = this.#segment(from.length), { length } = from;
    const { origin, seq, at } = source;
    const place = segment.move(from, { kind: "move", offset, length, origin, seq, at });
    this.#map.move(offset, length, source, { origin: 0, seq: segment.seq, at: place });
    this.#filled(segment, length);
  }

  #filled(segment: Segment, bytes: number): void {
    this.#dirtyBytes += bytes;
    if (segment.dataBytes >= this.#settings.objectBytes) this.#seal(false);
  }

  /** Records another size of the disk: in an object of its own, so that all before it has the old size. */
  resize(diskBytes: number): void {
    this.#check();
    this.sealNow();
    const before = this.#diskBytes;
    this.#diskBytes = diskBytes;
    this.#openSegment();
    if (diskBytes < before) this.#map.trim(diskBytes, before - diskBytes);
    this.#seal(true);
  }

  /** Seals what is open, if anything is. */
  sealNow(): void {
    if (this.#open !== null) this.#seal(false);
  }

  #seal(forFlush: boolean, detach = false): void {
    const segment = this.#open;
    if (segment === null) return;
    this.#open = null;
    const { body, headerBytes } = segment.seal(detach);
    this.#map.objects(0).seal(segment.seq, headerBytes, segment.dataBytes);
    const flushes = this.#group.sealed(), sealedUs = this.#context.clock.now();
    this.#outgoing.push({
      segment,
      body,
      forFlush: forFlush || flushes > 0,
      flushes,
      sealedUs,
      state: "waiting",
    });
    this.#events.sealed(segment, headerBytes);
    this.#send();
  }

  /** Sends what waits, as far as the window and the number of requests allow. */
  #send(): void {
    const [first] = this.#outgoing;
    if (first === undefined) return;
    const end = first.segment.seq + this.#identity.windowSlots;
    for (const outgoing of this.#outgoing) {
      if (outgoing.segment.seq >= end || this.#sent >= this.#settings.putsMax) return;
      if (outgoing.state === "waiting") void this.#put(outgoing);
    }
  }

  async #put(outgoing: Outgoing): Promise<void> {
    if (this.#failure !== null) return;
    const { segment, body, forFlush } = outgoing;
    outgoing.state = "sent";
    this.#sent += 1;
    if (forFlush) this.#sentForFlush += 1;
    try {
      const object = { seq: segment.seq, nonce: this.#identity.nonce, body };
      const { beforeCreate } = this.#events;
      if (beforeCreate !== null) await beforeCreate();
      this.#settled(outgoing, await createOwn(this.#store, object, this.#context));
    } catch (error) {
      this.#putFailed(outgoing, error);
    } finally {
      this.#sent -= 1;
      if (forFlush) this.#sentForFlush -= 1;
      this.#sealWanted();
      this.#send();
    }
  }

  #settled(outgoing: Outgoing, outcome: CreateOutcome): void {
    if (outcome !== "ours") {
      this.#fail(this.#takenOver(outgoing.segment.seq, outcome));
      return;
    }
    outgoing.state = "created";
    this.#acknowledge();
  }

  #takenOver(seq: number, header: LogHeader): BlockError {
    const { epoch } = this.#identity, { name } = this.#store;
    if (header.epoch > epoch) {
      return new BlockError(
        "EROFS",
        `Cannot write to ${name}: another writer has taken it over (epoch ${header.epoch}, ours was ${epoch})`,
      );
    }
    return damaged(
      `${name}/${logKey(seq)}`,
      `it is of epoch ${header.epoch} in a slot of ${epoch}`,
    );
  }

  /** Nothing is acknowledged any more, whatever is still on its way. */
  #fail(error: BlockError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#context.log.error(error.message);
    this.#end.abort(error);
    this.#rejectFrom(0, error);
  }

  /** In the order of the log: what exists behind a gap is not durable. */
  #acknowledge(): void {
    if (this.#failure !== null) return;
    let flushes = 0, sealedUs = 0;
    while (this.#outgoing[0]?.state === "created") {
      const done = this.#outgoing.shift();
      if (done === undefined) break;
      flushes += done.flushes;
      sealedUs = done.sealedUs;
      this.#bySeq.delete(done.segment.seq);
      this.#dirtyBytes -= done.segment.dataBytes;
      this.#durableBytes = done.segment.identity.diskBytes;
      this.#events.durable(done.segment);
    }
    const end = this.#durableEnd;
    if (flushes > 0) {
      const nowUs = this.#context.clock.now();
      this.#group.answered(flushes, nowUs - sealedUs, nowUs);
    }
    const done = this.#waiters.filter(({ seq }) => seq < end);
    if (done.length > 0) this.#waiters = this.#waiters.filter(({ seq }) => seq >= end);
    for (const { resolve } of done) resolve();
    this.#giveRoom();
  }

  #giveRoom(): void {
    let promised = 0;
    while (this.#room.length > 0) {
      const [first] = this.#room;
      const used = this.#dirtyBytes + promised;
      if (first === undefined) return;
      if (used > 0 && used + first.bytes > this.#settings.dirtyBytesMax) return;
      promised += first.bytes;
      this.#room.shift();
      first.resolve();
    }
  }

  #rejectFrom(seq: number, error: BlockError): void {
    this.#group.failed();
    for (const each of this.#outgoing) if (each.segment.seq >= seq) each.flushes = 0;
    const failed = this.#waiters.filter((waiter) => waiter.seq >= seq);
    this.#waiters = this.#waiters.filter((waiter) => waiter.seq < seq);
    const noRoom = this.#room;
    this.#room = [];
    for (const { reject } of [...failed, ...noRoom]) reject(error);
  }

  #putFailed(outgoing: Outgoing, error: unknown): void {
    outgoing.state = "failed";
    if (this.#failure !== null) return;
    const reason = toBlockError(error);
    this.#context.log.error(reason.message);
    this.#rejectFrom(outgoing.segment.seq, reason);
    void this.#retryLater();
  }

  /** What failed is tried again. */
  #retry(): void {
    if (this.#failure !== null) return;
    for (const outgoing of this.#outgoing) {
      if (outgoing.state === "failed") outgoing.state = "waiting";
    }
    this.#send();
  }

  async #retryLater(): Promise<void> {
    if (this.#retryRuns || this.#ended) return;
    this.#retryRuns = true;
    try {
      await this.#context.clock.sleep(RETRY_AFTER_MS, this.#timers);
    } catch {
      return; // at the end of the disk
    } finally {
      this.#retryRuns = false;
    }
    this.#retry();
  }

  /** Done when everything that was written before is durable. */
  flush(): Maybe<void> {
    if (this.#failure !== null) throw this.#failure;
    const target = this.#next - 1;
    if (target < this.#durableEnd) return;
    this.#wanted = target;
    const last = this.#outgoing.at(-1);
    if (this.#open !== null) this.#group.joined();
    else if (last !== undefined) last.flushes += 1;
    this.#retry();
    this.#beginTurn();
    return this.whenDurable(target);
  }

  /** Done when an object, and all before it, are durable; it has to be sealed, or somebody has to want it. */
  whenDurable(seq: number): Maybe<void> {
    if (this.#failure !== null) throw this.#failure;
    if (seq < this.#durableEnd) return;
    return new Promise((resolve, reject) => this.#waiters.push({ seq, resolve, reject }));
  }

  /** Flushes that come before the event loop goes on share an object. */
  #beginTurn(): void {
    if (this.#turnBegun) return;
    this.#turnBegun = true;
    queueMicrotask(() => {
      this.#turnBegun = false;
      this.#sealWanted();
    });
  }

  #sealWanted(): void {
    if (this.#open === null || this.#open.seq > this.#wanted || this.#failure !== null) return;
    if (this.#sentForFlush > 0) return;
    const holdUs = this.#group.holdUs(this.#context.clock.now());
    if (holdUs > 0) void this.#gather(holdUs);
    else this.#seal(true);
  }

  /** Lets others join a flush that could go. */
  async #gather(holdUs: number): Promise<void> {
    if (this.#gatherRuns) return;
    this.#gatherRuns = true;
    try {
      await this.#context.clock.sleep(Math.ceil(holdUs / 1000), this.#timers);
    } catch {
      return; // at the end of the disk
    } finally {
      this.#gatherRuns = false;
    }
    this.#sealWanted();
  }

  /** Sees that nothing stays in memory for long that nobody flushes. */
  #armTimer(): void {
    if (this.#timerRuns) return;
    this.#timerRuns = true;
    // What it rejects with is the end of the disk.
    this.#runTimer().catch(() => {});
  }

  async #runTimer(): Promise<void> {
    const { clock } = this.#context, afterUs = this.#settings.sealAfterMs * 1000;
    try {
      for (let open = this.#open; open !== null; open = this.#open) {
        const leftUs = open.openedUs + afterUs - clock.now();
        if (leftUs > 0) await clock.sleep(Math.ceil(leftUs / 1000), this.#timers);
        else this.#seal(false);
      }
    } finally {
      this.#timerRuns = false;
    }
  }

  /** The last object: says that this writer writes nothing any more. Then it is closed, whatever happened. */
  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      if (this.#failure !== null) throw this.#failure;
      if (this.#open === null) this.#openSegment();
      const last = this.#next - 1;
      this.#ended = true;
      this.#seal(true, true);
      this.#retry();
      await this.whenDurable(last);
    } finally {
      this.#ended = true;
      this.#end.abort(new BlockError("ESHUTDOWN", `${this.#store.name} is closed`));
    }
  }
}
