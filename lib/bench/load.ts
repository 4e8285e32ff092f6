/**
 * A load: which request comes next and when, and what became of it. Whoever moves the requests (see
 * device_load.ts and nbd_load.ts) asks with a free slot, submits what it holds, and says when it is done.
 * Nothing is made for a request: a slot is used again and again.
 *
 * @module
 */
import type { BlockError } from "../block/errors.ts";
import { type Gate, NO_DATA, OPEN_GATE, type Request } from "../block/request.ts";
import { seededRandom } from "../testing/random.ts";
import { largestOf } from "./block_sizes.ts";
import { Sequence, type SequenceSettings } from "./sequence.ts";
import type { Stamps } from "./stamps.ts";
import { LoadTally } from "./tally.ts";

/** When a load ends: whichever is first; at least one is told. */
export interface LoadEnd {
  /** After so many µs. */
  readonly timeUs?: number | undefined;
  /** After so many requests. */
  readonly requests?: number | undefined;
  /** After so many bytes: the request that reaches it is the last one. */
  readonly bytes?: number | undefined;
}

/** Settings of a load. */
export interface LoadSettings extends SequenceSettings {
  /** When it ends. */
  readonly end: LoadEnd;
  /** Requests a second; as many as possible if not told. */
  readonly rate?: number | undefined;
  /** Stamps what is written and compares what is read. */
  readonly stamps?: Stamps | undefined;
  /** Connections, for counting; 1 if not told. */
  readonly connections?: number | undefined;
  /** Time at the beginning, in µs, whose requests are made and not counted; only where the end is a time. */
  readonly warmUpUs?: number | undefined;
  /** Called when the warm-up is over. */
  readonly onWarm?: (() => void) | undefined;
}

/** Room for one request in flight. A Device takes it as it is. */
export class LoadSlot implements Request {
  operation: "read" | "write" = "read";
  offset = 0;
  length = 0;
  readonly flags = 0;
  data: Uint8Array = NO_DATA;
  readonly gate: Gate = OPEN_GATE;
  /** When it was submitted, or was due. */
  startUs = 0;
  /** The connection that it is for. */
  readonly connection: number;
  /** Room for the largest request. */
  readonly #buffer: Uint8Array;

  /** `bytes` is the length of the largest request. */
  constructor(bytes: number, connection: number) {
    this.connection = connection;
    // Stamps are looked at as words.
    this.#buffer = new Uint8Array(Math.ceil(bytes / 4) * 4);
    // Zeroes would be treated specially by many disks.
    seededRandom(connection).fill(this.#buffer);
  }

  /** Takes over what the sequence is at. */
  take({ writes, offset, length }: Sequence): void {
    this.operation = writes ? "write" : "read";
    this.offset = offset;
    if (this.length === length) return;
    this.length = length;
    this.data = this.#buffer.subarray(0, length);
  }
}

/** Why no request can be begun now. */
export type Pause =
  /** One has to end before. */
  | "conflict"
  /** The next one is not due yet, see `dueUs`. */
  | "early"
  /** There are no more. */
  | "over";

/** A load on its way. Times are µs of the clock of whoever runs it. */
export class Load {
  /** When the next request is due, after a pause "early". */
  dueUs = 0;
  /** Requests that were begun. */
  begun = 0;
  /** Requests in flight. */
  inFlight = 0;

  readonly settings: LoadSettings;
  readonly #sequence: Sequence;
  readonly #tally: LoadTally;
  readonly #requestsMax: number;
  readonly #bytesMax: number;
  readonly #stamps: Stamps | null;
  #startUs = Number.NaN;
  /** Requests that began before are not counted. */
  #countFromUs = Number.NaN;
  #warm = false;
  #endUs = Infinity;
  #bytes = 0;
  /** The sequence is at a request that was not begun. */
  #held = false;
  #stopped = false;
  #interrupted = false;

  /** Throws RangeError for settings that fit no request. */
  constructor(settings: LoadSettings) {
    this.settings = settings;
    this.#sequence = new Sequence(settings);
    this.#tally = new LoadTally(settings.connections ?? 1);
    this.#requestsMax = settings.end.requests ?? Infinity;
    this.#bytesMax = settings.end.bytes ?? Infinity;
    this.#stamps = settings.stamps ?? null;
  }

  /** Bytes of the largest request. */
  get slotBytes(): number {
    return largestOf(this.settings.blockSizes);
  }

