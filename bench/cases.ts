/**
 * What is compared: loads of one client, eight clients at once, a thousand that are idle, data that are
 * not in the page cache, and a disk that is large. Each case starts the server anew for each run.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { systemClock } from "../lib/daemon/context.ts";
import { type NbdWire, openNbdWire } from "../lib/bench/nbd_load.ts";
import { parseNbdUri } from "../lib/nbd/uri.ts";
import { command, memoryBytes } from "./commands.ts";
import { type Load, LOADS, measure, measureMixed } from "./load.ts";
import type { Metric } from "./rows.ts";
import type { Running, Server, Storage } from "./servers.ts";

const KIB = 1024, MIB = 1024 * KIB, GIB = 1024 * MIB;
/** Size of the large disk, of which nothing is allocated at first. */
const LARGE_BYTES = 64 * GIB;
const FILL_CHUNK_BYTES = MIB;
/** Connections that are busy at once, and such that are idle. */
const BUSY = 8, IDLE = 1_000;
/** Parts of the long run that are compared, and its requests: those of a look, and those of `--long`. */
const PARTS = 10, MIXED_REQUESTS = 500_000, LONG_REQUESTS = 10_000_000;

/** How long is measured. */
export interface Plan {
  readonly runs: number;
  readonly warmUpSeconds: number;
  readonly seconds: number;
  /** Size of the disk, in bytes: it stays in the page cache. */
  readonly diskBytes: number;
  /** Ten million requests on the large disk, rather than a part of them. */
  readonly long: boolean;
}

/** What cases share. */
export interface Bench {
  readonly folder: string;
  /** Random data of the disk's size, and their hash. */
  readonly image: string;
  readonly imageHash: string;
  readonly plan: Plan;
  /** What has given its data back: the name of a server and its storage. */
  readonly checked: Set<string>;
}

/** Something that is measured. */
export interface Case {
  readonly name: string;
  readonly metrics: readonly Metric[];
  /** One run is enough: it is long. */
  readonly once?: true;
  /** Measures once; figures by the id of the metric. */
  measure(bench: Bench, server: Server): Promise<Readonly<Record<string, number>>>;
}

/** Writes random data to a new file; gives its hash. Not a byte of it is a hole or a zero page. */
export async function makeImage(path: string, bytes: number): Promise<string> {
  const hash = createHash("sha256");
  const chunk = new Uint8Array(FILL_CHUNK_BYTES);
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let done = 0; done < bytes; done += chunk.length) {
    for (let at = 0; at < chunk.length; at += 65_536) {
      crypto.getRandomValues(chunk.subarray(at, at + 65_536));
    }
    hash.update(chunk);
    for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
  }
  return hash.digest("hex");
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await Deno.open(path); // its stream closes it
  for await (const chunk of file.readable) hash.update(chunk);
  return hash.digest("hex");
}

/** The server has to give back the data that it was filled with. */
async function checkData(bench: Bench, server: Server, running: Running): Promise<void> {
  const copy = join(bench.folder, "copy");
  await command("nbdcopy", [running.uri, copy]);
  const found = await hashOf(copy);
  await Deno.remove(copy);
  if (found !== bench.imageHash) throw new Error(`${server.name} does not give its data back`);
}

/** Runs `work` with the server on a disk full of data, which are looked at the first time. */
async function withServer<T>(
  bench: Bench,
  server: Server,
  storage: Storage,
  work: (running: Running, file: string) => Promise<T>,
): Promise<T> {
  const { folder, image, checked } = bench;
  const key = `${server.name} ${storage}`, first = !checked.has(key);
  const own = await Deno.makeTempDir({ dir: folder });
  const file = join(folder, "disk.img");
  // Runs after the first may find what others have written: it is data all the same.
  if (storage !== "memory" && first) await Deno.copyFile(image, file);
  const running = await server.start(storage, own, file, bench.plan.diskBytes);
  try {
    if (storage === "memory") await command("nbdcopy", [image, running.uri]);
    if (first) await checkData(bench, server, running);
    checked.add(key);
    return await work(running, file);
  } finally {
    await running.stop();
  }
}

interface Wanted {
  readonly title: string;
  readonly goals?: Readonly<Record<string, number>>;
  readonly cpuGoals?: Readonly<Record<string, number>>;
  readonly cpu?: true;
}

