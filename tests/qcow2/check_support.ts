/**
 * Checks by this program and by qemu-img, in the same shape, so that tests can compare them.
 *
 * @module
 */
import { checkImage } from "../../backends/qcow2/check/mod.ts";
import type { CheckReport, ImageContext, Repair } from "../../lib/block/image.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { testContext } from "../support/context.ts";
import { run } from "../support/tools.ts";

/** What qemu-img tells of a check: its exit code and its figures by their names. */
export interface QemuCheck {
  readonly code: number;
  readonly figures: Readonly<Record<string, unknown>>;
}

/** A context with real files and a real clock. */
export function imageContext(): ImageContext {
  return { ...testContext({ files: systemFiles, clock: systemClock }), progress: () => {} };
}

/** Checks an image with this program. */
export function ourCheck(path: string, repair: Repair = "none"): Promise<CheckReport> {
  return checkImage(path, repair, imageContext());
}

/** The exit code that `qemu-img check` has for such a report. */
export function exitCode({ checkErrors, corruptions = 0, leaks = 0 }: CheckReport): number {
  return checkErrors > 0 ? 1 : corruptions > 0 ? 2 : leaks > 0 ? 3 : 0;
}

/** The figures of a report by the names of qemu-img. */
export function figuresOf(report: CheckReport): Record<string, unknown> {
  const { messages: _messages, ...rest } = report;
  return Object.fromEntries(
    Object.entries(rest).map(([name, value]) => [
      name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`),
      value,
    ]),
  );
}

/** Checks an image with qemu-img. Figures are empty if it could not check. */
export async function qemuCheck(path: string, repair: Repair = "none"): Promise<QemuCheck> {
  const args = repair === "none" ? [] : ["-r", repair];
  const { code, stdout } = await run("qemu-img", [
    "check",
    "-f",
    "qcow2",
    "--output=json",
    ...args,
    path,
  ]);
  return { code, figures: code === 1 || stdout === "" ? {} : JSON.parse(stdout) };
}
