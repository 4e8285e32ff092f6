/**
 * `dmu image info`: what an image is, and those below it.
 *
 * @module
 */
import type { ImageContext, ImageInfo, ImageSnapshot, JsonValue } from "../../lib/block/image.ts";
import type { PreparedImage, Registry } from "../../lib/block/registry.ts";
import { formatSize } from "../../lib/block/size.ts";
import { type AnyCommand, collect, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { exactSize, plural, printJson, twoColumns } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import { FILE_HELP, findImage, KIND_HELP, withImageContext } from "./find.ts";
import { infoJson } from "./json.ts";

/** Most images of a chain that are shown. */
const CHAIN_MAX = 64;

/** "lazyRefcounts" in words: "lazy refcounts". */
function words(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

function valueText(value: JsonValue): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) {
    return value.length === 0 ? "none" : value.map((each) => valueText(each)).join("; ");
  }
  if (typeof value !== "object" || value === null) return printable(String(value ?? "none"));
  return Object.entries(value)
    .map(([name, each]) => `${words(name)} ${valueText(each)}`).join(", ");
}

function infoRows(info: ImageInfo): [string, string][] {
  const { actualSize, clusterSize, backingFilename, fullBackingFilename } = info;
  const rows: [string, string][] = [
    ["format", info.format],
    ["virtual size", exactSize(info.virtualSize)],
  ];
  if (actualSize !== undefined) rows.push(["disk size", exactSize(actualSize)]);
  if (clusterSize !== undefined) rows.push(["cluster size", exactSize(clusterSize)]);
  if (info.dirtyFlag) rows.push(["dirty", "yes: it was not closed, or is open"]);
  if (backingFilename !== undefined) {
    const format = info.backingFilenameFormat ?? "format not told";
    rows.push(["backing file", `${printable(backingFilename)} (${printable(format)})`]);
    if (fullBackingFilename !== undefined && fullBackingFilename !== backingFilename) {
      rows.push(["", printable(fullBackingFilename)]);
    }
  }
  for (const [name, value] of Object.entries(info.formatSpecific?.data ?? {})) {
    rows.push([words(printable(name)), valueText(value)]);
  }
  return rows;
}

/** A list of snapshots in aligned columns; every line begins with `indent`. */
export function snapshotTable(snapshots: readonly ImageSnapshot[], indent: string): string {
  const rows = snapshots.map(({ id, name, dateSec, vmStateSize }) => [
    printable(id),
    new Date(dateSec * 1000).toISOString().slice(0, 19).replace("T", " "),
    formatSize(vmStateSize),
    printable(name),
  ]);
  const all = [["id", "taken (UTC)", "VM state", "name"], ...rows];
  const widths = [0, 1, 2].map((at) => Math.max(...all.map((row) => row[at]?.length ?? 0)));
  return all.map((row) =>
    `${indent}${row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join("  ")}`.trimEnd() + "\n"
  ).join("");
}

function printInfo(io: CliIo, info: ImageInfo): void {
  const { snapshots = [] } = info;
  io.out(`${printable(info.filename)}\n${twoColumns(infoRows(info))}`);
  if (snapshots.length === 0) return;
  io.out(`\n  ${plural(snapshots.length, "snapshot")}\n${snapshotTable(snapshots, "  ")}`);
}

/** The image and, with `chain`, all that it is backed by. */
async function collectInfo(
  registry: Registry,
  image: PreparedImage,
  chain: boolean,
  context: ImageContext,
): Promise<ImageInfo[]> {
  const found = [await image.tools.info(image.disk, context)];
  while (chain && found.length < CHAIN_MAX) {
    const last = found.at(-1);
    const path = last?.fullBackingFilename;
    if (last === undefined || path === undefined) break;
    const next = findImage(registry, path, last.backingFilenameFormat, context);
    found.push(await next.tools.info(next.disk, context));
  }
  return found;
}

/** The command `dmu image info`. */
export function imageInfoCommand(io: CliIo): AnyCommand {
  return command("info", io)
    .summary("show what an image is")
    .description("Show what an image is: format, sizes, backing file, snapshots.")
    .argument("<file>", FILE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backing-chain", "show the images below it as well; with --json, a list")
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON as qemu-img does")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText("after", examples([["An image", "dmu image info vm.qcow2"]]))
    .action(async (file, { kind, backingChain = false, backend, json }) => {
      const registry = await registryWith(backend);
      const found = await withImageContext(io, "look", true, (context) => {
        const image = findImage(registry, file, kind, context);
        return collectInfo(registry, image, backingChain, context);
      });
      if (json) {
        const all = found.map(infoJson);
        return printJson(io, backingChain ? all : all[0]);
      }
      for (const [index, info] of found.entries()) {
        if (index > 0) io.out("\n");
        printInfo(io, info);
      }
    });
}
