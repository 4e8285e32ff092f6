/**
 * What a mirror begins with: which legs have everything, and which regions may differ, from the log that
 * is there and the legs that could be opened. docs/backends/mirror.md says why it is like this.
 *
 * @module
 */
import type { LegStateName } from "../../lib/block/types.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { FoundLog } from "../../lib/dirty_log/disk_layout.ts";
import type { SyncWish } from "../../lib/dirty_log/log_arguments.ts";
import { decodeRecord, type LegRecord, recordedState } from "./record.ts";
import { REGION_BYTES_USUAL, REGIONS_USUAL_MAX } from "./limits.ts";

/** What is known when a mirror is opened. */
export interface Knowledge {
  /** Where the log is, for messages. */
  readonly path: string;
  /** Bytes of the mirror. */
  readonly size: number;
  /** What the medium of the log has; null for a log in memory. */
  readonly found: FoundLog | null;
  /** The legs: their identity, and if they could be opened. */
  readonly legs: readonly { readonly identity: string; readonly open: boolean }[];
  /** The leg that is right at first sync, from 0. */
  readonly source: number;
  /** Legs are equal at first sync. */
  readonly nosync: boolean;
  /** Bytes of a region as the user wants it. */
  readonly regionBytes: number | null;
}

/** A leg to begin with. */
export interface PlannedLeg {
  readonly state: LegStateName;
  readonly candidate: boolean;
  /** The count of events of the last record in which it was in sync. */
  readonly events: number;
}

/** What to begin with. */
export interface Plan {
  readonly legs: readonly PlannedLeg[];
  readonly regionBytes: number;
  /** How the log takes up what is on its medium; "sync" if none of that can be believed of all legs. */
  readonly sync: SyncWish;
  /** Legs in sync differ where the log is dirty, since the mirror was not closed. */
  readonly crashed: boolean;
  /** The record so far; null if there is none. */
  readonly record: LegRecord | null;
  /** What a person has to know. */
  readonly warnings: readonly string[];
}

function refuse(path: string, reason: string): never {
  throw new BlockError(
    "EINVAL",
    `Cannot use the log ${path}: ${reason}; remove it to copy all from the leg that source names`,
  );
}

/** Bytes of a region if nobody says. */
export function usualRegion(size: number): number {
  let bytes = REGION_BYTES_USUAL;
  while (size / bytes > REGIONS_USUAL_MAX) bytes *= 2;
  return bytes;
}

/** Nobody has written to this mirror yet: one leg is right, or all are. */
function first(knowledge: Knowledge, sync: SyncWish): Plan {
  const { legs, source, nosync, regionBytes, size } = knowledge;
  const missing = legs.findIndex(({ open }) => !open);
  // Without a log every start is the first; a leg that is away then can come back later.
  const needed = knowledge.found !== null || nosync ? missing : legs[source]?.open ? -1 : source;
  if (needed >= 0) {
    throw new BlockError("EIO", `leg ${needed + 1} is needed when a mirror is used first`);
  }
  return {
    legs: legs.map(({ open }, at) => ({
      state: !open ? "failed" : nosync || at === source ? "in-sync" : "resync",
      candidate: false,
      events: 0,
    })),
    regionBytes: regionBytes ?? usualRegion(size),
    sync,
    crashed: false,
    record: null,
    warnings: [],
  };
}

/** A log that the kernel or another program has kept: its bits count, and the source is right. */
function foreign(knowledge: Knowledge, found: FoundLog): Plan {
  const begin = first({ ...knowledge, nosync: false }, "default");
  const regions = Math.ceil(knowledge.size / begin.regionBytes);
  const fits = found.header.kind === "log" && found.header.regions === BigInt(regions);
  return {
    ...begin,
    sync: fits ? "default" : "sync",
    warnings: [
      `the log ${knowledge.path} does not say which legs it is of: leg ${knowledge.source + 1} ` +
      `counts, ${
        fits ? "its dirty regions are" : "and since its regions are others all is"
      } copied`,
    ],
  };
}

function recorded(knowledge: Knowledge, found: FoundLog, record: LegRecord): Plan {
  const { path, size, legs, source } = knowledge;
  if (record.size !== size) {
    refuse(path, `it is of a mirror of ${record.size} bytes, and the legs have ${size}`);
  }
  const regionBytes = knowledge.regionBytes ?? record.regionBytes;
  const regions = BigInt(Math.ceil(size / regionBytes));
  const fits = regionBytes === record.regionBytes && found.header.kind === "log" &&
    found.header.regions === regions;
  const known = legs.map(({ identity }) => record.legs.find((leg) => leg.identity === identity));
  const states = legs.map(({ open }, at): PlannedLeg => {
    const leg = known[at];
    if (!open || leg === undefined) {
      return { state: open ? "resync" : "failed", candidate: false, events: leg?.events ?? 0 };
    }
    return { state: recordedState(record, leg), candidate: leg.candidate, events: leg.events };
  });
  const warnings: string[] = [];
  if (!fits) warnings.push(`the regions of the log ${path} are others now: all is copied`);
  known.forEach((leg, at) => {
    if (leg === undefined) {
      warnings.push(`leg ${at + 1} is new to the log ${path}: all is copied to it`);
    }
  });
  return {
    legs: withHeir(knowledge, states, source, warnings),
    regionBytes,
    sync: !fits || known.includes(undefined) ? "sync" : "default",
    crashed: !record.closed,
    record,
    warnings,
  };
}

/** If no leg in sync is there, one that lacks no answered write takes over. */
function withHeir(
  { path }: Knowledge,
  legs: readonly PlannedLeg[],
  source: number,
  warnings: string[],
): readonly PlannedLeg[] {
  if (legs.some(({ state }) => state === "in-sync")) return legs;
  const isHeir = ({ state, candidate }: PlannedLeg): boolean => state === "resync" && candidate;
  const preferred = legs[source];
  const heir = preferred !== undefined && isHeir(preferred) ? source : legs.findIndex(isHeir);
  if (heir < 0) {
    throw new BlockError(
      "EIO",
      `no leg that can be opened has everything by the log ${path}; remove the log to take the leg ` +
        "that source names for right all the same",
    );
  }
  warnings.push(`leg ${heir + 1} takes over, since no leg in sync can be opened`);
  return legs.map((leg, at) => at === heir ? { ...leg, state: "in-sync", candidate: false } : leg);
}

/** Plans. Throws EINVAL for a log that cannot be used, EIO if no leg has everything. */
export function planMirror(knowledge: Knowledge): Plan {
  const { found, path, nosync } = knowledge;
  if (found === null) return first(knowledge, nosync ? "nosync" : "default");
  if (found.header.kind === "new") return first(knowledge, nosync ? "nosync" : "sync");
  const note = decodeRecord(found.note);
  if (note.kind === "damaged") refuse(path, `what it says of the legs is damaged, ${note.reason}`);
  if (note.kind === "record") return recorded(knowledge, found, note.record);
  if (found.header.kind === "damaged") {
    refuse(path, `its header is damaged, ${found.header.reason}`);
  }
  return foreign(knowledge, found);
}
