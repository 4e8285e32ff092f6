/**
 * Simulated dm-user targets as files: `dm-user/NAME` is the control device, `disk/NAME` the block
 * device. Removing the latter is what `dmsetup remove NAME` is.
 *
 * @module
 */
import type { Clock, Log, Random } from "../block/context.ts";
import { Device } from "../block/device.ts";
import type { BufferPool } from "../block/pool.ts";
import type { Backend, Maybe } from "../block/types.ts";
import { SECTOR_BYTES } from "../dm_user/constants.ts";
import { simulatedBackend } from "../dm_user/simulator/backend.ts";
import type { Channel } from "../dm_user/simulator/channel.ts";
import type { SimulatedDevice } from "../dm_user/simulator/device.ts";
import type { SimulatorListener } from "../dm_user/simulator/event.ts";
import { SimulatedKernel } from "../dm_user/simulator/kernel.ts";
import type { TargetOptions } from "../dm_user/simulator/target.ts";
import {
  type DiskFile,
  type DiskHandle,
  type Folder,
  makeFolder,
  type StreamCall,
  type StreamFile,
  type StreamHandle,
} from "../fuse/tree.ts";

/** The folders on the mount. */
export const CONTROL_FOLDER_NAME = "dm-user", DISK_FOLDER_NAME = "disk";

/** One simulated target. */
export interface SimulatedTarget {
  /** 1 to 255 letters, digits, dots, underscores and hyphens. */
  readonly name: string;
  /** Bytes, whole sectors, at least 512. */
  readonly size: number;
}

/** What simulated targets need. */
export interface SimulatedTreeOptions {
  readonly targets: readonly SimulatedTarget[];
  /** How all of them behave. */
  readonly behaviour: TargetOptions;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly pool: BufferPool;
  /** Gets every event of the simulated kernel. */
  readonly listener?: SimulatorListener;
}

/** Simulated targets as files. */
export interface SimulatedTree {
  readonly root: Folder;
  /** Removes every target, in use or not: readers get ENOTBLK, I/O fails. */
  removeAll(): void;
}

/** One open of a control file. */
class ChannelHandle implements StreamHandle {
  readonly #channel: Channel;
  /** The last write ended where a write(2) of the device ends. */
  #atEnd = true;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  read(into: Uint8Array, call: StreamCall): Maybe<number> {
    if (this.#channel.remaining > 0) return this.#channel.read(into);
    // A long read(2) ends with what was in hand: the next message is for the next read.
    return call.continuation ? 0 : this.#channel.read(into, call.signal);
  }

  write(from: Uint8Array, { continuation }: StreamCall): number {
    if (continuation && this.#atEnd) return 0;
    const before = this.#channel.outstanding;
    const count = this.#channel.write(from);
    // It took all and completed nothing: the answer goes on in the next piece.
    this.#atEnd = count !== from.length || this.#channel.outstanding < before;
    return count;
  }

  close(): void {
    this.#channel.close();
  }
}

/** The block device of one target. */
class SimulatedDisk implements DiskFile {
  readonly kind = "disk";
  readonly permissions = 0o600;
  readonly size: number;
  readonly #device: SimulatedDevice;
  readonly #options: SimulatedTreeOptions;
  readonly #open = new Set<Backend>();

  constructor(device: SimulatedDevice, options: SimulatedTreeOptions) {
    this.size = device.size;
    this.#device = device;
    this.#options = options;
  }

  open(): DiskHandle {
    const backend = simulatedBackend(this.#device);
    const { clock, log, pool } = this.#options;
    const device = new Device(backend, { name: this.#device.name, clock, log, pool });
    this.#open.add(backend);
    return { device, close: () => this.#close(backend) };
  }

  /** The block device counts as closed from now on, whoever still uses it. */
  closeAll(): void {
    for (const backend of this.#open) this.#close(backend);
  }

  #close(backend: Backend): void {
    this.#open.delete(backend);
    // Not through the Device: closing a block device sends no flush.
    backend[Symbol.asyncDispose]();
  }
}

/** Makes the targets. Throws BlockError: EBUSY for a name that is there twice, EINVAL for an option. */
export function simulatedTree(options: SimulatedTreeOptions): SimulatedTree {
  const { clock, random, listener, behaviour } = options;
  const kernel = new SimulatedKernel({
    clock,
    random,
    ...(listener === undefined ? {} : { listener }),
  });
  const controls = new Map<string, StreamFile>();
  const disks = new Map<string, SimulatedDisk>();
  for (const { name, size } of options.targets) {
    const device = kernel.createSimple(name, size / SECTOR_BYTES, behaviour);
    const open = (): StreamHandle => new ChannelHandle(kernel.open(name));
    controls.set(name, { kind: "stream", permissions: 0o600, open });
    disks.set(name, new SimulatedDisk(device, options));
  }
  const remove = (name: string): void => {
    kernel.remove(name);
    controls.delete(name);
    disks.delete(name);
  };
  const folder = { kind: "folder", permissions: 0o755 } as const;
  const root = makeFolder({
    [CONTROL_FOLDER_NAME]: { ...folder, entries: controls },
    [DISK_FOLDER_NAME]: { ...folder, entries: disks, unlink: remove },
  });
  const removeAll = (): void => {
    for (const [name, disk] of disks) {
      disk.closeAll();
      remove(name);
    }
  };
  return { root, removeAll };
}
