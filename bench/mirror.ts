/**
 * `deno task bench:mirror [--quick] [--json] [--legs FOLDER] [--only TEXT]`: what the log of a mirror
 * costs. Random writes of 4 KiB to a mirror over two files, at depths of 1 and 64, with its log in a file
 * and without one, in turns; medians of all turns. A flush follows after so many writes, as a file system
 * would send it. The legs are in memory (/dev/shm) if nobody names a folder, and the log is on the disk of
 * temporary files, so that it has nothing to hide behind.
 *
 * The log is paid for by writes to regions that are not marked. "First touch" is the worst that there is:
 * each write goes to a region that nobody has written to. "Sustained" goes on for so long that regions are
 * marked, cleared and marked again: each write goes to any of 65,536 regions. There it is always the same
 * block of a region, so that legs in memory find room.
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
import { seededRandom } from "../lib/testing/random.ts";
import { taskOptions } from "./options.ts";

const MIB = 2 ** 20;
const BLOCK_BYTES = 4096;
/** Writes between two flushes. */
const FLUSH_EVERY = 1024;
/** A prime, which spreads writes evenly. */
const STRIDE = 7_368_787;

/** Longest turn of a load that counts writes, in seconds: disks that are slow do fewer. */
const TURN_S = 2;

interface Load {
  readonly name: string;
  readonly depth: number;
  /** Bytes of the mirror. */
  readonly size: number;
  /** Most writes of one turn. */
  readonly writes: number;
  /** Longest turn, in seconds. */
  readonly seconds: number;
  /** The offset of a write, by its number. */
  readonly offset: (at: number) => number;
}

/** Any block, evenly spread: neighbours in time are far from each other. */
function anyBlock(size: number): (at: number) => number {
  const blocks = size / BLOCK_BYTES;
  return (at) => at * STRIDE % blocks * BLOCK_BYTES;
}

/** A block of any MiB, always the same one of it. */
function anyRegion(size: number): (at: number) => number {
  const random = seededRandom(1), blocks = MIB / BLOCK_BYTES;
  return () => {
    const region = random.below(size / MIB);
    return region * MIB + region % blocks * BLOCK_BYTES;
  };
}

const GIB = 1024 * MIB, WIDE = 64 * GIB;

function loads(quick: boolean): readonly Load[] {
  const row = (name: string, depth: number, size: number, writes: number): Load => ({
    ...{ name: `${name}, depth ${depth}`, depth, size, writes },
    ...{ seconds: TURN_S, offset: anyBlock(size) },
  });
  return [
    row("1 GiB", 64, GIB, 65_536),
    row("1 GiB", 1, GIB, 16_384),
    row("64 GiB, first touch", 64, WIDE, 16_384),
    {
      ...row("64 GiB, sustained", 64, WIDE, Infinity),
      ...{ seconds: quick ? 5 : 8, offset: anyRegion(WIDE) },
    },
  ];
}

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
  const data = new Uint8Array(BLOCK_BYTES).fill(1), end_ms = load.seconds * 1000;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < load.writes && performance.now() - start_ms < end_ms) {
      const offset = load.offset(next);
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
  return next / seconds;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

async function main(): Promise<void> {
  const { flags, texts } = taskOptions({
    task: "bench:mirror",
    flags: ["quick", "json"],
    texts: ["legs", "only"],
  });
  const isJson = flags.has("json");
  const quick = flags.has("quick"), only = texts.get("only") ?? "";
  const results: Record<string, string | number>[] = [];
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  const legs = await Deno.makeTempDir({
    dir: texts.get("legs") ?? "/dev/shm",
    prefix: "dmu-bench-",
  });
  const places = { folder, legs };
  try {
    if (!isJson) {
      print("load                            without a log   with a log   times slower\n");
    }
    for (const load of loads(quick)) {
      if (!load.name.includes(only)) continue;
      const turns = load.writes === Infinity ? quick ? 1 : 3 : quick ? 3 : 9;
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
          load.name.padEnd(32) + before.padStart(13) + after.padStart(13) +
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
