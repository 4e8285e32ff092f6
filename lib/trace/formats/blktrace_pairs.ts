/**
 * From records of the block layer to requests: which record begins a request, and which ends it.
 *
 * @module
 */
import { errnoFromLinux } from "../../block/errors.ts";
import { FLAG_FUA, type Operation } from "../../block/request.ts";
import { type EventList, NO_LATENCY } from "../event_list.ts";
import { TRACE_DEVICES_MAX } from "../limits.ts";
import { Pending } from "../pending.ts";
import type { TraceNotes } from "../source.ts";
import { ACTION, type BlktraceRecord, CATEGORY } from "./blktrace_record.ts";

const SECTOR_BYTES = 512;
/** Requests under way at one sector, of one kind. */
const ALIKE_MAX = 4_096;
/** Operations by what tells requests at one sector apart, and where they are in a key. */
const KEY_OPERATIONS: readonly Operation[] = ["read", "write", "trim", "flush"];

/** Requests under way that are alike: the oldest, and those behind it. */
interface Alike {
  readonly ids: readonly number[];
  /** Of the first of a chain: how many there are. */
  count: number;
  /** It was given back by the driver, and will be issued again. */
  requeued: boolean;
  next: Alike | null;
  /** Of the first of a chain: the last. */
  last: Alike | null;
}

/** Makes events of records, which come in the order of their times. */
export class BlktracePairs {
  /** Devices whose driver was traced: their requests begin when issued, those of others when queued. */
  readonly issuing = new Set<number>();
  /** False if the trace shows no completions: requests are not remembered then. */
  completes = true;
  /** ns from the base of the records to the first event; null before it. */
  startNs: number | null = null;
  readonly #events: EventList;
  /** Requests under way by device, sector and operation; the oldest of equals is ended first. */
  readonly #pending = new Pending<number, Alike>();
  readonly #devices = new Map<number, number>();
  #unmatched = 0;
  #beyond = 0;

  /** Events go to a list. */
  constructor(events: EventList) {
    this.#events = events;
  }

  /** Takes a record. */
  add(record: BlktraceRecord): void {
    if ((record.categories & CATEGORY.notify) !== 0) return;
    const begins = this.issuing.has(record.device) ? ACTION.issue : ACTION.queue;
    if (record.action === begins) this.#begin(record);
    else if (record.action === ACTION.complete) this.#end(record);
    else if (record.action === ACTION.requeue) this.#requeue(record);
  }

  /** Tells what was strange. */
  finish(notes: TraceNotes): void {
    if (this.#unmatched > 0) {
      notes.remarks.push(`${this.#unmatched} completions are of requests that it does not show`);
    }
    const { lost } = this.#pending;
    if (lost > 0) notes.remarks.push(`${lost} requests were under way for too long`);
    if (this.#beyond > 0) {
      notes.problemCount += this.#beyond;
      notes.remarks.push(`${this.#beyond} records are of sectors behind byte 2^53 - 1`);
    }
  }

  #begin(record: BlktraceRecord): void {
    const { sector, bytes, categories, pid } = record;
    const operation = operationOf(record);
    if (operation === null || this.#issuedAgain(record, operation)) return;
    const offset = sector * SECTOR_BYTES, timeUs = this.#timeUs(record);
    if (operation !== "flush" && offset + bytes > Number.MAX_SAFE_INTEGER) {
      this.#beyond += 1;
      return;
    }
    const ids: number[] = [];
    const flags = (categories & CATEGORY.fua) === 0 || operation === "read" ? 0 : FLAG_FUA;
    const flushes = (categories & CATEGORY.flush) !== 0;
    if (flushes) ids.push(this.#events.request(timeUs, pid, "flush", 0, 0, 0, NO_LATENCY));
    if (operation !== "flush") {
      ids.push(this.#events.request(timeUs, pid, operation, offset, bytes, flags, NO_LATENCY));
    }
    this.#remember(record, operation, ids);
  }

  #remember(record: BlktraceRecord, operation: Operation, ids: readonly number[]): void {
    if (!this.completes) return;
    const key = this.#key(record, operation);
    const made: Alike = { ids, count: 1, requeued: false, next: null, last: null };
    const found = this.#pending.get(key);
    if (found === null) return this.#pending.add(key, made);
    (found.last ?? found).next = made;
    found.last = made;
    found.count += 1;
    if (found.count <= ALIKE_MAX) return;
    this.#taken(key);
    this.#pending.lost += 1;
  }

  #end(record: BlktraceRecord): void {
    const operation = operationOf(record);
    if (operation === null) return;
    const ids = this.#taken(this.#key(record, operation));
    if (ids === null) {
      this.#unmatched += 1;
      return;
    }
    const errno = record.error === 0 ? null : errnoFromLinux(record.error);
    for (const id of ids) this.#events.completion(this.#timeUs(record), id, errno);
  }

  #requeue(record: BlktraceRecord): void {
    const operation = operationOf(record);
    if (operation === null) return;
    const found = this.#pending.get(this.#key(record, operation));
    if (found !== null) found.requeued = true;
  }

  /** True for a request that was issued before, and given back. */
  #issuedAgain(record: BlktraceRecord, operation: Operation): boolean {
    const found = this.#pending.get(this.#key(record, operation));
    if (found === null || !found.requeued) return false;
    found.requeued = false;
    return true;
  }

  #timeUs(record: BlktraceRecord): number {
    this.startNs ??= record.timeNs;
    return (record.timeNs - this.startNs) / 1e3;
  }

  /** A device, a sector and an operation as one number. A flush has no sector of its own: the kernel tells any. */
  #key({ sector, device }: BlktraceRecord, operation: Operation): number {
    const known = this.#devices.get(device);
    const index = known ?? this.#devices.size;
    if (known === undefined) this.#devices.set(device, index);
    const place = operation === "flush" ? 0 : sector;
    const kind = place * KEY_OPERATIONS.length + KEY_OPERATIONS.indexOf(operation);
    return kind * TRACE_DEVICES_MAX + index;
  }

  #taken(key: number): readonly number[] | null {
    const found = this.#pending.take(key);
    if (found === null) return null;
    if (found.next !== null) {
      found.next.count = found.count - 1;
      found.next.last = found.last === found.next ? null : found.last;
      this.#pending.add(key, found.next);
    }
    return found.ids;
  }
}

function operationOf({ categories, bytes }: BlktraceRecord): Operation | null {
  if ((categories & CATEGORY.discard) !== 0) return "trim";
  if (bytes === 0) return (categories & CATEGORY.flush) === 0 ? null : "flush";
  if ((categories & CATEGORY.write) !== 0) return "write";
  return (categories & CATEGORY.read) === 0 ? null : "read";
}
