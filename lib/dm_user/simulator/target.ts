/**
 * One device-mapper target of type `user` in the simulated kernel: numbers BIOs, queues them, hands
 * them out to its channels in order, and knows when nobody is there to answer. Time and chance come from
 * the context: chance picks which of several waiting channels gets a message.
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { REQUEST_FLAGS, REQUEST_FLAGS_KNOWN, REQUEST_TYPES } from "../constants.ts";
import { DAEMON_WAIT_MS } from "../limits.ts";
import { describeFlags, requestTypeName } from "../message.ts";
import { type MappedBio, STATUS_EIO } from "./bio.ts";
import { Channel, type ChannelHost, type WaitingRead } from "./channel.ts";
import type { SimulatorEventKind, SimulatorListener } from "./event.ts";
import { PendingMessage } from "./pending_message.ts";

/** How the target behaves; what is left out is as in the later version, with policy "wait". */
export interface TargetOptions {
  /**
   * "v1": the first version, which takes no flushes and kills ZONE_RESET_ALL and BIOs with DRV or
   * SWAP. "later" (the default): versions with the flush flag, which send all of these.
   */
  readonly version?: "v1" | "later";
  /** Whether flushes and FUA reach the daemon; by the version if left out. */
  readonly flush?: boolean;
  /** Whether the target declares DISCARD; it does not by default. */
  readonly discard?: boolean;
  /** Whether the target declares WRITE_ZEROES; it does not by default. */
  readonly writeZeroes?: boolean;
  /**
   * Without a daemon: "wait" (the default) lets I/O wait for ever. "fail": EIO after DAEMON_WAIT_MS if
   * no daemon ever came, and at once after the last channel is closed, what is queued included.
   */
  readonly policy?: "wait" | "fail";
  /** Most messages outstanding at a time, at least 1; further BIOs wait to be mapped. No bound by default. */
  readonly outstandingMax?: number;
}

/** What a target takes from its kernel. */
export interface TargetContext extends Pick<OpenContext, "clock" | "random"> {
  /** Gets every event; null if nobody listens. */
  readonly listener: SimulatorListener | null;
  /** A number for the next channel. */
  nextChannelId(): number;
}

const V1_FLAGS = REQUEST_FLAGS_KNOWN & ~(REQUEST_FLAGS.DRV | REQUEST_FLAGS.SWAP);

function checkOptions({ outstandingMax }: TargetOptions): void {
  if (outstandingMax === undefined) return;
  if (Number.isSafeInteger(outstandingMax) && outstandingMax >= 1) return;
  throw new BlockError(
    "EINVAL",
    `Cannot make a target: outstandingMax is ${outstandingMax}, at least 1 is possible`,
  );
}

/** A target. Made by `SimulatedKernel.create`. */
export class Target implements ChannelHost {
  /** Name of the control device. */
  readonly name: string;
  /** What it declares: the block layer sends nothing else. */
  readonly declares: {
    readonly flush: boolean;
    readonly discard: boolean;
    readonly writeZeroes: boolean;
  };

  readonly #context: TargetContext;
  readonly #v1: boolean;
  readonly #failAlone: boolean;
  readonly #outstandingMax: number;
  /** Messages that nobody has taken; those before `#queueHead` are gone. */
  #queue: PendingMessage[] = [];
  #queueHead = 0;
  /** BIOs that wait for room under the cap. */
  readonly #unmapped: MappedBio[] = [];
  readonly #waiting: WaitingRead[] = [];
  readonly #channels = new Set<Channel>();
  #waking = false;
  #mapping = false;
  #seq = 0;
  #outstanding = 0;
  #everOpened = false;
  #removed = false;
  #freed = false;
  /** Ends the wait for the first daemon (policy "fail"); null if nothing waits. */
  #patience: AbortController | null = null;

