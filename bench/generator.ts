/**
 * `deno task bench:generator [--quick] [--json] [--page]`: what a load generator costs itself: `dmu bench`
 * and fio in turns on the same server (memory, so that it is fast), pinned alike. Both put the same load
 * on it over NBD. `--page` puts the table into docs/performance.md.
 *
 * @module
 */
import { print } from "../tools/process.ts";
import { command, pinning } from "./commands.ts";
import { taskOptions } from "./options.ts";
import { loadNote, machineText, writeSection } from "./page.ts";
import { spread } from "./report.ts";
import { figure, markdownTable } from "./rows.ts";
import { DMU, type Running, startDmu } from "./servers.ts";

const KIB = 1024;
const DEVICE_BYTES = 256 * KIB * KIB;

interface Load {
  readonly title: string;
  readonly write: boolean;
  readonly block: number;
  readonly depth: number;
}

const LOADS: readonly Load[] = [
  { title: "4 KiB random read, depth 64", write: false, block: 4 * KIB, depth: 64 },
  { title: "4 KiB random write, depth 64", write: true, block: 4 * KIB, depth: 64 },
  { title: "4 KiB random read, depth 1", write: false, block: 4 * KIB, depth: 1 },
  { title: "256 KiB random read, depth 16", write: false, block: 256 * KIB, depth: 16 },
];

/** What a generator did, and took. */
interface Found {
  readonly rate: number;
  /** CPU time of the generator, µs a request. */
  readonly cpu: number;
}

type Generator = (server: Running, load: Load, seconds: number) => Promise<Found>;

const GENERATORS: Readonly<Record<string, Generator>> = {
  "dmu bench": async (server, load, seconds) => {
    const text = await command("taskset", [
      ...["-c", String(pinning().client), ...DMU, "bench", server.uri, "--json", "--overwrite"],
      ...["--rw", load.write ? "write" : "read", "--block-size", String(load.block)],
      ...["--depth", String(load.depth), "--time", String(seconds)],
      ...["--warm-up", "1"],
    ]);
    const { total, cpuUsPerRequest } = JSON.parse(text);
    return { rate: Number(total.requestsPerSecond), cpu: Number(cpuUsPerRequest) };
  },
  fio: async (server, load, seconds) => {
    const text = await command("taskset", [
      ...["-c", String(pinning().client), "fio", "--name=load", "--ioengine=nbd"],
      ...[`--uri=${server.uri}`, `--rw=rand${load.write ? "write" : "read"}`],
      ...[`--bs=${load.block}`, `--iodepth=${load.depth}`, `--size=${DEVICE_BYTES}`],
      ...[
        "--time_based",
        `--runtime=${seconds}`,
        "--ramp_time=1",
        "--norandommap",
        "--output-format=json",
      ],
    ]);
    const [job] = JSON.parse(text.slice(text.indexOf("{"))).jobs;
    const side = load.write ? job.write : job.read;
    const share = (Number(job.usr_cpu) + Number(job.sys_cpu)) / 100;
    return {
      rate: Number(side.iops),
      cpu: share * Number(job.job_runtime) * 1000 / Number(side.total_ios),
    };
  },
};

const TITLES = ["load", "generator", "requests/s", "its CPU, µs/request"] as const;

async function measureLoad(
  server: Running,
  load: Load,
  runs: number,
  seconds: number,
): Promise<string[][]> {
  const found = new Map<string, Found[]>(Object.keys(GENERATORS).map((name) => [name, []]));
  for (let round = 0; round < runs; round += 1) {
    for (const [name, generate] of Object.entries(GENERATORS)) {
      found.get(name)?.push(await generate(server, load, seconds));
    }
  }
  return [...found].map(([name, list]) => {
    const rate = spread(list.map((each) => each.rate)).median;
    const cpu = spread(list.map((each) => each.cpu)).median;
    return [load.title, name, figure(rate), cpu.toFixed(2)];
  });
}

async function main(): Promise<void> {
  const { flags } = taskOptions({ task: "bench:generator", flags: ["quick", "json", "page"] });
  const [runs, seconds] = flags.has("quick") ? [3, 1] : [5, 3];
  const note = loadNote();
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const server = await startDmu(folder, ["--control", "none", `default=memory:${DEVICE_BYTES}`]);
    const rows: string[][] = [];
    try {
      for (const load of LOADS) {
        const found = await measureLoad(server, load, runs, seconds);
        rows.push(...found);
        if (flags.has("json")) continue;
        for (const [title = "", name = "", rate = "", cpu = ""] of found) {
          const figures = `${rate.padStart(9)} requests/s ${cpu.padStart(8)} µs/request`;
          print(`${title.padEnd(30)} ${name.padEnd(10)} ${figures}\n`);
        }
      }
    } finally {
      await server.stop();
    }
    if (flags.has("json")) print(`${JSON.stringify({ machine: machineText(), note, rows })}\n`);
    if (flags.has("page")) {
      await writeSection("generator", `${machineText()} ${note}\n\n${markdownTable(TITLES, rows)}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await main();
