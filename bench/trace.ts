/**
 * `deno task bench:trace [--digest] [--pairs N] [--json]`: what recording costs the data path. One
 * server has two targets of the same memory, of which one is recorded; the same load at depth 64 goes to
 * the one and the other in turns (A B B A …), in runs of a second. What is told is the median of the
 * ratios of runs that were next to each other, and the ratio of the best runs of each, which is what is
 * left where others are at work on the machine as well. Memory makes requests as cheap as they can be,
 * so the cost is the largest part of them there. Needs fio.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { print, taskArguments } from "../tools/process.ts";
import { pinning } from "./commands.ts";
import { type Load, LOADS, measure, type Measurement } from "./load.ts";
import { spread } from "./report.ts";
import { type Running, startDmu } from "./servers.ts";

/** Size of each target, in bytes. */
const DEVICE_BYTES = 256 * 1024 * 1024;
/** Requests in flight of the loads that count. */
const DEPTH = 64;
const SECONDS = 1, WARM_UP_SECONDS = 1;
const PAIRS = 15;
/** Of all runs of a target, those that count as its best. */
const BEST_SHARE = 0.2;

/** One run with a trace and one without, next to each other. */
interface Pair {
  readonly traced: Measurement;
  readonly plain: Measurement;
}

/** Ratios of traced over plain: above 1 is good for requests, below 1 for CPU time. */
interface Cost {
  readonly medianOfPairs: number;
  readonly ofTheBest: number;
}

async function measurePairs(server: Running, load: Load, count: number): Promise<Pair[]> {
  const one = (name: string, warmUp: number): Promise<Measurement> => {
    const uri = server.uri.replace("/?", `/${name}?`);
    return measure({ ...server, uri }, load, DEVICE_BYTES, warmUp, SECONDS);
  };
  await one("traced", WARM_UP_SECONDS);
  await one("plain", WARM_UP_SECONDS);
  const pairs: Pair[] = [];
  for (let at = 0; at < count; at += 1) {
    if (at % 2 === 0) {
      const traced = await one("traced", 0);
      pairs.push({ traced, plain: await one("plain", 0) });
    } else {
      const plain = await one("plain", 0);
      pairs.push({ plain, traced: await one("traced", 0) });
    }
  }
  return pairs;
}

function costOf(pairs: readonly Pair[], field: keyof Measurement, best: "most" | "least"): Cost {
  const bestOf = (side: keyof Pair): number => {
    const sorted = pairs.map((pair) => pair[side][field]).toSorted((a, b) => a - b);
    const share = Math.max(1, Math.round(sorted.length * BEST_SHARE));
    return spread(best === "most" ? sorted.slice(-share) : sorted.slice(0, share)).median;
  };
  return {
    medianOfPairs: spread(pairs.map(({ traced, plain }) => traced[field] / plain[field])).median,
    ofTheBest: bestOf("traced") / bestOf("plain"),
  };
}

function costText({ medianOfPairs, ofTheBest }: Cost): string {
  return `${medianOfPairs.toFixed(3)} (best runs ${ofTheBest.toFixed(3)})`;
}

async function main(): Promise<void> {
  const { values: options } = parseArgs({
    args: taskArguments(),
    options: {
      digest: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      pairs: { type: "string", default: String(PAIRS) },
    },
  });
  const count = Number(options.pairs);
  const say = options.json ? (): void => {} : print;
  const { server: cpu, client } = pinning();
  say(`server on CPU ${cpu}, client on CPU ${client}, load ${Deno.loadavg()[0]?.toFixed(1)}; `);
  say(`${count} pairs of ${SECONDS} s; traced over plain\n`);
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  const results: Record<string, { readonly requests: Cost; readonly cpu: Cost }> = {};
  try {
    const server = await startDmu(folder, [
      ...["--control", "none", "--trace", `traced=${join(folder, "trace")}`],
      ...(options.digest ? ["--trace-digest"] : []),
      ...[`traced=memory:${DEVICE_BYTES}`, `plain=memory:${DEVICE_BYTES}`, "--default", "plain"],
    ]);
    try {
      for (const load of LOADS) {
        if (load.depth !== DEPTH || load.storage !== "memory") continue;
        const pairs = await measurePairs(server, load, count);
        const requests = costOf(pairs, "requestsPerSecond", "most");
        const cpu = costOf(pairs, "cpuUs", "least");
        results[load.name] = { requests, cpu };
        say(`${load.name}: requests/s × ${costText(requests)}, CPU/request × ${costText(cpu)}\n`);
      }
    } finally {
      await server.stop();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  if (options.json) print(`${JSON.stringify(results)}\n`);
}

await main();
