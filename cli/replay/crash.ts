/**
 * `dmu replay TRACE --crash-points`: builds images and has a command of the user check them.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { BlockError, errnoText, toBlockError } from "../../lib/block/errors.ts";
import { formatDuration } from "../../lib/block/size.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import {
  type CheckResult,
  type CrashMoments,
  crashPoints,
  type CrashReport,
} from "../../lib/trace/crash_points.ts";
import { CRASH_POINTS_MAX } from "../../lib/trace/limits.ts";
import { interruptible } from "../interrupt.ts";
import type { CliIo } from "../io.ts";
import { EXIT_FAILED, ExitError, plural, printJson, twoColumns } from "../output.ts";
import { printable, shellQuote } from "../safe_text.ts";
import { type InputOptions, readProgress, TraceInput } from "../trace/files.ts";

/** What stands for the path of an image in a check. */
const PLACEHOLDER = "{}";
/** The seed of sampled moments, if none is told. */
const SEED_DEFAULT = 1;
/** Names of requests that are told one by one. */
const REQUESTS_TOLD_MAX = 8;
/** The name of the image that is kept. */
const KEPT_NAME = "failed.img";

/** What is to be looked at. */
export interface CrashWish extends InputOptions {
  readonly moments: string;
  readonly check: string;
  readonly seed?: number | undefined;
  readonly base?: string | undefined;
  readonly keep?: string | undefined;
  readonly json?: true | undefined;
}

function parseMoments(text: string): CrashMoments {
  if (text === "flush" || text === "every") return { kind: text };
  const count = /^sample:\d+$/.test(text) ? Number(text.slice("sample:".length)) : 0;
  if (count >= 1 && count <= CRASH_POINTS_MAX) return { kind: "sample", count };
  const place = { text, start: 0, end: text.length };
  const wanted = `flush, every, or sample:N with N from 1 to ${CRASH_POINTS_MAX}`;
  throw new UsageError(`Cannot look at "${text}": write ${wanted}`, place);
}

/** Runs the check of the user on an image. */
async function runCheck(check: string, image: string, signal: AbortSignal): Promise<CheckResult> {
  const line = check.replaceAll(PLACEHOLDER, shellQuote(image));
  const { code, stdout, stderr } = await new Deno.Command("sh", {
    args: ["-c", line],
    stdin: "null",
    signal,
  }).output();
  signal.throwIfAborted();
  const decoder = new TextDecoder();
  const output = decoder.decode(stdout) + decoder.decode(stderr);
  return { ok: code === 0, output: `${output.trimEnd()}\n(exit code ${code})` };
}

/** Where the image that fails is kept: a new folder, unless one is told. Throws BlockError. */
function keepFolder(keep: string | undefined): string {
  if (keep === undefined) return Deno.makeTempDirSync({ prefix: "dmu-crash-" });
  try {
    Deno.mkdirSync(keep, { recursive: true });
    Deno.statSync(join(keep, KEPT_NAME));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return resolve(keep);
    const { errno } = toBlockError(error);
    throw new BlockError(errno, `Cannot use ${keep}: ${errnoText(errno)}`, { cause: error });
  }
  throw new BlockError(
    "EEXIST",
    `Cannot keep an image in ${keep}: there is a ${KEPT_NAME} already`,
  );
}

function requestsText(ids: readonly number[]): string {
  if (ids.length === 0) return "none";
  const list = ids.slice(0, REQUESTS_TOLD_MAX).join(", ");
  return `${ids.length}: ${list}${ids.length > REQUESTS_TOLD_MAX ? " …" : ""}`;
}

function printCrashReport(io: CliIo, { events, points, failures }: CrashReport): void {
  const [first] = failures;
  const looked = `${plural(points, "crash point")} in ${plural(events, "event")}`;
  if (first === undefined) return io.out(`checked ${looked}: all are sound\n`);
  const { event, timeUs, kept, lost, output, image } = first;
  const rows: [string, string][] = [
    ["crash", `after event ${event}, ${formatDuration(timeUs / 1000)} from the beginning`],
    ["kept", `requests that no flush had covered, ${requestsText(kept)}`],
    ["lost", `requests that no flush had covered, ${requestsText(lost)}`],
  ];
  if (image !== null) rows.push(["image", image]);
  io.out(`checked ${looked}: the last one is not sound\n${twoColumns(rows)}\n`);
  io.out(output.split("\n").map((line) => `  ${printable(line)}\n`).join(""));
}

/** Looks at the crash points of a trace. Throws ExitError if one is not sound. */
export async function crashReplay(io: CliIo, path: string, wish: CrashWish): Promise<void> {
  const { check, seed = SEED_DEFAULT, base = null, keep } = wish;
  const moments = parseMoments(wish.moments);
  if (!check.includes(PLACEHOLDER)) {
    throw new UsageError(`Cannot check with "${check}": write ${PLACEHOLDER} for the image`, {
      text: check,
      start: 0,
      end: check.length,
    });
  }
  const input = new TraceInput(io, path, wish);
  const sampled = moments.kind === "sample";
  if (sampled && !input.repeatable) {
    throw new UsageError(`Cannot sample "${path}": it is read twice, so give a file`);
  }
  const folder = keepFolder(keep);
  const work = await Deno.makeTempDir({ dir: folder, prefix: ".crash-" });
  const progress = readProgress(io, "crash points", [input], sampled ? 2 : 1);
  let report: CrashReport;
  try {
    report = await interruptible(io, "look at all crash points", (signal) =>
      crashPoints({
        ...{ open: () => input.open(), base, folder: work, files: systemFiles, moments },
        ...{ random: seededRandom(seed), signal, progress: progress.draw },
        check: (image) => runCheck(check, image, signal),
      }));
    report = keepFirst(report, folder);
  } finally {
    progress.clear();
    await Deno.remove(work, { recursive: true });
    if (keep === undefined) removeIfEmpty(folder);
  }
  if (wish.json) printJson(io, { trace: path, ...report });
  else printCrashReport(io, report);
  if (report.failed > 0) throw new ExitError(EXIT_FAILED);
}

/** Takes the image of the first failure out of the folder of the run. */
function keepFirst(report: CrashReport, folder: string): CrashReport {
  const [first, ...rest] = report.failures;
  if (first === undefined || first.image === null) return report;
  const image = join(folder, KEPT_NAME);
  Deno.renameSync(first.image, image);
  return { ...report, failures: [{ ...first, image }, ...rest] };
}

function removeIfEmpty(folder: string): void {
  try {
    Deno.removeSync(folder);
  } catch {
    // The image that is kept is in it.
  }
}
