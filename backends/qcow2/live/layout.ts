/**
 * The figures of an image that the data path needs, worked out once: plain numbers, so that mapping an
 * offset is a few divisions by powers of two.
 *
 * @module
 */
import {
  AUTOCLEAR_RAW_DATA_FILE,
  clusterBytes,
  hasDataFile,
  hasExtendedL2,
  l2Entries,
  type QcowHeader,
} from "../format/header.ts";
import { SUBCLUSTERS } from "../format/entries.ts";
import { L2_SLICE_BYTES_MAX } from "./limits.ts";

/** Figures of an image. They never change while it is open. */
export interface Layout {
  /** 2 to this power is the cluster size. */
  readonly clusterBits: number;
  /** Bytes of a cluster. */
  readonly clusterBytes: number;
  /** L2 entries have bitmaps of subclusters. */
  readonly extended: boolean;
  /** Bytes of a subcluster; those of a cluster if there are none. */
  readonly subclusterBytes: number;
  /** Bytes of an L2 entry: 8 or 16. */
  readonly entryBytes: number;
  /** Entries of an L2 table. */
  readonly entriesPerTable: number;
  /** Bytes of a piece of an L2 table that is read at once. */
  readonly sliceBytes: number;
  /** Entries of such a piece. */
  readonly entriesPerSlice: number;
  /** Pieces of an L2 table. */
  readonly slicesPerTable: number;
  /** Bytes of the disk that an L2 table maps. */
  readonly tableCoverage: number;
  /** Guest data is in a file of its own. */
  readonly external: boolean;
  /** That file has to be a raw image of the disk at any time. */
  readonly externalRaw: boolean;
  /** There are zero clusters: not in version 2. */
  readonly zeroClusters: boolean;
}

/** The figures of an image with this header. */
export function layoutOf(header: QcowHeader): Layout {
  const cluster = clusterBytes(header), extended = hasExtendedL2(header);
  const entryBytes = extended ? 16 : 8, entriesPerTable = l2Entries(header);
  const sliceBytes = Math.min(cluster, L2_SLICE_BYTES_MAX);
  const external = hasDataFile(header);
  return {
    clusterBits: header.clusterBits,
    clusterBytes: cluster,
    extended,
    subclusterBytes: extended ? cluster / SUBCLUSTERS : cluster,
    entryBytes,
    entriesPerTable,
    sliceBytes,
    entriesPerSlice: sliceBytes / entryBytes,
    slicesPerTable: cluster / sliceBytes,
    tableCoverage: cluster * entriesPerTable,
    external,
    externalRaw: external && (header.autoclear & AUTOCLEAR_RAW_DATA_FILE) !== 0n,
    zeroClusters: header.version >= 3,
  };
}
