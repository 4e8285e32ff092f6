/**
 * The options of `dmu bench`, read and put together: what a load is made from.
 *
 * @module
 */
import { parseSize } from "../../lib/block/size.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  type BlockSize,
  largestOf,
  parseBlockSizes,
  spellBlockSizes,
  unitOf,
} from "../../lib/bench/block_sizes.ts";
import {
  LOAD_BUFFER_BYTES_MAX,
  LOAD_DEPTH,
  LOAD_SLOTS_MAX,
  LOAD_TIME_S,
} from "../../lib/bench/limits.ts";
import type { LoadEnd } from "../../lib/bench/load.ts";
import { parsePattern, type Pattern, spellPattern } from "../../lib/bench/pattern.ts";
import { stampBytesOf } from "../../lib/bench/stamps.ts";

/** The options, as the command line gives them. */
export interface BenchOptions {
  readonly rw?: string | undefined;
  readonly pattern?: string | undefined;
  readonly blockSize?: string | undefined;
  readonly depth?: number | undefined;
  readonly connections?: number | undefined;
  readonly time?: number | undefined;
  readonly warmUp?: number | undefined;
  readonly ops?: number | undefined;
  readonly bytes?: string | undefined;
  readonly size?: string | undefined;
  readonly rate?: number | undefined;
  readonly seed?: number | undefined;
  readonly verify?: true | undefined;
  readonly verifyOnly?: true | undefined;
  readonly overwrite?: true | undefined;
  readonly control?: string | undefined;
  readonly backend?: readonly string[] | undefined;
  readonly json?: true | undefined;
}

/** What verifying is to do. */
export type VerifyWish =
  | "no"
  /** Stamp what is written, compare what is read. */
  | "run"
  /** Write nothing, read all and compare. */
  | "only";

/** A load as it is wanted, checked as far as that goes without the target. */
export interface BenchPlan {
  /** Share of the requests that read. */
  readonly readShare: number;
  readonly pattern: Pattern;
  readonly blockSizes: readonly BlockSize[];
  /** Requests in flight on each connection. */
  readonly depth: number;
  readonly connections: number;
  readonly end: LoadEnd;
  /** Time at the beginning that does not count, µs. */
  readonly warmUpUs: number;
  /** Bytes of the target that are used; all of it if null. */
  readonly size: number | null;
  readonly rate: number | undefined;
  readonly seed: number;
  readonly verify: VerifyWish;
  /** Bytes of a block with a stamp; 0 if nothing is verified. */
  readonly stampBytes: number;
}

/** The seed, if none is told. */
const SEED_DEFAULT = 1;

function refuse(option: string, text: string, problem: string): never {
  const place = { text, start: 0, end: text.length };
  throw new UsageError(`Cannot use ${option}: it ${problem}`, place);
}

function parsed<T extends object>(
  option: string,
  text: string,
  parse: (text: string) => T | { problem: string },
): T {
  const value = parse(text);
  return "problem" in value ? refuse(option, text, value.problem) : value;
}

function bytesOf(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const bytes = parseSize(text);
  if (typeof bytes !== "number") return refuse(option, text, bytes.problem);
  return bytes > 0 ? bytes : refuse(option, text, "must be above 0");
}

function readShareOf(text: string): number {
  if (text === "read") return 1;
  if (text === "write") return 0;
  const [, reads, writes] = /^(\d{1,3})\/(\d{1,3})$/.exec(text) ?? [];
  const share = Number(reads);
  if (share + Number(writes) === 100) return share / 100;
  return refuse("--rw", text, `must be read, write, or READS/WRITES in percent such as 70/30`);
}

function verifyOf({ verify, verifyOnly }: BenchOptions): VerifyWish {
  if (verifyOnly === true) return "only";
  return verify === true ? "run" : "no";
}

function stampBytes(blockSizes: readonly BlockSize[], verify: VerifyWish): number {
  if (verify === "no") return 0;
  const bytes = stampBytesOf(unitOf(blockSizes));
  if (bytes !== null) return bytes;
  const text = spellBlockSizes(blockSizes);
  return refuse("--verify", text, "needs block sizes that are multiples of 512 bytes");
}

/** Puts the options together. Throws UsageError. */
export function planOf(options: BenchOptions): BenchPlan {
  const { depth = LOAD_DEPTH, connections = 1, ops: requests, time, seed = SEED_DEFAULT } = options;
  const readShare = readShareOf(options.rw ?? "read");
  const pattern = parsed("--pattern", options.pattern ?? "random", parsePattern);
  const blockSizes = parsed("--block-size", options.blockSize ?? "4k", parseBlockSizes);
  const bytes = bytesOf("--bytes", options.bytes);
  const verify = verifyOf(options);
  const endless = time === undefined && requests === undefined && bytes === undefined;
  const timeUs = endless ? LOAD_TIME_S * 1e6 : time === undefined ? undefined : time * 1e6;
  const slots = depth * connections;
  if (slots > LOAD_SLOTS_MAX || slots * largestOf(blockSizes) > LOAD_BUFFER_BYTES_MAX) {
    throw new UsageError(
      `Cannot have ${slots} requests of ${largestOf(blockSizes)} bytes in flight: at most ` +
        `${LOAD_SLOTS_MAX} requests and ${LOAD_BUFFER_BYTES_MAX} bytes are possible`,
    );
  }
  if (
    options.warmUp !== undefined &&
    (requests !== undefined || bytes !== undefined || verify !== "no")
  ) {
    throw new UsageError(
      "Cannot use --warm-up with --ops, --bytes or verification: it belongs to --time",
    );
  }
  if (verify === "only" && (time !== undefined || bytes !== undefined)) {
    throw new UsageError(
      "Cannot use --time or --bytes with --verify-only: everything is read once, and --ops tells " +
        "how many requests have written it",
    );
  }
  return {
    ...{ readShare, pattern, blockSizes, depth, connections, seed, verify, rate: options.rate },
    end: { timeUs, requests, bytes },
    warmUpUs: (options.warmUp ?? 0) * 1e6,
    size: bytesOf("--size", options.size) ?? null,
    stampBytes: stampBytes(blockSizes, verify),
  };
}

function mixText(readShare: number): string {
  if (readShare === 1) return "read";
  const reads = Math.round(readShare * 100);
  return readShare === 0 ? "write" : `${reads}/${100 - reads}`;
}

/** The load in words. */
export function planText(plan: BenchPlan): string {
  const { readShare, pattern, blockSizes, depth, connections, rate, seed } = plan;
  return [
    `${spellPattern(pattern)} ${mixText(readShare)} of ${spellBlockSizes(blockSizes)}`,
    `depth ${depth}`,
    ...(connections === 1 ? [] : [`${connections} connections`]),
    ...(rate === undefined ? [] : [`${rate} requests/s`]),
    `seed ${seed}`,
  ].join(", ");
}

/** The load as plain data, in the words of the command line. */
export function planData(plan: BenchPlan): Record<string, unknown> {
  const { readShare, pattern, blockSizes, depth, connections, rate = null, seed } = plan;
  return {
    rw: mixText(readShare),
    pattern: spellPattern(pattern),
    blockSize: spellBlockSizes(blockSizes),
    ...{ depth, connections, rate, seed },
  };
}
