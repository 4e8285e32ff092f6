/**
 * A file layer that writes down what is done to the files of another one, and from that record every
 * state in which a crash may leave them. For any storage whose metadata has to be in order on disk.
 *
 * The fault model. A crash happens between two events. What a flush covers (the changes of its own file
 * that were made before it was called) is on the medium. Of the changes after it any subset is, in any
 * order: for each sector of 512 bytes independently the medium has one of the contents that the sector
 * had since the flush, and the size is one of the sizes since. Files stay, once made. Two families of
 * states are enumerated:
 *
 *  - prefixes: after each event, all changes so far are there, in their order (the process was killed);
 *  - reorders: at the end of each epoch (before a flush takes effect, and at the end of the record) none
 *    of the changes of the epoch is there, only one, all but one, and random subsets, some of whose
 *    writes are torn at sectors. Whatever was possible earlier in the epoch is possible at its end.
 *
 * Both are bounded by numbers that the caller gives; one seed gives the same states.
 *
 * @module
 */
import type {
  FileAccess,
  FileExtent,
  FileOpenOptions,
  RawFile,
} from "../../lib/sys/file_access.ts";
import { hashText, type SeededRandom, seededRandom } from "../../lib/testing/random.ts";

/** Unit that is written whole or not at all. */
const SECTOR_BYTES = 512;

/** A change of a file's content. */
export type FileChange =
  | {
    readonly kind: "write";
    readonly path: string;
    readonly offset: number;
    readonly bytes: Uint8Array;
  }
  | {
    readonly kind: "zero";
    readonly path: string;
    readonly offset: number;
    readonly length: number;
  }
  | { readonly kind: "size"; readonly path: string; readonly size: number };

/** What happened to files, in its order. */
export type FileEvent =
  | FileChange
  /** What changed the file before event number `covers` is durable now. */
  | { readonly kind: "flush"; readonly path: string; readonly covers: number };

/** Files by path. */
export type Contents = ReadonlyMap<string, Uint8Array>;

/** One state of all files that a crash may leave. */
export interface CrashState {
  /** Events that had happened: whatever was promised before the last of them has to be kept. */
  readonly position: number;
  /** In words, for messages. */
  readonly what: string;
  readonly files: Contents;
}

/** How many states to look at. */
export interface StateBounds {
  readonly seed: number;
  /** Every so many events a prefix; 1 is all of them. */
  readonly prefixEvery: number;
  /** Most changes of an epoch that are taken alone, and most that are left out alone. */
  readonly singles: number;
  /** Random subsets of each epoch. */
  readonly subsets: number;
}

class RecordedFile implements RawFile {
  readonly path: string;
  readonly #inner: RawFile;
  readonly #events: FileEvent[];

  constructor(inner: RawFile, events: FileEvent[]) {
    this.path = inner.path;
    this.#inner = inner;
    this.#events = events;
  }

  get isBlockDevice(): boolean {
    return this.#inner.isBlockDevice;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  get alignment(): number {
    return this.#inner.alignment;
  }

  get blockSize(): number {
    return this.#inner.blockSize;
  }

  size(): number {
    return this.#inner.size();
  }

  allocated(): number {
    return this.#inner.allocated();
  }

  read(into: Uint8Array, offset: number): void {
    this.#inner.read(into, offset);
  }

  write(from: Uint8Array, offset: number): void {
    this.#inner.write(from, offset);
    this.#events.push({ kind: "write", path: this.path, offset, bytes: from.slice() });
  }

  flush(): void {
    const covers = this.#events.length;
    this.#inner.flush();
    this.#events.push({ kind: "flush", path: this.path, covers });
  }

  async flushAsync(): Promise<void> {
    const covers = this.#events.length;
    await this.#inner.flushAsync();
    this.#events.push({ kind: "flush", path: this.path, covers });
  }

  #zeroed(offset: number, length: number, call: () => void): void {
    const end = Math.min(offset + length, this.#inner.size());
    call();
    if (end <= offset) return;
    this.#events.push({ kind: "zero", path: this.path, offset, length: end - offset });
  }

  punch(offset: number, length: number): void {
    this.#zeroed(offset, length, () => this.#inner.punch(offset, length));
  }

