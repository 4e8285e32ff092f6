/**
 * Several traces as one: in the order of the wall clock where all of them tell when they began, else all
 * from the same moment. Requests and connections get new numbers, so that none of them meet.
 *
 * @module
 */
import type { TraceEvent, TraceInfo } from "./event.ts";
import { BATCH_EVENTS, CONNECTIONS_MAX } from "./limits.ts";
import { Pending } from "./pending.ts";
import { TraceNotes, type TraceSource } from "./source.ts";
import { TraceError } from "./trace_error.ts";

/** Numbers that connections and requests of all sources have in common. */
class Numbers {
  #lastId = 0;
  readonly #connections = new Map<string, number>();

  nextId(): number {
    return this.#lastId += 1;
  }

  connection(source: number, connection: number): number {
    const key = `${source}:${connection}`;
    const known = this.#connections.get(key);
    if (known !== undefined) return known;
    const next = this.#connections.size + 1;
    if (next > CONNECTIONS_MAX) {
      throw new TraceError(`they have more than ${CONNECTIONS_MAX} connections together`);
    }
    this.#connections.set(key, next);
    return next;
  }
}

/** One of the traces, one event ahead. */
class Strand {
  /** The time of the next event in the merged trace, µs; infinite at the end. */
  nextUs = Number.POSITIVE_INFINITY;
  readonly #index: number;
  readonly #shiftUs: number;
  readonly #numbers: Numbers;
  readonly #batches: AsyncIterator<readonly TraceEvent[]>;
  readonly #ids = new Pending<number, number>();
  #batch: readonly TraceEvent[] = [];
  #at = 0;

  constructor(source: TraceSource, index: number, shiftUs: number, numbers: Numbers) {
    this.#index = index;
    this.#shiftUs = shiftUs;
    this.#numbers = numbers;
    this.#batches = source.batches()[Symbol.asyncIterator]();
  }

  /** The next event as it is in the merged trace; null if another batch is needed: `more`. */
  take(): TraceEvent | null {
    const event = this.#batch[this.#at];
    if (event === undefined) return null;
    this.#at += 1;
    this.#look();
    return this.#moved(event);
  }

  /** True if nothing is known of the next event before another batch is read. */
  get isEmpty(): boolean {
    return this.#at === this.#batch.length;
  }

  /** Reads on to the next batch with something in it. */
  async more(): Promise<void> {
    while (this.isEmpty) {
      const { done, value } = await this.#batches.next();
      if (done === true) return;
      this.#batch = value;
      this.#at = 0;
      this.#look();
    }
  }

  #look(): void {
    const event = this.#batch[this.#at];
    this.nextUs = event === undefined ? Number.POSITIVE_INFINITY : event.timeUs + this.#shiftUs;
  }

  async close(): Promise<void> {
    await this.#batches.return?.();
  }

  #moved(event: TraceEvent): TraceEvent {
    const timeUs = event.timeUs + this.#shiftUs;
    if (event.kind === "complete") {
      const id = this.#ids.take(event.id) ?? this.#numbers.nextId();
      return { ...event, timeUs, id };
    }
    const id = this.#numbers.nextId();
    this.#ids.add(event.id, id);
    const connection = this.#numbers.connection(this.#index, event.connection);
    return { ...event, timeUs, id, connection };
  }
}

/** What is known of all together. */
function infoOf(sources: readonly TraceSource[], started_ms: number | null): TraceInfo {
  const infos = sources.map(({ info }) => info);
  const sizes = infos.map(({ size }) => size ?? Number.NaN);
  const size = Math.max(...sizes);
  const [first] = infos;
  const target = first?.target ?? null;
  return {
    started_ms,
    target: infos.every((info) => info.target === target) ? target : null,
    size: Number.isNaN(size) ? null : size,
    completes: infos.every(({ completes }) => completes),
  };
}

/** Merges traces, each of which is in the order of its times. At least one. */
export function mergeTraces(sources: readonly TraceSource[]): TraceSource {
  const starts = sources.map(({ info }) => info.started_ms ?? Number.NaN);
  const first = Math.min(...starts);
  const isKnown = !Number.isNaN(first);
  const notes = new TraceNotes();
  if (!isKnown && sources.length > 1) {
    notes.remarks.push("not all of them tell when they began: all begin at the same moment");
  }
  const shifts = starts.map((start) => isKnown ? (start - first) * 1000 : 0);
  const info = infoOf(sources, isKnown ? first : null);
  return { info, notes, batches: () => merged(sources, shifts, notes) };
}

async function* merged(
  sources: readonly TraceSource[],
  shifts: readonly number[],
  notes: TraceNotes,
): AsyncGenerator<readonly TraceEvent[], void> {
  const numbers = new Numbers();
  const strands = sources.map((source, index) =>
    new Strand(source, index, shifts[index] ?? 0, numbers)
  );
  try {
    for (const strand of strands) await strand.more();
    let batch: TraceEvent[] = [];
    for (let next = earliest(strands); next !== null; next = earliest(strands)) {
      const event = next.take();
      if (event !== null) batch.push(event);
      if (next.isEmpty) await next.more();
      if (batch.length < BATCH_EVENTS) continue;
      yield batch;
      batch = [];
    }
    if (batch.length > 0) yield batch;
    for (const source of sources) notes.lost += source.notes.lost;
  } finally {
    for (const strand of strands) await strand.close();
  }
}

/** The strand whose next event is the earliest; of equals the first. Null if all are at their end. */
function earliest(strands: readonly Strand[]): Strand | null {
  let found: Strand | null = null;
  for (const strand of strands) {
    if (strand.nextUs < (found?.nextUs ?? Number.POSITIVE_INFINITY)) found = strand;
  }
  return found;
}
