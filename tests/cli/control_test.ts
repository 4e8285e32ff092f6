/** The commands that talk to a running daemon, in this process, against a stand-in for one. @module */
import assert from "node:assert/strict";
import { withTempDir } from "../support/tools.ts";
import { StandIn, type StandInOptions } from "../support/control_stand_in.ts";
import { CapturedIo, dmu, type Run, temporaryFolder } from "./captured_io.ts";

/** An errno as the daemon answers it. */
class Refusal extends Error {
  constructor(readonly errno: string, message: string) {
    super(message);
  }
}

interface Bench {
  readonly daemon: StandIn;
  readonly folder: string;
  /** Runs a command with the daemon in its environment. */
  run(...args: string[]): Promise<Run>;
}

async function withDaemon(
  test: (bench: Bench) => Promise<void>,
  options: StandInOptions = {},
): Promise<void> {
  await using folder = await temporaryFolder();
  await using daemon = await StandIn.start(`${folder.path}/c`, options);
  const run = (...args: string[]): Promise<Run> =>
    dmu(args, new CapturedIo({ environment: { DMU_CONTROL: daemon.control } }));
  await test({ daemon, folder: folder.path, run });
}

const OK = { code: 0, stderr: "" };

Deno.test("dmu create writes the wishes and waits until the target is connected", () =>
  withDaemon(async ({ daemon, run }) => {
    const created = await run(
      ...["create", "d.x", "memory:1M", "--filter", "delay:1ms", "--filter", "readonly:"],
      ...["--nbd", "unix:/run/d.sock", "--nbd", "tcp:0", "--read-only", "--size", "2M"],
    );
    assert.deepEqual(created, {
      ...OK,
      stdout: "d.x\n  state    4 connected\n  backend  memory:1M\n  filter   delay:1ms\n" +
        "  filter   readonly:\n  size     2 MiB (2097152 bytes)\n" +
        "  uri      nbd+unix:///d@x?socket=/s\n",
    });
    assert.deepEqual((await daemon.dump("/dmu/target/d@x")).filter((line) => !/uris/.test(line)), [
      "/dmu/target/d@x = ",
      "/dmu/target/d@x/backend = memory:1M",
      "/dmu/target/d@x/endpoints = ",
      "/dmu/target/d@x/endpoints/0 = unix:/run/d.sock",
      "/dmu/target/d@x/endpoints/1 = tcp:0",
      "/dmu/target/d@x/filters = ",
      "/dmu/target/d@x/filters/0 = delay:1ms",
      "/dmu/target/d@x/filters/1 = readonly:",
      "/dmu/target/d@x/read-only = 0",
      "/dmu/target/d@x/size = 2097152",
      "/dmu/target/d@x/state = 4",
    ]);
    const { stdout } = await run("show", "d.x", "--json");
    assert.equal(JSON.parse(stdout).name, "d.x");
  }));

Deno.test("dmu create makes relative paths absolute: the daemon is somewhere else", () =>
  withDaemon(async ({ daemon, folder, run }) => {
    const here = Deno.cwd();
    const rows: readonly (readonly [string, string])[] = [
      ["file:a%3F b.img?size=1M", `file:${here}/a%3F b.img?size=1M`],
      [`file:${folder}/x`, `file:${folder}/x`],
      ["nbd+unix:///e?socket=s%20.sock", `nbd+unix:///e?socket=${here}/s%20.sock`],
      ["nbd://host/e", "nbd://host/e"],
      ["mine:x", "mine:x"],
    ];
    for (const [at, [spec, expected]] of rows.entries()) {
      assert.equal((await run("create", `t${at}`, spec, "--nbd", "unix:s?mode=0660")).code, 0);
      assert.equal(await daemon.store.readText(`/dmu/target/t${at}/backend`), expected);
      const endpoint = await daemon.store.readText(`/dmu/target/t${at}/endpoints/0`);
      assert.equal(endpoint, `unix:${here}/s?mode=0660`);
    }
  }));

Deno.test("dmu create prints the daemon's error and leaves no nodes behind", () =>
  withDaemon(async ({ daemon, run }) => {
    const failed = await run("create", "d", "fail:Cannot open it: no such file", "--json");
    assert.deepEqual(failed, {
      code: 1,
      stdout: "",
      stderr: "dmu: Cannot open it: no such file\n",
    });
    assert.equal(await daemon.store.exists("/dmu/target/d"), false);
    const gone = await run("create", "d", "vanish:");
    assert.equal(gone.code, 1);
    assert.equal(gone.stderr, 'dmu: Cannot create "d": it was removed meanwhile\n');
  }));

