/**
 * The daemon's side of dm-log-userspace: a datagram in, at most one out. Knows all logs by uuid and
 * luid. Opens what tables name through `OpenPlaces` and touches nothing else.
 *
 * The kernel asks again under another number when a reply is late, so every request may come twice, and
 * the second one gets the answer of the first. A log that is not known is answered with ESRCH, which is
 * what the kernel itself finds when no daemon runs: it then makes the log anew and asks again.
 *
 * @module
 */
import type { Log } from "../block/context.ts";
import { BlockError, errnoToLinux, toBlockError } from "../block/errors.ts";
import { REQUEST_TYPES, REQUEST_VERSIONS } from "./constants.ts";
import { DiskStore } from "./disk_store.ts";
import { LOGS_MAX, PAYLOAD_BYTES_MAX, STATUS_ROOM_BYTES } from "./limits.ts";
import { DirtyLog, type LogMedium, type LogPhase } from "./log.ts";
import { type LogArguments, parseLogArguments } from "./log_arguments.ts";
import { decodeFrame, encodeReply, type LogMessage, requestName } from "./message.ts";
import {
  decodeConstructor,
  decodeRegion,
  decodeRegionSync,
  decodeWords,
  encodeDevice,
  encodeText,
  encodeWords,
} from "./payload.ts";
import { type OpenPlace, type OpenPlaces, replyDevice } from "./places.ts";

/** What a session works with. */
export interface LogSessionOptions {
  /** Where disk logs are opened. */
  readonly places: OpenPlaces;
  /** Messages for a human. */
  readonly log: Log;
  /** Monotonic time in µs. */
  now_us(): number;
  /** Hears of each request, and of the error of its answer: 0, or a Linux errno. */
  answered?(message: LogMessage, errno: number): void;
}

/** What a session has done so far. */
export interface LogCounts {
  /** Requests that were answered. */
  requests: number;
  /** Of these, answered with an error. */
  errors: number;
  /** Datagrams that were none of this interface. */
  foreign: number;
}

/** What there is to say of a log, as plain data. */
export interface LogFacts {
  /** The name that its table gives. */
  readonly uuid: string;
  /** Its number in the kernel. */
  readonly luid: bigint;
  /** The type as its table has it. */
  readonly type: string;
  /** Numbers of the device or path of the file that it is kept in; null if it is in memory. */
  readonly place: string | null;
  /** Where it is in its life. */
  readonly phase: LogPhase;
  /** Its medium failed when it was resumed. */
  readonly waitsForMedium: boolean;
  /** Regions of the mirror. */
  readonly regions: number;
  /** Length of a region, in sectors of 512 bytes. */
  readonly regionSectors: number;
  /** Regions that all legs have. */
  readonly inSync: number;
  /** Regions that may differ. */
  readonly dirty: number;
  /** Requests that were answered since it was made here. */
  readonly requests: number;
  /** Of these, answered with an error. */
  readonly errors: number;
}

interface Entry {
  requests: number;
  errors: number;
  readonly uuid: string;
  readonly luid: bigint;
  /** The text of its CTR. */
  readonly text: string;
  readonly log: DirtyLog;
  readonly place: OpenPlace | null;
}

/** A log as others may see it. */
export interface KnownLog {
  /** The name that its table gives. */
  readonly uuid: string;
  /** Its number in the kernel. */
  readonly luid: bigint;
  /** The log itself. */
  readonly log: DirtyLog;
}

type Handler = (entry: Entry, data: Uint8Array) => Uint8Array;

const NOTHING: Uint8Array = new Uint8Array(0);
const { CTR, DTR } = REQUEST_TYPES;
/** Requests that make sense only while a log is in use. */
const WORK: ReadonlySet<number> = new Set([
  REQUEST_TYPES.IS_CLEAN,
  REQUEST_TYPES.IN_SYNC,
  REQUEST_TYPES.FLUSH,
  REQUEST_TYPES.MARK_REGION,
  REQUEST_TYPES.CLEAR_REGION,
  REQUEST_TYPES.GET_RESYNC_WORK,
  REQUEST_TYPES.SET_REGION_SYNC,
  REQUEST_TYPES.IS_REMOTE_RECOVERING,
]);

