/**
 * Crash points: what a disk could hold if the machine had stopped at some moment of a trace, built as an
 * image in a file and given to a check such as `e2fsck -fn`. Which images are possible is said in
 * volatile_state.ts.
 *
 *     flush     at each flush that is done: everything before it, nothing after it
 *     every     at each change: everything up to it, in the order of the trace
 *     sample:N  N moments chosen by a seed, each with some of what no flush had covered
 *
 * @module
 */
import type { Random } from "../block/context.ts";
import { UsageError } from "../block/usage_error.ts";
import type { FileAccess, RawFile } from "../sys/file_access.ts";
import type { TraceEvent } from "./event.ts";
import { CRASH_COPY_BYTES, CRASH_OUTPUT_LENGTH_MAX, CRASH_POINTS_MAX } from "./limits.ts";
import type { TraceSource } from "./source.ts";
import { TraceError } from "./trace_error.ts";
import { type Change, VolatileState } from "./volatile_state.ts";

/** Which moments are looked at. */
export type CrashMoments =
  | { readonly kind: "flush" }
  | { readonly kind: "every" }
  | { readonly kind: "sample"; readonly count: number };

/** What a check has said of an image. */
export interface CheckResult {
  /** The image is sound. */
  readonly ok: boolean;
  /** What it has printed, and how it ended. */
  readonly output: string;
}

/** A crash that could have been, and is not sound. */
export interface CrashFailure {
  /** Number of the last event of the trace before the crash, from 0. */
  readonly event: number;
  /** Its time, µs. */
  readonly timeUs: number;
  /** Requests that no flush had covered, and that are in the image. */
  readonly kept: readonly number[];
  /** Requests that no flush had covered, and that are lost. */
  readonly lost: readonly number[];
  /** What the check has said, CRASH_OUTPUT_LENGTH_MAX characters at most. */
  readonly output: string;
  /** Where the image is kept; null for failures after the first. */
  readonly image: string | null;
}

/** What came of all crash points. */
export interface CrashReport {
  /** Events of the trace. */
  readonly events: number;
  /** Images that were checked. */
  readonly points: number;
  /** Images that are not sound. */
  readonly failed: number;
  /** The first of them. */
  readonly failures: readonly CrashFailure[];
}

/** Settings of `crashPoints`. */
export interface CrashPointOptions {
  /** Opens the trace; twice if moments are sampled. */
  readonly open: () => Promise<TraceSource>;
  /** What the disk held when the trace began; null for zeroes. */
  readonly base: string | null;
  /** Size of the disk in bytes; that of the trace if not told. */
  readonly size?: number;
  /** A folder of this run alone, for two images. */
  readonly folder: string;
  /** Opens files. */
  readonly files: FileAccess;
  /** Which moments. */
  readonly moments: CrashMoments;
  /** Chooses moments, and what is lost. */
  readonly random: Random;
  /** Looks at an image. */
  readonly check: (image: string) => Promise<CheckResult>;
  /** Stop at the first failure; true if not told. */
  readonly stopAtFirst?: boolean;
  /** Gives it up. */
  readonly signal?: AbortSignal;
  /** Called for each point, with how many there are, as far as known. */
  readonly progress?: (points: number, all: number | null) => void;
}

/** Failures that are kept in a report. */
const FAILURES_TOLD_MAX = 20;

/** Checks the crash points of a trace. Rejects with TraceError for one that has not kept its data. */
export async function crashPoints(options: CrashPointOptions): Promise<CrashReport> {
  const { moments } = options;
  const sampled = moments.kind === "sample" ? await chooseEvents(options, moments.count) : null;
  const run = new CrashRun(options, sampled);
  try {
    return await run.run();
  } finally {
    run.close();
  }
}

/** For each event before which a crash is looked at, how many times. */
async function chooseEvents(
  { open, random }: CrashPointOptions,
  count: number,
): Promise<Map<number, number>> {
  if (!(Number.isInteger(count) && count >= 1 && count <= CRASH_POINTS_MAX)) {
    throw new RangeError(
      `Cannot look at ${count} crash points: 1 to ${CRASH_POINTS_MAX} are possible`,
    );
  }
  let events = 0;
  for await (const batch of (await open()).batches()) events += batch.length;
  const chosen = new Map<number, number>();
  for (let point = 0; point < count && events > 0; point += 1) {
    const event = Math.floor(random.uint32() / 2 ** 32 * events);
    chosen.set(event, (chosen.get(event) ?? 0) + 1);
  }
  return chosen;
}

class CrashRun {
  readonly #options: CrashPointOptions;
  readonly #sampled: Map<number, number> | null;
  readonly #state = new VolatileState();
  readonly #failures: CrashFailure[] = [];
  /** What is durable so far. */
  #durable: RawFile | null = null;
  #event = 0;
  #points = 0;
  #failed = 0;

  constructor(options: CrashPointOptions, sampled: Map<number, number> | null) {
    this.#options = options;
    this.#sampled = sampled;
  }

  close(): void {
    this.#durable?.close();
  }

