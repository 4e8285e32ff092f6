/**
 * The kernel's log of type `userspace`, as a mirror in the kernel uses it: marks and clears are gathered
 * until a flush, which sends clears first and then marks, newest first, at most 32 at once; whoever finds
 * no daemon makes the log anew every two seconds until there is one.
 *
 * @module
 */
import { BlockError } from "../../block/errors.ts";
import { ESRCH, REQUEST_TYPES as t } from "../constants.ts";
import { decodeText, decodeWords, encodeConstructor, encodeWords } from "../payload.ts";
import type { Consulted, SimulatedLogKernel } from "./kernel.ts";

/** Regions in one MARK, CLEAR or integrated FLUSH. */
const GROUP_REGIONS = 32;
/** Time in ms between two attempts to find a daemon. */
const RECONNECT_MS = 2_000;
/** Time in ms until a flush that has clears alone is sent, if flushes carry the marks. */
const CLEAR_FLUSH_MS = 3_000;
/** Bytes of a status line for which there is room. */
const STATUS_ROOM = 255;
/** Bytes of a device name for which CTR has room. */
const DEVICE_ROOM = 255;
/** Time in ms between two questions for what others copy. */
const REMOTE_MS = 250;

/** A log as a table describes it. */
export interface UserspaceTable {
  /** The name of the log. */
  readonly uuid: string;
  /** Sectors of the mirror. */
  readonly sectors: number;
  /** Type of the log and its arguments: "core 2048 nosync". */
  readonly text: string;
  /** Flushes carry the regions to be marked. */
  readonly integratedFlush?: boolean;
}

/** One log of a simulated kernel. */
export class SimulatedUserspaceLog {
  /** Sectors of a region, as the daemon says. */
  readonly regionSectors: number;
  /** Regions of the mirror. */
  readonly regions: number;
  /** The device that the daemon keeps the log on, if it named one. */
  readonly device: string | null;
  readonly #kernel: SimulatedLogKernel;
  readonly #table: UserspaceTable;
  readonly #luid: bigint;
  #marks: number[] = [];
  #clears: number[] = [];
  #inSyncHint = 0;
  #askedRemote_ms = -Infinity;
  #flushPlanned: AbortController | null = null;

  /** `dmsetup create`, or the first half of a table swap. Throws EINVAL if the daemon refuses. */
  static async create(
    kernel: SimulatedLogKernel,
    table: UserspaceTable,
    luid: bigint,
  ): Promise<SimulatedUserspaceLog> {
    const { uuid } = table;
    const data = encodeConstructor({ text: `${table.sectors} ${table.text}`, reconnects: false });
    const made = await kernel.consult({ uuid, luid, type: t.CTR, data, room: DEVICE_ROOM });
    if (made.error !== 0) throw refused(uuid, "CTR", made.error);
    const size = await kernel.consult({ uuid, luid, type: t.GET_REGION_SIZE, room: 8 });
    const [regionSectors] = decodeWords(size.data) ?? [];
    if (size.error !== 0 || regionSectors === undefined || regionSectors === 0) {
      throw refused(uuid, "GET_REGION_SIZE", size.error);
    }
    const device = made.data.length === 0 ? null : decodeText(made.data);
    return new SimulatedUserspaceLog(kernel, table, luid, regionSectors, device);
  }

  private constructor(
    kernel: SimulatedLogKernel,
    table: UserspaceTable,
    luid: bigint,
    regionSectors: number,
    device: string | null,
  ) {
    this.#kernel = kernel;
    this.#table = table;
    this.#luid = luid;
    this.regionSectors = regionSectors;
    this.regions = Math.ceil(table.sectors / regionSectors);
    this.device = device;
  }

  /** Ends it. */
  async destroy(): Promise<void> {
    this.#flushPlanned?.abort();
    await this.#once(t.DTR);
  }

  /** No more recovery. Gives the error of the daemon, as all requests do that change something. */
  presuspend(): Promise<number> {
    return this.#once(t.PRESUSPEND);
  }

  /** Not in use any more. A flush that was put off is done first. */
  async postsuspend(): Promise<number> {
    if (this.#flushPlanned !== null) {
      this.#flushPlanned.abort();
      this.#flushPlanned = null;
      await this.#request(t.FLUSH);
    }
    return await this.#once(t.POSTSUSPEND);
  }

  /** In use. */
  resume(): Promise<number> {
    this.#inSyncHint = 0;
    return this.#once(t.RESUME);
  }

