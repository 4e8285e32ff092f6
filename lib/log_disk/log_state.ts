/**
 * The state of a volume: what a checkpoint says, and then each object of the log in turn.
 *
 * @module
 */
import type { ObjectStore } from "../object_store/types.ts";
import { damaged } from "./bytes.ts";
import type { VolumeDescription } from "./description.ts";
import { ExtentMap } from "./extent_map.ts";
import { headerBytesOf, type LogHeader } from "./log_object.ts";
import { logKey } from "./names.ts";

/** A volume after some object of its log. */
export interface LogState {
  /** Where each part of the disk is. */
  readonly map: ExtentMap;
  /** Size of the disk, bytes. */
  diskBytes: number;
  /** The last object that is included; 0 for none. */
  seq: number;
  /** Its epoch; 0 for none. */
  epoch: number;
  /** Nonce of that writer; empty for none. */
  nonce: string;
  /** The object that follows. */
  next: number;
  /** The last writer has ended, and nobody has claimed the log since. */
  detached: boolean;
  /** Objects that were replayed behind the checkpoint. */
  replayedObjects: number;
  /** Bytes of data in them. */
  replayedBytes: number;
}

/** The state of a volume that has no log yet. `map` is what it stands on, for a clone. */
export function initialState(diskBytes: number, map: ExtentMap = new ExtentMap()): LogState {
  return {
    map,
    diskBytes,
    seq: 0,
    epoch: 0,
    nonce: "",
    next: 1,
    detached: true,
    replayedObjects: 0,
    replayedBytes: 0,
  };
}

/** Throws EIO unless this object may come next. */
function checkOrder(state: LogState, header: LogHeader, name: string): void {
  const { seq, epoch, claim } = header;
  if (seq !== state.next) throw damaged(name, `object ${state.next} was expected in its place`);
  if (claim ? epoch <= state.epoch : epoch !== state.epoch) {
    throw damaged(name, `its epoch is ${epoch} after ${state.epoch}`);
  }
  if (!claim && state.detached) throw damaged(name, "its writer had ended before");
  if (claim && header.afterDetach && !state.detached) {
    throw damaged(name, "it says that the writer before it had ended");
  }
}

function applyExtents({ map }: LogState, header: LogHeader, name: string): void {
  const { seq, diskBytes } = header;
  let place = 0;
  for (const extent of header.extents) {
    const { offset, length } = extent;
    if (offset + length > diskBytes) throw damaged(name, "it writes behind the end of the disk");
    switch (extent.kind) {
      case "write":
        map.write(offset, length, 0, seq, place);
        place += length;
        break;
      case "zero":
        map.zero(offset, length);
        break;
      case "trim":
        map.trim(offset, length);
        break;
      case "move":
        map.move(offset, length, extent, { origin: 0, seq, at: place });
        place += length;
    }
  }
}

/** Applies the next object of the log. Throws EIO, naming it, if it cannot be the next. */
export function applyObject(
  state: LogState,
  header: LogHeader,
  volume: VolumeDescription,
  store: ObjectStore,
): void {
  const name = `${store.name}/${logKey(header.seq)}`;
  if (header.volume !== volume.id) throw damaged(name, "it belongs to another volume");
  checkOrder(state, header, name);
  const { map } = state, { seq, dataBytes, claim, afterDetach } = header;
  map.objects(0).add(seq, headerBytesOf(header.extents), dataBytes, claim && !afterDetach);
  applyExtents(state, header, name);
  if (header.diskBytes < state.diskBytes) {
    map.trim(header.diskBytes, state.diskBytes - header.diskBytes);
  }
  state.diskBytes = header.diskBytes;
  state.seq = seq;
  state.epoch = header.epoch;
  state.nonce = header.nonce;
  state.next = header.next;
  state.detached = header.detach;
  state.replayedObjects += 1;
  state.replayedBytes += dataBytes;
}
