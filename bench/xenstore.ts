/**
 * `deno task bench:xenstore [--quick] [--json]`: dmu's XenStore and Debian's xenstored (C, 4.17) side
 * by side. The same C client for both (bench/xenstore_client.c), the server pinned to one CPU and the
 * client to another, one server at a time in turns, medians of all runs. xenstored runs without Xen, on
 * the stub in bench/xen_stub; it is taken from PATH, or else the Debian package is fetched and unpacked
 * into a private folder. Needs gcc and taskset.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startXenstored } from "../tests/support/xenstored.ts";
import { print } from "../tools/process.ts";
import { command, firstLine, pinning } from "./commands.ts";
import { taskOptions } from "./options.ts";
import { spread } from "./report.ts";

const PACKAGE = "xen-utils-4.17";
const IN_PACKAGE = "usr/lib/xen-4.17/bin/xenstored";
const CLIENT = fileURLToPath(new URL("./xenstore_client.c", import.meta.url));
const SERVER = fileURLToPath(new URL("./xenstore_server.ts", import.meta.url));
/** Time that a server may take to start, in ms. */
const START_MS_MAX = 10_000;

/** Requests under way on a connection: as libxenstore does, and as much as is of use. */
const DEPTHS = [1, 64] as const;
const CONNECTIONS = [1, 8] as const;
const LOADS = [
  ["read", "reads/s"],
  ["write", "writes/s"],
  ["transaction", "transactions/s"],
  ["events", "watch events/s"],
] as const;

interface Running {
  readonly socket: string;
  stop(): Promise<void>;
}

interface Server {
  readonly name: string;
  start(folder: string): Promise<Running>;
}

/** The path of xenstored. Throws with a reason if there is none. */
async function findXenstored(folder: string): Promise<string> {
  const installed = [...(Deno.env.get("PATH") ?? "").split(":").map((each) => `${each}/xenstored`)]
    .concat(`/${IN_PACKAGE}`);
  for (const path of installed) if (await isProgram(path)) return path;
  try {
    const script = `cd "$1" && apt-get download -q ${PACKAGE} && dpkg -x ${PACKAGE}_*.deb package`;
    await command("sh", ["-c", script, "sh", folder]);
  } catch (error) {
    throw new Error(
      `Cannot compare with xenstored: it is not on PATH, and the Debian package ${PACKAGE} cannot be had`,
      { cause: error },
    );
  }
  return join(folder, "package", IN_PACKAGE);
}

async function isProgram(path: string): Promise<boolean> {
  // Debian's /usr/sbin/xenstored is a script that looks for a hypervisor.
  try {
    using file = await Deno.open(path);
    const head = new Uint8Array(4);
    return await file.read(head) === 4 && head[1] === 0x45 && head[2] === 0x4c && head[3] === 0x46;
  } catch {
    return false;
  }
}

async function startDmu(folder: string): Promise<Running> {
  const socket = join(folder, "socket");
  const child = new Deno.Command("taskset", {
    args: ["-c", String(pinning().server), Deno.execPath(), "run", "-A", "--quiet", SERVER, socket],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  const deadline = performance.now() + START_MS_MAX;
  while (await firstLine("test", ["-S", socket]) === null) {
    if (performance.now() > deadline) throw new Error("Cannot start the XenStore service");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await child.status;
  };
  return { socket, stop };
}

async function serversOf(folder: string): Promise<Server[]> {
  const program = await findXenstored(folder);
  const cpu = pinning().server;
  return [
    { name: "dmu", start: startDmu },
    {
      name: "xenstored",
      start: async (private_): Promise<Running> => {
        const running = await startXenstored(private_, { program, cpu });
        return { socket: running.socket, stop: async () => await running[Symbol.asyncDispose]() };
      },
    },
  ];
}

interface Case {
  readonly load: string;
  readonly unit: string;
  readonly depth: number;
  readonly connections: number;
  /** Figures a second, by server. */
  readonly runs: Map<string, number[]>;
}

function cases(): Case[] {
  return LOADS.flatMap(([load, unit]) =>
    CONNECTIONS.flatMap((connections) =>
      DEPTHS.map((depth) => ({ load, unit, depth, connections, runs: new Map() }))
    )
  );
}

async function measure(client: string, socket: string, of: Case, seconds: number): Promise<number> {
  const { load, depth, connections } = of;
  const args = [load, depth, connections, seconds].map(String);
  return Number(await command("taskset", ["-c", `${pinning().client}`, client, socket, ...args]));
}

function figure(values: readonly number[]): string {
  return spread(values).median.toFixed(0).padStart(9);
}

function line({ unit, depth, connections, runs }: Case): string {
  const [ours = [], theirs = []] = runs.values();
  const ratio = spread(ours).median / spread(theirs).median;
  const head = `${unit.padEnd(16)} ${String(connections).padStart(5)} ${String(depth).padStart(6)}`;
  return `${head} ${figure(ours)} ${figure(theirs)} ${ratio.toFixed(2).padStart(7)}\n`;
}

function progress(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

async function main(): Promise<void> {
  const { flags } = taskOptions({ task: "bench:xenstore", flags: ["quick", "json"] });
  const [rounds, seconds] = flags.has("quick") ? [3, 0.5] : [5, 2];
  const folder = await Deno.makeTempDir({ prefix: "dmu-bench-" });
  try {
    const client = join(folder, "client");
    await command("gcc", ["-O2", "-o", client, CLIENT]);
    const servers = await serversOf(folder);
    const all = cases();
    for (let round = 0; round < rounds; round++) {
      for (const { name, start } of servers) {
        const own = await Deno.makeTempDir({ dir: folder });
        const server = await start(own);
        try {
          for (const each of all) {
            const figures = each.runs.get(name) ?? [];
            figures.push(await measure(client, server.socket, each, seconds));
            each.runs.set(name, figures);
          }
        } finally {
          await server.stop();
        }
        progress(`round ${round + 1} of ${rounds}: ${name}\n`);
      }
    }
    if (flags.has("json")) {
      const data = all.map((each) => ({ ...each, runs: Object.fromEntries(each.runs) }));
      return print(`${JSON.stringify(data)}\n`);
    }
    print("                 conns  depth       dmu xenstored   ratio\n");
    for (const each of all) print(line(each));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await main();
