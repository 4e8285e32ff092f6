/**
 * Which targets are recorded, and where: what the command line and the configuration file say of it.
 *
 * @module
 */
import { targetNameProblem } from "../block/spec.ts";
import { UsageError } from "../block/usage_error.ts";
import type { DataKept } from "../trace/recorder.ts";
import type { TargetConfig } from "./config.ts";

/** The trace of a target. */
export interface TraceConfig {
  /** The file; one that is there already is refused when the trace begins. */
  readonly path: string;
  /** What is kept of the data that are read and written. */
  readonly data: DataKept;
}

/** What a trace can keep of data, as it is written in a configuration file. */
export const DATA_KEPT: readonly [DataKept, ...DataKept[]] = ["none", "digest", "payload"];

/**
 * Gives targets the traces that were asked for as `NAME=FILE`, or as `FILE` where there is one target.
 * A file whose name looks like that is written with a folder: `./a=b`. Throws UsageError.
 */
export function withTraces(
  targets: readonly TargetConfig[],
  wishes: readonly string[],
  data: DataKept,
): TargetConfig[] {
  const traced = [...targets];
  for (const wish of wishes) {
    const { index, path } = findTarget(targets, wish);
    const target = traced[index];
    if (target === undefined) continue;
    if (target.trace !== undefined) {
      throw new UsageError(`Cannot trace ${target.name} to "${path}": it has a trace already`);
    }
    traced[index] = { ...target, trace: { path, data } };
  }
  return traced;
}

function findTarget(
  targets: readonly TargetConfig[],
  wish: string,
): { readonly index: number; readonly path: string } {
  const equals = wish.indexOf("=");
  const name = wish.slice(0, Math.max(0, equals));
  const named = equals >= 0 && targetNameProblem(name) === null;
  const place = { text: wish, start: 0, end: named ? equals : wish.length };
  const names = targets.map((each) => each.name).join(", ");
  if (named) {
    const index = targets.findIndex((each) => each.name === name);
    const path = wish.slice(equals + 1);
    if (index < 0) {
      const hint = names === "" ? "there are none" : `there are ${names}`;
      throw new UsageError(`Cannot trace "${name}": there is no such target; ${hint}`, place);
    }
    if (path !== "") return { index, path };
  }
  if (wish === "" || named) throw new UsageError("Cannot trace: no file is named", place);
  if (targets.length === 1) return { index: 0, path: wish };
  const reason = targets.length === 0 ? "there is no target" : `write NAME=FILE, NAME of ${names}`;
  throw new UsageError(`Cannot trace to "${wish}": ${reason}`, place);
}

/** Throws UsageError if two targets were to be recorded in one file. */
export function checkTraces(targets: readonly TargetConfig[]): void {
  const seen = new Map<string, string>();
  for (const { name, trace } of targets) {
    if (trace === undefined) continue;
    const other = seen.get(trace.path);
    if (other !== undefined) {
      throw new UsageError(
        `Cannot trace ${name} to "${trace.path}": the trace of ${other} is there`,
      );
    }
    seen.set(trace.path, name);
  }
}
