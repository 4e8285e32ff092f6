/**
 * `deno task bench:mirror [--quick] [--json] [--legs FOLDER] [--only TEXT]`: what the log of a mirror
 * costs. Random writes of 4 KiB to a mirror over two files, at depths of 1 and 64, with its log in a file
 * and without one, in turns; medians of all turns. A flush follows after so many writes, as a file system
 * would send it. The legs are in memory (/dev/shm) if nobody names a folder, and the log is on the disk of
 * temporary files, so that it has nothing to hide behind.
 *
 * The log is paid for by writes to regions that are not marked. "First touch" is the worst that there is:
 * each write goes to a region that nobody has written to. "Sustained" goes on for so long that regions are
 * marked, cleared and marked again: half of the writes go to a sixteenth of the regions, the others come
 * back to theirs after seconds. Its first seconds, which mark most regions, do not count. In both it is
 * always the same block of a region, so that legs in memory find room. Legs stay from turn to turn: file
 * systems can take longer to remove them than a turn lasts.
 *
 * @module
 */
import { join } from "node:path";
import { usualRegion } from "../backends/mirror/plan.ts";
import { defaultRegistry } from "../backends/mod.ts";
import { parseSpec } from "../lib/block/spec.ts";
import { Device } from "../lib/block/device.ts";
import { makeRequest } from "../lib/block/request.ts";
import { systemContext } from "../lib/daemon/context.ts";
import { systemFiles } from "../lib/sys/file.ts";
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
  /** Seconds at the beginning of a turn that do not count. */
  readonly lead: number;
  /** Longest turn behind that, in seconds. */
  readonly seconds: number;
  /** Turns with a log, and without one. */
  readonly turns: number;
  /** The offset of a write, by its number. */
  readonly offset: (at: number) => number;
}

const GIB = 1024 * MIB, WIDE = 64 * GIB;
const REGION_BYTES = usualRegion(WIDE), REGIONS = WIDE / REGION_BYTES;

/** Any block of so many bytes, evenly spread: neighbours in time are far from each other. */
function anyBlock(size: number): (at: number) => number {
  return (at) => at * STRIDE % (size / BLOCK_BYTES) * BLOCK_BYTES;
}

/** The block of a region that is written. */
function blockOf(region: number): number {
  return region * REGION_BYTES + region * BLOCK_BYTES % REGION_BYTES;
}

/** Steps of chance for `unevenRegion`. */
const UNEVEN = 2 ** 24;

/** A region for a chance from 0 to before 1: half of them give a sixteenth of all regions, far from each other. */
function unevenRegion(chance: number): number {
  return Math.floor(chance ** 4 * REGIONS) * STRIDE % REGIONS;
}

function loads(quick: boolean): readonly Load[] {
  const random = seededRandom(1);
  const row = (name: string, depth: number, size: number): Load => ({
    ...{ name: `${name}, depth ${depth}`, depth, size, writes: 16_384, lead: 0 },
    ...{ seconds: TURN_S, offset: anyBlock(size), turns: quick ? 3 : 9 },
  });
  return [
    { ...row("1 GiB", 64, GIB), writes: 65_536 },
    row("1 GiB", 1, GIB),
    { ...row("64 GiB, first touch", 64, WIDE), offset: (at) => blockOf(at * STRIDE % REGIONS) },
    {
      ...row("64 GiB, sustained", 64, WIDE),
      ...{ writes: Infinity, lead: 3, seconds: quick ? 5 : 10, turns: quick ? 2 : 3 },
      offset: () => blockOf(unevenRegion(random.below(UNEVEN) / UNEVEN)),
    },
  ];
}

const say = (message: string): void => print(`${message}\n`);
const LOG = { error: say, warn: say, info: () => {}, debug: () => {} };

/** Makes the legs of a load if there are none; storage is reserved for those that are not sparse. */
function makeLegs(folder: string, size: number): void {
  for (const name of ["a", "b"]) {
    const path = join(folder, `${name}${size}`);
    const file = systemFiles.open(path, {
      ...{ readOnly: false, createSize: size, direct: false, lock: true },
    });
    if (size < WIDE) file.allocate(0, size);
    file.close();
  }
}

/** Writes a second of one turn. */
async function turn(
  load: Load,
  { legs, folder }: { readonly legs: string; readonly folder: string },
  log: boolean,
): Promise<number> {
  const leg = (name: string): string => `file:${join(legs, `${name}${load.size}`)}`;
  const rest = log ? `&log=${join(folder, "log")}` : "&volatile";
  const context = systemContext({ log: LOG });
  const spec = parseSpec(`mirror:${leg("a")},${leg("b")}?nosync${rest}`);
  const { opened } = await defaultRegistry().open(spec, context);
  const device = new Device(opened.backend, { name: "mirror", clock: context.clock, log: LOG });
  const data = new Uint8Array(BLOCK_BYTES).fill(1);
  const begin_ms = performance.now() + load.lead * 1000, end_ms = begin_ms + load.seconds * 1000;
  let next = 0, uncounted = 0;
  const lane = async (): Promise<void> => {
    for (
      let now_ms = performance.now();
      next < load.writes && now_ms < end_ms;
      now_ms = performance.now()
    ) {
      if (now_ms < begin_ms) uncounted = next;
      const offset = load.offset(next);
      next += 1;
      await device.submit(makeRequest("write", offset, BLOCK_BYTES, { data }));
      if (next % FLUSH_EVERY === 0) await device.submit(makeRequest("flush"));
    }
  };
  await Promise.all(Array.from({ length: load.depth }, lane));
  const seconds = (performance.now() - begin_ms) / 1000;
  await device[Symbol.asyncDispose]();
  if (log) await Deno.remove(join(folder, "log"));
  return (next - uncounted) / seconds;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b), middle = (sorted.length - 1) / 2;
  const [low = 0, high = 0] = [sorted[Math.floor(middle)], sorted[Math.ceil(middle)]];
  return (low + high) / 2;
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
      const without: number[] = [], withLog: number[] = [];
      makeLegs(legs, load.size);
      await turn({ ...load, lead: 0, seconds: 1 }, places, true); // it warms up, and does not count
      for (let count = 0; count < load.turns; count += 1) {
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