Deno.test("dmu create refuses a name that is taken, and says if that one is closed", () =>
  withDaemon(async ({ daemon, run }) => {
    await run("create", "d", "memory:1M");
    const before = await daemon.dump("/dmu/target/d");
    const twice = await run("create", "d", "memory:2M");
    assert.equal(twice.stderr, 'dmu: Cannot create "d": there is one of that name\n');
    assert.deepEqual(await daemon.dump("/dmu/target/d"), before);
    await daemon.put("/dmu/target/d", { state: 6 });
    const closed = await run("create", "d", "memory:2M");
    assert.match(closed.stderr, /one of that name, which is closed; remove it first\n$/);
    assert.deepEqual([twice.code, closed.code], [1, 1]);
  }));

Deno.test("dmu create --ephemeral is tied to the open file of dmu onexit exec around it", () =>
  withDaemon(async ({ daemon, run }) => {
    const environment = { DMU_CONTROL: daemon.control, DMU_ONEXIT_MINOR: "5" };
    const within = (...args: string[]): Promise<Run> => dmu(args, new CapturedIo({ environment }));
    const { stdout } = await within("create", "a", "memory:1M", "--ephemeral");
    assert.match(stdout, /ephemeral {2}yes, removed when open file 5 ends\n/);
    await within("create", "b", "memory:1M");
    await run("create", "c", "memory:1M", "--ephemeral");
    await run("create", "d", "memory:1M", "--onexit", "9");
    const terms = async (name: string): Promise<unknown> => {
      const { ephemeral, onexit } = JSON.parse((await run("show", name, "--json")).stdout);
      return [ephemeral, onexit];
    };
    assert.deepEqual(await Promise.all(["a", "b", "c", "d"].map(terms)), [
      [true, 5],
      [false, null],
      [true, null],
      [true, 9],
    ]);
  }));

Deno.test("dmu create refuses what cannot be before it talks to the daemon", async () => {
  const rows: readonly (readonly [string[], RegExp])[] = [
    [["a/b", "memory:1M"], /Cannot use "a\/b" as target: a target's name is made of letters/],
    [["d", "memory:1X"], /1X/],
    [["d", "disk.img"], /write file:disk\.img/],
    [["d", "memory:1M", "--size", "big"], /The size must be/],
    [["d", "memory:1M", "--nbd", "here"], /write unix:here/],
    [["d", "memory:1M", "--onexit", "x"], /Cannot use "x" as the number of an open file/],
    [["d", "memory:1M", "--control", "none"], /its control socket is "none"; name one/],
  ];
  for (const [args, message] of rows) {
    const io = new CapturedIo({ environment: { DMU_CONTROL: "unix:/nonexistent/c" } });
    const { code, stderr } = await dmu(["create", ...args], io);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
  }
});

Deno.test("commands without a daemon say where they looked and what to start, exit code 1", async () => {
  await using folder = await temporaryFolder();
  const socket = `${folder.path}/c`;
  const said = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await dmu(args);
    assert.deepEqual([code, stdout], [1, ""]);
    return stderr;
  };
  const start = `start one: dmu serve --control unix:${socket}\n`;
  const head = `dmu: Cannot reach a daemon at unix:${socket}: `;
  const all = [
    ...[["ls"], ["show", "d"], ["rm", "d"], ["resize", "d", "1M"], ["top"], ["watch", "/"]],
    ...[["create", "d", "memory:1M"], ["revoke", "d"], ["admit", "d"], ["onexit", "ls"]],
    ...[["onexit", "show", "1", "1"], ["onexit", "add", "1", "x"], ["onexit", "rm", "1", "1"]],
    ["onexit", "exec"],
  ];
  for (const args of all) {
    const rest = args[1] === "exec" ? ["--", "true"] : [];
    const stderr = await said(...args, "--control", `unix:${socket}`, ...rest);
    assert.equal(stderr, `${head}there is no such socket; ${start}`, args.join(" "));
  }
  // A listener removes its file when it is closed, under the name that it had.
  const listener = Deno.listen({ transport: "unix", path: `${socket}2` });
  await Deno.rename(`${socket}2`, socket);
  listener.close();
  assert.equal(
    await said("ls", "--control", `unix:${socket}`),
    `${head}nobody listens there; ${start}`,
  );
});