  /** True if a region may be read from any leg; an error is a no. */
  async inSync(region: number): Promise<boolean> {
    return (await this.#words(t.IN_SYNC, encodeWords(region), 1))[0] === 1;
  }

  /** True if a region is clean; an error is a no. */
  async isClean(region: number): Promise<boolean> {
    return (await this.#words(t.IS_CLEAN, encodeWords(region), 1))[0] === 1;
  }

  /** To be marked by the next flush. */
  mark(region: number): void {
    this.#marks.unshift(region);
  }

  /** To be cleared by the next flush. */
  clear(region: number): void {
    this.#clears.unshift(region);
  }

  /** Sends what was gathered. Gives 0 or an error: then nothing may be written. */
  async flush(): Promise<number> {
    const marks = this.#marks.splice(0), clears = this.#clears.splice(0);
    if (marks.length === 0 && clears.length === 0) return 0;
    const integrated = this.#table.integratedFlush === true;
    return await this.#groups(t.CLEAR_REGION, clears) ||
      await this.#groups(integrated ? t.FLUSH : t.MARK_REGION, marks) ||
      await (integrated ? this.#planFlush(marks.length === 0) : this.#request(t.FLUSH));
  }

  /** A region to be copied, or null. */
  async resyncWork(): Promise<number | null> {
    if (this.#inSyncHint >= this.regions) return null;
    const [have, region] = await this.#words(t.GET_RESYNC_WORK, undefined, 2);
    return have === 1 && region !== undefined ? region : null;
  }

  /** Tells how a copy ended, or that a leg lacks a region. */
  setRegionSync(region: number, inSync: boolean): Promise<number> {
    return this.#request(t.SET_REGION_SYNC, encodeWords(region, Number(inSync)));
  }

  /** Regions in sync; 0 if that cannot be learned. */
  async syncCount(): Promise<number> {
    return (await this.#words(t.GET_SYNC_COUNT, undefined, 1))[0] ?? 0;
  }

  /** The log's part of a status line. */
  async statusInfo(): Promise<string> {
    const { error, data } = await this.#consult(t.STATUS_INFO, undefined, STATUS_ROOM);
    return error === 0 ? decodeText(data) : "userspace 1 COM_FAILURE";
  }

  /** True if writes to a region have to wait for another host. */
  async isRemoteRecovering(region: number): Promise<boolean> {
    if (region < this.#inSyncHint) return false;
    const now_ms = this.#kernel.clock.now() / 1000;
    if (now_ms < this.#askedRemote_ms + REMOTE_MS) return true;
    this.#askedRemote_ms = now_ms;
    const [recovering, hint] = await this.#words(t.IS_REMOTE_RECOVERING, encodeWords(region), 2);
    if (recovering === undefined || hint === undefined) return true;
    this.#inSyncHint = hint;
    return recovering !== 0;
  }

  async #groups(type: number, regions: readonly number[]): Promise<number> {
    for (let at = 0; at < regions.length; at += GROUP_REGIONS) {
      const group = regions.slice(at, at + GROUP_REGIONS);
      const error = await this.#request(type, encodeWords(...group));
      if (error !== 0) return error;
    }
    return 0;
  }

  #planFlush(clearsAlone: boolean): Promise<number> {
    if (!clearsAlone) {
      this.#flushPlanned?.abort();
      this.#flushPlanned = null;
    } else if (this.#flushPlanned === null) {
      const planned = this.#flushPlanned = new AbortController();
      this.#kernel.clock.sleep(CLEAR_FLUSH_MS, planned.signal).then(
        () => {
          if (this.#flushPlanned === planned) this.#flushPlanned = null;
          return this.#request(t.FLUSH);
        },
        () => 0,
      );
    }
    return Promise.resolve(0);
  }

  async #words(type: number, data: Uint8Array | undefined, count: number): Promise<number[]> {
    const result = await this.#consult(type, data, count * 8);
    return result.error === 0 ? decodeWords(result.data) ?? [] : [];
  }

  async #request(type: number, data?: Uint8Array): Promise<number> {
    return (await this.#consult(type, data, 0)).error;
  }

  async #once(type: number): Promise<number> {
    return (await this.#ask(type, undefined, 0)).error;
  }

  #ask(type: number, data: Uint8Array | undefined, room: number): Promise<Consulted> {
    const asked = { uuid: this.#table.uuid, luid: this.#luid, type, room };
    return this.#kernel.consult(data === undefined ? asked : { ...asked, data });
  }

  async #consult(type: number, data: Uint8Array | undefined, room: number): Promise<Consulted> {
    for (let left = room;;) {
      const result = await this.#ask(type, data, left);
      if (result.error !== -ESRCH) return result;
      left = result.room;
      await this.#reconnect();
      const { error } = await this.#ask(t.RESUME, undefined, 0);
      if (error !== 0) return result;
    }
  }

  async #reconnect(): Promise<void> {
    const { sectors, text } = this.#table;
    const data = encodeConstructor({ text: `${sectors} ${text}`, reconnects: true });
    for (;;) {
      await this.#kernel.clock.sleep(RECONNECT_MS);
      if ((await this.#ask(t.CTR, data, 0)).error === 0) return;
    }
  }
}

function refused(uuid: string, request: string, error: number): BlockError {
  return new BlockError("EINVAL", `Cannot make the log ${uuid}: ${request} failed with ${error}`);
}
