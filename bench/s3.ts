/**
 * `deno task bench:s3 [--quick] [--json] [--delay MS,MS] [--only TEXT]`: dmu, s3backer and nbdkit's S3
 * plugin on the same RADOS gateway, plain and behind a line with more latency (there and back, in ms).
 * fio drives all of them: dmu and nbdkit over NBD, s3backer through its FUSE file. Each load gets a disk
 * of its own; requests are counted on their way to the gateway.
 *
 * @module
 */
import { join } from "node:path";
import { type RadosGateway, startRadosGateway } from "../tests/support/radosgw.ts";
import { print } from "../tools/process.ts";
import { command } from "./commands.ts";
import { type DelayProxy, startDelayProxy } from "./delay_proxy.ts";
import { taskOptions } from "./options.ts";
import { type Peer, PEERS, type ServedDisk } from "./s3_peers.ts";

const MIB = 2 ** 20;

interface S3Load {
  readonly name: string;
  readonly unit: "requests/s" | "MiB/s" | "PUTs a GiB";
  /** What is compared with dmu's figure. */
  readonly peers: readonly string[];
  /** Size of the disk, bytes. */
  readonly bytes: number;
  /** It is read by a server that was started anew. */
  readonly isRead: boolean;
  /** Arguments of fio; `seconds` and `bytes` bound it. */
  readonly fio: (bounds: { readonly seconds: number; readonly bytes: number }) => readonly string[];
}

const LOADS: readonly S3Load[] = [
  {
    name: "durable 4 KiB random write, depth 16",
    unit: "requests/s",
    peers: ["dmu", "s3backer safe"],
    bytes: 64 * MIB,
    isRead: false,
    fio: ({ seconds }) => [
      ...["--rw=randwrite", "--bs=4k", "--numjobs=16", "--iodepth=1", "--fsync=1"],
      ...["--group_reporting", "--time_based", `--runtime=${seconds}`],
    ],
  },
  {
    name: "sequential write, 1 MiB, with its flush",
    unit: "MiB/s",
    peers: ["dmu", "s3backer tuned", "nbdkit S3"],
    bytes: 256 * MIB,
    isRead: false,
    fio: (
      { bytes },
    ) => ["--rw=write", "--bs=1m", "--iodepth=4", "--end_fsync=1", `--size=${bytes}`],
  },
  {
    name: "sequential read, 1 MiB",
    unit: "MiB/s",
    peers: ["dmu", "s3backer tuned", "nbdkit S3"],
    bytes: 256 * MIB,
    isRead: true,
    fio: ({ bytes }) => ["--rw=read", "--bs=1m", "--iodepth=4", `--size=${bytes}`],
  },
  {
    name: "4 KiB random writes, flushed at the end",
    unit: "PUTs a GiB",
    peers: ["dmu"],
    bytes: 256 * MIB,
    isRead: false,
    fio: ({ bytes }) => [
      ...["--rw=randwrite", "--bs=4k", "--iodepth=64", "--end_fsync=1", `--io_size=${bytes}`],
    ],
  },
];

interface Figure {
  readonly load: string;
  readonly delay_ms: number;
  readonly peer: string;
  readonly unit: S3Load["unit"];
  readonly value: number;
  readonly requests: Readonly<Record<string, number>>;
}

interface FioJob {
  readonly error: number;
  readonly read: { readonly iops: number; readonly io_bytes: number };
  readonly write: { readonly iops: number; readonly io_bytes: number };
}

async function fio(
  disk: ServedDisk,
  args: readonly string[],
  bytes: number,
): Promise<[FioJob, number]> {
  const began = performance.now();
  const text = await command("fio", [
    ...["--name=load", "--output-format=json", "--randrepeat=1", ...disk.fio],
    ...args.some((arg) => arg.startsWith("--size=")) ? [] : [`--size=${bytes}`],
    ...args,
  ]);
  const seconds = (performance.now() - began) / 1000;
  const report: { readonly jobs: readonly FioJob[] } = JSON.parse(text.slice(text.indexOf("{")));
  const [job] = report.jobs;
  if (job === undefined || job.error !== 0) throw new Error("Cannot use the run: fio failed");
  return [job, seconds];
}

