/** The command line as a process of its own: permissions, signals, a closed pipe, completion. @module */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { StandIn } from "../support/control_stand_in.ts";
import { temporaryFolder } from "./captured_io.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const ROOT = dirname(dirname(MAIN));

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Ended> {
  const { code, stdout, stderr } = await new Deno.Command(command, {
    args: [...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

function deno(...args: string[]): Promise<Ended> {
  return run(Deno.execPath(), ["run", "--quiet", ...args]);
}

Deno.test("without permissions the command that has them is printed: no prompt, no stack", async () => {
  const { code, stdout, stderr } = await deno("dmu", "serve", "file:a b.img");
  assert.deepEqual([code, stdout], [2, ""]);
  assert.equal(
    stderr,
    "dmu: permissions are missing (read, write, net, env, ffi), " +
      "run: deno run -P dmu serve 'file:a b.img'\n",
  );
});

Deno.test("the printed command works: the permission set has what is needed", async () => {
  const { code, stdout, stderr } = await deno("-P", "dmu", "info", "memory:1M", "--json");
  assert.deepEqual([code, stderr], [0, ""]);
  assert.equal(JSON.parse(stdout).size, 2 ** 20);
});

/** Starts a server, sends it signals when it is ready, and gives its exit code. */
async function endServer(
  socket: string,
  signals: readonly Deno.Signal[],
  sh = "",
): Promise<number> {
  const child = new Deno.Command("sh", {
    args: [
      ...["-c", `${sh} exec "$@"`, "sh", Deno.execPath(), "run", "-A", "--quiet", MAIN],
      ...["serve", "memory:1M", "--nbd", `unix:${socket}`],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    if (!/^ready: .*\n/m.test(text)) continue;
    for (const signal of signals) child.kill(signal);
  }
  return (await child.status).code;
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  Deno.test(`${signal} ends a server with exit code 0, its socket is gone`, async () => {
    await using folder = await temporaryFolder();
    const socket = `${folder.path}/s`;
    assert.equal(await endServer(socket, [signal]), 0);
    await assert.rejects(Deno.stat(socket), Deno.errors.NotFound);
  });
}

Deno.test("SIGHUP means nothing where it was ignored from the start, as under nohup", async () => {
  await using folder = await temporaryFolder();
  // If it counted, SIGTERM would be the second signal.
  assert.equal(await endServer(`${folder.path}/s`, ["SIGHUP", "SIGTERM"], "trap '' HUP;"), 0);
});

Deno.test("output that cannot be written is an error in one line", async () => {
  const command = `"$0" run -A --quiet "$1" backends >/dev/full; echo "$?"`;
  const { stdout, stderr } = await run("sh", ["-c", command, Deno.execPath(), MAIN]);
  assert.equal(stdout, "1\n");
  assert.equal(stderr, "dmu: Cannot write to standard output: no space left on device\n");
});

Deno.test("a pipe that is closed ends a command quietly", async () => {
  const line = `"$0" run -A --quiet "$1" backends | :; echo "\${PIPESTATUS[0]}"`;
  const { stdout, stderr } = await run("bash", ["-c", line, Deno.execPath(), MAIN]);
  assert.deepEqual([stdout, stderr], ["1\n", ""]);
});

Deno.test("dmu completion prints a script for each shell", async () => {
  for (
    const [shell, mark] of [["bash", /^complete -F/m], ["zsh", /^#compdef dmu/m], [
      "fish",
      /complete -c dmu/,
    ]] as const
  ) {
    const { code, stdout } = await deno("-A", MAIN, "completion", shell);
    assert.equal(code, 0);
    assert.match(stdout, mark);
  }
  const { code, stderr } = await deno("-A", MAIN, "completion", "tcsh");
  assert.equal(code, 2);
  assert.match(stderr, /Allowed choices are bash, zsh, fish; see dmu completion --help\n$/);
});

/** What bash offers for a line, by the script that dmu prints; nothing but a stand-in called dmu runs. */
async function completeInBash(lines: readonly string[], control = "none"): Promise<string[]> {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/dmu`;
  await Deno.writeTextFile(path, `#!/bin/sh\nexec "${Deno.execPath()}" run -A -q "${MAIN}" "$@"\n`);
  await Deno.chmod(path, 0o755);
  const script = [
    "source <(dmu completion bash) || exit 1",
    // Outside an interactive shell there is no such builtin for the function to call.
    "compopt() { :; }",
    'while IFS= read -r line; do COMP_LINE="$line" COMP_POINT=${#line}; _dmu dmu',
    'IFS=" "; echo "${COMPREPLY[*]}"; done <<<"$LINES_TO_TRY"',
  ].join("\n");
  const { stdout, stderr } = await run("bash", ["--norc", "-c", script], {
    PATH: `${folder.path}:${Deno.env.get("PATH") ?? ""}`,
    LINES_TO_TRY: lines.join("\n"),
    DMU_CONTROL: control,
  });
  assert.equal(stderr, "");
  return stdout.split("\n").slice(0, -1);
}

Deno.test("completion in bash knows commands, options, kinds and files, and runs nothing typed", async () => {
  await using folder = await temporaryFolder();
  await Deno.writeTextFile(`${folder.path}/disk.img`, "");
  const mark = `${folder.path}/mark`;
  const rows: readonly (readonly [string, string])[] = [
    ["dmu se", "serve"],
    ["dmu serve --nb", "--nbd"],
    ["dmu backends mem", "memory"],
    ["dmu filters thr", "throttle"],
    ["dmu info me", "memory:"],
    [`dmu info file:${folder.path}/di`, `${folder.path}/disk.img`],
    [`dmu serve a=file:${folder.path}/di`, `${folder.path}/disk.img`],
    ["dmu serve a=pat", "pattern:"],
    ["dmu completion z", "zsh"],
    ["dmu image sn", "snapshot"],
    ["dmu image snapshot del", "delete"],
    [`dmu image info ${folder.path}/di`, `${folder.path}/disk.img`],
    [`dmu copy qcow2:${folder.path}/di`, `${folder.path}/disk.img`],
    [`dmu info $(touch ${mark})`, ""],
    [`dmu info ;touch ${mark}`, ""],
  ];
  const offered = await completeInBash(rows.map(([line]) => line));
  assert.deepEqual(offered, rows.map(([, expected]) => expected));
  await assert.rejects(Deno.stat(mark), Deno.errors.NotFound);
});

Deno.test("completion asks a running daemon for targets, open files and actions, and takes no offence", async () => {
  await using folder = await temporaryFolder();
  const rows: readonly (readonly [string, string])[] = [
    ["dmu show al", "alpha"],
    ["dmu rm alpha be", "beta"],
    ["dmu revoke 1", "12"],
    ["dmu onexit ", "ls show add rm exec"],
    ["dmu onexit rm 12 ", "4 5"],
    ["dmu onexit add 12 fl", "flush"],
    [`dmu ls --control unix:${folder.path}/non`, ""],
    ["dmu create alp", ""],
  ];
  const lines = rows.map(([line]) => line);
  const silent = Deno.listen({ transport: "unix", path: `${folder.path}/silent` });
  // Nobody answers there.
  const without = await completeInBash(lines.slice(0, 2), `unix:${folder.path}/silent`);
  assert.deepEqual(without, ["", ""]);
  silent.close();
  await using daemon = await StandIn.start(`${folder.path}/c`);
  for (const name of ["alpha", "beta"]) await daemon.put(`/dmu/target/${name}`, { state: 4 });
  await daemon.put("/dmu/file/12", { kind: "nbd", "onexit/4": "flush alpha", "onexit/5": "x" });
  const offered = await completeInBash(lines, daemon.control);
  assert.deepEqual(offered, rows.map(([, expected]) => expected));
});
