/**
 * dmu as a library: the contract of storage backends, the Device, framing over Web Streams, the NBD
 * server and client, dm-user with a simulated kernel, copying, and the daemon that puts them together.
 *
 * @example A backend in a few lines, behind a Device
 * ```ts
 * import { type Backend, Device, makeRequest, systemContext } from "./mod.ts";
 *
 * const zeros: Backend = {
 *   geometry: { size: 1 << 20, minimum: 1, preferred: 4096, maximum: 1 << 20, readOnly: false },
 *   capabilities: { synchronous: true, fua: true },
 *   read: (into) => void into.fill(0),
 *   write: () => undefined,
 *   flush: () => undefined,
 *   [Symbol.asyncDispose]: () => Promise.resolve(),
 * };
 * const log = { error() {}, warn() {}, info() {}, debug() {} };
 * const { clock } = systemContext({ log });
 * await using device = new Device(zeros, { name: "zeros", clock, log });
 * const data = new Uint8Array(512);
 * await device.submit(makeRequest("read", 0, data.length, { data }));
 * ```
 *
 * @module
 */
export * from "./lib/block/types.ts";
export * from "./lib/block/context.ts";
export * from "./lib/block/errors.ts";
export * from "./lib/block/bitmaps.ts";
export * from "./lib/block/request.ts";
export * from "./lib/block/pool.ts";
export * from "./lib/block/statistics.ts";
export * from "./lib/block/device.ts";
export * from "./lib/block/options.ts";
export * from "./lib/block/size.ts";
export * from "./lib/block/spec.ts";
export * from "./lib/block/registry.ts";
export * from "./lib/block/usage_error.ts";
export * from "./lib/block/copy.ts";
export * from "./lib/block/image.ts";
export * as limits from "./lib/block/limits.ts";
export * from "./lib/sys/file_access.ts";
export type { MemoryMap, ReadAround } from "./lib/sys/memory_map.ts";
export * as objectStore from "./lib/object_store/mod.ts";
export * from "./lib/stream/mod.ts";
export * as dmUser from "./lib/dm_user/mod.ts";
export * as handle from "./lib/handle/mod.ts";
export type * from "./lib/handle/mod.ts";
export { type NbdAddress } from "./lib/nbd/uri.ts";
export type { ExportInfo } from "./lib/nbd/export_info.ts";
export * as nbd from "./lib/nbd/mod.ts";
export * as qcow2 from "./backends/qcow2/format/mod.ts";
export type { BitmapFacts } from "./lib/dirty_log/dirty_bitmap.ts";
export type { BitmapCommand } from "./lib/dirty_log/target_bitmaps.ts";
export * as dirtyLog from "./lib/dirty_log/mod.ts";
export * as trace from "./lib/trace/mod.ts";
export * as xenstore from "./lib/xenstore/mod.ts";
export { backends, defaultRegistry } from "./backends/mod.ts";
export { filters } from "./lib/filters/mod.ts";
export {
  systemClock,
  systemContext,
  type SystemContextOptions,
  systemRandom,
} from "./lib/daemon/context.ts";
export * from "./lib/daemon/config.ts";
export * from "./lib/daemon/endpoint.ts";
export { type OpenDevice, openDevice, type OpenDeviceOptions } from "./lib/daemon/open_device.ts";
export type { DataKept } from "./lib/trace/recorder.ts";
export type { BitmapConfig } from "./lib/daemon/bitmap_config.ts";
export type { TraceConfig } from "./lib/daemon/trace_config.ts";
export type { ControlConfig, Hooks } from "./lib/daemon/control_config.ts";
export * from "./lib/daemon/control_place.ts";
export * as control from "./lib/daemon/control_client.ts";
export {
  type Daemon,
  type DaemonControl,
  type DaemonEndpoint,
  type DaemonOptions,
  startDaemon,
} from "./lib/daemon/daemon.ts";
export type { ClientLimits } from "./lib/daemon/connections.ts";
export type { DriverName, Target, TargetDevice } from "./lib/daemon/target.ts";
export type { DriverChoice } from "./lib/daemon/driver_choice.ts";
export type { DmUserConfig } from "./lib/daemon/dm_user_config.ts";
export type { DaemonDmUser } from "./lib/daemon/daemon.ts";
