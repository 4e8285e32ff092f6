/**
 * `deno task bench:mirror [--quick] [--json] [--legs FOLDER]`: what the log of a mirror costs. Random
 * writes of 4 KiB to a mirror over two files, at depths of 1 and 64, with its log in a file and without
 * one, in turns; medians of all turns. A flush follows after so many writes, as a file system would send
 * it. The legs are in memory (/dev/shm) if nobody names a folder, and the log is on the disk of temporary
 * files, so that it has nothing to hide behind. It is paid for by writes to regions that are not marked
 * yet: "spread" writes to a disk so large that nearly all are.
 *
 * @module
 */
import { join } from "node:path";
import { defaultRegistry } from "../backends/mod.ts";
import { parseSpec } from "../lib/block/spec.ts";
import { Device } from "../lib/block/device.ts";
import { makeRequest } from "../lib/block/request.ts";
import { systemContext } from "../lib/daemon/context.ts";
import { print } from "../tools/process.ts";
import { taskOptions } from "./options.ts";

const MIB = 2 ** 20;
const BLOCK_BYTES = 4096;
/** Writes between two flushes. */
const FLUSH_EVERY = 1024;
/** A prime, which spreads writes evenly. */
const STRIDE = 7_368_787;

interface Load {
  readonly name: string;
  readonly depth: number;
  /** Bytes of the mirror. */
  readonly size: number;
  /** Writes of one turn. */
  readonly writes: number;
}

const LOADS: readonly Load[] = [
  { name: "1 GiB, depth 64", depth: 64, size: 1024 * MIB, writes: 65_536 },
  { name: "1 GiB, depth 1", depth: 1, size: 1024 * MIB, writes: 16_384 },
  { name: "spread, depth 64", depth: 64, size: 65_536 * MIB, writes: 16_384 },
];

const say = (message: string): void => print(`${message}\n`);
const LOG = { error: say, warn: say, info: () => {}, debug: () => {} };

/** Writes a second of one turn. */
async function turn(
  load: Load,
  { legs, folder }: { readonly legs: string; readonly folder: string },
  log: boolean,
): Promise<number> {
  const leg = (name: string): string => `file:${join(legs, name)}%3Fsize=${load.size}`;
  const rest = log ? `&log=${join(folder, "log")}` : "&volatile";
  const context = systemContext({ log: LOG });
  const spec = parseSpec(`mirror:${leg("a")},${leg("b")}?nosync${rest}`);
  const { opened } = await defaultRegistry().open(spec, context);
  const device = new Device(opened.backend, { name: "mirror", clock: context.clock, log: LOG });
  const data = new Uint8Array(BLOCK_BYTES).fill(1), blocks = load.size / BLOCK_BYTES;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < load.writes) {
      const offset = next * STRIDE % blocks * BLOCK_BYTES;
      next += 1;
      await device.submit(makeRequest("write", offset, BLOCK_BYTES, { data }));
      if (next % FLUSH_EVERY === 0) await device.submit(makeRequest("flush"));
    }
  };
  const start_ms = performance.now();
  await Promise.all(Array.from({ length: load.depth }, lane));
  const seconds = (performance.now() - start_ms) / 1000;
  await device[Symbol.asyncDispose]();
  for (const name of ["a", "b"]) await Deno.remove(join(legs, name));
  if (log) await Deno.remove(join(folder, "log"));
  return load.writes / seconds;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

async function main(): Promise<void> {
  const { flags, texts } = taskOptions({
    task: "bench:mirror",
    flags: ["quick", "json"],
    texts: ["legs"],
  });
  const isJson = flags.has("json");
  const turns = flags.has("quick") ? 3 : 9;
  const results: Record<string, string | number>[] = [];
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  const legs = await Deno.makeTempDir({
    dir: texts.get("legs") ?? "/dev/shm",
    prefix: "dmu-bench-",
  });
  const places = { folder, legs };
  try {
    if (!isJson) print("load                without a log   with a log   times slower\n");
    for (const load of LOADS) {
      const without: number[] = [], withLog: number[] = [];
      await turn(load, places, true); // it warms up, and does not count
      for (let count = 0; count < turns; count += 1) {
        without.push(await turn(load, places, false));
        withLog.push(await turn(load, places, true));
      }
      const ratio = median(without) / median(withLog);
      const row = [median(without), median(withLog)].map((each) => `${Math.round(each)}/s`);
      if (!isJson) {
        const [before = "", after = ""] = row;
        print(
          load.name.padEnd(20) + before.padStart(13) + after.padStart(13) +
            ratio.toFixed(2).padStart(15) + "\n",
        );
      }
      results.push({
        load: load.name,
        without: median(without),
        with: median(withLog),
        ratio,
      });
    }
    if (isJson) print(`${JSON.stringify({ results }, null, 2)}\n`);
  } finally {
    for (const each of [folder, legs]) await Deno.remove(each, { recursive: true });
  }
}

if (import.meta.main) await main();
