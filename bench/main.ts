/**
 * `deno task bench [--quick] [--json] [--only TEXT] [--runs N]`: dmu, nbdkit and qemu-nbd side by side.
 * Same data, same client (fio over a unix socket), servers pinned to one CPU and the client to
 * another, one server at a time in turns (A B C A B C …), each warmed up, medians of all runs. Each
 * server has to give back the data it was filled with before it is measured. Needs fio
 * and libnbd's tools; a server that is not installed is left out.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { print, taskArguments } from "../tools/process.ts";
import { command, firstLine, pinning } from "./commands.ts";
import { type Load, LOADS, measure, type Measurement } from "./load.ts";
import { type Result, resultData, tableHead, tableRows } from "./report.ts";
import { type Server, SERVERS } from "./servers.ts";

/** Size of the device, in bytes: small enough to stay in the page cache. */
const DEVICE_BYTES = 256 * 1024 * 1024;
const FILL_CHUNK_BYTES = 1024 * 1024;

interface Plan {
  readonly runs: number;
  readonly warmUpSeconds: number;
  readonly seconds: number;
}

const FULL: Plan = { runs: 5, warmUpSeconds: 2, seconds: 4 };
const QUICK: Plan = { runs: 3, warmUpSeconds: 1, seconds: 1 };

/** Writes random data to a new file; gives its hash. Not a byte of it is a hole or a zero page. */
async function makeImage(path: string): Promise<string> {
  const hash = createHash("sha256");
  const chunk = new Uint8Array(FILL_CHUNK_BYTES);
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let done = 0; done < DEVICE_BYTES; done += chunk.length) {
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

interface Bench {
  readonly folder: string;
  readonly image: string;
  readonly imageHash: string;
  readonly plan: Plan;
}

async function runOnce(
  bench: Bench,
  server: Server,
  load: Load,
  check: boolean,
): Promise<Measurement> {
  const { folder, image, imageHash, plan } = bench;
  const own = await Deno.makeTempDir({ dir: folder });
  const file = join(folder, "disk.img");
  if (load.storage === "file") await Deno.copyFile(image, file);
  const running = await server.start(load.storage, own, file, DEVICE_BYTES);
  try {
    if (load.storage === "memory") await command("nbdcopy", [image, running.uri]);
    if (check) {
      const copy = join(own, "copy");
      await command("nbdcopy", [running.uri, copy]);
      const found = await hashOf(copy);
      await Deno.remove(copy);
      if (found !== imageHash) throw new Error(`${server.name} does not give its data back`);
    }
    return await measure(running, load, DEVICE_BYTES, plan.warmUpSeconds, plan.seconds);
  } finally {
    await running.stop();
  }
}

async function runLoad(bench: Bench, servers: readonly Server[], load: Load): Promise<Result> {
  const runs = new Map<string, Measurement[]>(servers.map(({ name }) => [name, []]));
  for (let round = 0; round < bench.plan.runs; round++) {
    for (const server of servers) {
      runs.get(server.name)?.push(await runOnce(bench, server, load, round === 0));
    }
  }
  return { load, runs };
}

async function environment(servers: readonly Server[]): Promise<Record<string, string>> {
  const cpu = /^model name\s*: (.*)$/m.exec(Deno.readTextFileSync("/proc/cpuinfo"))?.[1] ??
    "unknown";
  const { server, client } = pinning();
  const facts: Record<string, string> = {
    machine: `${cpu}, ${navigator.hardwareConcurrency} CPUs, Linux ${Deno.osRelease()}`,
    pinning: `server on CPU ${server}, client on CPU ${client}`,
    load: `${
      Deno.loadavg().map((each) => each.toFixed(2)).join(" ")
    } (above 0 others were at work)`,
    client: `${await firstLine("fio", ["--version"])}, NBD over a unix socket`,
    deno: Deno.version.deno,
  };
  for (const { name, version: [path = "", ...args], notes } of servers) {
    facts[name] = `${await firstLine(path, args)}; memory: ${notes.memory}; file: ${notes.file}`;
  }
  return facts;
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

async function main(): Promise<void> {
  const { values: options } = parseArgs({
    args: taskArguments(),
    options: {
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      only: { type: "string", default: "" },
      runs: { type: "string" },
    },
  });
  const base = options.quick ? QUICK : FULL;
  const plan = { ...base, runs: Number(options.runs ?? base.runs) };
  const servers = await available();
  const facts = await environment(servers);
  const say = options.json ? (): void => {} : print;
  for (const [name, value] of Object.entries(facts)) say(`${name.padEnd(10)}${value}\n`);
  say(`${"plan".padEnd(10)}${plan.runs} runs of ${plan.seconds} s after ${plan.warmUpSeconds} s, `);
  say(`in turns; ratio: ${servers[0]?.name} over the server of that line\n\n` + tableHead());

  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const image = join(folder, "image");
    const bench: Bench = { folder, image, imageHash: await makeImage(image), plan };
    const results: Result[] = [];
    for (const load of LOADS.filter(({ name }) => name.includes(options.only))) {
      const result = await runLoad(bench, servers, load);
      results.push(result);
      say(tableRows(result));
    }
    if (options.json) {
      const data = { environment: facts, plan, results: results.map(resultData) };
      print(JSON.stringify(data, null, 2) + "\n");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await main();
