/**
 * `dmu image check`: is an image sound, and can it be mended. Its exit codes are qemu-img's, so that
 * scripts can ask either.
 *
 * @module
 */
import { type CheckReport, REPAIRS } from "../../lib/block/image.ts";
import { type AnyCommand, collect, command, examples, oneOfOption } from "../command.ts";
import type { CliIo } from "../io.ts";
import { ExitError, plural, printJson, twoColumns } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import {
  cannot,
  FILE_HELP,
  findImage,
  FORCE_HELP,
  KIND_HELP,
  refuseInUse,
  withImageContext,
} from "./find.ts";
import { checkJson } from "./json.ts";

/** Exit codes of `dmu image check`. */
const EXIT_UNCHECKED = 1, EXIT_CORRUPT = 2, EXIT_LEAKS = 3;

const EXIT_HELP = `
Exit codes:
  0  nothing is wrong, or not any more
  1  it could not be checked (wrong usage as well)
  2  corruptions: data is in danger
  3  leaks: clusters or objects take up space for nothing, data is safe`;

/** The exit code that a report means. */
function exitCode({ checkErrors, corruptions = 0, leaks = 0 }: CheckReport): number {
  if (checkErrors > 0) return EXIT_UNCHECKED;
  if (corruptions > 0) return EXIT_CORRUPT;
  return leaks > 0 ? EXIT_LEAKS : 0;
}

function share(part: number, whole: number): string {
  return whole === 0 ? "none" : `${part} of ${whole} (${(part / whole * 100).toFixed(1)}%)`;
}

function verdict(report: CheckReport): string {
  const { checkErrors, corruptions = 0, leaks = 0 } = report;
  const parts: string[] = [];
  if (checkErrors > 0) parts.push(`${plural(checkErrors, "place")} could not be checked`);
  if (corruptions > 0) parts.push(plural(corruptions, "corruption"));
  if (leaks > 0) parts.push(plural(leaks, `leaked ${report.unit ?? "cluster"}`));
  return parts.length === 0 ? "no errors were found" : parts.join(", ");
}

function printReport(io: CliIo, report: CheckReport): void {
  const { corruptionsFixed = 0, leaksFixed = 0, totalClusters, imageEndOffset } = report;
  const { allocatedClusters = 0, fragmentedClusters = 0, compressedClusters = 0 } = report;
  const rows: [string, string][] = [["verdict", verdict(report)]];
  if (corruptionsFixed + leaksFixed > 0) {
    const mended = [plural(corruptionsFixed, "corruption"), plural(leaksFixed, "leak")];
    rows.push(["mended", mended.join(", ")]);
  }
  if (totalClusters !== undefined) {
    rows.push(["allocated", share(allocatedClusters, totalClusters)]);
    if (allocatedClusters > 0 && report.unit === undefined) {
      rows.push(["fragmented", share(fragmentedClusters, allocatedClusters)]);
      rows.push(["compressed", share(compressedClusters, allocatedClusters)]);
    }
  }
  if (imageEndOffset !== undefined) rows.push(["ends at byte", String(imageEndOffset)]);
  io.out(`${printable(report.filename)}\n${twoColumns(rows)}`);
}

/** The command `dmu image check`. */
export function imageCheckCommand(io: CliIo): AnyCommand {
  return command("check", io)
    .summary("check an image, and mend it")
    .description(
      "Check an image for damage. Without --repair it is only looked at. Repairing leaks is safe; " +
        "repairing all may give up what cannot be saved, so have a copy.",
    )
    .argument("<file>", FILE_HELP)
    .addOption(oneOfOption("--repair <what>", "mend leaks, or all", REPAIRS))
    .option("--deep", "read and verify the data too, where it has checksums of its own")
    .option("--force", `mend it: ${FORCE_HELP}`)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON as qemu-img does")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["Is it sound?", "dmu image check vm.qcow2"],
        ["Get back leaked space", "dmu image check vm.qcow2 --repair leaks"],
      ]) + "\n" + EXIT_HELP,
    )
    .action(async (file, { repair = "none", deep = false, force = false, kind, backend, json }) => {
      const registry = await registryWith(backend);
      const report = await withImageContext(io, "check", repair === "none", async (context) => {
        const image = findImage(registry, file, kind, context);
        if (image.tools.check === undefined) throw cannot("check", image);
        if (deep && image.tools.checksData !== true) throw cannot("check the data of", image);
        if (repair !== "none") await refuseInUse("mend", image, force, context);
        return await image.tools.check(image.disk, repair, context, deep);
      });
      const say = (text: string): void => json ? io.err(text) : io.out(text);
      for (const message of report.messages) say(`${printable(message)}\n`);
      if (json) printJson(io, checkJson(report));
      else printReport(io, report);
      const code = exitCode(report);
      if (code !== 0) throw new ExitError(code);
    });
}
