/**
 * One load on one server: fio over NBD, pinned, with the server's CPU time taken before and after.
 * A run counts only if fio reports no error and the bytes are exactly its requests.
 *
 * @module
 */
import { command, cpuTimeUs, pinning } from "./commands.ts";
import type { Running, Storage } from "./servers.ts";

/** What is measured. */
export interface Load {
  readonly name: string;
  readonly storage: Storage;
  readonly pattern: "randread" | "randwrite" | "randrw" | "read" | "write";
  /** Bytes of one request. */
  readonly block: number;
  /** Requests in flight on each connection. */
  readonly depth: number;
  /** Connections, each with a job of its own; 1 if left out. */
  readonly connections?: number;
}

function load(storage: Storage, pattern: Load["pattern"], block: number, depth: number): Load {
  const name = `${storage} ${pattern} ${block / 1024}k depth ${depth}`;
  return { name, storage, pattern, block, depth };
}

const KIB = 1024;

/** All loads, in the order in which they are reported. */
export const LOADS: readonly Load[] = [
  load("memory", "randread", 4 * KIB, 64),
  load("memory", "randwrite", 4 * KIB, 64),
  load("memory", "randread", 4 * KIB, 1),
  load("memory", "randwrite", 4 * KIB, 1),
  load("file", "randread", 4 * KIB, 64),
  load("file", "randwrite", 4 * KIB, 64),
  load("file", "randread", 4 * KIB, 1),
  load("file", "randwrite", 4 * KIB, 1),
  load("file", "read", 256 * KIB, 16),
  load("file", "write", 256 * KIB, 16),
];

const MIXED: Load = load("file", "randrw", 4 * KIB, 64);

/** What one run gave. */
export interface Measurement {
  readonly requestsPerSecond: number;
  /** CPU time of the server for one request, in µs. */
  readonly cpuUs: number;
  /** Time that 99 of 100 requests stayed below, in µs; the first connection's. */
  readonly latencyUs99: number;
  /** Requests a second of the slowest connection over those of the fastest. */
  readonly evenness: number;
}

/** The part of fio's JSON that is used, for each direction. */
interface FioDirection {
  readonly io_bytes: number;
  readonly total_ios: number;
  readonly iops: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioDirection;
    readonly write: FioDirection;
  }[];
}

/** Runs fio, pinned; `span` says where and for how long: `--size=…`, `--runtime=…`, `--io_size=…`. */
async function fio(uri: string, each: Load, span: readonly string[]): Promise<FioReport> {
  const text = await command("taskset", [
    ...["-c", String(pinning().client), "fio", "--name=load", "--ioengine=nbd", `--uri=${uri}`],
    ...[`--rw=${each.pattern}`, `--bs=${each.block}`, `--iodepth=${each.depth}`, ...span],
    ...["--norandommap", "--randrepeat=1", "--output-format=json"],
    `--numjobs=${each.connections ?? 1}`,
  ]);
  const report: FioReport = JSON.parse(text.slice(text.indexOf("{")));
  return report;
}

function timed(size: number, seconds: number): string[] {
  return [`--size=${size}`, "--time_based", `--runtime=${Math.round(seconds * 1000)}ms`];
}

/** Random reads and writes, 7 to 3, 4 KiB each, `requests` of them at depth 64. */
export async function measureMixed(
  server: Running,
  size: number,
  requests: number,
  seed: number,
): Promise<Pick<Measurement, "requestsPerSecond" | "latencyUs99">> {
  const { jobs: [job] } = await fio(server.uri, MIXED, [
    ...[`--size=${size}`, `--io_size=${requests * MIXED.block}`, "--rwmixread=70"],
    `--randseed=${seed}`,
  ]);
  if (job === undefined || job.error !== 0) throw new Error("Cannot use the run: fio failed");
  return {
    requestsPerSecond: job.read.iops + job.write.iops,
    latencyUs99: (job.read.clat_ns.percentile?.["99.000000"] ?? 0) / 1000,
  };
}

/** Measures one run of fio; it counts only if every byte is accounted for. */
export async function measureOnce(
  server: Running,
  each: Load,
  span: readonly string[],
): Promise<Measurement> {
  const before = cpuTimeUs(server.pid);
  const { jobs } = await fio(server.uri, each, span);
  const cpuUs = cpuTimeUs(server.pid) - before;
  if (jobs.length === 0 || jobs.some(({ error }) => error !== 0)) {
    throw new Error("Cannot use the run: fio failed");
  }
  const directions = jobs.map((job) => each.pattern.endsWith("read") ? job.read : job.write);
  for (const { total_ios: requests, io_bytes: bytes } of directions) {
    if (requests === 0 || bytes !== requests * each.block) {
      throw new Error(`Cannot use the run: ${bytes} bytes in ${requests} requests`);
    }
  }
  const rates = directions.map(({ iops }) => iops);
  const percentile = directions[0]?.clat_ns.percentile?.["99.000000"] ?? 0;
  return {
    requestsPerSecond: rates.reduce((sum, rate) => sum + rate),
    cpuUs: cpuUs / directions.reduce((sum, { total_ios }) => sum + total_ios, 0),
    latencyUs99: percentile / 1000,
    evenness: Math.min(...rates) / Math.max(...rates),
  };
}

/** Warms up for `warmUpSeconds`, unless that is 0, then measures for `seconds`. `size` is that of the device, in bytes. */
export async function measure(
  server: Running,
  each: Load,
  size: number,
  warmUpSeconds: number,
  seconds: number,
): Promise<Measurement> {
  if (warmUpSeconds > 0) await fio(server.uri, each, timed(size, warmUpSeconds));
  return await measureOnce(server, each, timed(size, seconds));
}
