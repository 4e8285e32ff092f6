/**
 * NBD servers of others for tests: nbdkit, qemu-nbd and nbd-server on private unix sockets. The first two
 * listen when they write their pid file, which is watched for; they are ended by pid.
 *
 * @module
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { Collector, killQuietly, within } from "./process.ts";
import { runOk, toolPath } from "./tools.ts";

/** Time that a server may take to listen, in ms. */
const START_MS_MAX = 30_000;

/** A server that runs. */
export interface OtherServer extends AsyncDisposable {
  /** The path of its socket. */
  readonly socket: string;
  /** The URI of its default export, to which `&parameters` can be added. */
  readonly uri: string;
  /** Kills it. */
  [Symbol.asyncDispose](): Promise<void>;
}

let count = 0;

/** Resolves when there is something in the file. */
async function appearance(watcher: Deno.FsWatcher, path: string): Promise<true> {
  for (let found = false; !found;) {
    found = await Deno.stat(path).then(({ size }) => size > 0, () => false);
    if (!found) await watcher[Symbol.asyncIterator]().next();
  }
  return true;
}

/** What Linux shows of a unix socket that listens, in the column "Flags" (__SO_ACCEPTCON). */
const LISTENS = "00010000";

/**
 * True when somebody listens on a unix socket, false if that takes longer than START_MS_MAX. Connecting
 * to find out would be a client.
 */
async function listening(path: string): Promise<boolean> {
  const end_ms = performance.now() + START_MS_MAX;
  while (performance.now() < end_ms) {
    const lines = (await Deno.readTextFile("/proc/net/unix")).split("\n");
    const isThat = (line: string): boolean => line.endsWith(` ${path}`) && line.includes(LISTENS);
    if (lines.some(isThat)) return true;
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
  return false;
}

async function start(
  tool: "nbdkit" | "qemu-nbd",
  folder: string,
  args: (socket: string, pidFile: string) => readonly string[],
): Promise<OtherServer> {
  count += 1;
  const socket = join(folder, `s${count}`), pidFile = join(folder, `p${count}`);
  const watcher = Deno.watchFs(dirname(pidFile));
  const child = new Deno.Command(toolPath(tool), {
    args: [...args(socket, pidFile)],
    env: { LC_ALL: "C" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const errors = new Collector(child.stderr);
  const stop = async (): Promise<void> => {
    killQuietly(child, "SIGKILL");
    await child.status;
    await errors.done;
  };
  const exited = child.status.then(() => null);
  const up = await within(Promise.race([appearance(watcher, pidFile), exited]), START_MS_MAX);
  watcher.close();
  if (up === null) await stop();
  assert.ok(up, `Cannot start ${tool}: ${errors.text()}`);
  return {
    socket,
    uri: `nbd+unix:///?socket=${encodeURIComponent(socket)}`,
    [Symbol.asyncDispose]: stop,
  };
}

/** Starts nbdkit with its socket in `folder`; `args` are the plugin and what is for it. */
export function startNbdkit(folder: string, ...args: readonly string[]): Promise<OtherServer> {
  return start("nbdkit", folder, (socket, pid) => ["-f", "-U", socket, "-P", pid, ...args]);
}

/** Starts qemu-nbd with its socket in `folder`; `args` end with the image. */
export function startQemuNbd(folder: string, ...args: readonly string[]): Promise<OtherServer> {
  const common = ["--persistent", "--shared=8"];
  return start("qemu-nbd", folder, (socket, pid) => [
    ...common,
    `--socket=${socket}`,
    `--pid-file=${pid}`,
    ...args,
  ]);
}

/**
 * Starts nbd-server with its socket in `folder`; `settings` are lines of its configuration for the
 * export. It goes into the background.
 */
export async function startNbdServer(
  folder: string,
  image: string,
  settings: readonly string[],
): Promise<OtherServer> {
  count += 1;
  const socket = join(folder, `s${count}`), pidFile = join(folder, `p${count}`);
  const config = join(folder, `c${count}`);
  const lines = [
    ...["[generic]", `unixsock = ${socket}`, "[d]", `exportname = ${image}`],
    ...["flush = true", "fua = true", "trim = true", ...settings, ""],
  ];
  await Deno.writeTextFile(config, lines.join("\n"));
  const watcher = Deno.watchFs(folder);
  const written = appearance(watcher, pidFile);
  await runOk("nbd-server", ["-C", config, "-p", pidFile]);
  // It listens somewhat later than it writes its pid file.
  const up = await within(written, START_MS_MAX) !== null && await listening(socket);
  watcher.close();
  assert.ok(up, "Cannot start nbd-server: it writes no pid file, or does not listen");
  const pid = Number.parseInt(await Deno.readTextFile(pidFile), 10);
  return {
    socket,
    uri: `nbd+unix:///d?socket=${encodeURIComponent(socket)}`,
    async [Symbol.asyncDispose](): Promise<void> {
      Deno.kill(pid, "SIGTERM");
      await runOk("tail", [`--pid=${pid}`, "-s", "0.05", "-f", "/dev/null"]);
    },
  };
}

/** A sparse file of `size` bytes in `folder`. */
export async function makeImage(folder: string, size: number): Promise<string> {
  count += 1;
  const path = join(folder, `image${count}`);
  const file = await Deno.create(path);
  await file.truncate(size);
  file.close();
  return path;
}
