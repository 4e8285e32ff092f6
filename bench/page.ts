/**
 * The figures of docs/performance.md: each table stands between two markers, and is put there by the
 * benchmark that measured it.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { command } from "./commands.ts";

/** The page. */
export const PAGE: string = fileURLToPath(new URL("../docs/performance.md", import.meta.url));

/** Load average of the last minute above which others were at work, and figures are worth less. */
const LOAD_QUIET_MAX = 0.7;

/** A part of the page that a benchmark writes. */
export type Section = "comparison" | "floor" | "generator";

function markers(section: Section): readonly [string, string] {
  return [`<!-- ${section}: begin -->`, `<!-- ${section}: end -->`];
}

/** What stands in a section of the page's text. Throws if it has no such section. */
export function sectionOf(text: string, section: Section): string {
  const [begin, end] = markers(section);
  const from = text.indexOf(begin), to = text.indexOf(end);
  if (from < 0 || to < from) throw new Error(`Cannot find "${begin}" and "${end}" in the page`);
  return text.slice(from + begin.length, to).trim();
}

/** How busy the machine is: asked before anything is measured. */
export function loadNote(): string {
  const [load = 0] = Deno.loadavg();
  return load <= LOAD_QUIET_MAX
    ? `Load average before: ${load.toFixed(2)}.`
    : `**To be measured again:** others were at work (load average ${load.toFixed(2)}).`;
}

/** The machine, and when it was. */
export function machineText(): string {
  const info = Deno.readTextFileSync("/proc/cpuinfo");
  const cpu = /^model name\s*: (.*)$/m.exec(info)?.[1] ?? "unknown processor";
  const day = new Date().toISOString().slice(0, 10);
  return `Measured on ${day}: ${cpu}, ${navigator.hardwareConcurrency} CPUs, ` +
    `Linux ${Deno.osRelease()}, Deno ${Deno.version.deno}.`;
}

/** The page's text with `content` as its section. Throws if it has no such section. */
export function withSection(text: string, section: Section, content: string): string {
  sectionOf(text, section);
  const [begin, end] = markers(section);
  const head = text.slice(0, text.indexOf(begin) + begin.length);
  return `${head}\n\n${content.trim()}\n\n${text.slice(text.indexOf(end))}`;
}

/** Puts `content` into a section of the page, and formats it. */
export async function writeSection(section: Section, content: string): Promise<void> {
  const text = await Deno.readTextFile(PAGE);
  await Deno.writeTextFile(PAGE, withSection(text, section, content));
  await command(Deno.execPath(), ["fmt", "--quiet", PAGE]);
}
