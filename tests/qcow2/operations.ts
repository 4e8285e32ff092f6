/**
 * Random operations on a disk, in words that a person can replay, and a model of what the disk then
 * holds. Discarding is modelled as images do it: whole clusters become zeroes, parts of one stay.
 *
 * @module
 */
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";

/** One operation. Offsets, lengths and sizes are bytes. */
export type Operation =
  | {
    readonly kind: "write";
    readonly offset: number;
    readonly length: number;
    readonly byte: number;
  }
  | {
    readonly kind: "zero";
    readonly offset: number;
    readonly length: number;
    readonly unmap: boolean;
  }
  | { readonly kind: "discard"; readonly offset: number; readonly length: number }
  /** Committing writes what the image has into its backing file. */
  | { readonly kind: "flush" | "reopen" | "commit" }
  | { readonly kind: "snapshot" | "apply" | "delete"; readonly name: string }
  | { readonly kind: "resize"; readonly size: number };

/** What a disk of the test is, as far as operations need to know. */
export interface DiskShape {
  /** Bytes at the start. */
  readonly size: number;
  /** Bytes of a cluster. */
  readonly cluster: number;
  /** Snapshots can be taken. */
  readonly snapshots: boolean;
  /** The size can change. */
  readonly resize: boolean;
  /**
   * Zeroes are written with leave to unmap only: without it storage has to stay reserved, for which
   * version 2 has no other way than data, and QEMU unmaps all the same.
   */
  readonly unmapsOnly?: boolean;
  /** One operation in so many is a flush, and one a change of the image as a whole; 40 if absent. */
  readonly structuralOneIn?: number;
  /** What the image holds can be committed into its backing file. */
  readonly commits?: boolean;
  /** Whole units of so many bytes that are discarded read as zeroes; 0 if discarding does nothing. */
  readonly discardUnit: number;
}

const SECTOR_BYTES = 512;
const STRUCTURAL_ONE_IN = 40;
/** Most snapshots at a time. */
const SNAPSHOTS_MAX = 3;

/** An operation in one line: qemu-io's words where it has some. */
export function operationText(operation: Operation): string {
  switch (operation.kind) {
    case "write":
      return `write -P ${operation.byte} ${operation.offset} ${operation.length}`;
    case "zero":
      return `write -z ${operation.unmap ? "-u " : ""}${operation.offset} ${operation.length}`;
    case "discard":
      return `discard ${operation.offset} ${operation.length}`;
    case "flush":
    case "reopen":
    case "commit":
      return operation.kind;
    case "resize":
      return `resize --shrink ${operation.size}`;
    default:
      return `${operation.kind} ${operation.name}`;
  }
}

/** What the disk holds, operation by operation. */
export class DiskModel {
  content: Uint8Array;
  readonly #snapshots = new Map<string, Uint8Array>();
  readonly #shape: DiskShape;

  constructor(shape: DiskShape, content: Uint8Array) {
    this.#shape = shape;
    this.content = content.slice();
  }

  /** Names of the snapshots, in the order in which they were taken. */
  get snapshots(): readonly string[] {
    return [...this.#snapshots.keys()];
  }

  /** False if the operation makes no sense on the disk as it is, which happens while a script shrinks. */
  fits(operation: Operation): boolean {
    const { kind } = operation;
    if (kind === "write" || kind === "zero" || kind === "discard") {
      return operation.offset + operation.length <= this.content.length;
    }
    if (kind === "apply" || kind === "delete") return this.#snapshots.has(operation.name);
    // What a snapshot reads as from the backing file would change with it.
    if (kind === "commit") return this.#snapshots.size === 0;
    return kind !== "snapshot" || !this.#snapshots.has(operation.name);
  }

  apply(operation: Operation): void {
    const { content } = this;
    switch (operation.kind) {
      case "write":
        content.fill(operation.byte, operation.offset, operation.offset + operation.length);
        break;
      case "zero":
        content.fill(0, operation.offset, operation.offset + operation.length);
        break;
      case "discard":
        this.#discard(operation.offset, operation.offset + operation.length);
        break;
      case "snapshot":
        this.#snapshots.set(operation.name, content.slice());
        break;
      case "apply":
        this.content = this.#snapshots.get(operation.name)?.slice() ?? content;
        break;
      case "delete":
        this.#snapshots.delete(operation.name);
        break;
      case "resize": {
        const next = new Uint8Array(operation.size);
        next.set(content.subarray(0, operation.size));
        this.content = next;
        break;
      }
      case "flush":
      case "reopen":
      case "commit":
        break;
    }
  }

  #discard(offset: number, end: number): void {
    const { discardUnit: unit } = this.#shape;
    if (unit === 0) return;
    const start = Math.ceil(offset / unit) * unit;
    const stop = end === this.content.length ? end : Math.floor(end / unit) * unit;
    if (stop > start) this.content.fill(0, start, stop);
  }
}