/** One client. */
function speedCase(load: Load, { title, goals, cpuGoals, cpu }: Wanted): Case {
  const rate: Metric = { id: "rate", title, unit: "requests/s", better: "more" };
  const cpuMetric: Metric = {
    ...{ id: "cpu", title: `${title}: CPU`, unit: "µs/request", better: "less" },
    ...(cpuGoals === undefined ? {} : { goals: cpuGoals }),
  };
  return {
    name: load.name,
    metrics: [
      goals === undefined ? rate : { ...rate, goals },
      ...(cpu === true || cpuGoals !== undefined ? [cpuMetric] : []),
    ],
    measure: (bench, server) =>
      withServer(bench, server, load.storage, async (running) => {
        const { warmUpSeconds, seconds, diskBytes } = bench.plan;
        const measured = await measure(running, load, diskBytes, warmUpSeconds, seconds);
        return { rate: measured.requestsPerSecond, cpu: measured.cpuUs };
      }),
  };
}

/** What the loads of LOADS are called, and what is wanted of them. */
const WANTED: Readonly<Record<string, Wanted>> = {
  "file randread 4k depth 64": {
    title: "4 KiB random read, depth 64",
    goals: { nbdkit: 2, "qemu-nbd": 5 },
    cpuGoals: { nbdkit: 0.6 },
  },
  "file randwrite 4k depth 64": {
    title: "4 KiB random write, depth 64",
    goals: { nbdkit: 1.5, "qemu-nbd": 4 },
    cpu: true,
  },
  "file randread 4k depth 1": { title: "4 KiB random read, depth 1", goals: { nbdkit: 1 } },
  "file randwrite 4k depth 1": { title: "4 KiB random write, depth 1" },
  "file read 256k depth 16": {
    title: "256 KiB sequential read, depth 16",
    goals: { nbdkit: 1, "qemu-nbd": 2 },
    cpu: true,
  },
  "file write 256k depth 16": {
    title: "256 KiB sequential write, depth 16",
    goals: { nbdkit: 1, "qemu-nbd": 2 },
    cpu: true,
  },
};

const BUSY_LOAD: Load = {
  ...{ name: "busy", storage: "file", pattern: "randread", block: 4 * KIB, depth: 16 },
  connections: BUSY,
};
const ALONE_LOAD: Load = {
  ...{ name: "alone", storage: "file", pattern: "randread", block: 4 * KIB, depth: 64 },
};

/** Several clients at once. */
const BUSY_CASE: Case = {
  name: `${BUSY} connections`,
  metrics: [
    {
      ...{ id: "rate", title: `${BUSY} connections at once, 4 KiB random read, depth 16 each` },
      ...{ unit: "requests/s", better: "more", goals: { nbdkit: 1 } },
    },
    {
      ...{ id: "even", title: `${BUSY} connections at once: slowest over fastest` },
      ...{ unit: "", better: "more", alone: true, limit: 0.5 },
    },
  ],
  measure: (bench, server) =>
    withServer(bench, server, "file", async (running) => {
      const { warmUpSeconds, seconds, diskBytes } = bench.plan;
      const found = await measure(running, BUSY_LOAD, diskBytes, warmUpSeconds, seconds);
      return { rate: found.requestsPerSecond, even: found.evenness };
    }),
};

/** Many clients that do nothing, and one that works. */
const IDLE_CASE: Case = {
  name: `${IDLE} idle`,
  metrics: [
    {
      ...{ id: "memory", title: `${IDLE} idle connections: memory of each` },
      ...{ unit: "KiB", better: "less", limit: 100 },
    },
    {
      ...{ id: "busy", title: `${IDLE} idle connections: speed of a busy one, with over without` },
      ...{ unit: "", better: "more", alone: true, limit: 0.9 },
    },
  ],
  measure: (bench, server) =>
    withServer(bench, server, "file", async (running) => {
      const { warmUpSeconds, seconds, diskBytes } = bench.plan;
      const speed = async (): Promise<number> => {
        const found = await measure(running, ALONE_LOAD, diskBytes, warmUpSeconds, seconds);
        return found.requestsPerSecond;
      };
      const alone = await speed();
      const before = memoryBytes(running.pid);
      const wires: NbdWire[] = [];
      try {
        for (let count = 0; count < IDLE; count += 1) {
          wires.push(await openNbdWire(parseNbdUri(running.uri), { clock: systemClock }));
        }
        const memory = (memoryBytes(running.pid) - before) / IDLE / KIB;
        return { memory, busy: await speed() / alone };
      } finally {
        for (const wire of wires) wire.close();
      }
    }),
};

