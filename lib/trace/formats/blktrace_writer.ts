/**
 * Writes traces as blktrace does for one CPU, little endian: a request is queued and issued at one time,
 * and completed. See blktrace_record.ts.
 *
 * @module
 */
import { type Errno, errnoToLinux } from "../../block/errors.ts";
import { FLAG_FUA, type Operation } from "../../block/request.ts";
import { BinaryOutput } from "../binary_output.ts";
import type { CompleteEvent, SubmitEvent, TraceEvent, TraceInfo } from "../event.ts";
import { NAMES_MAX } from "../limits.ts";
import { Losses, pieceCount } from "../losses.ts";
import { Pending } from "../pending.ts";
import type { PlainTraceBytes, TraceNotes } from "../source.ts";
import { ACTION, CATEGORY, MAGIC, NOTIFY_TIMESTAMP, RECORD_BYTES } from "./blktrace_record.ts";

const SECTOR_BYTES = 512;
/** Bytes of a request, which a record holds in 32 bits: the most that are whole sectors. */
const LENGTH_MAX = 2 ** 32 - SECTOR_BYTES;
/** The device that a trace is of: sda. */
const DEVICE = 8 << 20;
/** Bytes of a process name, the zero at its end included. */
const NAME_BYTES = 16;

interface Piece {
  readonly sector: number;
  readonly bytes: number;
}

interface Request {
  readonly categories: number;
  readonly pid: number;
  readonly pieces: readonly Piece[];
}

/** Writes one trace. */
export class BlktraceWriter {
  readonly #info: TraceInfo;
  readonly #output = new BinaryOutput();
  readonly #losses = new Losses();
  readonly #pending = new Pending<number, Request>();
  readonly #named = new Set<number>();
  #sequence = 0;

  /** `info` tells whether completions follow, and when the trace began. */
  constructor(info: TraceInfo) {
    this.#info = info;
  }

  /** The bytes of the trace. */
  async *write(batches: AsyncIterable<readonly TraceEvent[]>, notes: TraceNotes): PlainTraceBytes {
    this.#began();
    for await (const batch of batches) {
      for (const event of batch) {
        if (event.kind === "submit") this.#submit(event);
        else this.#complete(event);
        if (this.#output.full) yield this.#output.take();
      }
    }
    yield this.#output.take();
    this.#losses.count(
      "were under way for too long: their completions were left out",
      this.#pending.lost,
    );
    this.#losses.tell(notes);
  }

  #submit(event: SubmitEvent): void {
    const { operation, offset, length, connection, timeUs } = event;
    const categories = this.#categories(operation);
    if (categories === 0) return this.#losses.count(`were left out: blktrace has no ${operation}`);
    if (operation !== "flush" && length === 0) {
      return this.#losses.count("without data were left out");
    }
    if (event.payload !== null || event.digest !== null) {
      this.#losses.count("lost their data or digest");
    }
    if (offset % SECTOR_BYTES !== 0) this.#losses.count("were moved to the beginning of a sector");
    const parts = this.#pieces(offset, operation === "flush" ? 0 : length);
    if (parts.length === 0) return this.#losses.count("were left out: they are too long");
    this.#name(connection, timeUs);
    const fua = (event.flags & FLAG_FUA) === 0 ? 0 : CATEGORY.fua;
    const pending = { categories: categories | fua, pid: connection, pieces: parts };
    for (const part of parts) {
      this.#record(timeUs, ACTION.queue, CATEGORY.queue, pending, part, null);
      this.#record(timeUs, ACTION.issue, CATEGORY.issue, pending, part, null);
    }
    if (this.#info.completes) this.#pending.add(event.id, pending);
  }

  #pieces(offset: number, length: number): Piece[] {
    const first = Math.floor(offset / SECTOR_BYTES);
    if (length <= LENGTH_MAX) return [{ sector: first, bytes: length }];
    const sectors = LENGTH_MAX / SECTOR_BYTES;
    return Array.from({ length: pieceCount(length, LENGTH_MAX) }, (_, index): Piece => {
      const bytes = Math.min(LENGTH_MAX, length - index * LENGTH_MAX);
      return { sector: first + index * sectors, bytes };
    });
  }

  #complete(event: CompleteEvent): void {
    const pending = this.#pending.take(event.id);
    if (pending === null) return;
    for (const part of pending.pieces) {
      const { timeUs, errno } = event;
      this.#record(timeUs, ACTION.complete, CATEGORY.complete, pending, part, errno);
    }
  }

  #categories(operation: Operation): number {
    switch (operation) {
      case "read":
        return CATEGORY.read;
      case "write":
        return CATEGORY.write;
      case "flush":
        return CATEGORY.write | CATEGORY.flush;
      case "trim":
        return CATEGORY.write | CATEGORY.discard;
      case "zero":
        this.#losses.count("that zero became writes");
        return CATEGORY.write;
      case "cache":
      case "extents":
        return 0;
    }
  }

  #record(
    timeUs: number,
    action: number,
    category: number,
    { categories, pid }: Request,
    { sector, bytes }: Piece,
    errno: Errno | null,
  ): void {
    const at = this.#head(timeUs, action | (category | categories) << 16, pid);
    const view = this.#output.view;
    view.setUint32(at + 16, sector % 2 ** 32, true);
    view.setUint32(at + 20, sector / 2 ** 32, true);
    view.setUint32(at + 24, bytes, true);
    if (errno !== null) view.setInt16(at + 44, -errnoToLinux(errno), true);
  }

  /** A record without a place; gives where it is. */
  #head(timeUs: number, action: number, pid: number, after = 0): number {
    const at = this.#output.room(RECORD_BYTES + after), view = this.#output.view;
    const ns = Math.round(Math.max(0, timeUs) * 1e3);
    view.setUint32(at, MAGIC, true);
    view.setUint32(at + 4, this.#sequence += 1, true);
    view.setUint32(at + 8, ns % 2 ** 32, true);
    view.setUint32(at + 12, ns / 2 ** 32, true);
    view.setUint32(at + 28, action, true);
    view.setUint32(at + 32, pid, true);
    view.setUint32(at + 36, DEVICE, true);
    view.setUint16(at + 46, after, true);
    return at;
  }

  #began(): void {
    const { started_ms } = this.#info;
    if (started_ms === null) return;
    const at = this.#head(0, NOTIFY_TIMESTAMP | CATEGORY.notify << 16, 0, 8) + RECORD_BYTES;
    this.#output.view.setUint32(at, started_ms / 1000, true);
    this.#output.view.setUint32(at + 4, started_ms % 1000 * 1e6, true);
  }

  /** Gives a process that is new the name of the target. */
  #name(pid: number, timeUs: number): void {
    if (this.#named.has(pid) || this.#named.size >= NAMES_MAX) return;
    this.#named.add(pid);
    const at = this.#head(timeUs, CATEGORY.notify << 16, pid, NAME_BYTES) + RECORD_BYTES;
    const name = new Uint8Array(this.#output.view.buffer, at, NAME_BYTES - 1);
    new TextEncoder().encodeInto(this.#info.target ?? "dmu", name);
  }
}
