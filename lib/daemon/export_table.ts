/**
 * Views of the table of exports: handshakes that are under way see it as it is at each of their steps,
 * and those on a target's own endpoint see that target alone, as the default export.
 *
 * @module
 */
import type { ExportInfo, ExportTable } from "../nbd/export_info.ts";

/** What a view is of. */
export interface TableView {
  /** The whole table now. */
  readonly current: () => ExportTable;
  /** The one target that is seen, null for all. */
  readonly scope: string | null;
  /** Why no client more is let in just now, or null. Asked last, so that nobody can come in between. */
  readonly full?: () => string | null;
}

/** A table that is looked up anew each time. */
export function liveTable({ current, scope, full }: TableView): ExportTable {
  return {
    get exports() {
      return scope === null ? current().exports : only(current().exports, scope);
    },
    get defaultExport() {
      return scope ?? current().defaultExport;
    },
    get stopping() {
      return current().stopping;
    },
    get full() {
      return full?.() ?? null;
    },
  };
}

function only(
  exports: ReadonlyMap<string, ExportInfo>,
  name: string,
): ReadonlyMap<string, ExportInfo> {
  const info = exports.get(name);
  return new Map(info === undefined ? [] : [[name, info]]);
}