Deno.test("commands that are refused at the door say what that may be, exit code 1", () =>
  withTempDir(async (folder) => {
    const listener = Deno.listen({ transport: "unix", path: `${folder}/c` });
    const refusing = (async (): Promise<void> => {
      for await (const connection of listener) connection.close();
    })();
    try {
      const io = new CapturedIo({ environment: { DMU_CONTROL: `unix:${folder}/c` } });
      const { code, stdout, stderr } = await dmu(["ls"], io);
      assert.deepEqual([code, stdout], [1, ""]);
      assert.match(
        stderr,
        /^dmu: Cannot use the daemon at unix:.*listed under \[control\.users\]\n$/,
      );
    } finally {
      listener.close();
      await refusing;
    }
  }));

Deno.test("dmu ls lists targets in at most 80 columns, with errors below", () =>
  withDaemon(async ({ daemon, run }) => {
    assert.deepEqual(await run("ls"), { ...OK, stdout: "no targets\n" });
    const long = `a${"x".repeat(100)}z`;
    await run("create", "d", "memory:64M");
    await run("create", long, `file:/${"y".repeat(200)}?size=1G`, "--size", "1536M");
    await daemon.put("/dmu/target/e\x1b", { backend: "x", state: 6, error: "it\x07 failed" })
      .catch(() => {}); // no such name can be
    await daemon.put("/dmu/target/e", { backend: "x:", state: 6, error: "it\x07 failed" });
    await daemon.put("/dmu/file/3", { kind: "nbd", peer: "p", target: "d", state: "active" });
    const { code, stdout } = await run("ls");
    assert.equal(code, 0);
    const lines = stdout.split("\n");
    assert.ok(lines.every((line) => [...line].length <= 80), stdout);
    assert.match(lines[0] ?? "", /^NAME +STATE +SIZE +FILES +BACKEND$/);
    assert.match(lines[1] ?? "", /^ax+…x+z +connected +1\.5 GiB +0 +file:\/y+…y+\?size=1G$/);
    assert.match(lines[2] ?? "", /^d +connected +64 MiB +1 +memory:64M$/);
    assert.match(lines[3] ?? "", /^e +closed +- +0 +x:$/);
    assert.equal(lines[4], "e: it\ufffd failed");
    const { targets } = JSON.parse((await run("ls", "--json")).stdout);
    assert.deepEqual(targets[1], {
      bitmaps: [],
      name: "d",
      state: 4,
      backend: "memory:64M",
      filters: [],
      size: 2 ** 26,
      readOnly: false,
      driver: null,
      description: "",
      endpoints: [],
      uris: ["nbd+unix:///d?socket=/s"],
      ephemeral: false,
      onexit: null,
      error: null,
      files: 1,
    });
  }));

Deno.test("dmu show prints what was done on a target, and the open files in it", () =>
  withDaemon(async ({ daemon, run }) => {
    await run("create", "d", "memory:64M");
    await daemon.put("/dmu/target/d/statistics/read", {
      ...{ count: 4, errors: 1, bytes: 16384, "latency-total-us": 5000 },
      ...{ "latency-max-us": 2_500_000, "latency-p50-us": 900, "latency-p99-us": 12_000 },
    });
    await daemon.put("/dmu/target/d/statistics", { "in-flight": 2, "write/count": 0 });
    await daemon.put("/dmu/file/12", { kind: "nbd", peer: "process 5 of user 0", target: "d" });
    await daemon.put("/dmu/file/12", { state: "active", active: 2, "onexit/4": "flush d" });
    await daemon.put("/dmu/file/13", { kind: "nbd", peer: "other", target: "e", state: "new" });
    const { code, stdout } = await run("show", "d");
    assert.equal(code, 0);
    assert.equal(
      stdout.slice(stdout.indexOf("\n\n") + 2),
      "OPERATION  COUNT  ERRORS   BYTES    MEAN     P50    P99    MAX\n" +
        "read           4       1  16 KiB  1.3 ms  900 µs  12 ms  2.5 s\n" +
        "2 in flight\n\n" +
        "MINOR  KIND  STATE   ACTIVE  ONEXIT  PEER\n" +
        "   12  nbd   active       2       1  process 5 of user 0\n",
    );
    const { statistics, files } = JSON.parse((await run("show", "d", "--json")).stdout);
    assert.deepEqual(Object.keys(statistics.operations), ["read"]);
    assert.deepEqual(files[0].onexit, [{ handle: 4, action: "flush d" }]);
    const none = await run("show", "c");
    assert.equal(none.code, 1);
    assert.equal(
      none.stderr,
      'dmu: Cannot find target "c": there is none of that name; did you mean "d"?\n',
    );
  }));

