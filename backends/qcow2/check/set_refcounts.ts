/**
 * Makes the refcounts of a file what the references say: one by one where the structures are sound, from
 * scratch where they are not.
 *
 * @module
 */
import { BlockError } from "../../../lib/block/errors.ts";
import type { QcowHeader } from "../format/header.ts";
import { setU64, viewOf } from "../format/numbers.ts";
import { CHECK_CLUSTERS_MAX, REFCOUNT_TABLE_BYTES_MAX } from "../limits.ts";
import { patchHeader } from "./patch_header.ts";
import type { RefcountReader } from "./refcounts.ts";
import { breathe, type CheckState, refcountDue } from "./state.ts";

/** What changing refcounts has done. */
export interface RefcountChanges {
  /** Refcounts that were too low. */
  readonly raised: number;
  /** Refcounts that were too high. */
  readonly lowered: number;
}

async function changeBlocks(
  state: CheckState,
  reader: RefcountReader,
  wanted: (stored: number, counted: number) => boolean,
): Promise<number> {
  const { refcounts, file } = state;
  const { perBlock } = reader;
  let count = 0;
  for (let first = 0; first < state.clusters; first += perBlock) {
    const index = first / perBlock;
    const block = reader.block(index);
    if (block === null) continue;
    await breathe(state, state.cluster);
    let changed = false;
    const end = Math.min(perBlock, state.clusters - first);
    for (let at = 0; at < end; at += 1) {
      const stored = refcounts.get(block, at), counted = refcountDue(state, first + at);
      if (stored === counted || !wanted(stored, counted)) continue;
      refcounts.set(block, at, counted);
      changed = true;
      count += 1;
    }
    if (changed) file.write(block, reader.place(index));
  }
  return count;
}

/**
 * Sets refcounts in the blocks that are there. What is in use is secured first, and only when that is
 * durable are refcounts lowered.
 */
export async function setRefcounts(
  state: CheckState,
  reader: RefcountReader,
  repair: "leaks" | "all",
): Promise<RefcountChanges> {
  let raised = 0;
  if (repair === "all") {
    raised = await changeBlocks(state, reader, (stored, counted) => stored < counted);
    await state.file.flushAsync();
  }
  const lowered = await changeBlocks(state, reader, (stored, counted) => stored > counted);
  await state.file.flushAsync();
  return { raised, lowered };
}

/** Finds free clusters in the order of the file. */
export class FreeClusters {
  readonly #state: CheckState;
  readonly #taken: (cluster: number) => boolean;
  #next = 1;

  /** Those without a reference that `taken` does not tell either. */
  constructor(state: CheckState, taken: (cluster: number) => boolean) {
    this.#state = state;
    this.#taken = taken;
  }

  /** The first of `count` free clusters in a row, which count as referred to once from now on. */
  take(count: number): number {
    const { references, file } = this.#state;
    let first = this.#next;
    for (let at = first; at < first + count; at += 1) {
      if (references.get(at) !== 0 || this.#taken(at)) first = at + 1;
    }
    if (first + count > CHECK_CLUSTERS_MAX) {
      throw new BlockError("ENOSPC", `Cannot repair ${file.path}: there is no free cluster`);
    }
    for (let at = first; at < first + count; at += 1) references.set(at, 1);
    if (count === 1) this.#next = first + 1;
    if (first + count > this.#state.clusters) this.#state.clusters = first + count;
    return first;
  }
}

/** Where new blocks are: index of the block to its cluster. */
type Blocks = Map<number, number>;

/** Gives a block to every range of clusters that has references, those of the blocks themselves included. */
function placeBlocks(
  state: CheckState,
  perBlock: number,
  free: FreeClusters,
  blocks: Blocks,
  from: number,
  to: number,
): void {
  const { references } = state;
  for (let first = from - from % perBlock; first < to; first += perBlock) {
    const index = first / perBlock;
    if (blocks.has(index) || !references.someIn(first, first + perBlock)) continue;
    let used = false;
    for (let at = first; at < first + perBlock && !used; at += 1) used = references.get(at) !== 0;
    if (!used) continue;
    const cluster = free.take(1);
    blocks.set(index, cluster);
    // It may be in a range that was passed already.
    placeBlocks(state, perBlock, free, blocks, cluster, cluster + 1);
  }
}

interface NewTable {
  readonly first: number;
  readonly clusters: number;
}

function placeTable(
  state: CheckState,
  perBlock: number,
  free: FreeClusters,
  blocks: Blocks,
): NewTable {
  const { cluster, references, file } = state;
  for (;;) {
    const wanted = (): number => Math.ceil((highestOf(blocks) + 1) * 8 / cluster);
    const clusters = wanted();
    if (clusters * cluster > REFCOUNT_TABLE_BYTES_MAX) {
      throw new BlockError(
        "EFBIG",
        `Cannot repair ${file.path}: its refcount table would have ${clusters * cluster} bytes ` +
          `(limit: ${REFCOUNT_TABLE_BYTES_MAX})`,
      );
    }
    const first = free.take(clusters);
    placeBlocks(state, perBlock, free, blocks, first, first + clusters);
    if (wanted() === clusters) return { first, clusters };
    for (let at = first; at < first + clusters; at += 1) references.set(at, 0);
  }
}

function highestOf(blocks: Blocks): number {
  let highest = 0;
  for (const index of blocks.keys()) highest = Math.max(highest, index);
  return highest;
}

async function writeBlocks(state: CheckState, perBlock: number, blocks: Blocks): Promise<void> {
  const { cluster, file, refcounts } = state;
  for (const [index, place] of blocks) {
    await breathe(state, state.cluster);
    const bytes = new Uint8Array(cluster);
    for (let at = 0; at < perBlock; at += 1) {
      const count = refcountDue(state, index * perBlock + at);
      if (count !== 0) refcounts.set(bytes, at, count);
    }
    file.write(bytes, place * cluster);
  }
}

/**
 * Makes a new refcount table and new blocks in free clusters, and then switches the header to them (and to
 * what else is new in `header`). `state` has all references but those of the old ones, which `free` leaves
 * untouched: they count until then. Gives the new header.
 */
export async function rebuildRefcounts(
  state: CheckState,
  header: QcowHeader,
  free: FreeClusters,
): Promise<QcowHeader> {
  const { cluster, file, refcounts } = state;
  const perBlock = cluster * 8 / refcounts.bits;
  const blocks: Blocks = new Map();
  placeBlocks(state, perBlock, free, blocks, 0, state.clusters);
  const table = placeTable(state, perBlock, free, blocks);
  await writeBlocks(state, perBlock, blocks);
  const bytes = new Uint8Array(table.clusters * cluster);
  for (const [index, place] of blocks) setU64(viewOf(bytes), index * 8, place * cluster);
  file.write(bytes, table.first * cluster);
  await file.flushAsync();
  const changed = {
    ...header,
    refcountTableOffset: table.first * cluster,
    refcountTableClusters: table.clusters,
  };
  patchHeader(file, changed);
  await file.flushAsync();
  return changed;
}