  zero(offset: number, length: number): void {
    this.#zeroed(offset, length, () => this.#inner.zero(offset, length));
  }

  discard(offset: number, length: number): void {
    this.#zeroed(offset, length, () => this.#inner.discard(offset, length));
  }

  allocate(offset: number, length: number): void {
    const before = this.#inner.size();
    this.#inner.allocate(offset, length);
    const size = this.#inner.size();
    if (size !== before) this.#events.push({ kind: "size", path: this.path, size });
  }

  extents(offset: number, length: number, countMax: number): FileExtent[] {
    return this.#inner.extents(offset, length, countMax);
  }

  readAhead(offset: number, length: number): void {
    this.#inner.readAhead(offset, length);
  }

  truncate(size: number): void {
    this.#inner.truncate(size);
    this.#events.push({ kind: "size", path: this.path, size });
  }

  close(): void {
    this.#inner.close();
  }
}

/** The recording layer over the files of `inner`. What a file holds when it is first opened is where it begins. */
export class RecordedFiles implements FileAccess {
  /** All that happened so far. Its length is a position, to be compared with that of a state. */
  readonly events: FileEvent[] = [];
  readonly #inner: FileAccess;
  readonly #start = new Map<string, Uint8Array>();

  constructor(inner: FileAccess) {
    this.#inner = inner;
  }

  open(path: string, options: FileOpenOptions): RawFile {
    const file = this.#inner.open(path, options);
    if (!this.#start.has(path)) {
      const content = new Uint8Array(file.size());
      file.read(content, 0);
      this.#start.set(path, content);
    }
    return options.readOnly ? file : new RecordedFile(file, this.events);
  }

  /** What the files held before the first event. */
  get start(): Contents {
    return this.#start;
  }
}

/** Content that grows without being copied for each change. */
class Image {
  #bytes: Uint8Array;
  #size: number;

  constructor(content: Uint8Array) {
    this.#bytes = content.slice();
    this.#size = content.length;
  }

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  copy(): Image {
    return new Image(this.bytes);
  }

  #resize(size: number): void {
    if (size > this.#bytes.length) {
      const next = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      next.set(this.bytes);
      this.#bytes = next;
    }
    if (size < this.#size) this.#bytes.fill(0, size, this.#size);
    this.#size = size;
  }

