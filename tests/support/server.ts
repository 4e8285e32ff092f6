/**
 * Servers under test as child processes: the real command line, or a script of the tests that prints
 * the same ready line. Nothing sleeps: a server is up when it says so.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { Collector, ended, killQuietly, within } from "./process.ts";

/** Time that a server may take to start or to stop, in ms. */
const START_MS_MAX = 60_000;
const STOP_MS_MAX = 30_000;

/** The command line under test. */
const MAIN = new URL("../../cli/main.ts", import.meta.url);

/**
 * The driver that servers get: DMU_DRIVER is "streams" or "blocking", which means a thread for each target
 * that can have one. Theirs if it is not set.
 */
const DRIVER = driverArguments(Deno.env.get("DMU_DRIVER") ?? "");

function driverArguments(driver: string): readonly string[] {
  if (driver === "") return [];
  assert.ok(driver === "streams" || driver === "blocking", `DMU_DRIVER is "${driver}"`);
  return ["--driver", driver === "blocking" ? "auto" : driver];
}

/** A server that runs. */
export interface DmuServer extends AsyncDisposable {
  readonly pid: number;
  /** The ready line, parsed. */
  readonly ready: Readonly<Record<string, unknown>>;
  /** All NBD URIs of the ready line. */
  readonly uris: readonly string[];
  /** The first of them. */
  readonly uri: string;
  /** What it has printed so far. */
  stdout(): string;
  stderr(): string;
  /** Resolves when it has ended, however. */
  readonly ended: Promise<Deno.CommandStatus>;
  /** SIGTERM; its exit code has to be 0. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

/** How to start a server. */
export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** What to run instead of `dmu serve --json`; it gets the arguments, and prints a ready line. */
  readonly program?: readonly string[];
  /** A program to run that in, for instance strace with its options. */
  readonly wrapper?: readonly string[];
}

/** The command line that runs a script of the tests with all permissions. */
export function scriptProgram(script: URL): string[] {
  return [Deno.execPath(), "run", "--allow-all", "--quiet", fileURLToPath(script)];
}

/** All texts in a value, at any depth. */
function* textsIn(value: unknown): Generator<string> {
  if (typeof value === "string") yield value;
  else if (typeof value === "object" && value !== null) {
    for (const each of Object.values(value)) yield* textsIn(each);
  }
}

function readyLine(line: string): Record<string, unknown> | null {
  if (!line.startsWith("{")) return null;
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? { ...value } : null;
  } catch {
    return null;
  }
}

/**
 * Starts `dmu serve --json ARGS` and waits for its ready line.
 *
 * @example
 * ```ts ignore
 * await using server = await startDmu(["memory:1M", "--nbd", `unix:${folder}/s`]);
 * await runOk("nbdinfo", [server.uri]);
 * await server.stop();
 * ```
 */
export async function startDmu(
  args: readonly string[],
  options: StartOptions = {},
): Promise<DmuServer> {
  const { wrapper = [], program = [...scriptProgram(MAIN), "serve", "--json", ...DRIVER] } =
    options;
  const [path = "", ...rest] = [...wrapper, ...program, ...args];
  const child = new Deno.Command(path, {
    args: rest,
    env: { LC_ALL: "C", NO_COLOR: "1", DMU_CONTROL: "none", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const first = Promise.withResolvers<Record<string, unknown> | null>();
  const out = new Collector(child.stdout, (line) => {
    const ready = readyLine(line);
    if (ready !== null) first.resolve(ready);
  });
  const err = new Collector(child.stderr);
  const over = child.status.then(async (status) => {
    await Promise.all([out.done, err.done]);
    first.resolve(null);
    return status;
  });
  const ready = await within(first.promise, START_MS_MAX);
  if (ready === null) {
    killQuietly(child, "SIGKILL");
    const { code } = await over;
    assert.fail(`no ready line, exit code ${code}: ${rest.join(" ")}\n${out.text()}${err.text()}`);
  }
  return serverOf(child, ready, out, err, over);
}

function serverOf(
  child: Deno.ChildProcess,
  ready: Record<string, unknown>,
  out: Collector,
  err: Collector,
  over: Promise<Deno.CommandStatus>,
): DmuServer {
  const uris = [...textsIn(ready)].filter((text) => /^nbds?(\+\w+)?:/.test(text));
  const kill = async (): Promise<void> => {
    killQuietly(child, "SIGKILL");
    await over;
  };
  return {
    pid: child.pid,
    ready,
    uris,
    get uri(): string {
      const [uri] = uris;
      assert.ok(uri !== undefined, `no NBD URI in the ready line ${JSON.stringify(ready)}`);
      return uri;
    },
    stdout: () => out.text(),
    stderr: () => err.text(),
    ended: over,
    async stop(): Promise<void> {
      killQuietly(child, "SIGTERM");
      const status = await ended(child, STOP_MS_MAX);
      if (status === null) await kill();
      await over;
      assert.ok(status !== null, `still runs ${STOP_MS_MAX} ms after SIGTERM\n${err.text()}`);
      assert.equal(status.code, 0, `exit code after SIGTERM\n${out.text()}${err.text()}`);
    },
    kill,
    [Symbol.asyncDispose]: kill,
  };
}
