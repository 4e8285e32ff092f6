/**
 * JSON as qemu-img prints it: the same names, with hyphens, and counts that are nothing left out.
 *
 * @module
 */
import type { CheckReport, ImageInfo, MapEntry } from "../../lib/block/image.ts";

/** A name of ours as qemu-img has it: "virtualSize" is "virtual-size". */
export function hyphenated(name: string): string {
  return name.replace(/(?<=[a-z])(?:[A-Z]|[0-9]+)/g, (part) => `-${part.toLowerCase()}`);
}

/** The same value with names as qemu-img has them. */
function shaped(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(shaped);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [hyphenated(name), shaped(each)]),
  );
}

/** `qemu-img info --output=json`. */
export function infoJson(info: ImageInfo): unknown {
  return shaped(info);
}

/** The snapshots of `qemu-img info --output=json`. */
export function snapshotsJson({ snapshots = [] }: ImageInfo): unknown {
  return shaped(snapshots);
}

/** One entry of `qemu-img map --output=json`. */
export function mapJson({ filename: _, ...entry }: MapEntry): unknown {
  return shaped(entry);
}

/** `qemu-img check --output=json`. */
export function checkJson({ messages: _, unit: __, ...report }: CheckReport): unknown {
  const told = Object.entries(report).filter(([name, value]) =>
    value !== 0 || name === "checkErrors"
  );
  return shaped(Object.fromEntries(told));
}