  /** Begins to measure. */
  start(nowUs: number): void {
    const { warmUpUs = 0, end } = this.settings;
    this.#startUs = nowUs;
    this.#warm = warmUpUs === 0;
    this.#countFromUs = nowUs + warmUpUs;
    this.#endUs = this.#countFromUs + (end.timeUs ?? Infinity);
  }

  /** No more requests are begun: somebody ended it early. */
  interrupt(): void {
    this.#interrupted = true;
    this.#stopped = true;
  }

  /** The number of requests that are done. */
  get done(): number {
    return this.#tally.count;
  }

  /** How far it is, 0 to 1, by the end that is nearest. */
  progress(nowUs: number): number {
    const { timeUs, requests, bytes } = this.settings.end;
    const shares = [
      timeUs === undefined ? 0 : (nowUs - this.#countFromUs) / timeUs,
      requests === undefined ? 0 : this.done / requests,
      bytes === undefined ? 0 : this.#bytes / bytes,
    ];
    return Math.min(1, Math.max(0, ...shares));
  }

  /** Puts the next request into a slot, to be submitted now; or says why there is none. */
  begin(slot: LoadSlot, nowUs: number): Pause | null {
    if (
      this.#stopped || nowUs >= this.#endUs || this.begun >= this.#requestsMax ||
      this.#bytes >= this.#bytesMax
    ) {
      this.#stopped = true;
      return "over";
    }
    if (!this.#warm && nowUs >= this.#countFromUs) {
      this.#warm = true;
      this.settings.onWarm?.();
    }
    const { rate } = this.settings;
    if (rate === undefined) slot.startUs = nowUs;
    else {
      this.dueUs = slot.startUs = this.#startUs + this.begun * 1e6 / rate;
      if (nowUs < this.dueUs) return "early";
    }
    const sequence = this.#sequence;
    if (!this.#held) {
      sequence.next();
      this.#held = true;
    }
    const { offset, length, writes } = sequence;
    const stamps = this.#stamps;
    if (stamps !== null && !stamps.enter(offset, length, writes)) return "conflict";
    this.#held = false;
    slot.take(sequence);
    if (stamps !== null && writes) {
      stamps.wrote(offset, length, sequence.count);
      stamps.fill(slot.data, offset, sequence.count);
    } else if (stamps !== null) {
      // What was read before must not pass for what is read now.
      slot.data.fill(0);
    }
    this.begun += 1;
    this.inFlight += 1;
    this.#bytes += length;
    return null;
  }

  /** The request of a slot is done. */
  finish(slot: LoadSlot, error: BlockError | null, nowUs: number): void {
    this.inFlight -= 1;
    const { offset, length } = slot;
    const writes = slot.operation === "write";
    const latencyUs = nowUs - slot.startUs;
    if (this.#stamps !== null) {
      this.#stamps.leave(offset, length, writes);
      if (error !== null) {
        if (writes) this.#stamps.failed(offset, length);
      } else if (!writes) this.#stamps.check(slot.data, offset);
    }
    if (error === null) {
      if (slot.startUs < this.#countFromUs) return;
      this.#tally.done(writes, length, latencyUs, slot.connection);
    } else this.#tally.failed({ writes, offset, length }, latencyUs, error);
  }

  /** The report, when nothing is in flight any more. `cpuUs` is what this process has used. */
  report(nowUs: number, cpuUs: number | null): ReturnType<LoadTally["report"]> {
    const stamps = this.#stamps;
    return this.#tally.report({
      durationUs: Math.max(0, nowUs - this.#countFromUs),
      interrupted: this.#interrupted,
      cpuUsPerRequest: cpuUs === null || this.done === 0 ? null : cpuUs / this.done,
      verify: stamps === null ? null : {
        checked: stamps.checked,
        blockBytes: stamps.blockBytes,
        faultCount: stamps.faultCount,
        faults: stamps.faults,
      },
    });
  }
}

/** Notes in `stamps` what the requests of a load have written, `count` of them, as if they were done. */
export function replaySequence(settings: SequenceSettings, count: number, stamps: Stamps): void {
  const sequence = new Sequence(settings);
  while (sequence.count < count) {
    sequence.next();
    if (sequence.writes) stamps.wrote(sequence.offset, sequence.length, sequence.count);
  }
}