let disks = 0;

interface Setting {
  readonly gateway: RadosGateway;
  readonly proxy: DelayProxy;
  readonly delayMs: number;
  readonly bounds: { readonly seconds: number; readonly bytes: number };
}

async function measure(peer: Peer, load: S3Load, setting: Setting): Promise<Figure> {
  const { gateway, proxy, delayMs, bounds } = setting;
  disks += 1;
  const folder = join(gateway.folder, `disk${disks}`);
  Deno.mkdirSync(folder);
  const place = {
    gateway,
    endpoint: proxy.endpoint,
    prefix: `disk${disks}`,
    bytes: load.bytes,
    folder,
  };
  let disk = await peer.open(place, true);
  try {
    if (load.isRead) {
      await fio(disk, ["--rw=write", "--bs=1m", "--end_fsync=1"], bounds.bytes);
      await disk.stop();
      disk = await peer.open(place, false);
    }
    const before = new Map(proxy.requests);
    const [job, seconds] = await fio(disk, load.fio(bounds), load.bytes);
    const requests: Record<string, number> = {};
    for (const [method, count] of proxy.requests) {
      requests[method] = count - (before.get(method) ?? 0);
    }
    const bytes = job.read.io_bytes + job.write.io_bytes;
    const values = {
      "requests/s": job.write.iops,
      "MiB/s": bytes / MIB / seconds,
      "PUTs a GiB": (requests["PUT"] ?? 0) * 1024 * MIB / bytes,
    };
    const value = values[load.unit];
    return {
      load: load.name,
      delay_ms: delayMs,
      peer: peer.name,
      unit: load.unit,
      value,
      requests,
    };
  } finally {
    await disk.stop();
  }
}

function row(figure: Figure, first: Figure | undefined): string {
  const { peer, value, unit, requests } = figure;
  const ratio = first === undefined || first === figure
    ? ""
    : `dmu is ${(first.value / value).toFixed(2)} ×`;
  const counts = ["PUT", "GET"].map((method) => `${requests[method] ?? 0} ${method}`).join(", ");
  return `  ${peer.padEnd(15)} ${value.toFixed(0).padStart(7)} ${unit.padEnd(11)} ${
    counts.padEnd(22)
  } ${ratio}`.trimEnd();
}

async function main(): Promise<void> {
  const { flags, texts } = taskOptions({
    task: "bench:s3",
    flags: ["quick", "json"],
    texts: ["delay", "only"],
  });
  const isJson = flags.has("json"), only = texts.get("only") ?? "";
  const delays = (texts.get("delay") ?? "0,20,30").split(",").map(Number);
  const bounds = flags.has("quick")
    ? { seconds: 3, bytes: 64 * MIB }
    : { seconds: 10, bytes: 256 * MIB };
  const folder = Deno.makeTempDirSync({ prefix: "dmu-bench-s3-" });
  const figures: Figure[] = [];
  try {
    for (const delayMs of delays) {
      // A new one each time: it keeps what it has in memory, and one that is full keeps clients waiting.
      await using gateway = await startRadosGateway(Deno.makeTempDirSync({ dir: folder }));
      const proxy = startDelayProxy(gateway.endpoint, delayMs / 2);
      const setting: Setting = { gateway, proxy, delayMs, bounds };
      for (const load of LOADS.filter(({ name }) => name.includes(only))) {
        if (!isJson) print(`${load.name}, ${delayMs} ms of latency\n`);
        let first: Figure | undefined;
        for (const peer of PEERS.filter(({ name }) => load.peers.includes(name))) {
          const figure = await measure(peer, load, setting);
          first ??= figure;
          figures.push(figure);
          if (!isJson) print(`${row(figure, first)}\n`);
        }
      }
      await proxy.stop();
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  if (isJson) print(`${JSON.stringify(figures)}\n`);
}

await main();
