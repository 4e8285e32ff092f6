/**
 * What tests with real programs need: finding tools (a missing one skips the test on a user's machine
 * and fails it where CI=true), running them under a deadline, temporary folders, servers as child
 * processes. Relies on Linux paths and Debian package names.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { Collector, ended, feed, killQuietly } from "./process.ts";

export { type DmuServer, scriptProgram, startDmu, type StartOptions } from "./server.ts";

/** Time that one command of a test may take, in ms, unless the test says otherwise. */
const RUN_MS_MAX = 60_000;

/** Where commands are looked for after PATH. */
const SYSTEM_FOLDERS: readonly string[] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

interface Tool {
  /** The Debian package that has it. */
  readonly package: string;
  /** The command; the name of the tool if absent. */
  readonly command?: string;
  /** Arguments of a run that succeeds only if the tool can do what the tests need. */
  readonly probe?: readonly string[];
}

const TOOLS = {
  blkparse: { package: "blktrace" },
  blkreplay: { package: "blkreplay" },
  ceph: { package: "ceph-common" },
  "ceph-mon": { package: "ceph-mon" },
  "ceph-osd": { package: "ceph-osd" },
  certtool: { package: "gnutls-bin" },
  debugfs: { package: "e2fsprogs" },
  e2fsck: { package: "e2fsprogs" },
  fio: { package: "fio", probe: ["--enghelp=nbd"] },
  gcc: { package: "gcc libc6-dev" },
  "mkfs.ext4": { package: "e2fsprogs" },
  monmaptool: { package: "ceph-common" },
  "nbd-server": { package: "nbd-server" },
  "nbd-trdump": { package: "nbd-server" },
  "nbd-trplay": { package: "nbd-server" },
  nbdcopy: { package: "libnbd-bin" },
  nbdfuse: { package: "libnbd-bin" },
  nbdinfo: { package: "libnbd-bin" },
  nbdkit: { package: "nbdkit" },
  openssl: { package: "openssl" },
  promtool: { package: "prometheus, which .ci/run unpacks and puts on PATH" },
  "python3-libnbd": { package: "python3-libnbd", command: "python3", probe: ["-c", "import nbd"] },
  "qemu-img": { package: "qemu-utils" },
  "qemu-io": { package: "qemu-utils" },
  "qemu-nbd": { package: "qemu-utils" },
  radosgw: { package: "radosgw" },
  "radosgw-admin": { package: "radosgw" },
  setpriv: { package: "util-linux" },
  strace: { package: "strace" },
  "systemd-socket-activate": { package: "systemd" },
  "python3-pyxs": { package: "python3-pyxs", command: "python3", probe: ["-c", "import pyxs"] },
  "test-xenstore": {
    package: "xen-utils-4.17, which .ci/run unpacks and puts on PATH",
    probe: ["--list-tests"],
  },
  xenstored: { package: "xen-utils-4.17, which .ci/run unpacks and puts on PATH" },
  unshare: { package: "util-linux", probe: ["--net", "true"] },
  "xenstore-ls": { package: "xenstore-utils" },
} as const satisfies Record<string, Tool>;

/** A tool that tests may need. */
export type ToolName = keyof typeof TOOLS;

function isToolName(text: string): text is ToolName {
  return Object.hasOwn(TOOLS, text);
}

