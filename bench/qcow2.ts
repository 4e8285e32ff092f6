/**
 * `deno task bench:qcow2 [--quick] [--json] [--only TEXT] [--runs N]`: dmu and qemu-nbd on the same
 * qcow2 image, dmu copy and qemu-img convert on the same files. Same client (fio over a unix socket),
 * server and client pinned to a CPU each, in turns, medians of all runs. Loads that allocate get a new
 * image for each run and are bounded by bytes; the others by time, on an image full of data. After
 * each first run `qemu-img check` has to find the image sound.
 *
 * @module
 */
import { join } from "node:path";
import { print } from "../tools/process.ts";
import { command, firstLine, pinning } from "./commands.ts";
import { type Load, measure, type Measurement, measureOnce } from "./load.ts";
import { taskOptions } from "./options.ts";
import { type Result, resultData, spread, tableHead, tableRows } from "./report.ts";
import { DMU, type Running, start } from "./servers.ts";

const KIB = 1024, MIB = 1024 * KIB;
/** Size of the disk whose clusters are all allocated, in bytes: small enough for the page cache. */
const FULL_BYTES = 256 * MIB;
/** Size of the disk of which nothing is allocated. */
const EMPTY_BYTES = 4096 * MIB;
/** Size of the file below the disk that is copied on write. */
const BACKING_BYTES = 1024 * MIB;
/** Size of what is copied. */
const COPY_BYTES = 512 * MIB;

/** What lies in the image before a run. */
type Start = "full" | "empty" | "backed";

interface ImageLoad extends Load {
  readonly start: Start;
  /** Bytes that one run moves, for loads that allocate; null for those that are timed. */
  readonly bytes: number | null;
}

function timed(pattern: Load["pattern"], block: number, depth: number): ImageLoad {
  const name = `${pattern} ${block / KIB}k depth ${depth}`;
  return { name, storage: "file", pattern, block, depth, start: "full", bytes: null };
}

function allocating(
  what: string,
  start: Start,
  load: Omit<Load, "name" | "storage">,
  bytes: number,
): ImageLoad {
  const name = `${what} ${load.block / KIB}k depth ${load.depth}`;
  return { name, storage: "file", ...load, start, bytes };
}

const LOADS: readonly ImageLoad[] = [
  timed("randread", 4 * KIB, 64),
  timed("randwrite", 4 * KIB, 64),
  timed("randread", 4 * KIB, 1),
  timed("randwrite", 4 * KIB, 1),
  timed("read", 256 * KIB, 16),
  timed("write", 256 * KIB, 16),
  allocating(
    "first touch random",
    "empty",
    { pattern: "randwrite", block: 4 * KIB, depth: 64 },
    32 * MIB,
  ),
  allocating(
    "first touch seq",
    "empty",
    { pattern: "write", block: 4 * KIB, depth: 64 },
    128 * MIB,
  ),
  allocating(
    "first touch seq",
    "empty",
    { pattern: "write", block: 256 * KIB, depth: 16 },
    512 * MIB,
  ),
  allocating(
    "copy on write",
    "backed",
    { pattern: "randwrite", block: 4 * KIB, depth: 64 },
    16 * MIB,
  ),
  allocating(
    "copy on write",
    "backed",
    { pattern: "randwrite", block: 4 * KIB, depth: 1 },
    16 * MIB,
  ),
];

interface Plan {
  readonly runs: number;
  readonly warmUpSeconds: number;
  readonly seconds: number;
}

const FULL: Plan = { runs: 5, warmUpSeconds: 2, seconds: 4 };
const QUICK: Plan = { runs: 3, warmUpSeconds: 1, seconds: 1 };

const SERVERS: readonly { readonly name: string; readonly command: (image: string) => string[] }[] =
  [
    { name: "dmu", command: (image) => [...DMU, "serve", `default=qcow2:${image}`, "--nbd"] },
    {
      name: "qemu-nbd",
      command: (image) => ["qemu-nbd", "--persistent", "--shared=0", "--format=qcow2", image],
    },
  ];

/** Fills a new file with random data. */
async function makeRandom(path: string, bytes: number): Promise<void> {
  const chunk = new Uint8Array(MIB);
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let done = 0; done < bytes; done += chunk.length) {
    for (let at = 0; at < chunk.length; at += 65_536) {
      crypto.getRandomValues(chunk.subarray(at, at + 65_536));
    }
    for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
  }
}

/** Where each of the templates is. */
interface Templates {
  readonly folder: string;
  readonly backing: string;
  readonly full: string;
}