  /** A change, or of a write only the sectors that `keep` keeps, counted from its first one. */
  apply(change: FileChange, keep: (sector: number) => boolean = () => true): void {
    if (change.kind === "size") return this.#resize(change.size);
    const length = change.kind === "write" ? change.bytes.length : change.length;
    const { offset } = change, end = offset + length;
    if (end > this.#size) this.#resize(end);
    let sector = 0;
    for (let at = offset; at < end;) {
      const stop = Math.min(end, (Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES);
      if (keep(sector)) {
        if (change.kind === "zero") this.#bytes.fill(0, at, stop);
        else this.#bytes.set(change.bytes.subarray(at - offset, stop - offset), at);
      }
      sector += 1;
      at = stop;
    }
  }
}

interface Pending {
  /** Number of the event. */
  readonly index: number;
  readonly change: FileChange;
}

function describe({ index, change }: Pending): string {
  const place = change.kind === "size"
    ? `to ${change.size}`
    : `at ${change.offset}+${change.kind === "write" ? change.bytes.length : change.length}`;
  return `#${index} ${change.kind} ${place}`;
}

/** The media of all files, and what is not on them yet. */
class Media {
  readonly #durable = new Map<string, Image>();
  pending: Pending[] = [];

  constructor(start: Contents) {
    for (const [path, content] of start) this.#durable.set(path, new Image(content));
  }

  settle(path: string, covers: number): void {
    const isCovered = ({ index, change }: Pending): boolean =>
      change.path === path && index < covers;
    for (const each of this.pending.filter(isCovered)) this.#durable.get(path)?.apply(each.change);
    this.pending = this.pending.filter((each) => !isCovered(each));
  }

  /** The files with those changes on top; torn ones keep the sectors that `tear` gives. */
  with(
    changes: readonly Pending[],
    tear: (change: Pending) => ((sector: number) => boolean) | undefined = () => undefined,
  ): Contents {
    const touched = new Set(changes.map(({ change }) => change.path));
    const files = new Map<string, Image>();
    for (const [path, image] of this.#durable) {
      files.set(path, touched.has(path) ? image.copy() : image);
    }
    for (const each of changes) files.get(each.change.path)?.apply(each.change, tear(each));
    return new Map([...files].map(([path, image]) => [path, image.bytes.slice()]));
  }
}

/** At most `most` of the items, spread over all of them. */
function spread<T>(items: readonly T[], most: number): T[] {
  if (items.length <= most) return [...items];
  return items.filter((_, index) =>
    Math.floor(index * most / items.length) !== Math.floor((index - 1) * most / items.length)
  );
}

function* reorders(media: Media, position: number, bounds: StateBounds): Generator<CrashState> {
  const { pending } = media;
  if (pending.length === 0) return;
  const state = (what: string, changes: readonly Pending[]): CrashState => ({
    position,
    what: `before event ${position}: ${what}`,
    files: media.with(changes),
  });
  yield state("nothing since the flush", []);
  for (const each of spread(pending, bounds.singles)) {
    yield state(`only ${describe(each)}`, [each]);
  }
  if (pending.length > 2) {
    for (const left of spread(pending, bounds.singles)) {
      yield state(`all but ${describe(left)}`, pending.filter((each) => each !== left));
    }
  }
  const random = seededRandom(hashText(`${bounds.seed}:${position}`));
  for (let round = 0; round < bounds.subsets; round += 1) {
    yield randomSubset(media, position, random);
  }
}

function randomSubset(media: Media, position: number, random: SeededRandom): CrashState {
  const chance = random.pick([1, 2, 3]);
  const kept = media.pending.filter(() => random.below(4) < chance);
  const torn = random.oneIn(2);
  return {
    position,
    what: `before event ${position}: ${torn ? "torn " : ""}${kept.map(describe).join(", ")}`,
    files: media.with(
      kept,
      () => torn && random.oneIn(3) ? (): boolean => random.oneIn(2) : undefined,
    ),
  };
}

/** The states that a crash may leave, as the head of this file says; equal ones are not told apart. */
export function* crashStates(
  start: Contents,
  events: readonly FileEvent[],
  bounds: StateBounds,
): Generator<CrashState> {
  const media = new Media(start);
  for (const [index, event] of events.entries()) {
    if (event.kind === "flush") {
      yield* reorders(media, index, bounds);
      media.settle(event.path, event.covers);
      continue;
    }
    media.pending.push({ index, change: event });
    if (index % bounds.prefixEvery === 0) {
      const what = `killed after event ${index}`;
      yield { position: index + 1, what, files: media.with(media.pending) };
    }
  }
  yield* reorders(media, events.length, bounds);
}

/** A planted bug: barriers are missing. The record without the flushes that `isMissing` picks. */
export function withoutFlushes(
  events: readonly FileEvent[],
  isMissing: (index: number) => boolean,
): FileEvent[] {
  return remapped(
    events.filter((event, index) => event.kind !== "flush" || !isMissing(index)),
    events,
  );
}

/**
 * A planted bug: some changes come too late. Each that `isLate` picks is moved behind the next flush of
 * its file, so that what the flush parted is in the wrong order.
 */
export function withLateChanges(
  events: readonly FileEvent[],
  isLate: (change: FileChange) => boolean,
): FileEvent[] {
  const moved: FileEvent[] = [];
  let late: FileEvent[] = [];
  for (const event of events) {
    if (event.kind !== "flush" && isLate(event)) {
      late.push(event);
      continue;
    }
    moved.push(event);
    if (event.kind === "flush") {
      moved.push(...late);
      late = [];
    }
  }
  return remapped([...moved, ...late], events);
}

/** Event numbers in `covers` counted anew: a flush covers what stands before it and was covered before. */
function remapped(now: readonly FileEvent[], before: readonly FileEvent[]): FileEvent[] {
  const numbers = new Map(before.map((event, index) => [event, index]));
  return now.map((event, index) => {
    if (event.kind !== "flush") return event;
    const isCovered = (other: FileEvent): boolean => (numbers.get(other) ?? 0) < event.covers;
    const covers = now.slice(0, index).findLastIndex(isCovered) + 1;
    return { ...event, covers };
  });
}
