/**
 * What a volume at rest is, and what it costs: requests and bytes as counts, since prices differ.
 *
 * @module
 */
import type { ImageInfo, JsonValue } from "../../block/image.ts";
import type { DiskContext } from "../context.ts";
import { garbageOf } from "../gc/collector.ts";
import { type Inventory, takeInventory, totalOf } from "../inventory.ts";
import { LINE_BYTES, OBJECT_DATA_BYTES } from "../limits.ts";
import { loadVolume, type Volume } from "../load.ts";
import { CHECK_BYTES } from "../log_object.ts";
import { isCloneKey } from "../names.ts";
import type { LogState } from "../log_state.ts";
import { GET_BYTES_MAX } from "../read/limits.ts";
import { listSnapshots } from "../snapshots.ts";
import { LIST_PAGE_ENTRIES } from "./limits.ts";

const GIB = 2 ** 30;
/** Data that one GET brings. */
const GET_DATA_BYTES = Math.floor(GET_BYTES_MAX / (LINE_BYTES + CHECK_BYTES)) * LINE_BYTES;

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

/** Requests and bytes of what is done with a volume. */
function costs(inventory: Inventory, state: LogState): { [name: string]: JsonValue } {
  const { total, log, checkpoints } = inventory;
  const newest = checkpoints.at(-1);
  return {
    storedGibMonths: round(total.bytes / GIB),
    putsPerGibWritten: Math.ceil(GIB / OBJECT_DATA_BYTES),
    getsPerGibRead: Math.ceil(GIB / GET_DATA_BYTES),
    listsToAttach: 2 + Math.ceil((checkpoints.length + log.length) / LIST_PAGE_ENTRIES),
    getsToAttach: 1 + (newest === undefined ? 0 : 1) + state.replayedObjects,
    bytesToAttach: newest?.size ?? 0,
  };
}

/** Looks at a volume, and changes nothing. Throws ENOENT, EIO for damage, StoreError. */
export async function volumeInfo(volume: Volume, context: DiskContext): Promise<ImageInfo> {
  const { description, origins: [own] } = volume, { signal } = context;
  if (own === undefined) throw new RangeError("A volume has no store");
  const inventory = await takeInventory(own.store, { signal });
  const snapshots = await listSnapshots(own.store, { signal });
  const { state } = await loadVolume(volume, context);
  const { dataBytes, garbageBytes } = garbageOf(state.map.objects(0));
  const { parent } = description;
  return {
    virtualSize: state.diskBytes,
    filename: own.store.name,
    format: "log",
    actualSize: inventory.total.bytes,
    dirtyFlag: !state.detached,
    ...(parent === null
      ? {}
      : { backingFilename: `${parent.address}?snapshot=${parent.snapshot}` }),
    snapshots: snapshots.map(({ name, createdMs }) => ({
      id: name,
      name,
      vmStateSize: 0,
      dateSec: Math.floor(createdMs / 1000),
      dateNsec: createdMs % 1000 * 1e6,
      vmClockSec: 0,
      vmClockNsec: 0,
    })),
    formatSpecific: {
      type: "log",
      data: {
        volumeId: description.id,
        block: description.blockBytes,
        epoch: state.epoch,
        objects: inventory.total.count,
        logObjects: inventory.log.length,
        logBytes: totalOf(inventory.log).bytes,
        checkpoints: inventory.checkpoints.length,
        clones: inventory.clones.filter(({ key }) => isCloneKey(key)).length,
        extents: state.map.extents,
        liveBytes: dataBytes - garbageBytes,
        garbageBytes,
        cost: costs(inventory, state),
      },
    },
  };
}