Deno.test("commands read what they find: half of a target, numbers that are none", () =>
  withDaemon(async ({ daemon, run }) => {
    await daemon.put("/dmu/target/h", {
      size: "12 MB",
      state: "four",
      "uris/x": "no",
      onexit: "-",
    });
    await daemon.put("/dmu/target/i/statistics/read", { count: "1e9" });
    await daemon.put("/dmu/file/x", { kind: "nbd" });
    await daemon.put("/dmu/file/7/onexit", { "0x1": "no" });
    const listed = await run("ls");
    assert.equal(listed.code, 0, listed.stderr);
    assert.match(listed.stdout, /^h +- +- +0\ni +- +- +0$/m);
    assert.equal((await run("show", "h")).code, 0);
    assert.equal((await run("show", "i")).code, 0);
    assert.deepEqual(await run("onexit", "ls"), { ...OK, stdout: "no actions\n" });
    assert.equal((await run("rm", "h")).code, 0, "there is no state to wait for");
  }));

Deno.test("dmu rm closes targets and removes their nodes, the others too if one fails", () =>
  withDaemon(async ({ daemon, run }) => {
    for (const name of ["a", "b"]) await run("create", name, "memory:1M");
    await daemon.put("/dmu/target/c", { state: 6, error: "old" });
    const removed = await run("rm", "a", "nope", "b", "c");
    assert.deepEqual(removed, {
      code: 1,
      stdout: "",
      stderr: 'dmu: Cannot find target "nope": there is none of that name\n',
    });
    assert.deepEqual(await daemon.store.directory("/dmu/target"), []);
    await run("create", "u", "unflushed:");
    const unflushed = await run("rm", "u");
    assert.equal(unflushed.code, 1);
    assert.equal(
      unflushed.stderr,
      'dmu: "u" was removed, but closed with an error: Cannot flush it: input/output error\n',
    );
    assert.deepEqual(await daemon.store.directory("/dmu/target"), []);
  }));

Deno.test("dmu resize takes a size or how much more, and prints the daemon's error", () =>
  withDaemon(async ({ daemon, run }) => {
    await run("create", "d", "memory:64M");
    const size = (): Promise<string> => daemon.store.readText("/dmu/target/d/size");
    const absolute = await run("resize", "d", "128M");
    assert.equal(absolute.stdout, "64 MiB (67108864 bytes) → 128 MiB (134217728 bytes)\n");
    const more = await run("resize", "d", "+512", "--json");
    assert.deepEqual(JSON.parse(more.stdout), { name: "d", before: 2 ** 27, after: 2 ** 27 + 512 });
    assert.equal((await run("resize", "d", "128M")).code, 0);
    assert.equal((await run("resize", "d", "+0")).code, 0);
    const full = await run("resize", "d", "2G");
    assert.equal(full.code, 1);
    assert.equal(full.stderr, "dmu: Cannot resize it: no space left on device\n");
    assert.equal(await size(), String(2 ** 27));
    await daemon.put("/dmu/target/d", { state: 2 });
    const waiting = await run("resize", "d", "1M");
    assert.equal(waiting.stderr, 'dmu: Cannot resize "d": it is waiting\n');
    assert.match((await run("resize", "x", "1M")).stderr, /Cannot find target "x"/);
    assert.equal((await run("resize", "d", "much")).code, 2);
  }));

