/**
 * Simulated dm-user targets and the C daemon for tests. Needs root and a kernel with /dev/fuse, which
 * containers often lack; a test is skipped there and says so.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { canMount } from "./mounts.ts";
import { Collector, ended, killQuietly, within } from "./process.ts";
import {
  type DmuServer,
  needs,
  runOk,
  scriptProgram,
  startDmu,
  type ToolName,
  withTempDir,
} from "./tools.ts";

const MAIN = new URL("../../cli/main.ts", import.meta.url);
const SOURCE = fileURLToPath(new URL("../interop/dm_user_daemon.c", import.meta.url));
/** Time in ms that a daemon may take for what a test waits for. */
const DAEMON_MS_MAX = 20_000;

async function whyNot(loop: boolean): Promise<string | null> {
  if (Deno.uid() !== 0) return "root";
  try {
    Deno.openSync("/dev/fuse", { read: true, write: true }).close();
  } catch {
    return "/dev/fuse";
  }
  return loop && !await canMount() ? "losetup and mount" : null;
}

/** What a test with a simulation works with. */
export interface SimulationTest {
  /** A folder of the test's own. */
  readonly folder: string;
  /** Starts `dmu simulate` on `folder`/mount. */
  start(...args: string[]): Promise<SimulationServer>;
  /** Starts the C daemon and waits until its channel is open; it keeps its disk in `folder`/store. */
  daemon(control: string, mode?: string): Promise<CDaemon>;
}

/** `dmu simulate` as a child process. */
export interface SimulationServer extends AsyncDisposable {
  readonly server: DmuServer;
  /** The folder that is mounted on. */
  readonly mount: string;
  control(name: string): string;
  disk(name: string): string;
}

/** A C daemon that runs. */
export interface CDaemon {
  /** What its file of the disk is. */
  readonly store: string;
  /** Resolves when it has printed `line`. */
  said(line: string): Promise<void>;
  /** Sends a signal and gives its exit code. */
  end(signal: Deno.Signal): Promise<number>;
  /** Its exit code. */
  code(): Promise<number>;
}

/**
 * Registers a test that mounts a simulation; `loop` if it also needs loop devices. Whatever it leaves
 * running is killed.
 */
export async function simulationTest(
  name: string,
  options: { readonly tools?: readonly ToolName[]; readonly loop?: boolean },
  fn: (test: SimulationTest) => Promise<void>,
): Promise<void> {
  const need = needs("gcc", ...options.tools ?? []);
  const missing = await whyNot(options.loop ?? false);
  Deno.test({
    name: name + (missing === null ? need.suffix : ` (skipped: needs ${missing})`),
    ignore: need.ignore || missing !== null,
    fn: async () => {
      need.require();
      await withTempDir(async (folder) => {
        const children: Deno.ChildProcess[] = [];
        const binary = join(folder, "daemon");
        await runOk("gcc", ["-Wall", "-Wextra", "-Werror", "-o", binary, SOURCE]);
        const test: SimulationTest = {
          folder,
          start: (...args) => startSimulation(join(folder, "mount"), args),
          daemon: (control, mode = "serve") => {
            return startDaemon(children, binary, control, join(folder, "store"), mode);
          },
        };
        try {
          await fn(test);
        } catch (error) {
          throw bothErrors(error);
        } finally {
          for (const child of children) killQuietly(child, "SIGKILL");
          await Promise.all(children.map(({ status }) => status));
        }
      });
    },
  });
}

/**
 * What went wrong in a test and what went wrong when it was cleaned up: the test runner would show
 * that something was suppressed, and neither of the two.
 */
function bothErrors(error: unknown): unknown {
  if (!(error instanceof SuppressedError)) return error;
  const texts = [error.suppressed, error.error].map((each: unknown) =>
    each instanceof Error ? each.stack ?? each.message : String(each)
  );
  return new Error(texts.join("\nand at the end of the test: "), { cause: error });
}

async function startSimulation(mount: string, args: readonly string[]): Promise<SimulationServer> {
  const program = [...scriptProgram(MAIN), "simulate", "--json", "--mount", mount];
  const server = await startDmu(args, { program });
  return {
    server,
    mount,
    control: (name) => join(mount, "dm-user", name),
    disk: (name) => join(mount, "disk", name),
    async [Symbol.asyncDispose](): Promise<void> {
      try {
        await server.stop();
      } finally {
        await server.kill();
        // A mount outlives a program that is killed, and would keep the folder of the test.
        await new Deno.Command("umount", { args: ["--lazy", mount], stderr: "null" }).output();
      }
    },
  };
}

async function startDaemon(
  children: Deno.ChildProcess[],
  binary: string,
  control: string,
  store: string,
  mode: string,
): Promise<CDaemon> {
  const child = new Deno.Command(binary, {
    args: [control, store, mode],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  children.push(child);
  const lines: string[] = [];
  let changed = Promise.withResolvers<void>();
  const out = new Collector(child.stdout, (line) => {
    lines.push(line);
    changed.resolve();
    changed = Promise.withResolvers<void>();
  });
  const heard = async (line: string): Promise<true> => {
    while (!lines.includes(line)) await changed.promise;
    return true;
  };
  const said = async (line: string): Promise<void> => {
    const done = await within(heard(line), DAEMON_MS_MAX);
    assert.ok(done, `the daemon has not said "${line}" but: ${lines.join(", ")}`);
  };
  const code = async (): Promise<number> => {
    const status = await ended(child, DAEMON_MS_MAX);
    assert.ok(status !== null, "the daemon has not ended");
    await out.done;
    return status.code;
  };
  await said("open");
  return {
    store,
    said,
    code,
    end: (signal) => {
      child.kill(signal);
      return code();
    },
  };
}
