/**
 * The dm-user devices of a daemon: channels of the control device, each served from its target until the
 * kernel removes it. A channel that fails (an answer that the kernel does not take poisons it for good)
 * is closed, which fails what it had not answered, and opened again.
 *
 * @module
 */
import { dirname, join } from "node:path";
import type { Clock, Log } from "../block/context.ts";
import type { Device } from "../block/device.ts";
import { BlockError, toBlockError } from "../block/errors.ts";
import type { Gate } from "../block/request.ts";
import { SECTOR_BYTES } from "../dm_user/constants.ts";
import { RealChannel } from "../dm_user/real_channel.ts";
import { becomeIoFlusher, openChannel } from "../sys/channel.ts";
import { SystemError } from "../sys/system_error.ts";
import type { DmUserConfig } from "./dm_user_config.ts";
import { CHANNEL_FAILURES_MAX, CHANNEL_REOPEN_MS, STOP_MS_MAX } from "./limits.ts";

/** How a channel or all of a device's channels ended. */
export type DmUserEnd =
  /** The kernel has removed the target: all is well. */
  | "removed"
  /** It was to end: the daemon stops, or access was taken away. */
  | "stopped"
  /** It did not work, and does not when tried again. */
  | "lost";

/** A channel's entry in the daemon's table of ways in. */
export interface ChannelAccess {
  /** Shut when access is taken away: messages are then answered with ERROR. */
  readonly gate: Gate;
  /** The channel is over. */
  close(): void;
}

/** A channel, as its entry shows and ends it. */
export interface ChannelWay {
  /** Which one it is, for people. */
  readonly peer: string;
  /** Ends it: what was read is answered, nothing more is read, and it is not opened again. */
  readonly kick: () => void;
}

/** What a served device needs. */
export interface DmUserOptions {
  /** Which device, and how often it is opened. */
  readonly config: DmUserConfig;
  /** The folder of control devices. */
  readonly folder: string;
  /** What answers. */
  readonly device: Device;
  /** Enters each channel into the table of ways in. Throws BlockError if that is refused. */
  readonly admit: (way: ChannelWay) => ChannelAccess;
  /** For pauses, and for the end of patience. */
  readonly clock: Clock;
  /** Hears of channels that fail, and of the end. */
  readonly log: Log;
}