Deno.test("dmu watch prints each event with the value now, and ends after --count", () =>
  withDaemon(async ({ daemon }) => {
    const io = new CapturedIo({ lineWanted: /^\/dmu\/target =/ });
    const args = ["watch", "/dmu/target", "--count", "3", "--control", daemon.control];
    const watching = dmu(args, io);
    await io.line;
    await daemon.store.write("/dmu/target/w/text", "a\nb");
    await daemon.store.remove("/dmu/target/w");
    const { code, stdout } = await watching;
    assert.equal(code, 0);
    const lines = stdout.split("\n").slice(0, -1);
    assert.equal(lines.length, 3, stdout);
    // A value is read after its event: it may be gone by then.
    assert.match(lines[1] ?? "", /^\/dmu\/target\/w\/text (= a\ufffdb|is gone)$/);
    assert.equal(lines[2], "/dmu/target/w is gone");
    const bad = await dmu(["watch", "/x y", "--control", daemon.control]);
    assert.deepEqual([bad.code, bad.stdout], [1, ""]);
    assert.equal(bad.stderr, "dmu: Cannot use the daemon's tree: invalid argument\n");
  }));

Deno.test("dmu watch --json --depth looks only so deep, and a signal ends it", () =>
  withDaemon(async ({ daemon }) => {
    const io = new CapturedIo({ lineWanted: /"last"/ });
    const args = ["watch", "/a", "--depth", "1", "--json", "--control", daemon.control];
    const watching = dmu(args, io);
    const first = new CapturedIo();
    await dmu(["watch", "/a", "--count", "1", "--control", daemon.control], first);
    for (const [path, value] of [["/a/b/c", "deep"], ["/a/last", "last"]] as const) {
      await daemon.store.write(path, value);
    }
    await io.line;
    io.signal();
    const { code, stdout, stderr } = await watching;
    assert.deepEqual([code, stderr, io.handlerCount], [0, "", 0]);
    const events = stdout.split("\n").slice(0, -1).map((line) => JSON.parse(line));
    assert.ok(events.every(({ path }) => path !== "/a/b/c"), stdout);
    assert.deepEqual(events.at(-1), { path: "/a/last", value: "last" });
  }));

Deno.test("dmu watch fails when the daemon ends", () =>
  withDaemon(async ({ daemon }) => {
    const io = new CapturedIo({ lineWanted: /^\/ =/ });
    const watching = dmu(["watch", "/", "--control", daemon.control], io);
    await io.line;
    await daemon.close();
    const { code, stderr } = await watching;
    assert.deepEqual([code, stderr], [
      1,
      "dmu: Cannot go on: the daemon has ended the connection\n",
    ]);
  }));

Deno.test("dmu create fails when the daemon ends while it waits", () =>
  withDaemon(async ({ daemon, run }) => {
    const creating = run("create", "d", "stuck:");
    for await (const _ of await daemon.store.watch("/dmu/target/d/state")) {
      if (!await daemon.store.exists("/dmu/target/d/state")) continue;
      if (await daemon.store.readText("/dmu/target/d/state") === "2") break;
    }
    await daemon.close();
    const { code, stderr } = await creating;
    assert.equal(code, 1);
    assert.equal(stderr, "dmu: Cannot go on: the daemon has ended the connection\n");
  }));

Deno.test("dmu revoke and dmu admit ask the daemon: digits are a minor, target:NAME is a target", () =>
  withDaemon(async ({ daemon, run }) => {
    assert.equal((await run("revoke", "d")).stdout, "2 open files revoked, drained\n");
    await run("revoke", "12", "--drain", "1.5");
    await run("revoke", "target:12", "--keep-open");
    const { stdout } = await run("revoke", "target:d", "--json");
    assert.deepEqual(JSON.parse(stdout), { files: 2, drained: true });
    assert.deepEqual(await run("admit", "12"), { ...OK, stdout: "" });
    assert.deepEqual(daemon.requests, [
      { verb: "revoke", target: "d" },
      { verb: "revoke", minor: 12, drain_ms: 1500 },
      { verb: "revoke", target: "12", keepOpen: true },
      { verb: "revoke", target: "d" },
      { verb: "admit", target: "12" },
    ]);
    assert.equal((await run("revoke", "d", "--drain", "-1")).code, 2);
    assert.equal((await run("revoke", "12", "--keep-open")).code, 2);
    assert.equal((await run("revoke", "a b")).code, 2);
  }));

