/**
 * What tests of open files share: a table on a clock that moves when told.
 *
 * @module
 */
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { OpenFileTable } from "../../lib/handle/table.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";

/** A table and what it was made with. */
export interface TableFixture {
  readonly table: OpenFileTable;
  readonly clock: ManualClock;
  readonly log: MemoryLog;
}

/** An empty table. */
export function tableFixture(rest: { minorsMax?: number } = {}): TableFixture {
  const clock = new ManualClock(), log = new MemoryLog();
  return { table: new OpenFileTable({ clock, log, ...rest }), clock, log };
}

/** Opens an active file. */
export function openActive(
  table: OpenFileTable,
  rest: Partial<Parameters<OpenFileTable["open"]>[0]> = {},
): OpenFile {
  const file = table.open({ kind: "test", peer: "a test", target: "t", ...rest });
  file.activate();
  return file;
}

/** Lets everything happen that waits for nothing. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
