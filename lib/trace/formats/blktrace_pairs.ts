/**
 * From records of the block layer to requests: which record begins a request, and which ends it.
 *
 * @module
 */
import { errnoFromLinux } from "../../block/errors.ts";
import { FLAG_FUA, type Operation } from "../../block/request.ts";
import { type EventList, NO_LATENCY } from "../event_list.ts";
import { REQUESTS_PENDING_MAX } from "../limits.ts";
import type { TraceNotes } from "../source.ts";
import { ACTION, type BlktraceRecord, CATEGORY } from "./blktrace_record.ts";

const SECTOR_BYTES = 512;
/** Operations by what tells requests at one sector apart, and where they are in a key. */
const KEY_OPERATIONS: readonly Operation[] = ["read", "write", "trim", "flush"];

/** A request under way, and those behind it that are alike. */
interface Pending {
  readonly ids: readonly number[];
  /** It was given back by the driver, and will be issued again. */
  requeued: boolean;
  next: Pending | null;
  /** Of the first of a chain: the last. */
  last: Pending | null;
}

/** Makes events of records, which come in the order of their times. */
export class BlktracePairs {
  /** Devices whose driver was traced: their requests begin when issued, those of others when queued. */
  readonly issuing = new Set<number>();
  /** ns from the base of the records to the first event; null before it. */
  startNs: number | null = null;
  readonly #events: EventList;
  /** Requests under way by device, sector and operation; the oldest of equals is ended first. */
  readonly #pending = new Map<number, Map<number, Pending>>();
  #pendingCount = 0;
  #unmatched = 0;
  #given = 0;
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
    if (this.#given > 0) notes.remarks.push(`${this.#given} requests were under way for too long`);
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
    const byKey = this.#pending.get(record.device) ?? this.#newDevice(record.device);
    const key = keyOf(record, operation);
    const found = byKey.get(key) ?? null;
    const made: Pending = { ids, requeued: false, next: null, last: null };
    if (found === null) byKey.set(key, made);
    else (found.last ?? found).next = made;
    if (found !== null) found.last = made;
    this.#pendingCount += 1;
    if (this.#pendingCount <= REQUESTS_PENDING_MAX) return;
    // The oldest of the device is the first in the map: it was cut out of the trace, most likely.
    const oldest = byKey.keys().next();
    if (oldest.done !== true && this.#taken(byKey, oldest.value) !== null) this.#given += 1;
  }

  #newDevice(device: number): Map<number, Pending> {
    const made = new Map<number, Pending>();
    this.#pending.set(device, made);
    return made;
  }

  #end(record: BlktraceRecord): void {
    const operation = operationOf(record);
    if (operation === null) return;
    const byKey = this.#pending.get(record.device);
    const ids = byKey === undefined ? null : this.#taken(byKey, keyOf(record, operation));
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
    const found = this.#pending.get(record.device)?.get(keyOf(record, operation));
    if (found !== undefined) found.requeued = true;
  }

  /** True for a request that was issued before, and given back. */
  #issuedAgain(record: BlktraceRecord, operation: Operation): boolean {
    const found = this.#pending.get(record.device)?.get(keyOf(record, operation));
    if (found === undefined || !found.requeued) return false;
    found.requeued = false;
    return true;
  }

  #timeUs(record: BlktraceRecord): number {
    this.startNs ??= record.timeNs;
    return (record.timeNs - this.startNs) / 1e3;
  }

  #taken(byKey: Map<number, Pending>, key: number): readonly number[] | null {
    const found = byKey.get(key);
    if (found === undefined) return null;
    if (found.next === null) byKey.delete(key);
    else {
      found.next.last = found.last === found.next ? null : found.last;
      byKey.set(key, found.next);
    }
    this.#pendingCount -= 1;
    return found.ids;
  }
}

function operationOf({ categories, bytes }: BlktraceRecord): Operation | null {
  if ((categories & CATEGORY.discard) !== 0) return "trim";
  if (bytes === 0) return (categories & CATEGORY.flush) === 0 ? null : "flush";
  if ((categories & CATEGORY.write) !== 0) return "write";
  return (categories & CATEGORY.read) === 0 ? null : "read";
}

/** A flush has no sector of its own: the kernel tells any. */
function keyOf({ sector }: BlktraceRecord, operation: Operation): number {
  const place = operation === "flush" ? 0 : sector;
  return place * KEY_OPERATIONS.length + KEY_OPERATIONS.indexOf(operation);
}