function works(path: string, tool: Tool): boolean {
  try {
    const { isFile, mode } = Deno.statSync(path);
    if (!isFile || ((mode ?? 0) & 0o111) === 0) return false;
    if (tool.probe === undefined) return true;
    return new Deno.Command(path, { args: [...tool.probe], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

const found = new Map<ToolName, string | null>();

function findTool(name: ToolName): string | null {
  const known = found.get(name);
  if (known !== undefined) return known;
  const tool: Tool = TOOLS[name];
  const folders = [...(Deno.env.get("PATH") ?? "").split(":"), ...SYSTEM_FOLDERS];
  const paths = folders.filter((each) => each !== "")
    .map((folder) => join(folder, tool.command ?? name));
  const path = paths.find((each) => works(each, tool)) ?? null;
  found.set(name, path);
  return path;
}

/** The path of a tool. Throws if it is missing: a test declares what it needs with `interopTest`. */
export function toolPath(name: ToolName): string {
  const path = findTool(name);
  assert.ok(
    path !== null,
    `Cannot find ${name}: install the Debian package ${TOOLS[name].package}`,
  );
  return path;
}

/** Whether a test can run on this machine. */
export interface Need {
  /** True if a tool is missing and this is no CI: the test is to be ignored. */
  readonly ignore: boolean;
  /** What to add to the name of the test: "" or " (skipped: needs X)". */
  readonly suffix: string;
  /** Throws if a tool is missing: in CI that fails the test. */
  readonly require: () => void;
}

/** Looks for tools. */
export function needs(...tools: readonly ToolName[]): Need {
  const missing = tools.filter((each) => findTool(each) === null);
  const inCi = Deno.env.get("CI") === "true";
  return {
    ignore: missing.length > 0 && !inCi,
    suffix: missing.length === 0 || inCi ? "" : ` (skipped: needs ${missing.join(", ")})`,
    require: () => missing.forEach(toolPath),
  };
}

/** Registers a test that uses real programs. */
export function interopTest(
  name: string,
  tools: readonly ToolName[],
  fn: () => void | Promise<void>,
): void {
  const need = needs(...tools);
  Deno.test({
    name: name + need.suffix,
    ignore: need.ignore,
    fn: async () => {
      need.require();
      await fn();
    },
  });
}

/** How to run a command. */
export interface RunOptions {
  /** What it reads; nothing by default. */
  readonly stdin?: string | Uint8Array<ArrayBuffer>;
  /** After this many ms it is killed and the run rejects. */
  readonly timeoutMs?: number;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Start from an empty environment. */
  readonly clearEnv?: boolean;
  readonly cwd?: string;
}

/** What came of a command. */
export interface RunResult {
  /** Exit code, 128 + n if signal n ended it. */
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
  /** The standard output as it came. */
  readonly output: Uint8Array;
}

/** Runs a command to its end. Whatever its exit code, the result says so. */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const { stdin, timeoutMs = RUN_MS_MAX, env = {}, clearEnv = false, cwd } = options;
  const path = isToolName(command) ? toolPath(command) : command;
  const child = new Deno.Command(path, {
    args: [...args],
    env: clearEnv ? { ...env } : { LC_ALL: "C", ...env },
    clearEnv,
    ...(cwd === undefined ? {} : { cwd }),
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const out = new Collector(child.stdout);
  const err = new Collector(child.stderr);
  const fed = stdin === undefined ? Promise.resolve() : feed(child, stdin);
  const status = await ended(child, timeoutMs);
  if (status === null) killQuietly(child, "SIGKILL");
  const { code, signal } = status ?? await child.status;
  await Promise.all([out.done, err.done, fed]);
  const result = { code, signal, stdout: out.text(), stderr: err.text(), output: out.bytes() };
  assert.ok(status !== null, `${describe(command, args, result)}\nkilled after ${timeoutMs} ms`);
  return result;
}

function describe(command: string, args: readonly string[], result: RunResult): string {
  const { code, signal, stdout, stderr } = result;
  return `${command} ${args.join(" ")}\nexit code ${code}${signal === null ? "" : ` (${signal})`}` +
    `\n${stdout.slice(-4000)}${stderr.slice(-4000)}`;
}

/** Runs a command that has to succeed; gives its standard output. */
export async function runOk(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const result = await run(command, args, options);
  assert.equal(result.code, 0, describe(command, args, result));
  return result.stdout;
}

/** Runs a command that has to fail; gives its standard error output. */
export async function runFails(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const result = await run(command, args, options);
  assert.notEqual(result.code, 0, describe(command, args, result));
  return result.stderr;
}

/** Calls `fn` with a new folder (mode 0700) and removes the folder afterwards. */
export async function withTempDir<T>(fn: (folder: string) => T | Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "dmu-test-" });
  try {
    return await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Bytes that look random and are the same for the same seed. */
export function sampleBytes(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

/** SHA-256 of a file, in hexadecimal. */
export async function fileHash(path: string): Promise<string> {
  const hash = createHash("sha256");
  const file = await Deno.open(path); // its stream closes it
  for await (const chunk of file.readable) hash.update(chunk);
  return hash.digest("hex");
}