async function makeImage({ backing, full }: Templates, start: Start, path: string): Promise<void> {
  if (start === "full") return await Deno.copyFile(full, path);
  const args = start === "empty" ? [path, String(EMPTY_BYTES)] : ["-b", backing, "-F", "raw", path];
  await command("qemu-img", ["create", "-q", "-f", "qcow2", ...args]);
}

async function serve(name: string, folder: string, image: string): Promise<Running> {
  const server = SERVERS.find((each) => each.name === name);
  if (server === undefined) throw new Error(`Cannot start ${name}`);
  const socket = join(folder, "socket");
  const args = server.command(image);
  return await start(folder, [
    ...args,
    ...(name === "dmu" ? [`unix:${socket}`] : ["--socket", socket]),
  ]);
}

/** Warms up on the first quarter of the disk, and measures on the rest, which nobody has touched. */
async function measureAllocating(
  server: Running,
  load: ImageLoad,
  bytes: number,
): Promise<Measurement> {
  const size = load.start === "empty" ? EMPTY_BYTES : BACKING_BYTES, quarter = size / 4;
  await measureOnce(server, load, [`--size=${quarter}`, `--io_size=${bytes / 2}`]);
  const rest = [`--offset=${quarter}`, `--size=${size - quarter}`, `--io_size=${bytes}`];
  return await measureOnce(server, load, rest);
}

async function runOnce(
  templates: Templates,
  name: string,
  load: ImageLoad,
  plan: Plan,
  check: boolean,
): Promise<Measurement> {
  const own = await Deno.makeTempDir({ dir: templates.folder });
  const image = join(own, "image.qcow2");
  try {
    await makeImage(templates, load.start, image);
    const running = await serve(name, own, image);
    let measured: Measurement;
    try {
      measured = load.bytes === null
        ? await measure(running, load, FULL_BYTES, plan.warmUpSeconds, plan.seconds)
        : await measureAllocating(running, load, load.bytes);
    } finally {
      await running.stop();
    }
    if (check) await command("qemu-img", ["check", "-q", image]);
    return measured;
  } finally {
    await Deno.remove(own, { recursive: true });
  }
}

async function runLoad(templates: Templates, load: ImageLoad, plan: Plan): Promise<Result> {
  const runs = new Map<string, Measurement[]>(SERVERS.map(({ name }) => [name, []]));
  for (let round = 0; round < plan.runs; round += 1) {
    for (const [name, list] of runs) {
      list.push(await runOnce(templates, name, load, plan, round === 0));
    }
  }
  return { load, runs };
}

/** A copy, by us and by qemu-img. */
interface CopyLoad {
  readonly name: string;
  readonly ours: (from: Sources, to: string) => string[];
  readonly theirs: (from: Sources, to: string) => string[];
}

interface Sources {
  readonly raw: string;
  readonly qcow2: string;
}

const COPIES: readonly CopyLoad[] = [
  {
    name: "copy raw to qcow2",
    ours: ({ raw }, to) => [`file:${raw}`, `qcow2:${to}`],
    theirs: ({ raw }, to) => ["-f", "raw", "-O", "qcow2", raw, to],
  },
  {
    name: "copy qcow2 to raw",
    ours: ({ qcow2 }, to) => [`qcow2:${qcow2}`, `file:${to}`],
    theirs: ({ qcow2 }, to) => ["-f", "qcow2", "-O", "raw", qcow2, to],
  },
  {
    name: "copy raw to qcow2, compressed",
    ours: ({ raw }, to) => ["--compress", `file:${raw}`, `qcow2:${to}`],
    theirs: ({ raw }, to) => ["-c", "-f", "raw", "-O", "qcow2", raw, to],
  },
  {
    name: "copy raw to qcow2, zstd",
    ours: ({ raw }, to) => [
      ...["--compress", "-o", "compression-type=zstd", `file:${raw}`, `qcow2:${to}`],
    ],
    theirs: ({ raw }, to) => [
      ...["-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", raw, to],
    ],
  },
];