function has(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Why a control device cannot be opened, and what to do about it. */
function openProblem(error: unknown, options: DmUserOptions, path: string): BlockError {
  const { config: { name }, folder, device } = options;
  const { errno } = toBlockError(error);
  // To be pasted: `dmu table` takes these names alone, and a shell needs no quotes for them.
  const make = /^\w[\w./-]*$/.test(name)
    ? `dmu table ${name} --size ${device.geometry.size} | sh`
    : "dmsetup create";
  const reason = errno === "ENOENT" && !has(folder)
    ? `there is no ${folder}: load the module (modprobe dm-user), then make the target (${make})`
    : errno === "ENOENT" && has(dirname(path))
    ? `${folder} has no target of this name: make it (${make})`
    : errno === "ENOENT"
    ? `there is no ${dirname(path)}: make the target (${make})`
    : errno === "EACCES" || errno === "EPERM"
    ? "it belongs to another user: run as root"
    : null;
  if (reason === null) return toBlockError(error);
  return new BlockError(errno, `Cannot open ${path}: ${reason}`, { cause: error });
}

/** One device: its channels, open. */
export class DmUserDevice {
  /** What it was opened from. */
  readonly config: DmUserConfig;
  /** Its control device. */
  readonly path: string;
  readonly #options: DmUserOptions;
  readonly #channels: ServedChannel[];
  readonly #stop = new AbortController();
  #over: Promise<DmUserEnd> | null = null;
  #end: DmUserEnd | null = null;

  /** Opens all channels or none. Throws BlockError, which says what to load or make. */
  constructor(options: DmUserOptions) {
    this.#options = options;
    this.config = options.config;
    this.path = join(options.folder, options.config.name);
    this.#channels = [];
    if (!becomeIoFlusher()) {
      options.log.debug("Memory that runs short can stall dm-user devices: no CAP_SYS_RESOURCE");
    }
    const { minimum } = options.device.geometry;
    if (minimum > SECTOR_BYTES) {
      options.log.warn(
        `${this.path} has sectors of ${SECTOR_BYTES} bytes, target ${options.config.target} takes ` +
          `whole blocks of ${minimum} alone: what is smaller gets an I/O error`,
      );
    }
    try {
      for (let index = 1; index <= options.config.channels; index++) {
        const what = { ...options, path: this.path, index, signal: this.#stop.signal };
        this.#channels.push(new ServedChannel(what));
      }
    } catch (error) {
      for (const channel of this.#channels) channel.close();
      throw openProblem(error, options, this.path);
    }
  }

  /** How all its channels ended; null before they have. */
  get end(): DmUserEnd | null {
    return this.#end;
  }

  /** All its channels have ended, or do so as soon as what they have read is answered. */
  get ending(): boolean {
    return this.#end !== null || this.#channels.every((channel) => channel.stopping);
  }

  /** Serves; resolves when all channels are over. Once: later calls give the same promise. */
  serve(): Promise<DmUserEnd> {
    return this.#over ??= this.#serve();
  }

  async #serve(): Promise<DmUserEnd> {
    const ends = await Promise.all(this.#channels.map((channel) => channel.serve()));
    const end = ends.find((each) => each === "removed") ??
      ends.find((each) => each === "stopped") ?? "lost";
    const { log } = this.#options;
    if (end === "removed") log.info(`${this.path} is gone: its target was removed`);
    else if (end === "lost") log.error(`${this.path} is not served any more`);
    this.#end = end;
    return end;
  }

  /** Has what was read answered, up to STOP_MS_MAX, and closes all channels. */
  async stop(): Promise<void> {
    this.#stop.abort(shutDown());
    if (this.#over === null) {
      for (const channel of this.#channels) channel.close();
      return;
    }
    const patience = new AbortController();
    const late = this.#options.clock.sleep(STOP_MS_MAX, patience.signal).then(() => {
      for (const channel of this.#channels) channel.abort(shutDown());
    }, () => {});
    await this.#over;
    patience.abort();
    await late;
  }
}

function shutDown(): BlockError {
  return new BlockError("ESHUTDOWN", "the server is shutting down");
}

interface ServedChannelOptions extends DmUserOptions {
  readonly path: string;
  /** From 1. */
  readonly index: number;
  /** Aborts when no more messages are to be read. */
  readonly signal: AbortSignal;
}

/** One place for a channel: the one that is open, and those that come after it has failed. */
class ServedChannel {
  readonly #options: ServedChannelOptions;
  #channel: RealChannel;
  /** Failures without a channel that lasted between them. */
  #failures = 0;
  #stopping = false;

  constructor(options: ServedChannelOptions) {
    this.#options = options;
    this.#channel = this.#open();
  }

  /** It is to end. */
  get stopping(): boolean {
    return this.#stopping;
  }

  /** Serves until there is nothing to serve any more. Never rejects. */
  async serve(): Promise<DmUserEnd> {
    const { clock, log, signal, path, index } = this.#options;
    signal.addEventListener("abort", this.#stop);
    try {
      for (;;) {
        if (signal.aborted) this.#stop();
        const begun_us = clock.now();
        try {
          return await this.#serveOnce();
        } catch (error) {
          const reason = error instanceof Error ? error.message : String(error);
          const text = `Channel ${index} of ${path} ended, what it had not answered has failed`;
          log.error(`${text}: ${reason}`, error);
        }
        if (this.#stopping) return "stopped";
        if (clock.now() - begun_us >= CHANNEL_REOPEN_MS * 1000) this.#failures = 0;
        this.#failures += 1;
        const end = await this.#reopen();
        if (end !== null) return end;
      }
    } finally {
      signal.removeEventListener("abort", this.#stop);
    }
  }

  readonly #stop = (): void => {
    this.#stopping = true;
    this.#channel.stop();
  };

  async #serveOnce(): Promise<DmUserEnd> {
    const { device, admit, path, index } = this.#options;
    let access: ChannelAccess;
    try {
      access = admit({ peer: `channel ${index} of ${path}`, kick: this.#stop });
    } catch (error) {
      this.#channel.close();
      throw error;
    }
    try {
      return await this.#channel.serve(device, { gate: access.gate });
    } finally {
      access.close();
    }
  }

  /** Cuts it off. */
  abort(reason: unknown): void {
    this.#channel.abort(reason);
  }

  /** Closes it unserved. */
  close(): void {
    this.#channel.close();
  }

  #open(): RealChannel {
    const { path, clock } = this.#options;
    return new RealChannel({ fd: openChannel(path), label: path, clock });
  }

  /** Opens the next channel; gives an end instead if there is none to be had. */
  async #reopen(): Promise<DmUserEnd | null> {
    const { clock, log, signal, path, index } = this.#options;
    if (this.#failures > CHANNEL_FAILURES_MAX) return "lost";
    try {
      if (this.#failures > 1) await clock.sleep(CHANNEL_REOPEN_MS, signal);
      if (signal.aborted) return "stopped";
      this.#channel = this.#open();
      log.warn(`Channel ${index} of ${path} is open again`);
      return null;
    } catch (error) {
      if (signal.aborted) return "stopped";
      if (error instanceof SystemError && error.code === "ENOENT") return "removed";
      log.error(error instanceof Error ? error.message : String(error), error);
      return "lost";
    }
  }
}