/** A range of a disk of `size` bytes: often whole clusters, often inside one, sometimes long. */
function randomRange(random: SeededRandom, size: number, cluster: number): [number, number] {
  const unit = random.oneIn(2) ? cluster : Math.min(cluster, random.pick([SECTOR_BYTES, 4096]));
  const units = Math.max(1, Math.floor(size / unit));
  const most = Math.max(1, Math.min(units, random.pick([1, 2, 4, 16])));
  const count = 1 + random.below(most);
  const first = random.below(units - count + 1);
  return [first * unit, Math.min(size, count * unit)];
}

/**
 * A new size. A smaller one is of whole clusters: QEMU leaves what is in the rest of the last one, and
 * has it there again when the disk grows.
 */
function randomSize(
  random: SeededRandom,
  { content }: DiskModel,
  { size, cluster }: DiskShape,
): number {
  const wanted = anySize(random, size, cluster);
  return wanted > content.length ? wanted : Math.ceil(wanted / cluster) * cluster;
}

function anySize(random: SeededRandom, size: number, cluster: number): number {
  const unit = random.pick([SECTOR_BYTES, cluster]);
  const least = Math.ceil(size / 2 / unit);
  return (least + random.below(Math.ceil(size / unit))) * unit;
}

function randomIo(random: SeededRandom, model: DiskModel, shape: DiskShape): Operation {
  const [offset, length] = randomRange(random, model.content.length, shape.cluster);
  const turn = random.below(10);
  if (turn < 6) return { kind: "write", offset, length, byte: 1 + random.below(255) };
  const unmap = random.oneIn(2) || shape.unmapsOnly === true;
  if (turn < 8) return { kind: "zero", offset, length, unmap };
  return { kind: "discard", offset, length };
}

function randomStructural(random: SeededRandom, model: DiskModel, shape: DiskShape): Operation {
  const { snapshots } = model;
  if (shape.resize && random.oneIn(3)) {
    return { kind: "resize", size: randomSize(random, model, shape) };
  }
  if (shape.commits === true && random.oneIn(4)) return { kind: "commit" };
  if (!shape.snapshots || random.oneIn(3)) return { kind: "reopen" };
  if (snapshots.length > 0 && random.oneIn(2)) {
    return { kind: random.pick(["apply", "delete"] as const), name: random.pick(snapshots) };
  }
  if (snapshots.length >= SNAPSHOTS_MAX) return { kind: "delete", name: random.pick(snapshots) };
  return { kind: "snapshot", name: `s${random.below(1000)}` };
}

/** `count` operations that make sense one after the other on a disk of that shape. */
export function randomOperations(seed: number, shape: DiskShape, count: number): Operation[] {
  const random = seededRandom(seed);
  const model = new DiskModel(shape, new Uint8Array(shape.size));
  const operations: Operation[] = [];
  while (operations.length < count) {
    const turn = random.below(shape.structuralOneIn ?? STRUCTURAL_ONE_IN);
    const operation: Operation = turn === 0
      ? { kind: "flush" }
      : turn === 1
      ? randomStructural(random, model, shape)
      : randomIo(random, model, shape);
    if (!model.fits(operation)) continue;
    model.apply(operation);
    operations.push(operation);
  }
  return operations;
}
