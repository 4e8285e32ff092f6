/** `dmu onexit exec` with real processes and a real daemon: who holds the file, and what the command is given. @module */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { shellQuote } from "../../cli/safe_text.ts";
import { ControlClient } from "../../lib/daemon/control_client.ts";
import { untilState, untilValue } from "../support/control.ts";
import { killQuietly } from "../support/process.ts";
import { type DmuServer, run, startDmu, withTempDir } from "../support/tools.ts";
import { CapturedIo, dmu, type Run } from "./captured_io.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const EXEC = [Deno.execPath(), "run", "-A", "--quiet", MAIN, "onexit", "exec"];

interface Bench {
  readonly folder: string;
  readonly endpoint: string;
  server: DmuServer;
  readonly client: ControlClient;
  /** Runs a command of dmu in this process, with these variables. */
  dmu(variables: Record<string, string>, ...args: string[]): Promise<Run>;
}

function startServer(folder: string): Promise<DmuServer> {
  return startDmu(["--control", `unix:${folder}/c`, "--nbd", `unix:${folder}/n`]);
}

function withDaemon(test: (bench: Bench) => Promise<void>): Promise<void> {
  return withTempDir(async (folder) => {
    const endpoint = `unix:${folder}/c`;
    const server = await startServer(folder);
    const client = await ControlClient.connect(`${folder}/c`);
    const environment = { DMU_CONTROL: endpoint };
    const bench: Bench = {
      folder,
      endpoint,
      server,
      client,
      dmu: (variables, ...args) =>
        dmu(args, new CapturedIo({ environment: { ...environment, ...variables } })),
    };
    try {
      await test(bench);
    } finally {
      await client.close();
      await bench.server.kill();
    }
  });
}

/** Runs a script of sh in place of `dmu onexit exec`; the words are its $1 and so on. */
async function execute(endpoint: string, script: string, ...words: string[]): Promise<Run> {
  const [command = "", ...rest] = EXEC;
  return await run(command, [
    ...rest,
    "--control",
    endpoint,
    "--",
    "sh",
    "-c",
    script,
    "sh",
    ...words,
  ]);
}

/** A process that holds an open file until it is killed or its input ends. */
interface Holder {
  readonly child: Deno.ChildProcess;
  readonly minor: string;
  /** What it has printed behind the minor, once it is there. */
  readonly word: string;
}