  async run(): Promise<CrashReport> {
    const { open, base, size, folder, files } = this.#options;
    const source = await open();
    const bytes = size ?? source.info.size;
    if (bytes === null) throw new TraceError("it does not tell the size of its disk: give it");
    const path = `${folder}/durable.img`;
    const durable = this.#durable = files.open(path, { ...OPEN, createSize: bytes });
    if (base !== null) copyInto(files, base, durable);
    for await (const batch of source.batches()) {
      for (const event of batch) {
        if (await this.#take(event)) return this.#report();
        this.#event += 1;
      }
    }
    // The end of the trace is a moment like others.
    if (this.#sampled === null) await this.#look(null, this.#state.changes);
    return this.#report();
  }

  /** Takes an event, and looks at the moments behind it. True to stop. */
  async #take(event: TraceEvent): Promise<boolean> {
    const { moments, signal } = this.#options;
    signal?.throwIfAborted();
    if (event.kind === "submit") {
      this.#state.submitted(event);
      if (moments.kind === "every" && isChange(event)) {
        if (await this.#look(event, this.#state.changes)) return true;
      }
    } else {
      const durable = this.#state.completed(event);
      this.#apply(durable);
      if (moments.kind === "flush" && durable.length > 0) {
        const must = this.#state.changes.filter((each) => this.#state.mustStay(each));
        if (await this.#look(event, must)) return true;
      }
    }
    for (let times = this.#sampled?.get(this.#event) ?? 0; times > 0; times -= 1) {
      if (await this.#look(event, this.#some())) return true;
    }
    return false;
  }

  /** Some of what no flush has covered: each with an even chance, or whole runs up to a moment. */
  #some(): readonly Change[] {
    const { random } = this.#options;
    const { changes } = this.#state;
    const word = random.uint32();
    // Three ways to lose something: the tail, a hole, or anything.
    const until = Math.floor(random.uint32() / 2 ** 32 * (changes.length + 1));
    return changes.filter((each, index) => {
      if (this.#state.mustStay(each)) return true;
      if (word % 3 === 0) return index < until;
      if (word % 3 === 1) return index !== until;
      return random.uint32() % 2 === 0;
    });
  }

  /** Builds the image with these changes and checks it. True to stop. */
  async #look(event: TraceEvent | null, kept: readonly Change[]): Promise<boolean> {
    const { check, stopAtFirst = true, progress } = this.#options;
    if (this.#points >= CRASH_POINTS_MAX) {
      throw new UsageError(
        `Cannot look at more than ${CRASH_POINTS_MAX} crash points: sample them`,
      );
    }
    const path = this.#build("crash.img", kept);
    const { ok, output } = await check(path);
    this.#points += 1;
    progress?.(this.#points, this.#sampled === null ? null : this.#sampledCount());
    if (ok) return false;
    this.#failed += 1;
    const keptIds = new Set(kept.map(({ id }) => id));
    if (this.#failures.length < FAILURES_TOLD_MAX) {
      this.#failures.push({
        event: this.#event,
        timeUs: event?.timeUs ?? 0,
        kept: [...keptIds],
        lost: this.#state.changes.map(({ id }) => id).filter((id) => !keptIds.has(id)),
        output: output.slice(0, CRASH_OUTPUT_LENGTH_MAX),
        // Built anew: the check may have changed the one that it has seen.
        image: this.#failed === 1 ? this.#build("failed.img", kept) : null,
      });
    }
    return stopAtFirst;
  }

  /** Makes the image of what is durable and of these changes. Gives its path. */
  #build(name: string, kept: readonly Change[]): string {
    const { folder, files } = this.#options;
    const durable = this.#durable;
    if (durable === null) throw new Error("Cannot build an image before the trace is open");
    const path = `${folder}/${name}`;
    const image = files.open(path, { ...OPEN, createSize: durable.size() });
    try {
      image.truncate(0);
      image.truncate(durable.size());
      copyData(durable, image);
      for (const change of kept) applyTo(image, change);
    } finally {
      image.close();
    }
    return path;
  }

  #sampledCount(): number {
    let count = 0;
    for (const times of this.#sampled?.values() ?? []) count += times;
    return count;
  }

  #apply(changes: readonly Change[]): void {
    const durable = this.#durable;
    if (durable === null) return;
    for (const change of changes) applyTo(durable, change);
  }

  #report(): CrashReport {
    return {
      ...{ events: this.#event, points: this.#points, failed: this.#failed },
      failures: this.#failures,
    };
  }
}

const OPEN = { readOnly: false, direct: false, lock: false } as const;

function isChange(event: TraceEvent): boolean {
  return event.kind === "submit" && (event.operation === "write" || event.operation === "zero");
}

/** Brings a change to an image. What lies past its end is left out. */
function applyTo(image: RawFile, { offset, length, data }: Change): void {
  const size = image.size();
  const end = Math.min(offset + length, size);
  if (offset >= end) return;
  if (data !== null) return image.write(data.subarray(0, end - offset), offset);
  const zeroes = new Uint8Array(Math.min(end - offset, CRASH_COPY_BYTES));
  for (let at = offset; at < end; at += zeroes.length) {
    image.write(zeroes.subarray(0, Math.min(zeroes.length, end - at)), at);
  }
}

function copyInto(files: FileAccess, path: string, to: RawFile): void {
  const from = files.open(path, { ...OPEN, readOnly: true });
  try {
    copyData(from, to);
  } finally {
    from.close();
  }
}

/** Copies what is data; `to` holds zeroes there. */
function copyData(from: RawFile, to: RawFile): void {
  const size = Math.min(from.size(), to.size());
  const buffer = new Uint8Array(CRASH_COPY_BYTES);
  for (let at = 0; at < size;) {
    const extents = from.extents(at, size - at, 1024);
    for (const { length, data } of extents) {
      for (let done = 0; data && done < length; done += buffer.length) {
        const piece = buffer.subarray(0, Math.min(buffer.length, length - done, size - at - done));
        if (piece.length === 0) break;
        from.read(piece, at + done);
        to.write(piece, at + done);
      }
      at += length;
    }
    if (extents.length === 0) return;
  }
}
