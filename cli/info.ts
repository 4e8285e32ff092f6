/**
 * `dmu info`: what a disk is, or which exports a server has.
 *
 * @module
 */
import { type Allocation, measureAllocation } from "../lib/block/allocation.ts";
import { formatSize } from "../lib/block/size.ts";
import { parseSpec } from "../lib/block/spec.ts";
import type { Backend, Geometry } from "../lib/block/types.ts";
import { systemClock } from "../lib/daemon/context.ts";
import type { DriverName } from "../lib/daemon/target.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import { listExports } from "../lib/nbd/client/connect.ts";
import type { ListedExport } from "../lib/nbd/client/handshake.ts";
import { TRANSMISSION } from "../lib/nbd/constants.ts";
import { formatNbdUri, NBD_SCHEMES, type NbdUri, parseNbdUri } from "../lib/nbd/uri.ts";
import { type AnyCommand, collect, command, examples } from "./command.ts";
import { type CliIo, cliLog } from "./io.ts";
import { exactSize, plural, printJson, twoColumns } from "./output.ts";
import { printable } from "./safe_text.ts";
import { BACKEND_HELP, registryWith } from "./setup.ts";

/** Longest time that is spent on counting what is allocated, in ms. */
const ALLOCATION_MS_MAX = 2_000;

interface Info {
  readonly spec: string;
  readonly kind: string;
  readonly size: number;
  /** What the server of an export says; null for other kinds, which are opened read-only here. */
  readonly readOnly: boolean | null;
  readonly geometry: Pick<Geometry, "minimum" | "preferred" | "maximum">;
  readonly can: readonly string[];
  /** The driver that a target of it gets, if it is not told. */
  readonly driver: DriverName;
  readonly allocation: Allocation | null;
  readonly details: Readonly<Record<string, string | number | boolean>>;
}

/** The optional verbs that a backend has. */
function verbsOf(backend: Backend): string[] {
  const verbs = ["trim", "zero", "cache", "extents", "resize"] as const;
  const can: string[] = verbs.filter((verb) => backend[verb] !== undefined);
  if (backend.capabilities.fua) can.push("fua");
  return can;
}

function printInfo(io: CliIo, info: Info): void {
  const { geometry: { minimum, preferred, maximum }, allocation, details } = info;
  const rows: [string, string][] = [
    ["backend", info.kind],
    ["size", exactSize(info.size)],
    [
      "blocks",
      `minimum ${formatSize(minimum)}, preferred ${formatSize(preferred)}, ` +
      `at most ${formatSize(maximum)}`,
    ],
    ["can", info.can.join(", ") || "read and write"],
    ["driver", info.driver],
  ];
  if (info.readOnly === true) rows.push(["read-only", "yes"]);
  if (allocation !== null) rows.push(["allocation", allocationText(allocation, info.size)]);
  for (const [key, value] of Object.entries(details)) {
    if (key !== "size") rows.push([printable(key), detailText(key, value)]);
  }
  io.out(`${printable(info.spec)}\n${twoColumns(rows)}`);
}

function allocationText(allocation: Allocation, size: number): string {
  const { examined, data, zero, hole, extents } = allocation;
  const parts = [`${formatSize(data)} data`];
  if (zero > 0) parts.push(`${formatSize(zero)} zeroes`);
  parts.push(`${formatSize(hole)} holes in ${plural(extents, "extent")}`);
  const rest = examined < size ? ` (of the first ${formatSize(examined)})` : "";
  return parts.join(", ") + rest;
}

/** Details are whatever a backend finds worth showing; byte counts are told by their names. */
function detailText(key: string, value: string | number | boolean): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") {
    return /^(allocated|resident|limit)$/.test(key) ? exactSize(value) : String(value);
  }
  return printable(value);
}

/** An export as `dmu info` shows it. */
interface ShownExport {
  readonly name: string;
  readonly uri: string;
  readonly description: string | null;
  readonly size: number | null;
  readonly readOnly: boolean | null;
  readonly problem: string | null;
}

function showExport(uri: NbdUri, listed: ListedExport): ShownExport {
  const { name, description, facts, problem } = listed;
  return {
    name,
    uri: formatNbdUri({ ...uri, exportName: name }),
    description: facts?.description ?? description,
    size: facts === null ? null : Number(facts.size),
    readOnly: facts === null ? null : (facts.flags & TRANSMISSION.READ_ONLY) !== 0,
    problem,
  };
}

async function listServer(io: CliIo, text: string, json: boolean): Promise<void> {
  const uri = parseNbdUri(text);
  const server = await listExports(uri, { clock: systemClock });
  const shown = server.exports.map((listed) => showExport(uri, listed));
  if (json) return printJson(io, { server: formatNbdUri(uri), exports: shown });
  io.out(`${formatNbdUri(uri)}: ${plural(shown.length, "export")}\n`);
  for (const { name, uri: address, description, size, readOnly, problem } of shown) {
    const rows: [string, string][] = [["uri", address]];
    if (size !== null) rows.push(["size", exactSize(size)]);
    if (readOnly) rows.push(["read-only", "yes"]);
    if (description !== null && description !== "") {
      rows.push(["description", printable(description)]);
    }
    if (problem !== null) rows.push(["problem", printable(problem)]);
    io.out(`\n${name === "" ? '"" (default)' : printable(name)}\n${twoColumns(rows)}`);
  }
}

/** The command `dmu info`. */
export function infoCommand(io: CliIo): AnyCommand {
  return command("info", io)
    .summary("show what a disk is, or what a server exports")
    .description(
      "Show what a disk is: size, block sizes, what it can do, what is allocated. For the URI " +
        "of a server without the name of an export: all its exports.",
    )
    .argument("<spec>", "KIND:ARGUMENT?option=value, or an NBD URI")
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON")
    .option("--verbose", "show debug messages, and stacks of errors")
    .addHelpText(
      "after",
      examples([
        ["An image", "dmu info file:disk.img"],
        ["All exports of a server", "dmu info nbd://localhost"],
      ]),
    )
    .action(async (text, { backend, json = false }) => {
      const registry = await registryWith(backend);
      const spec = parseSpec(text, { kinds: registry.kinds });
      if (spec.uri && NBD_SCHEMES.includes(spec.kind) && parseNbdUri(text).exportName === "") {
        return await listServer(io, text, json);
      }
      const kind = registry.find(spec).name;
      // Looking must not create, lock or change anything; an NBD connection does none of these.
      const readOnly = kind !== "nbd";
      const settings = { registry, log: cliLog(io), readOnly, mayBlock: true };
      await using open = await openDevice(spec, settings);
      const { device, opened } = open;
      const { size, readOnly: refusesWrites, ...geometry } = device.geometry;
      const { backend: { extents } } = opened;
      const info: Info = {
        spec: spec.text,
        kind,
        size,
        readOnly: readOnly ? null : refusesWrites,
        geometry,
        can: verbsOf(opened.backend),
        driver: device.features.synchronous ? "blocking" : "streams",
        allocation: extents === undefined
          ? null
          : await measureAllocation(device, systemClock, ALLOCATION_MS_MAX),
        details: opened.management?.describe?.() ?? {},
      };
      if (json) return printJson(io, info);
      printInfo(io, info);
    });
}