/** Starts `dmu onexit exec` with a script that prints its minor and a word. */
async function hold(endpoint: string, script: string): Promise<Holder> {
  const [command = "", ...rest] = EXEC;
  const child = new Deno.Command(command, {
    args: [...rest, "--control", endpoint, "--", "sh", "-c", script],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { done, value } = await reader.read();
    assert.ok(!done, `it has ended: ${text}`);
    text += value;
  }
  await reader.cancel();
  const [minor = "", word = ""] = text.trim().split(" ");
  return { child, minor, word };
}

async function letGo({ child }: Holder): Promise<void> {
  await child.stdin.close();
  killQuietly(child, "SIGKILL");
  await child.status;
}

Deno.test("dmu onexit exec becomes its command, which finds its file and the daemon", () =>
  withDaemon(async ({ endpoint, client }) => {
    const script = 'echo "$DMU_CONTROL $DMU_ONEXIT_MINOR $1"; readlink /proc/$$/exe; exit 7';
    const { code, stdout, stderr } = await execute(endpoint, script, "a  b");
    assert.deepEqual([code, stderr], [7, ""]);
    const [line = "", program = ""] = stdout.split("\n");
    assert.ok(line.startsWith(`${endpoint} `) && line.endsWith(" a  b"), line);
    assert.match(program, /sh$/);
    const minor = line.split(" ")[1];
    // Its number is not given away again at once, and the file is gone.
    await untilValue(client.store, `/dmu/file/${minor}`, (value) => value === null);
  }));

Deno.test("dmu onexit exec gives its command nothing of the runtime, and keeps nothing from it", () =>
  withDaemon(async ({ endpoint, folder }) => {
    const report = [
      // The shell itself blocks all signals while it starts a program: the program is looked at.
      'grep -E "^Sig(Blk|Ign)" /proc/self/status; ulimit -n; ulimit -s; umask; pwd',
      'env | grep -v -e ^DMU_ -e ^_= | sort; for each in /proc/$$/fd/*; do echo "${each##*/}"; done',
      "cat <&5",
    ].join("; ");
    // One shell starts both, since what it was given itself may differ from time to time.
    const script = [
      'ulimit -Sn 300; ulimit -Ss 4096; trap "" USR1; umask 027; cd "$1"; report=$2; shift 2',
      'echo given >given; exec 5<given; sh -c "$report"; echo ====',
      'exec 5<given; "$@" sh -c "$report"; true',
    ].join("; ");
    const words = [...EXEC, "--control", endpoint, "--"];
    // Where there is no program "node", the runtime puts one of its own into PATH.
    const tools = `${folder}/bin`;
    await Deno.mkdir(tools);
    for (const tool of ["sh", "grep", "env", "sort", "cat"]) {
      await Deno.symlink(`/bin/${tool}`, `${tools}/${tool}`);
    }
    const { stdout, stderr } = await run(
      "/bin/sh",
      ["-c", script, "sh", folder, report, ...words],
      {
        // What this process was given by its own runtime would hide what the runtime adds.
        clearEnv: true,
        env: { ODD: "a\tb", PATH: tools, HOME: Deno.env.get("HOME") ?? "/" },
      },
    );
    assert.equal(stderr, "");
    // Signals 32 and 33 are the C library's own: no program can use them.
    const own = /^(SigIgn:\t[0-9a-f]{7})[0-9a-f]/gm;
    const [plain = [], held = []] = stdout.replace(own, (_, head: string) => `${head}*`)
      .split("====\n").map((each) => each.split("\n"));
    assert.ok(plain.includes("300") && plain.includes("given") && plain.includes(folder));
    const more = held.filter((line) => !plain.includes(line));
    assert.match(more.join(" and "), /^\d+$/, `one descriptor more: ${more.join()}\n${stdout}`);
    assert.deepEqual(held.filter((line) => line !== more[0]), plain);
  }));

Deno.test("dmu onexit exec ends as a shell does if there is no such command", () =>
  withDaemon(async ({ endpoint, folder }) => {
    const [command = "", ...rest] = EXEC;
    const tried = (word: string): ReturnType<typeof run> =>
      run(command, [...rest, "--control", endpoint, "--", word]);
    const none = await tried("no-such-command");
    assert.equal(none.code, 127);
    assert.equal(none.stderr, 'dmu: Cannot run "no-such-command": no such file or directory\n');
    await Deno.writeTextFile(`${folder}/data`, "#!/bin/sh\n", { mode: 0o600 });
    const data = await tried(`${folder}/data`);
    assert.equal(data.code, 126);
    assert.match(data.stderr, /permission denied\n$/);
    assert.equal((await tried(folder)).code, 126);
  }));

Deno.test("dmu onexit exec hands words over byte by byte, UTF-8 or not", () =>
  withDaemon(async ({ endpoint }) => {
    const script = `"$@" -- printf '%s|' "$(printf 'x\\377y')" '' 'a  b' 'ü'`;
    const { output } = await run("sh", ["-c", script, "sh", ...EXEC, "--control", endpoint]);
    const expected = [0x78, 0xff, 0x79, 0x7c, 0x7c, 0x61, 0x20, 0x20, 0x62, 0x7c, 0xc3, 0xbc, 0x7c];
    assert.deepEqual([...output], expected);
  }));

Deno.test("an ephemeral target goes when the command is killed with SIGKILL", () =>
  withDaemon(async ({ endpoint, client, dmu }) => {
    const holder = await hold(endpoint, 'echo "$DMU_ONEXIT_MINOR"; exec cat');
    const variables = { DMU_ONEXIT_MINOR: holder.minor };
    const made = await dmu(variables, "create", "t", "memory:1M", "--ephemeral");
    assert.equal(made.code, 0, made.stderr);
    assert.equal((await client.targets()).length, 1);
    await letGo(holder);
    await untilState(client.store, "t", null);
    assert.deepEqual(await client.targets(), []);
  }));

Deno.test("a child of the command holds the file when the command has ended", () =>
  withDaemon(async ({ endpoint, client, dmu }) => {
    // The child's input and output are its own, so that only the connection ties it to the rest.
    const holder = await hold(
      endpoint,
      'sleep 1000 </dev/null >/dev/null & echo "$DMU_ONEXIT_MINOR $!"; exec cat',
    );
    const variables = { DMU_ONEXIT_MINOR: holder.minor };
    await dmu(variables, "create", "t", "memory:1M", "--ephemeral");
    await dmu({}, "create", "other", "memory:1M");
    await letGo(holder);
    // What came after the end of the command has been seen: the target is still there.
    await dmu({}, "rm", "other");
    assert.equal((await client.target("t")).state, 4);
    assert.equal((await client.file(Number(holder.minor))).kind, "control");
    Deno.kill(Number(holder.word), "SIGKILL");
    await untilState(client.store, "t", null);
  }));

Deno.test("dmu onexit exec inside another one holds a file of its own, and both end with the process", () =>
  withDaemon(async ({ endpoint, client, dmu }) => {
    const inner = 'echo "$OUTER $DMU_ONEXIT_MINOR"; exec cat';
    const again = [...EXEC, "--", "sh", "-c", inner].map(shellQuote).join(" ");
    const holder = await hold(endpoint, `export OUTER="$DMU_ONEXIT_MINOR"; exec ${again}`);
    const minors = [holder.minor, holder.word];
    assert.notEqual(minors[0], minors[1]);
    for (const minor of minors) {
      const variables = { DMU_ONEXIT_MINOR: minor };
      const made = await dmu(variables, "create", `t${minor}`, "memory:1M", "--ephemeral");
      assert.equal(made.code, 0, made.stderr);
      const { onexit } = await client.file(Number(minor));
      assert.deepEqual(onexit.map(({ action }) => action), [`remove t${minor}`]);
    }
    await letGo(holder);
    for (const minor of minors) await untilState(client.store, `t${minor}`, null);
    assert.deepEqual(await client.targets(), []);
  }));

Deno.test("dmu onexit rm takes an action back, and --fire does it at once", () =>
  withDaemon(async ({ endpoint, client, dmu }) => {
    const holder = await hold(endpoint, 'echo "$DMU_ONEXIT_MINOR"; exec cat');
    for (const name of ["a", "b", "c"]) {
      assert.equal((await dmu({}, "create", name, "memory:1M")).code, 0);
      const added = await dmu({}, "onexit", "add", holder.minor, "remove", name);
      assert.match(added.stdout, /^\d+\n$/, added.stderr);
    }
    const { stdout } = await dmu({}, "onexit", "ls", holder.minor, "--json");
    const actions: { handle: number; action: string }[] = JSON.parse(stdout).actions;
    assert.deepEqual(actions.map(({ action }) => action), ["remove a", "remove b", "remove c"]);
    const [first, second] = actions.map(({ handle }) => String(handle));
    assert.equal((await dmu({}, "onexit", "rm", holder.minor, first ?? "")).code, 0);
    assert.equal((await dmu({}, "onexit", "rm", holder.minor, second ?? "", "--fire")).code, 0);
    assert.deepEqual((await client.targets()).map(({ name }) => name), ["a", "c"]);
    await letGo(holder);
    await untilState(client.store, "c", null);
    assert.deepEqual((await client.targets()).map(({ name }) => name), ["a"]);
    const late = await dmu({}, "onexit", "add", holder.minor, "remove", "a");
    assert.equal(late.code, 1);
    assert.match(late.stderr, /^dmu: Cannot .*\d+/);
  }));

Deno.test("the command outlives the daemon, whose successor knows nothing of it", () =>
  withDaemon(async (bench) => {
    const holder = await hold(bench.endpoint, 'echo "$DMU_ONEXIT_MINOR"; exec cat');
    await bench.dmu({ DMU_ONEXIT_MINOR: holder.minor }, "create", "t", "memory:1M", "--ephemeral");
    await bench.server.kill();
    await assert.rejects(bench.client.targets(), { errno: "ECONNRESET" });
    const without = await bench.dmu({}, "ls");
    assert.equal(without.code, 1);
    assert.match(without.stderr, /nobody listens there; start one: dmu serve --control unix:/);
    bench.server = await startServer(bench.folder);
    assert.deepEqual((await bench.dmu({}, "ls")).stdout, "no targets\n");
    const { code, stderr } = await bench.dmu({}, "onexit", "add", "4000", "flush", "t");
    assert.equal(code, 1, stderr);
    // It runs on: it ends by itself when its input ends.
    await holder.child.stdin.close();
    assert.equal((await holder.child.status).code, 0);
  }));

Deno.test("a hundred changes of size all end with what was asked for, or with an error", () =>
  withDaemon(async ({ client, dmu }) => {
    await dmu({}, "create", "d", "memory:1M");
    for (let step = 1; step <= 100; step++) {
      const size = (step % 7 + 1) * 2 ** 20;
      const before = (await client.targets())[0]?.size;
      if (step % 5 === 0) {
        // Offsets are numbers: no device may be larger than 2^53 bytes.
        await assert.rejects(client.resize("d", () => 2 ** 53), { name: "BlockError" });
        assert.equal((await client.targets())[0]?.size, before);
      } else {
        assert.deepEqual(await client.resize("d", () => size), { before, after: size });
      }
    }
  }));