/** What is copied: a third random, a third text, a third holes, in pieces of some MiB. */
async function makeSources(folder: string): Promise<Sources> {
  const raw = join(folder, "source.raw"), qcow2 = join(folder, "source.qcow2");
  const words = new TextEncoder().encode(
    "The quick brown fox jumps over the lazy dog 0123456789\n",
  );
  const text = new Uint8Array(MIB), noise = new Uint8Array(MIB);
  {
    using file = await Deno.open(raw, { write: true, createNew: true });
    await file.truncate(COPY_BYTES);
    for (let piece = 0; piece < COPY_BYTES / MIB; piece += 1) {
      if (piece % 3 === 2) continue;
      for (let at = 0; at < MIB; at += 65_536) {
        crypto.getRandomValues(noise.subarray(at, at + 65_536));
      }
      for (let at = 0; at < MIB; at += 1) {
        text[at] = (words[(at + piece) % words.length] ?? 0) ^ ((noise[at] ?? 0) > 250 ? 1 : 0);
      }
      await file.seek(piece * MIB, Deno.SeekMode.Start);
      const bytes = piece % 3 === 0 ? noise : text;
      for (let at = 0; at < MIB;) at += await file.write(bytes.subarray(at));
    }
  }
  await command("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, qcow2]);
  return { raw, qcow2 };
}

/** Seconds of one copy, the start of the program and its flush at the end among them. */
async function timeCopy(args: readonly string[], to: string): Promise<number> {
  const [program = "", ...rest] = args;
  const startMs = performance.now();
  await command(program, rest);
  const seconds = (performance.now() - startMs) / 1000;
  await Deno.remove(to);
  return seconds;
}

async function runCopy(
  folder: string,
  sources: Sources,
  copy: CopyLoad,
  plan: Plan,
): Promise<Record<string, unknown>> {
  const to = join(folder, "copy");
  const ours: number[] = [], theirs: number[] = [];
  for (let round = 0; round < plan.runs; round += 1) {
    ours.push(await timeCopy([...DMU, "copy", ...copy.ours(sources, to)], to));
    // As we do, it has to make durable what it wrote.
    const theirArgs = ["qemu-img", "convert", "-t", "writeback", ...copy.theirs(sources, to)];
    theirs.push(await timeCopy(theirArgs, to));
  }
  const dmu = spread(ours), qemuImg = spread(theirs);
  return { name: copy.name, dmu, qemuImg, ratio: qemuImg.median / dmu.median };
}

function copyRow(each: Record<string, unknown>): string {
  const seconds = (value: unknown): string =>
    typeof value === "object" && value !== null && "median" in value
      ? `${Number(value.median).toFixed(2)} s`
      : "";
  const ratio = Number(each["ratio"]).toFixed(2);
  return `${String(each["name"]).padEnd(34)}dmu ${seconds(each["dmu"])}, ` +
    `qemu-img ${seconds(each["qemuImg"])}, ratio ${ratio}\n`;
}

async function main(): Promise<void> {
  const { flags, texts, numbers } = taskOptions({
    task: "bench:qcow2",
    flags: ["quick", "json"],
    texts: ["only"],
    numbers: ["runs"],
  });
  const options = { json: flags.has("json"), only: texts.get("only") ?? "" };
  const base = flags.has("quick") ? QUICK : FULL;
  const plan = { ...base, runs: numbers.get("runs") ?? base.runs };
  const say = options.json ? (): void => {} : print;
  const version = await firstLine("qemu-img", ["--version"]);
  if (version === null) throw new Error("Cannot run: needs qemu-utils");
  const load = Deno.loadavg().map((each) => each.toFixed(2)).join(" ");
  say(`${version}, Deno ${Deno.version.deno}, load ${load}; CPU ${pinning().server} serves, `);
  say(`CPU ${pinning().client} asks\n${plan.runs} runs; above 1 in the first ratio is good\n\n`);
  say(tableHead());
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const raw = join(folder, "full.raw"), full = join(folder, "full.qcow2");
    const backing = join(folder, "backing.raw");
    await makeRandom(raw, FULL_BYTES);
    await command("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, full]);
    await Deno.remove(raw);
    await makeRandom(backing, BACKING_BYTES);
    const results: Result[] = [], copies: Record<string, unknown>[] = [];
    for (const each of LOADS.filter(({ name }) => name.includes(options.only))) {
      const result = await runLoad({ folder, backing, full }, each, plan);
      results.push(result);
      say(tableRows(result));
    }
    const chosen = COPIES.filter(({ name }) => name.includes(options.only));
    const sources = await makeSources(folder);
    for (const each of chosen) {
      const result = await runCopy(folder, sources, each, plan);
      copies.push(result);
      say(copyRow(result));
    }
    if (options.json) {
      print(JSON.stringify({ plan, results: results.map(resultData), copies }, null, 2) + "\n");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

await main();