/**
 * Bytes of answers for which the kernel has room. It writes the length of each answer over that, and asks
 * once more with what is there after it has made a log anew: so an answer that makes it do so must be as
 * long as the real one. Otherwise the real one does not fit, is taken for a failure, and for a region in
 * sync the kernel writes one leg alone while the log goes on calling it clean.
 */
const ANSWER_BYTES: ReadonlyMap<number, number> = new Map([
  [REQUEST_TYPES.IS_CLEAN, 8],
  [REQUEST_TYPES.IN_SYNC, 8],
  [REQUEST_TYPES.GET_RESYNC_WORK, 16],
  [REQUEST_TYPES.GET_SYNC_COUNT, 8],
  [REQUEST_TYPES.STATUS_INFO, STATUS_ROOM_BYTES],
  [REQUEST_TYPES.IS_REMOTE_RECOVERING, 16],
]);

function keyOf(uuid: string, luid: bigint): string {
  return `${luid}/${uuid}`;
}

function malformed(message: LogMessage): BlockError {
  return new BlockError(
    "EINVAL",
    `Cannot answer ${requestName(message.type)} of ${message.uuid}: its payload of ` +
      `${message.data.length} bytes is none`,
  );
}

/** See the top of the file. */
export class LogSession {
  /** What was done so far. */
  readonly counts: LogCounts = { requests: 0, errors: 0, foreign: 0 };
  readonly #options: LogSessionOptions;
  readonly #logs = new Map<string, Entry>();
  readonly #handlers: ReadonlyMap<number, Handler>;

  /** A session without logs. */
  constructor(options: LogSessionOptions) {
    this.#options = options;
    this.#handlers = this.#makeHandlers();
  }