/** Data that are not in the page cache, or are read past it. */
function coldCase(load: Load, title: string): Case {
  return {
    name: `cold ${load.storage} ${load.name} depth ${load.depth}`,
    metrics: [{ id: "rate", title, unit: "requests/s", better: "more" }],
    measure: (bench, server) =>
      withServer(bench, server, load.storage, async (running, file) => {
        const { seconds, diskBytes } = bench.plan;
        // What is dirty stays; then the file's pages are given up.
        await command("dd", [`of=${file}`, "oflag=nocache", "conv=notrunc,fdatasync", "count=0"]);
        return { rate: (await measure(running, load, diskBytes, 0, seconds)).requestsPerSecond };
      }),
  };
}

/** A disk of 64 GiB, and so many requests that what leaks or drifts shows. */
const LARGE_CASE: Case = {
  name: "large",
  once: true,
  metrics: [
    {
      ...{ id: "rate", title: "64 GiB sparse, mixed 4 KiB, depth 64", unit: "requests/s" },
      better: "more",
    },
    {
      ...{ id: "memory", title: "64 GiB sparse, mixed: growth of memory after the first tenth" },
      ...{ unit: "MiB", better: "less", alone: true, limit: 16 },
    },
    {
      ...{ id: "drift", title: "64 GiB sparse, mixed: 99th percentile, last tenth over first" },
      ...{ unit: "", better: "less", alone: true, limit: 1.5 },
    },
  ],
  async measure({ folder, plan }, server): Promise<Readonly<Record<string, number>>> {
    const own = await Deno.makeTempDir({ dir: folder });
    const file = join(own, "large.img");
    await Deno.writeFile(file, new Uint8Array(0));
    await Deno.truncate(file, LARGE_BYTES);
    const running = await server.start("file", own, file, LARGE_BYTES);
    try {
      const requests = (plan.long ? LONG_REQUESTS : MIXED_REQUESTS) / PARTS;
      const parts: { rate: number; latency: number; memory: number }[] = [];
      for (let part = 1; part <= PARTS; part += 1) {
        const found = await measureMixed(running, LARGE_BYTES, requests, part);
        const memory = memoryBytes(running.pid) / MIB;
        parts.push({ rate: found.requestsPerSecond, latency: found.latencyUs99, memory });
      }
      const first = parts[0] ?? NONE, last = parts.at(-1) ?? NONE;
      return {
        rate: parts.reduce((sum, { rate }) => sum + rate, 0) / PARTS,
        memory: last.memory - first.memory,
        drift: last.latency / first.latency,
      };
    } finally {
      await running.stop();
      await Deno.remove(file);
    }
  },
};

const NONE = { rate: NaN, latency: NaN, memory: NaN };

function coldLoad(
  pattern: Load["pattern"],
  block: number,
  depth: number,
  storage: Storage = "file",
): Load {
  return { name: pattern, storage, pattern, block, depth };
}

/** All cases that the page shows, in its order. */
export const CASES: readonly Case[] = [
  ...LOADS.flatMap((load) => {
    const wanted = WANTED[load.name];
    return wanted === undefined ? [] : [speedCase(load, wanted)];
  }),
  BUSY_CASE,
  IDLE_CASE,
  coldCase(coldLoad("randread", 4 * KIB, 16), "cold data, 4 KiB random read, depth 16"),
  coldCase(coldLoad("randread", 4 * KIB, 64), "cold data, 4 KiB random read, depth 64"),
  coldCase(coldLoad("read", 256 * KIB, 16), "cold data, 256 KiB sequential read, depth 16"),
  ...[1, 16, 64].map((depth) =>
    coldCase(
      coldLoad("randread", 4 * KIB, depth, "direct"),
      `direct I/O, 4 KiB random read, depth ${depth}`,
    )
  ),
  LARGE_CASE,
];

/** The same loads on memory: what a server costs without storage. */
export const MEMORY_CASES: readonly Case[] = LOADS
  .filter(({ storage }) => storage === "memory")
  .map((load) => speedCase(load, { title: load.name, cpu: true }));
