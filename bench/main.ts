/**
 * `deno task bench [--quick] [--long] [--memory] [--json] [--page] [--only TEXT] [--runs N]`: dmu, nbdkit,
 * qemu-nbd and nbd-server side by side. Same data, same client (fio over a unix socket), servers pinned to
 * one CPU and the client to another, one server at a time in turns (A B C A B C …), each warmed up, medians
 * of all runs. Each server has to give back the data it was filled with before it is measured. Needs fio
 * and libnbd's tools; a server that is not installed is left out. `--memory` measures loads on memory
 * instead of files, `--page` puts the table into docs/performance.md.
 *
 * @module
 */
import { join } from "node:path";
import { formatSize } from "../lib/block/size.ts";
import { print } from "../tools/process.ts";
import { type Bench, type Case, CASES, makeImage, MEMORY_CASES, type Plan } from "./cases.ts";
import { firstLine, pinning } from "./commands.ts";
import { taskOptions } from "./options.ts";
import { loadNote, machineText, writeSection } from "./page.ts";
import { comparisonTable, type Row, rowData, rowText } from "./rows.ts";
import { type Server, SERVERS } from "./servers.ts";

const MIB = 1024 * 1024;
const FULL = { runs: 5, warmUpSeconds: 1, seconds: 3, diskBytes: 1024 * MIB };
const QUICK = { runs: 3, warmUpSeconds: 0.5, seconds: 1, diskBytes: 256 * MIB };

function progress(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

/** One run. A peer that cannot do it has no figures; we have to be able to. */
async function runOnce(
  bench: Bench,
  server: Server,
  each: Case,
): Promise<Readonly<Record<string, number>>> {
  try {
    return await each.measure(bench, server);
  } catch (error) {
    if (server === SERVERS[0]) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    progress(`${server.name} cannot do "${each.name}": ${reason}\n`);
    return {};
  }
}

/** All runs of a case, in turns. */
async function runCase(bench: Bench, servers: readonly Server[], each: Case): Promise<Row[]> {
  const runs = each.metrics.map((metric) => ({
    metric,
    runs: new Map<string, number[]>(servers.map(({ name }) => [name, []])),
  }));
  const count = each.once === true ? 1 : bench.plan.runs;
  for (let round = 0; round < count; round += 1) {
    for (const server of servers) {
      const found = await runOnce(bench, server, each);
      for (const { metric, runs: lists } of runs) {
        lists.get(server.name)?.push(found[metric.id] ?? NaN);
      }
    }
  }
  return runs;
}

async function available(): Promise<Server[]> {
  for (const tool of ["fio", "nbdcopy", "nbdinfo", "taskset"]) {
    if (await firstLine(tool, ["--version"]) === null) throw new Error(`Cannot run: needs ${tool}`);
  }
  const there = await Promise.all(
    SERVERS.map(({ version: [path = "", ...args] }) => firstLine(path, args)),
  );
  return SERVERS.filter((_, index) => there[index] !== null);
}

async function versions(servers: readonly Server[]): Promise<string[]> {
  const all = servers.slice(1).map(({ version: [path = "", ...args] }) => firstLine(path, args));
  return [await firstLine("fio", ["--version"]), ...await Promise.all(all)]
    .map((each) => (each ?? "").replace(/^This is |^.*\/| version/g, "").replace(/ \(.*/, ""));
}

async function pageText(
  servers: readonly Server[],
  plan: Plan,
  rows: readonly Row[],
  load: string,
): Promise<string> {
  const { server, client } = pinning();
  return [
    `${machineText()} ${(await versions(servers)).join(", ")}. Servers on CPU ${server}, the ` +
    `client on CPU ${client}; a disk of ${
      formatSize(plan.diskBytes)
    }; medians of ${plan.runs} runs of ` +
    `${plan.seconds} s in turns. ${load}`,
    comparisonTable(rows, servers.map(({ name }) => name)),
  ].join("\n\n");
}

async function main(): Promise<void> {
  const { flags, texts, numbers } = taskOptions({
    task: "bench",
    flags: ["quick", "long", "memory", "json", "page"],
    texts: ["only"],
    numbers: ["runs"],
  });
  const base = flags.has("quick") ? QUICK : FULL;
  const runs = Math.ceil(numbers.get("runs") ?? base.runs);
  const plan: Plan = { ...base, runs, long: flags.has("long") };
  const only = texts.get("only") ?? "";
  const cases = (flags.has("memory") ? MEMORY_CASES : CASES)
    .filter(({ name, metrics }) =>
      [name, ...metrics.map(({ title }) => title)].join().includes(only)
    );
  const servers = await available();
  const load = loadNote();
  const say = flags.has("json") ? (): void => {} : print;
  say(`${machineText()}\n${load}\n${(await versions(servers)).join(", ")}\n`);
  say(`${plan.runs} runs of ${plan.seconds} s after ${plan.warmUpSeconds} s, in turns; ratio: `);
  say(`${servers[0]?.name} over the server of that line\n\n`);

  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const image = join(folder, "image");
    const bench: Bench = {
      folder,
      image,
      imageHash: await makeImage(image, plan.diskBytes),
      plan,
      checked: new Set(),
    };
    const rows: Row[] = [];
    for (const each of cases) {
      progress(`${each.name} …\n`);
      const found = await runCase(bench, servers, each);
      rows.push(...found);
      say(found.map(rowText).join(""));
    }
    if (flags.has("json")) {
      const data = { machine: machineText(), load, plan, rows: rows.map(rowData) };
      print(JSON.stringify(data, null, 2) + "\n");
    }
    if (flags.has("page")) {
      await writeSection("comparison", await pageText(servers, plan, rows, load));
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await main();
