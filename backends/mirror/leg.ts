/**
 * One leg of a mirror: storage behind a Device of its own, which splits, emulates and counts.
 *
 * @module
 */
import { Device } from "../../lib/block/device.ts";
import { BlockError, toBlockError } from "../../lib/block/errors.ts";
import { FLAG_FUA, makeRequest, type Request } from "../../lib/block/request.ts";
import type { Clock, Log } from "../../lib/block/context.ts";
import type {
  Extent,
  Geometry,
  LegStateName,
  LegStatus,
  Maybe,
  Opened,
} from "../../lib/block/types.ts";

/** What a leg is opened from. */
export interface LegSource {
  /** Its spec, for people. */
  readonly name: string;
  /** What it is known by in the log: the spec without its options. */
  readonly identity: string;
  /** Opens it. Throws UsageError or BlockError. */
  open(): Promise<Opened>;
}

/** What a leg needs. */
export interface LegContext {
  readonly clock: Clock;
  readonly log: Log;
}

/** A leg in use, or not. */
export class Leg {
  /** From 1. */
  readonly number: number;
  readonly source: LegSource;
  /** Changed by LegSet alone. */
  state: LegStateName = "failed";
  /**
   * It is copied to because a crash may have left it different, not because it missed a write that was
   * answered: if no other leg is left it may take over.
   */
  candidate = false;
  /** Why it is not in use. */
  error: BlockError | null = null;
  /** Reads that failed since it was opened. */
  readErrors = 0;
  readonly #context: LegContext;
  #device: Device | null = null;
  #closing: Promise<void> = Promise.resolve();

  /** A leg that is not open yet. */
  constructor(number: number, source: LegSource, context: LegContext) {
    this.number = number;
    this.source = source;
    this.#context = context;
  }

  /** For messages. */
  get label(): string {
    return `leg ${this.number} (${this.source.name})`;
  }

  /** Requests in flight. */
  get inFlight(): number {
    return this.#device?.inFlight ?? 0;
  }

  /** What it offers; of one that is not open nothing. */
  get device(): Device | null {
    return this.#device;
  }

  /** Opens it; `expected` is the geometry that it has to fit, null for the first leg. Throws. */
  async open(expected: Geometry | null): Promise<void> {
    await this.#closing;
    const { backend } = await this.source.open();
    try {
      const { clock, log } = this.#context;
      const device = new Device(backend, {
        name: this.label,
        clock,
        log,
        flushAtEnd: false,
      });
      if (expected !== null) checkFit(this.label, device.geometry, expected);
      this.#device = device;
      this.error = null;
      this.readErrors = 0;
    } catch (error) {
      await backend[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Submits a request. */
  submit(request: Request): Maybe<void> {
    if (this.#device === null) {
      throw new BlockError("ENODEV", `Cannot ${request.operation}: ${this.label} is not open`);
    }
    return this.#device.submit(request);
  }

  /** Reads. */
  read(into: Uint8Array, offset: number): Maybe<void> {
    return this.submit(makeRequest("read", offset, into.length, { data: into }));
  }

  /** Writes. */
  write(from: Uint8Array, offset: number, fua: boolean): Maybe<void> {
    const flags = fua ? FLAG_FUA : 0;
    return this.submit(makeRequest("write", offset, from.length, { data: from, flags }));
  }

  /** The extents of a range; one that is data if it cannot tell. */
  extents(offset: number, length: number): Maybe<Extent[]> {
    const request = makeRequest("extents", offset, length);
    const told = (): Extent[] => request.extents ?? [{ length, allocated: true, zero: false }];
    const asked = this.submit(request);
    return asked instanceof Promise ? asked.then(told) : told();
  }

  /** Closes it when what is in flight is done; failures are of no interest any more. */
  close(): Promise<void> {
    const device = this.#device;
    this.#device = null;
    if (device !== null) {
      this.#closing = device[Symbol.asyncDispose]().catch((error: unknown) => {
        this.#context.log.debug(`Closing ${this.label}: ${toBlockError(error).message}`);
      });
    }
    return this.#closing;
  }

  /** As people see it. */
  get status(): LegStatus {
    const statistics = this.#device?.statistics;
    return {
      leg: this.number,
      spec: this.source.name,
      state: this.state,
      error: this.error?.message ?? null,
      inFlight: this.inFlight,
      readBytes: statistics?.read.bytes ?? 0,
      writtenBytes: (statistics?.write.bytes ?? 0) + (statistics?.zero.bytes ?? 0),
      readErrors: this.readErrors,
    };
  }
}

/** Throws EINVAL if a leg cannot be one of a mirror. */
function checkFit(label: string, { size, minimum }: Geometry, expected: Geometry): void {
  if (size !== expected.size) {
    throw new BlockError(
      "EINVAL",
      `Cannot use ${label}: it has ${size} bytes and the mirror has ${expected.size}; ` +
        "make all legs the same size",
    );
  }
  if (minimum <= expected.minimum) return;
  throw new BlockError(
    "EINVAL",
    `Cannot use ${label}: its blocks of ${minimum} bytes are larger than those of the mirror, ` +
      `${expected.minimum}`,
  );
}
