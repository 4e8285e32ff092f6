/**
 * `deno task bench:log [--quick] [--json]`: what a dirty-region log of the kernel costs. `dmu log serve`
 * runs beside a program that plays the kernel over the socket type that the real one uses, in a network
 * namespace of their own: so this needs root and unshare.
 *
 * First round trips, in µs. Then random writes of 4 KiB to a mirror of two files, past the page cache,
 * as the kernel's region hash does them: a batch is all writes that have come, its regions are cleared
 * and marked in groups of 32, and one flush comes before the writes. Runs with a log and without take
 * turns; the ratio is that of each pair, and the median of these is printed with their range. The writes
 * of a batch are done one after the other: disks that take them at once make a batch shorter, and what
 * the log takes is printed as well.
 *
 * @module
 */
import { join } from "node:path";
import { CONNECTOR_GROUP, REQUEST_TYPES as t } from "../lib/dirty_log/constants.ts";
import { decodeFrame, encodeFrame, makeMessage } from "../lib/dirty_log/message.ts";
import { encodeConstructor, encodeWords } from "../lib/dirty_log/payload.ts";
import { systemFiles } from "../lib/sys/file.ts";
import type { RawFile } from "../lib/sys/file_access.ts";
import { openConnector, receiveFrom, sendTo } from "../lib/sys/netlink.ts";
import { POLL_IN, PollSet } from "../lib/sys/poll.ts";
import { closeDescriptor } from "../lib/sys/socket.ts";
import { seededRandom } from "../lib/testing/random.ts";
import { scriptProgram, startDmu, withTempDir } from "../tests/support/tools.ts";
import { print, taskArguments } from "../tools/process.ts";
import { taskOptions } from "./options.ts";
import { type Spread, spread } from "./report.ts";

const MAIN = new URL("../cli/main.ts", import.meta.url);
const GROUPS = 1 << CONNECTOR_GROUP - 1;
/** Regions in one request, as the kernel has it. */
const GROUP_REGIONS = 32;
const BLOCK_BYTES = 4096;
const REGION_SECTORS = 128, REGION_BYTES = REGION_SECTORS * 512;
/** Regions of the mirror: legs of 256 MiB. */
const REGIONS = 4096;
/** Time in ms until an answer is lost. */
const ANSWER_MS_MAX = 15_000;
/** Set in the process that has a network of its own. */
const INSIDE = "DMU_BENCH_LOG_INSIDE";

/** A log as the kernel sees it: every request waits for its answer. */
class Kernel {
  readonly #fd = openConnector();
  readonly #poll = new PollSet();
  readonly #into = new Uint8Array(1024);
  readonly #from = { port: 0 };
  #seq = 0;

  constructor() {
    this.#poll.add(this.#fd, POLL_IN);
  }