Deno.test("commands print what the daemon refuses, exit code 1", () =>
  withDaemon(async ({ run }) => {
    const { code, stdout, stderr } = await run("revoke", "d", "--drain", "1");
    assert.deepEqual([code, stdout], [1, ""]);
    assert.equal(stderr, "dmu: Cannot drain d: 2 operations are still inside\n");
    assert.equal(
      (await run("admit", "d")).stderr,
      "dmu: Cannot do it: the daemon does not say why\n",
    );
  }, {
    answer: ({ verb }) =>
      verb === "revoke"
        ? new Refusal("ETIMEDOUT", "Cannot drain d: 2 operations are still inside")
        : { ok: "no" },
  }));

Deno.test("dmu onexit add of an action that the daemon does not know is wrong usage", () =>
  withDaemon(async ({ run }) => {
    const { code, stdout, stderr } = await run("onexit", "add", "1", "explode", "d");
    assert.deepEqual([code, stdout], [2, ""]);
    assert.ok(stderr.startsWith('dmu: Cannot add the action "explode d": it is none of flush\n'));
    assert.equal((await run("onexit", "add", "1", "flush", "d")).code, 1);
  }, {
    answer: ({ action }) =>
      action === "flush d"
        ? new Refusal("ENOENT", 'Cannot add the action: there is no target "d"')
        : new Refusal("EINVAL", 'Cannot add the action "explode d": it is none of flush'),
  }));

Deno.test("dmu onexit lists, shows, adds and takes back actions", () =>
  withDaemon(async ({ daemon, run }) => {
    await daemon.put("/dmu/file/10", { kind: "control", peer: "process 77 of user 0" });
    await daemon.put("/dmu/file/10/onexit", { 11: "remove e", 2: "flush d" });
    await daemon.put("/dmu/file/9", { kind: "nbd", peer: "x" });
    await daemon.put("/dmu/file/9/onexit", { 1: `snapshot d ${"n".repeat(80)}` });
    const all = await run("onexit", "ls");
    assert.deepEqual([all.code, all.stderr], [0, ""]);
    const [title, first, second, third] = all.stdout.split("\n");
    assert.match(title ?? "", /^MINOR {2}HANDLE {2}ACTION +KIND +PEER$/);
    assert.match(first ?? "", /^ {4}9 {7}1 {2}snapshot d n+…n+ {2}nbd +x$/);
    assert.match(second ?? "", /^ {3}10 {7}2 {2}flush d +control {2}process 77 of user 0$/);
    assert.match(third ?? "", /^ {3}10 {6}11 {2}remove e +control/);
    assert.ok([...first ?? ""].length <= 80);
    const { actions } = JSON.parse((await run("onexit", "ls", "10", "--json")).stdout);
    assert.deepEqual(actions.map(({ handle }: { handle: number }) => handle), [2, 11]);
    assert.equal((await run("onexit", "show", "10", "11")).stdout, "remove e\n");
    const missing = await run("onexit", "show", "10", "3");
    assert.equal(missing.stderr, "dmu: Cannot find action 3 of open file 10\n");
    const nobody = await run("onexit", "ls", "8");
    assert.equal(nobody.stderr, "dmu: Cannot find open file 8: there is none of that number\n");
    assert.deepEqual([missing.code, nobody.code], [1, 1]);

    assert.equal((await run("onexit", "add", "10", "flush", "d")).stdout, "7\n");
    await run("onexit", "add", "10", "hook a b");
    await run("onexit", "add", "10", "snapshot", "d", "it's ü");
    await run("onexit", "rm", "10", "2");
    await run("onexit", "rm", "10", "2", "--fire");
    assert.deepEqual(daemon.requests, [
      { verb: "onexit-add", minor: 10, action: "flush d" },
      { verb: "onexit-add", minor: 10, action: "hook a b" },
      { verb: "onexit-add", minor: 10, action: `snapshot d 'it'\\''s ü'` },
      { verb: "onexit-remove", minor: 10, handle: 2, fire: false },
      { verb: "onexit-remove", minor: 10, handle: 2, fire: true },
    ]);
    const long = await run("onexit", "add", "10", "x".repeat(5000));
    assert.equal(long.code, 2);
    assert.match(long.stderr, /its payload has \d+ bytes, the limit is 4096\n/);
    const wrong = await run("onexit", "add", "ten", "flush d");
    assert.deepEqual([wrong.code, wrong.stderr.split("\n")[0]], [
      2,
      'dmu: Cannot use "ten" as the number of an open file: it is a whole number',
    ]);
    assert.match((await run("onexit", "rm", "10")).stderr, /see dmu onexit rm --help\n$/);
  }));
