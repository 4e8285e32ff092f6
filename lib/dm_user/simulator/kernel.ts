/**
 * The simulated kernel: makes and removes dm devices of type `user`, and opens their control devices.
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";
import { BlockError } from "../../block/errors.ts";
import { formatTableLine, parseTable, type TableLine } from "../table.ts";
import type { Channel } from "./channel.ts";
import { SimulatedDevice } from "./device.ts";
import type { SimulatorListener } from "./event.ts";
import { Target, type TargetOptions } from "./target.ts";

/** What a kernel runs with: time and chance. */
export interface SimulatedKernelContext extends Pick<OpenContext, "clock" | "random"> {
  /** Gets every event of every target. */
  readonly listener?: SimulatorListener;
}

/**
 * A machine with dm-user.
 *
 * @example A daemon that answers one write
 * ```ts
 * import { REQUEST_TYPES } from "../constants.ts";
 * import { makeBio } from "./bio.ts";
 * import { SimulatedKernel } from "./kernel.ts";
 *
 * const clock = { now: () => 0, wall: () => 0, sleep: () => Promise.resolve() };
 * const random = { uint32: () => 0, fill: () => {} };
 * const kernel = new SimulatedKernel({ clock, random });
 * const device = kernel.create("disk", "0 2048 user 0 2048 disk");
 * const status = device.submit(makeBio(REQUEST_TYPES.WRITE, { data: new Uint8Array(512) }));
 * const channel = kernel.open("disk");
 * const header = new Uint8Array(40);
 * if (await channel.read(header) !== 40) throw new Error("a header has 40 bytes");
 * if (await channel.read(new Uint8Array(4096)) !== 512) throw new Error("then comes the data");
 * header.fill(0, 8); // success
 * if (channel.write(header) !== 40 || await status !== 0) throw new Error("not answered");
 * channel.close();
 * kernel.remove("disk");
 * ```
 */
export class SimulatedKernel {
  readonly #context: SimulatedKernelContext;
  readonly #devices = new Map<string, SimulatedDevice>();
  /** Control devices by name. */
  readonly #controls = new Map<string, Target>();
  #channels = 0;

  /** A kernel without devices. */
  constructor(context: SimulatedKernelContext) {
    this.#context = context;
  }

  /** Names of the control devices that can be opened now. */
  get controlNames(): string[] {
    return [...this.#controls.keys()];
  }

  /**
   * `dmsetup create NAME --table TABLE`, all targets with the same options. Errno: EINVAL for a wrong
   * table or option, EBUSY if the device exists, ENOSPC if the name of a target is in use.
   */
  create(name: string, table: string, options: TargetOptions = {}): SimulatedDevice {
    if (this.#devices.has(name)) {
      throw new BlockError("EBUSY", `Cannot create ${name}: there is a device of that name`);
    }
    const lines = parseTable(table);
    this.#checkNames(name, lines);
    const context = {
      clock: this.#context.clock,
      random: this.#context.random,
      listener: this.#context.listener ?? null,
      nextChannelId: (): number => this.#channels += 1,
    };
    const targets = lines.map(({ start, sectors, name }) => {
      const target = new Target(name, options, context);
      return { start, sectors, target };
    });
    for (const { target } of targets) this.#controls.set(target.name, target);
    const device = new SimulatedDevice(name, targets);
    this.#devices.set(name, device);
    return device;
  }

  /** A device with one target of its own name, `sectors` long. Errno as `create`. */
  createSimple(name: string, sectors: number, options: TargetOptions = {}): SimulatedDevice {
    return this.create(name, formatTableLine({ start: 0, sectors, name }), options);
  }

  /** Opens `/dev/dm-user/NAME`. Errno: ENOENT if there is no such target (any more). */
  open(name: string): Channel {
    const target = this.#controls.get(name);
    if (target === undefined) {
      throw new BlockError(
        "ENOENT",
        `Cannot open the control device ${name}: there is no such target`,
      );
    }
    return target.open();
  }

  /**
   * `dmsetup remove NAME`: possible with channels open, not with the block device open. Errno: ENXIO
   * if there is no such device, EBUSY if its block device is open.
   */
  remove(name: string): void {
    const device = this.#devices.get(name);
    if (device === undefined) {
      throw new BlockError("ENXIO", `Cannot remove ${name}: there is no such device`);
    }
    if (device.openCount > 0) {
      throw new BlockError("EBUSY", `Cannot remove ${name}: its block device is open`);
    }
    this.#devices.delete(name);
    for (const { target } of device.targets) {
      this.#controls.delete(target.name);
      target.remove();
    }
  }

  #checkNames(device: string, lines: readonly TableLine[]): void {
    const taken = new Set(this.#controls.keys());
    for (const { name } of lines) {
      if (taken.has(name)) {
        throw new BlockError("ENOSPC", `Cannot create ${device}: the name ${name} is in use`);
      }
      taken.add(name);
    }
  }
}