  /** All logs, in the order in which they were made. */
  get logs(): readonly KnownLog[] {
    return [...this.#logs.values()];
  }

  /** What there is to say of each log, in the order in which they were made. */
  facts(): LogFacts[] {
    return [...this.#logs.values()].map(({ uuid, luid, log, place, requests, errors }) => ({
      uuid,
      luid,
      type: log.arguments.type,
      place: place === null ? null : place.place.device ?? place.place.path,
      phase: log.phase,
      waitsForMedium: log.waitsForMedium,
      regions: log.arguments.regions,
      regionSectors: log.arguments.regionSectors,
      inSync: log.syncCount,
      dirty: log.dirtyCount,
      requests,
      errors,
    }));
  }

  /**
   * Answers a datagram. Null for what is no request: a bare acknowledgement, or something foreign. The
   * reply goes to the address that the request came from. Never throws for what the datagram holds.
   */
  handle(datagram: Uint8Array): Uint8Array<ArrayBuffer> | null {
    const decoded = decodeFrame(datagram);
    if (decoded.kind !== "message") {
      if (decoded.kind === "foreign") this.counts.foreign += 1;
      return null;
    }
    const { message } = decoded;
    this.counts.requests += 1;
    let errno = 0, data = NOTHING;
    try {
      data = this.#answer(message);
    } catch (error) {
      this.counts.errors += 1;
      errno = this.#errnoOf(error, message);
      if (error instanceof UnknownLog) data = new Uint8Array(ANSWER_BYTES.get(message.type) ?? 0);
    }
    this.#count(message, errno);
    this.#options.answered?.(message, errno);
    return encodeReply(datagram, -errno, data);
  }

  /** Writes clears that have waited long enough; to be called now and then when there is no request. */
  settle(): void {
    for (const { log } of this.#logs.values()) log.settle(true);
  }

  /** Makes everything durable and forgets all logs. The kernel finds them again with the next daemon. */
  close(): void {
    for (const entry of [...this.#logs.values()]) this.#forget(entry);
  }

  #answer(message: LogMessage): Uint8Array {
    const { uuid, luid, type, data, version } = message;
    if (!REQUEST_VERSIONS.includes(version)) {
      throw new BlockError("EINVAL", `Cannot answer ${uuid}: the version ${version} is unknown`);
    }
    if (uuid === "" || data.length > PAYLOAD_BYTES_MAX) throw malformed(message);
    if (type === CTR) return this.#construct(message);
    const entry = this.#logs.get(keyOf(uuid, luid));
    if (type === DTR) {
      if (entry !== undefined) this.#forget(entry);
      return NOTHING;
    }
    const handler = this.#handlers.get(type);
    if (handler === undefined) {
      throw new BlockError("EINVAL", `Cannot answer ${uuid}: there is no request ${type}`);
    }
    if (entry === undefined) throw new UnknownLog();
    const inUse = entry.log.phase === "active" || entry.log.phase === "halted";
    if (WORK.has(type) && !inUse) {
      if (entry.log.waitsForMedium) throw new UnknownLog();
      throw new BlockError(
        "EINVAL",
        `Cannot answer ${requestName(type)} of ${uuid}: it is not in use`,
      );
    }
    try {
      return handler(entry, data);
    } catch (error) {
      if (error instanceof MalformedPayload) throw malformed(message);
      // A kernel that hears that nobody is there asks again, and what it wants to write waits.
      const waits = WORK.has(type) && entry.log.arguments.blockOnError;
      if (waits && error instanceof BlockError && error.errno === "EIO") throw new UnknownLog();
      throw error;
    }
  }

  #count({ uuid, luid }: LogMessage, errno: number): void {
    const entry = this.#logs.get(keyOf(uuid, luid));
    if (entry === undefined) return;
    entry.requests += 1;
    if (errno !== 0) entry.errors += 1;
  }

  #construct({ uuid, luid, data }: LogMessage): Uint8Array {
    const { text, reconnects } = decodeConstructor(data);
    const known = this.#logs.get(keyOf(uuid, luid));
    if (known !== undefined) {
      const again = known.text === text && (reconnects || known.log.phase === "pending");
      if (again) return this.#constructed(known, reconnects);
      // The kernel would have ended it first: that message found no daemon.
      this.#forget(known);
    }
    if (this.#logs.size >= LOGS_MAX) {
      throw new BlockError(
        "ENOSPC",
        `Cannot make the log ${uuid}: there are ${LOGS_MAX}, the most`,
      );
    }
    const parsed = parseLogArguments(text);
    const entry = this.#make(uuid, luid, text, parsed, reconnects);
    this.#logs.set(keyOf(uuid, luid), entry);
    return this.#constructed(entry, reconnects);
  }

  #make(
    uuid: string,
    luid: bigint,
    text: string,
    parsed: LogArguments,
    reconnected: boolean,
  ): Entry {
    const { places, log, now_us } = this.#options;
    const place = parsed.place === null ? null : places.acquire(parsed.place, uuid, parsed.regions);
    const medium: LogMedium | null = place === null ? null : {
      store: new DiskStore(place.file, parsed.regions),
      label: place.place.device ?? place.place.path,
    };
    const dirtyLog = new DirtyLog({
      name: uuid,
      arguments: parsed,
      medium,
      reconnected,
      log,
      now_us,
    });
    return { uuid, luid, text, log: dirtyLog, place, requests: 0, errors: 0 };
  }

  /**
   * A kernel that reconnects has no room for a device, and holds it already. It goes on trying for as
   * long as this fails, but takes a RESUME that fails for the end of the log: so what can fail there is
   * done here.
   */
  #constructed(entry: Entry, reconnects: boolean): Uint8Array {
    const { place } = entry;
    if (!reconnects) return place === null ? NOTHING : encodeDevice(replyDevice(place.place));
    if (place !== null && !this.#isTaken(entry)) this.#resume(entry);
    return NOTHING;
  }

  #forget(entry: Entry): void {
    this.#logs.delete(keyOf(entry.uuid, entry.luid));
    try {
      if (entry.log.phase !== "suspended") entry.log.writeOut();
    } catch {
      // It was logged, and whoever asked has nothing to do about it.
    }
    if (entry.place !== null) this.#options.places.release(entry.place);
  }

  /** Another log of the same mirror, as while its table is swapped. */
  #sibling(entry: Entry): Entry | null {
    const others = [...this.#logs.values()].filter((each) =>
      each.uuid === entry.uuid && each !== entry && each.log.wasResumed
    );
    return others.at(-1) ?? null;
  }

  /** Another log writes to its medium now. */
  #isTaken(entry: Entry): boolean {
    const other = this.#sibling(entry), { place } = entry;
    return other !== null && other.log.phase !== "suspended" && place !== null &&
      other.place === place;
  }

  #resume(entry: Entry): void {
    if (this.#isTaken(entry)) {
      throw new BlockError(
        "EBUSY",
        `Cannot resume the log ${entry.uuid}: another one writes there`,
      );
    }
    entry.log.resume(this.#sibling(entry)?.log ?? null);
  }

  #makeHandlers(): Map<number, Handler> {
    const t = REQUEST_TYPES;
    const done = (action: (entry: Entry, data: Uint8Array) => void): Handler => (entry, data) => {
      action(entry, data);
      return NOTHING;
    };
    return new Map<number, Handler>([
      [t.PRESUSPEND, done(({ log }) => log.presuspend())],
      [t.POSTSUSPEND, done(({ log }) => log.postsuspend())],
      [t.RESUME, done((entry) => this.#resume(entry))],
      [t.GET_REGION_SIZE, ({ log }) => encodeWords(log.arguments.regionSectors)],
      [t.IS_CLEAN, ({ log }, data) => encodeWords(Number(log.isClean(regionIn(data))))],
      [t.IN_SYNC, ({ log }, data) => encodeWords(Number(log.inSync(regionIn(data))))],
      [
        t.FLUSH,
        done(({ log }, data) => {
          const regions = regionsIn(data);
          if (regions.length > 0) log.mark(regions);
          log.flush();
        }),
      ],
      [t.MARK_REGION, done(({ log }, data) => log.mark(regionsIn(data)))],
      [t.CLEAR_REGION, done(({ log }, data) => log.clear(regionsIn(data)))],
      [t.GET_RESYNC_WORK, ({ log }) => {
        const region = log.resyncWork();
        return region === null ? encodeWords(0, 0) : encodeWords(1, region);
      }],
      [
        t.SET_REGION_SYNC,
        done(({ log }, data) => {
          const wish = decodeRegionSync(data);
          if (wish === null) throw new MalformedPayload();
          log.setRegionSync(wish.region, wish.inSync);
        }),
      ],
      [t.GET_SYNC_COUNT, ({ log }) => encodeWords(log.syncCount)],
      [t.STATUS_INFO, ({ log }) => encodeText(log.statusInfo())],
      [t.STATUS_TABLE, ({ log }) => encodeText(log.statusTable())],
      [t.IS_REMOTE_RECOVERING, ({ log }, data) => {
        log.inSync(regionIn(data)); // a region that is not there is an error
        // No other host copies here. All regions would tell the kernel never again to ask for work.
        return encodeWords(0, log.arguments.regions - 1);
      }],
    ]);
  }

  #errnoOf(error: unknown, message: LogMessage): number {
    const { log } = this.#options;
    if (error instanceof UnknownLog) {
      log.debug(`${requestName(message.type)} of ${message.uuid}: the kernel is to try again`);
      return error.errno;
    }
    const known = toBlockError(error);
    if (known.errno === "EIO" && !(error instanceof BlockError)) {
      log.error(`Cannot answer ${requestName(message.type)} of ${message.uuid}`, error);
    } else if (known.errno === "EIO") log.debug(known.message); // the log has said so, once
    else log.warn(known.message);
    return errnoToLinux(known.errno);
  }
}

/** The payload of a request cannot be read. */
class MalformedPayload extends Error {}

/** Nobody has made this log here, or a daemon before this one has, or it has to wait for its medium. */
class UnknownLog extends Error {
  /** ESRCH. */
  readonly errno = 3;
}

function regionIn(data: Uint8Array): number {
  const region = decodeRegion(data);
  if (region === null) throw new MalformedPayload();
  return region;
}

function regionsIn(data: Uint8Array): number[] {
  const regions = decodeWords(data);
  if (regions === null) throw new MalformedPayload();
  return regions;
}
