/**
 * The servers that are compared. Each starts on a private unix socket, pinned to the same CPU, and is
 * up when `start` resolves.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { command, firstLine, pinning } from "./commands.ts";

/**
 * What a server serves: memory of its own, or one raw file that all servers share in turn, through the
 * page cache or past it.
 */
export type Storage = "memory" | "file" | "direct";

/** A server that runs. */
export interface Running {
  readonly uri: string;
  readonly pid: number;
  stop(): Promise<void>;
}

/** A server to compare. */
export interface Server {
  readonly name: string;
  /** How it is asked for its version. */
  readonly version: readonly string[];
  /** What it does for each kind of storage, for the reader of the results. */
  readonly notes: Readonly<Record<Storage, string>>;
  /** `folder` is empty and private; `file` is the image, `size` bytes large. */
  start(storage: Storage, folder: string, file: string, size: number): Promise<Running>;
}

/** The export of a server that wants a name. */
const EXPORT = "disk";

const MAIN = fileURLToPath(new URL("../cli/main.ts", import.meta.url));

/** The words before the arguments of dmu. */
export const DMU: readonly string[] = [Deno.execPath(), "run", "--allow-all", "--quiet", MAIN];

/** Time that a server may take to start, in ms. */
const START_MS_MAX = 60_000;

/** Waits until a client is served. */
async function served(uri: string): Promise<void> {
  const deadline = performance.now() + START_MS_MAX;
  while (await firstLine("nbdinfo", ["--size", uri]) === null) {
    if (performance.now() > deadline) throw new Error(`Cannot reach ${uri}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Starts a server in the foreground, pinned, on the socket "socket" of `folder`. */
export async function start(folder: string, args: readonly string[]): Promise<Running> {
  const child = new Deno.Command("taskset", {
    args: ["-c", String(pinning().server), ...args],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await child.status;
  };
  const uri = `nbd+unix:///?socket=${join(folder, "socket")}`;
  try {
    await served(uri);
  } catch (error) {
    await stop();
    throw new Error(`Cannot start ${args[0]}`, { cause: error });
  }
  return { uri, pid: child.pid, stop };
}

/** Starts nbd-server, which goes into the background and has a process for each connection. */
async function startNbdServer(folder: string, file: string): Promise<Running> {
  const socket = join(folder, "socket"), pidFile = join(folder, "pid");
  const config = join(folder, "config");
  const lines = ["[generic]", `unixsock = ${socket}`, `[${EXPORT}]`, `exportname = ${file}`, ""];
  await Deno.writeTextFile(config, lines.join("\n"));
  const cpu = String(pinning().server);
  await command("taskset", ["-c", cpu, "nbd-server", "-C", config, "-p", pidFile]);
  const uri = `nbd+unix:///${EXPORT}?socket=${socket}`;
  await served(uri);
  const pid = Number(await Deno.readTextFile(pidFile));
  const stop = async (): Promise<void> => {
    Deno.kill(pid, "SIGTERM");
    await command("tail", [`--pid=${pid}`, "-s", "0.05", "-f", "/dev/null"]);
  };
  return { uri, pid, stop };
}

/** Begins with a file of `size` bytes in memory, which is removed when the server has stopped. */
async function onScratch(
  size: number,
  begin: (file: string) => Promise<Running>,
): Promise<Running> {
  const file = await Deno.makeTempFile({ dir: "/dev/shm" });
  await Deno.truncate(file, size);
  const running = await begin(file);
  const stop = async (): Promise<void> => {
    await running.stop();
    await Deno.remove(file);
  };
  return { ...running, stop };
}

/** Starts dmu with a socket in `folder` and what else is on its command line. */
export function startDmu(folder: string, args: readonly string[]): Promise<Running> {
  return start(folder, [
    ...DMU,
    "serve",
    "--driver",
    "auto",
    ...["--nbd", `unix:${join(folder, "socket")}`],
    ...args,
  ]);
}

const NO_DIRECT = "it has no direct I/O";

/** The file, for a server that knows no other way than through the page cache. */
function buffered(storage: Storage, file: string): string {
  if (storage === "direct") throw new Error(NO_DIRECT);
  return file;
}

function dmuSpec(storage: Storage, file: string, size: number): string {
  if (storage === "memory") return `memory:${size}`;
  return storage === "direct" ? `file:${file}?direct` : `file:${file}`;
}

/** All servers; the first is the one that the others are compared with. */
export const SERVERS: readonly Server[] = [
  {
    name: "dmu",
    version: [...DMU, "version"],
    notes: { memory: "memory backend", file: "file backend", direct: "file backend, direct" },
    start: (storage, folder, file, size) =>
      startDmu(folder, [
        "--control",
        "none",
        `default=${dmuSpec(storage, file, size)}`,
      ]),
  },
  {
    name: "nbdkit",
    version: ["nbdkit", "--version"],
    notes: { memory: "memory plugin", file: "file plugin", direct: NO_DIRECT },
    start: async (storage, folder, file, size) =>
      await start(folder, [
        ...["nbdkit", "--foreground", "--unix", join(folder, "socket")],
        ...(storage === "memory" ? ["memory", String(size)] : ["file", buffered(storage, file)]),
      ]),
  },
  {
    name: "qemu-nbd",
    version: ["qemu-nbd", "--version"],
    notes: {
      memory: "raw file in /dev/shm, as it has no memory of its own",
      file: "raw file",
      direct: "raw file, --cache=none --aio=io_uring",
    },
    start(storage, folder, file, size): Promise<Running> {
      const direct = storage === "direct" ? ["--cache=none", "--aio=io_uring"] : [];
      const begin = (path: string): Promise<Running> =>
        start(folder, [
          ...["qemu-nbd", "--socket", join(folder, "socket"), "--persistent", "--shared=0"],
          ...[...direct, "--format=raw", path],
        ]);
      return storage === "memory" ? onScratch(size, begin) : begin(file);
    },
  },
  {
    name: "nbd-server",
    version: ["nbd-server", "-V"],
    notes: {
      memory: "raw file in /dev/shm, as it has no memory of its own",
      file: "raw file",
      direct: NO_DIRECT,
    },
    start: async (storage, folder, file, size) =>
      storage === "memory"
        ? await onScratch(size, (path) => startNbdServer(folder, path))
        : await startNbdServer(folder, buffered(storage, file)),
  },
];