  /** A target without channels. Throws EINVAL for an impossible option. */
  constructor(name: string, options: TargetOptions, context: TargetContext) {
    checkOptions(options);
    this.name = name;
    this.#context = context;
    this.#v1 = options.version === "v1";
    this.#failAlone = options.policy === "fail";
    this.#outstandingMax = options.outstandingMax ?? Infinity;
    const { flush = !this.#v1, discard = false, writeZeroes = false } = options;
    this.declares = { flush, discard, writeZeroes };
  }

  /** Messages that were mapped and are not completed. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Messages that nobody has taken yet. */
  get queued(): number {
    return this.#queue.length - this.#queueHead;
  }

  /** BIOs that wait for room under `outstandingMax`. */
  get unmapped(): number {
    return this.#unmapped.length;
  }

  /** Reads that wait for a message. */
  get waitingReads(): number {
    return this.#waiting.length;
  }

  /** Channels that are not released. */
  get channelCount(): number {
    return this.#channels.size;
  }

  /** The target was removed: reads end, nothing new is mapped. */
  get removed(): boolean {
    return this.#removed;
  }

  /** The target was removed and its last channel is gone. */
  get freed(): boolean {
    return this.#freed;
  }

  /** Whether anybody listens to events. */
  get listened(): boolean {
    return this.#context.listener !== null;
  }

  /** Takes a BIO: it is killed, or gets the next seq and is queued. `done` may be called at once. */
  map(bio: MappedBio): void {
    if (this.#removed || !this.#sends(bio)) {
      if (this.listened) {
        const text = `${requestTypeName(bio.type)} flags ${describeFlags(bio.flags)}`;
        this.note("kill", null, null, text);
      }
      bio.done(STATUS_EIO);
      return;
    }
    if (this.#outstanding >= this.#outstandingMax) this.#unmapped.push(bio);
    else this.#enqueue(bio);
  }

  /** Opens the control device. */
  open(): Channel {
    const channel = new Channel(this.#context.nextChannelId(), this);
    this.#channels.add(channel);
    this.#everOpened = true;
    this.#patience?.abort();
    this.#patience = null;
    if (this.listened) this.note("open", channel, null, "");
    return channel;
  }

  /** Destroys the target: its readers get ENOTBLK; it is freed when its last channel is gone. */
  remove(): void {
    if (this.#removed) return;
    this.#removed = true;
    if (this.listened) this.note("remove", null, null, "");
    this.#patience?.abort();
    this.#patience = null;
    this.#wake();
    if (this.#channels.size === 0) this.#free();
  }

  /** See ChannelHost. */
  take(): PendingMessage | null {
    const message = this.#queue[this.#queueHead];
    if (message === undefined) return null;
    this.#queueHead += 1;
    if (this.#queueHead === this.#queue.length) {
      this.#queue.length = this.#queueHead = 0;
    } else if (this.#queueHead >= 1024 && this.#queueHead * 2 >= this.#queue.length) {
      this.#queue = this.#queue.slice(this.#queueHead);
      this.#queueHead = 0;
    }
    return message;
  }

  /** See ChannelHost. */
  wait(read: WaitingRead): void {
    this.#waiting.push(read);
  }

  /** See ChannelHost. */
  unwait(read: WaitingRead): void {
    const index = this.#waiting.indexOf(read);
    if (index >= 0) this.#waiting.splice(index, 1);
  }

  /** See ChannelHost. */
  waitingOf(channel: Channel): WaitingRead[] {
    return this.#waiting.filter((read) => read.channel === channel);
  }

  /** See ChannelHost. */
  complete(message: PendingMessage, status: number, why: string): void {
    this.#outstanding -= 1;
    if (this.listened) this.note("complete", null, message.seq, status === 0 ? "" : `EIO, ${why}`);
    message.complete(status);
    if (this.#unmapped.length > 0) this.#mapWaiting();
  }

  /** See ChannelHost. */
  released(channel: Channel): void {
    this.#channels.delete(channel);
    if (this.#channels.size !== 0) return;
    if (this.#removed) this.#free();
    else if (this.#failAlone) this.#failQueued("the last daemon is gone");
  }

  /** See ChannelHost. */
  explain(seq: number, channel: Channel): string {
    if (!(seq < this.#seq)) return "was never sent";
    if (channel.hasInHand(seq)) return "was not read to its end";
    for (const other of this.#channels) {
      if (other.awaits(seq) || other.hasInHand(seq)) return `belongs to channel ${other.id}`;
    }
    const waits = this.#queue.slice(this.#queueHead).some((message) => message.seq === seq);
    return waits ? "was not read yet" : "is over already";
  }

  /** See ChannelHost. */
  note(kind: SimulatorEventKind, channel: Channel | null, seq: number | null, text: string): void {
    const timeUs = this.#context.clock.now();
    const id = channel?.id ?? null;
    this.#context.listener?.({ timeUs, target: this.name, kind, channel: id, seq, text });
  }

  /** A type or a flag without a number is never sent. */
  #sends({ type, flags }: MappedBio): boolean {
    const typeMax = this.#v1 ? REQUEST_TYPES.ZONE_RESET : REQUEST_TYPES.ZONE_RESET_ALL;
    const known = this.#v1 ? V1_FLAGS : REQUEST_FLAGS_KNOWN;
    return type <= typeMax && flags <= REQUEST_FLAGS_KNOWN && (flags & ~known) === 0;
  }

  /** Maps what waits for room; what is completed on the way makes room in the same loop. */
  #mapWaiting(): void {
    if (this.#mapping) return;
    this.#mapping = true;
    while (this.#outstanding < this.#outstandingMax && !this.#removed) {
      const bio = this.#unmapped.shift();
      if (bio === undefined) break;
      this.#enqueue(bio);
    }
    this.#mapping = false;
  }

  #enqueue(bio: MappedBio): void {
    const message = new PendingMessage(this.#seq, bio, this.#context.clock.now());
    this.#seq += 1;
    this.#outstanding += 1;
    if (this.listened) this.note("map", null, message.seq, message.describe());
    if (this.#failAlone && this.#channels.size === 0 && this.#everOpened) {
      this.complete(message, STATUS_EIO, "the last daemon is gone");
      return;
    }
    this.#queue.push(message);
    this.#wake();
    if (this.#failAlone && !this.#everOpened && this.#patience === null) this.#losePatience();
  }

  /** Lets every read go on that can. */
  #wake(): void {
    if (this.#waking) return;
    this.#waking = true;
    for (let next = this.#nextReader(); next !== null; next = this.#nextReader()) {
      this.unwait(next);
      next.resume();
    }
    this.#waking = false;
  }

  #nextReader(): WaitingRead | null {
    const waiting = this.#waiting;
    if (waiting.length === 0) return null;
    if (this.#removed) return waiting[0] ?? null;
    const goesOn = waiting.find((read) => read.channel.remaining > 0);
    if (goesOn !== undefined) return goesOn;
    if (this.queued === 0) return null;
    const pick = waiting.length === 1 ? 0 : this.#context.random.uint32() % waiting.length;
    // Chance picks the channel; the reads of one channel go in order.
    const channel = waiting[pick]?.channel;
    return waiting.find((read) => read.channel === channel) ?? null;
  }

  /** Policy "fail" before the first daemon: fails each message DAEMON_WAIT_MS after it was mapped. */
  async #losePatience(): Promise<void> {
    const patience = this.#patience = new AbortController();
    const { clock } = this.#context;
    for (;;) {
      const oldest = this.#queue[this.#queueHead];
      if (oldest === undefined) break;
      const leftUs = oldest.mappedAtUs + DAEMON_WAIT_MS * 1000 - clock.now();
      if (leftUs > 0) {
        try {
          await clock.sleep(Math.ceil(leftUs / 1000), patience.signal);
        } catch (error) {
          if (!patience.signal.aborted) throw error;
        }
        if (patience.signal.aborted) return;
        continue;
      }
      this.take();
      this.complete(oldest, STATUS_EIO, "no daemon came");
    }
    this.#patience = null;
  }

  #failQueued(why: string): void {
    for (let next = this.take(); next !== null; next = this.take()) {
      this.complete(next, STATUS_EIO, why);
    }
  }

  #free(): void {
    this.#freed = true;
    this.#failQueued("target freed");
    for (const bio of this.#unmapped.splice(0)) bio.done(STATUS_EIO);
    if (this.listened) this.note("free", null, null, "");
  }
}