  ask(uuid: string, type: number, data: Uint8Array = new Uint8Array(0)): void {
    const seq = this.#seq += 1;
    const frame = encodeFrame(makeMessage({ uuid, luid: 1n, type, data, seq }));
    sendTo(this.#fd, frame, { port: 0, groups: GROUPS });
    for (;;) {
      if (this.#poll.wait(ANSWER_MS_MAX) === 0) {
        throw new Error(`Cannot go on: no answer to ${seq}`);
      }
      const length = receiveFrom(this.#fd, this.#into, this.#from);
      const decoded = decodeFrame(this.#into.subarray(0, Math.max(0, length)));
      if (decoded.kind !== "message" || decoded.message.seq !== seq) continue;
      const { error } = decoded.message;
      if (error !== 0) throw new Error(`Cannot go on: request ${type} fails with ${error}`);
      return;
    }
  }

  regions(uuid: string, type: number, regions: readonly number[]): void {
    for (let at = 0; at < regions.length; at += GROUP_REGIONS) {
      this.ask(uuid, type, encodeWords(...regions.slice(at, at + GROUP_REGIONS)));
    }
  }

  create(uuid: string, text: string): void {
    const whole = `${REGIONS * REGION_SECTORS} ${text}`;
    this.ask(uuid, t.CTR, encodeConstructor({ text: whole, reconnects: false }));
    this.ask(uuid, t.RESUME);
  }

  close(): void {
    closeDescriptor(this.#fd);
  }
}

/** Writes in batches; with a log, every batch is logged first. */
class Mirror {
  readonly #legs: readonly RawFile[];
  readonly #kernel: Kernel;
  readonly #random = seededRandom(9);
  readonly #block = new Uint8Array(BLOCK_BYTES).fill(7);
  #marked = new Set<number>();
  /** Time in µs that the log took since it was last asked for. */
  #logged_us = 0;

  constructor(legs: readonly RawFile[], kernel: Kernel) {
    this.#legs = legs;
    this.#kernel = kernel;
  }

  batch(depth: number, log: string | null): void {
    const offsets = Array.from(
      { length: depth },
      () => this.#random.below(REGIONS * REGION_BYTES / BLOCK_BYTES) * BLOCK_BYTES,
    );
    const begun = performance.now();
    if (log !== null) this.#log(log, offsets);
    this.#logged_us += (performance.now() - begun) * 1000;
    for (const offset of offsets) for (const leg of this.#legs) leg.write(this.#block, offset);
  }

  /** Regions of the batch before are clear by now, and stay marked if they are written again. */
  #log(uuid: string, offsets: readonly number[]): void {
    const regions = new Set(offsets.map((offset) => Math.floor(offset / REGION_BYTES)));
    this.#kernel.regions(
      uuid,
      t.CLEAR_REGION,
      [...this.#marked].filter((each) => !regions.has(each)),
    );
    this.#kernel.regions(
      uuid,
      t.MARK_REGION,
      [...regions].filter((each) => !this.#marked.has(each)),
    );
    this.#kernel.ask(uuid, t.FLUSH);
    this.#marked = regions;
  }

  /** Begins anew; gives the time in µs that the log has taken. */
  forget(): number {
    const taken_us = this.#logged_us;
    this.#logged_us = 0;
    this.#marked = new Set();
    return taken_us;
  }
}

function timed(count: number, action: () => void): number {
  const begun = performance.now();
  for (let done = 0; done < count; done += 1) action();
  return (performance.now() - begun) * 1000 / count;
}

interface Figures {
  readonly roundTrips_us: Readonly<Record<string, Spread>>;
  readonly ratios: readonly {
    readonly log: string;
    readonly depth: number;
    /** A batch without a log. */
    readonly batch_us: Spread;
    /** What the log took of a batch. */
    readonly log_us: Spread;
    readonly ratio: Spread;
  }[];
}

const LOGS: Readonly<Record<string, string>> = {
  core: `core ${REGION_SECTORS} nosync`,
  disk: `disk bench ${REGION_SECTORS} nosync`,
};

function roundTrips(kernel: Kernel, runs: number, count: number): Record<string, Spread> {
  const cases: readonly (readonly [string, () => void])[] = [
    ["IN_SYNC", () => kernel.ask("core", t.IN_SYNC, encodeWords(5))],
    ...Object.keys(LOGS).map((uuid) =>
      [`MARK and FLUSH, ${uuid}, marked already`, () => {
        kernel.ask(uuid, t.MARK_REGION, encodeWords(5));
        kernel.ask(uuid, t.FLUSH);
      }] as const
    ),
  ];
  return Object.fromEntries(cases.map(([name, action]) => {
    timed(count, action);
    return [name, spread(Array.from({ length: runs }, () => timed(count, action)))];
  }));
}

function ratios(kernel: Kernel, mirror: Mirror, runs: number, batches: number): Figures["ratios"] {
  return Object.keys(LOGS).flatMap((log) =>
    [1, 64].map((depth) => {
      const each = Math.max(1, Math.round(batches * 8 / depth));
      const pairs = Array.from({ length: runs }, () => {
        const bare = timed(each, () => mirror.batch(depth, null));
        mirror.forget();
        const logged = timed(each, () => mirror.batch(depth, log));
        return { bare, logged, log_us: mirror.forget() / each };
      });
      kernel.ask(log, t.FLUSH);
      return {
        log,
        depth,
        batch_us: spread(pairs.map(({ bare }) => bare)),
        log_us: spread(pairs.map(({ log_us }) => log_us)),
        ratio: spread(pairs.map(({ bare, logged }) => logged / bare)),
      };
    })
  );
}

async function measure(quick: boolean): Promise<Figures> {
  const runs = quick ? 3 : 11;
  return await withTempDir(async (folder) => {
    const program = [...scriptProgram(MAIN), "log", "serve", "--json"];
    const server = await startDmu(["--state", join(folder, "logs")], { program });
    const kernel = new Kernel();
    const options = { readOnly: false, direct: true, lock: false };
    const legs = ["a", "b"].map((name) => {
      const leg = systemFiles.open(join(folder, name), {
        ...options,
        createSize: REGIONS * REGION_BYTES,
      });
      // Places that have no block yet would cost more at their first write.
      const chunk = new Uint8Array(1024 * 1024);
      for (let at = 0; at < REGIONS * REGION_BYTES; at += chunk.length) leg.write(chunk, at);
      return leg;
    });
    try {
      for (const [uuid, text] of Object.entries(LOGS)) kernel.create(uuid, text);
      const mirror = new Mirror(legs, kernel);
      return {
        roundTrips_us: roundTrips(kernel, runs, quick ? 500 : 5000),
        ratios: ratios(kernel, mirror, runs, quick ? 20 : 100),
      };
    } finally {
      for (const leg of legs) leg.close();
      kernel.close();
      await server.stop();
    }
  });
}

function show({ median, min, max }: Spread, digits: number): string {
  return `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}

function report({ roundTrips_us, ratios }: Figures): string {
  const lines = Object.entries(roundTrips_us).map(([name, value]) =>
    `${name.padEnd(40)} ${show(value, 1)} µs`
  );
  for (const { log, depth, batch_us, log_us, ratio } of ratios) {
    const name = `random writes, ${log}, depth ${depth}`;
    lines.push(`${name.padEnd(40)} ${show(ratio, 2)} ×`);
    lines.push(`  a batch without it ${show(batch_us, 0)} µs, the log ${show(log_us, 0)} µs`);
  }
  return `${lines.join("\n")}\n`;
}

const { flags } = taskOptions({ task: "bench:log", flags: ["quick", "json"] });
if (Deno.env.get(INSIDE) === undefined) {
  const program = ["--net", Deno.execPath(), "run", "-A", import.meta.filename ?? ""];
  program.push(...taskArguments());
  const { code } = await new Deno.Command("unshare", {
    args: program,
    env: { [INSIDE]: "1" },
  }).spawn().status;
  Deno.exit(code);
}
const figures = await measure(flags.has("quick"));
print(flags.has("json") ? `${JSON.stringify(figures)}\n` : report(figures));
