/**
 * The refcounts that a file holds, compared with the references that were counted.
 *
 * @module
 */
import { refcountBlockOffset } from "../format/entries.ts";
import { viewOf } from "../format/numbers.ts";
import { CHECK_CACHE_BYTES_MAX } from "../limits.ts";
import { breathe, type CheckState, refcountDue } from "./state.ts";

/** Reads refcounts of a file, keeping some blocks in memory. */
export class RefcountReader {
  readonly #state: CheckState;
  readonly #table: DataView;
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #blocksMax: number;
  /** Refcounts of one block. */
  readonly perBlock: number;

  /** Reads the refcount table: at most 8 MiB. */
  constructor(state: CheckState) {
    const { header: { refcountTableOffset, refcountTableClusters }, cluster, file } = state;
    this.#state = state;
    const table = new Uint8Array(refcountTableClusters * cluster);
    file.read(table, refcountTableOffset);
    this.#table = viewOf(table);
    this.#blocksMax = Math.max(8, Math.floor(CHECK_CACHE_BYTES_MAX / cluster));
    this.perBlock = cluster * 8 / state.refcounts.bits;
  }

  /** Where block `index` is; 0 if there is none, -1 if no cluster begins there. */
  place(index: number): number {
    const at = index * 8;
    if (at >= this.#table.byteLength) return 0;
    const offset = refcountBlockOffset(this.#table.getUint32(at), this.#table.getUint32(at + 4));
    return offset % this.#state.cluster === 0 ? offset : -1;
  }

  /** Block `index`; null if there is none that can be read. Past the end of the file it is all 0. */
  block(index: number): Uint8Array | null {
    const offset = this.place(index);
    if (offset <= 0 || offset >= this.#state.fileBytes) return null;
    const known = this.#blocks.get(index);
    if (known !== undefined) return known;
    const [oldest] = this.#blocks.keys();
    if (this.#blocks.size >= this.#blocksMax && oldest !== undefined) this.#blocks.delete(oldest);
    const bytes = new Uint8Array(this.#state.cluster);
    this.#state.file.read(bytes, offset);
    this.#blocks.set(index, bytes);
    return bytes;
  }

  /** The refcount of a cluster; 0 where there is no block. */
  get(cluster: number): number {
    const block = this.block(Math.floor(cluster / this.perBlock));
    return block === null ? 0 : this.#state.refcounts.get(block, cluster % this.perBlock);
  }
}

/** What to do about a cluster whose refcount is not right. */
export type Mismatch = (cluster: number, refcount: number, references: number) => void;

/** Calls `see` for every cluster of the file whose refcount differs from its references. */
export async function compareRefcounts(
  state: CheckState,
  reader: RefcountReader,
  see: Mismatch,
): Promise<void> {
  const { references, refcounts, findings } = state;
  const { perBlock } = reader;
  findings.highest = 0;
  for (let first = 0; first < state.clusters; first += perBlock) {
    const end = Math.min(first + perBlock, state.clusters);
    const index = first / perBlock;
    const block = reader.block(index);
    if (block === null && !references.someIn(first, end)) continue;
    await breathe(state, state.cluster);
    for (let cluster = first; cluster < end; cluster += 1) {
      const stored = block === null ? 0 : refcounts.get(block, cluster - first);
      const counted = refcountDue(state, cluster);
      if (stored === 0 && counted === 0) continue;
      findings.highest = cluster;
      if (stored !== counted) see(cluster, stored, counted);
    }
  }
}

/** Counts leaks and corruptions; a refcount of 0 for what is in use asks for a rebuild, as in QEMU. */
export async function findMismatches(state: CheckState, reader: RefcountReader): Promise<void> {
  const { findings } = state;
  await compareRefcounts(state, reader, (cluster, stored, counted) => {
    const what = `Cluster ${cluster} has refcount ${stored}, but ${counted} references`;
    if (stored > counted) return findings.leak(what);
    findings.corruption(what);
    if (stored === 0) state.rebuild = true;
  });
}
