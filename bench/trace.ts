/**
 * `deno task bench:trace [--digest] [--pairs N] [--json]`: what recording costs the data path. One
 * server has two targets of the same memory, of which one is recorded; the same load at depth 64 goes to
 * the one and the other in turns (A B B A …), in runs of a second. What is told is the median of the
 * ratios of runs that were next to each other, and the ratio of the best runs of each, which is what is
 * left where others are at work on the machine as well. Memory makes requests as cheap as they can be,
 * so the cost is the largest part of them there. And, since other work on the machine can hide all that:
 * the time of the two calls that recording adds to a request, the least of many rounds. Needs fio.
 *
 * @module
 */
import { join } from "node:path";
import { makeRequest } from "../lib/block/request.ts";
import { systemClock } from "../lib/daemon/context.ts";
import { type DataKept, Recorder } from "../lib/trace/recorder.ts";
import { print } from "../tools/process.ts";
import { pinning } from "./commands.ts";
import { type Load, LOADS, measure, type Measurement } from "./load.ts";
import { taskOptions } from "./options.ts";
import { spread } from "./report.ts";
import { type Running, startDmu } from "./servers.ts";

/** Size of each target, in bytes. */
const DEVICE_BYTES = 256 * 1024 * 1024;
/** Requests in flight of the loads that count. */
const DEPTH = 64;
const SECONDS = 1, WARM_UP_SECONDS = 1;
const PAIRS = 15;
/** Requests of a round in which the tap alone is measured: their events have to fit its ring. */
const TAP_REQUESTS = 5_000;
const TAP_ROUNDS = 150, TAP_PAUSE_MS = 20;
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

/** Time in µs that the tap of a recorder takes for one request, at best. */
async function measureTap(folder: string, data: DataKept): Promise<number> {
  const info = { started_ms: null, target: null, size: DEVICE_BYTES, completes: true };
  const log = { error: print, warn: print, info: (): void => {}, debug: (): void => {} };
  const path = join(folder, "tap");
  await using recorder = await Recorder.start({ path, info, data, clock: systemClock, log });
  const request = makeRequest("read", 4096, 4096, { data: new Uint8Array(4096) });
  let leastUs = Number.POSITIVE_INFINITY;
  for (let round = 0; round < TAP_ROUNDS; round += 1) {
    const startUs = systemClock.now();
    for (let at = 0; at < TAP_REQUESTS; at += 1) {
      const id = recorder.tap.submitted(request, startUs);
      recorder.tap.completed(id, request, null, startUs);
    }
    leastUs = Math.min(leastUs, (systemClock.now() - startUs) / TAP_REQUESTS);
    // The thread has to keep up, or there would be nothing but lost events.
    await systemClock.sleep(TAP_PAUSE_MS);
  }
  if (recorder.counts.lost > 0) throw new Error("Cannot use the run: the thread did not keep up");
  return leastUs;
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
  const { flags, numbers } = taskOptions({
    task: "bench:trace",
    flags: ["digest", "json"],
    numbers: ["pairs"],
  });
  const options = { digest: flags.has("digest"), json: flags.has("json") };
  const count = numbers.get("pairs") ?? PAIRS;
  const say = options.json ? (): void => {} : print;
  const { server: cpu, client } = pinning();
  say(`server on CPU ${cpu}, client on CPU ${client}, load ${Deno.loadavg()[0]?.toFixed(1)}; `);
  say(`${count} pairs of ${SECONDS} s; traced over plain\n`);
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  const results: Record<string, unknown> = {};
  try {
    const tapUs = await measureTap(folder, options.digest ? "digest" : "none");
    results["tapUs"] = tapUs;
    say(`the tap alone: ${tapUs.toFixed(2)} µs a request\n`);
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
        const leastUs = Math.min(...pairs.map(({ plain }) => plain.cpuUs));
        results[load.name] = { requests, cpu, leastUs, share: tapUs / leastUs };
        say(`${load.name}: requests/s × ${costText(requests)}, CPU/request × ${costText(cpu)}; `);
        const share = (tapUs / leastUs * 100).toFixed(1);
        say(`the tap is ${share} % of the ${leastUs.toFixed(1)} µs of a request\n`);
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
