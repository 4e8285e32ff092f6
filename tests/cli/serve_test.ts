/** `dmu serve` in this process: what it serves, what it prints, how it ends. @module */
import assert from "node:assert/strict";
import { CapturedIo, dmu, serve, type Serving, temporaryFolder } from "./captured_io.ts";

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.test("dmu serve without arguments serves memory on a socket that only the user can reach", async () => {
  await using folder = await temporaryFolder();
  const io = new CapturedIo({ environment: { XDG_RUNTIME_DIR: folder.path } });
  const serving = await serve([], io);
  const socket = `${folder.path}/dmu-${Deno.pid}.sock`;
  assert.equal(serving.ready, `ready: nbd+unix:///?socket=${socket}`);
  assert.equal(((await Deno.stat(socket)).mode ?? 0) & 0o777, 0o600);
  assert.match(io.stdout, /^1 target\n {2}default {2}memory:1G, 1 GiB\n/);
  assert.ok(io.stdout.includes(`nbdinfo 'nbd+unix:///?socket=${socket}'\n`));
  assert.ok(io.stdout.includes(`qemu-img info 'nbd+unix:///?socket=${socket}'\n`));
  const info = await dmu(["info", `nbd+unix:///?socket=${socket}`]);
  assert.match(info.stdout, /: 1 export\n\ndefault\n/);
  const { code, stderr } = await serving.stop();
  assert.deepEqual([code, stderr], [0, ""]);
  assert.equal(exists(socket), false);
  assert.equal(io.handlerCount, 0);
});

Deno.test("dmu serve makes a private folder where there is no runtime folder, and removes it", async () => {
  const io = new CapturedIo({ environment: { XDG_RUNTIME_DIR: "/nonexistent" } });
  const serving = await serve([], io);
  const socket = /socket=(.+)$/.exec(serving.ready)?.[1] ?? "";
  const folder = socket.replace(/\/nbd\.sock$/, "");
  assert.equal(((await Deno.stat(folder)).mode ?? 0) & 0o777, 0o700);
  assert.equal((await serving.stop()).code, 0);
  assert.equal(exists(folder), false);
});

Deno.test("dmu serve --json prints one ready line with endpoints and targets", async () => {
  await using folder = await temporaryFolder();
  const socket = `${folder.path}/s`;
  const args = [
    "a=memory:1M",
    "b=pattern:2M",
    "--nbd",
    `unix:${socket}?mode=0660`,
    "--default",
    "b",
  ];
  const { io, ready, stop } = await serve([...args, "--driver", "auto", "--json"]);
  assert.equal(io.stdout, `${ready}\n`);
  assert.deepEqual(JSON.parse(ready), {
    ready: true,
    pid: Deno.pid,
    version: "0.1.0",
    endpoints: [{ endpoint: `unix:${socket}?mode=0660`, uri: `nbd+unix:///?socket=${socket}` }],
    default: "b",
    control: null,
    metrics: null,
    targets: [
      {
        name: "a",
        spec: "memory:1M",
        size: 2 ** 20,
        readOnly: false,
        driver: "blocking",
        uris: [`nbd+unix:///a?socket=${socket}`],
      },
      {
        name: "b",
        spec: "pattern:2M",
        size: 2 ** 21,
        readOnly: true,
        driver: "blocking",
        uris: [`nbd+unix:///b?socket=${socket}`],
      },
    ],
  });
  assert.equal((await stop()).code, 0);
});

Deno.test("what dmu copy writes to a served file is in the file after the server has ended", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/disk.img`, socket = `${folder.path}/s`;
  const { stop } = await serve([`file:${path}?size=2M`, "--nbd", `unix:${socket}`]);
  const uri = `nbd+unix:///default?socket=${socket}`;
  const { code, stdout, stderr } = await dmu(["copy", "pattern:2M", uri, "--verify"]);
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /2 MiB written, .* verified/);
  assert.equal((await stop()).code, 0);
  const back = await dmu(["copy", `file:${path}`, "memory:2M", "--json"]);
  assert.equal(JSON.parse(back.stdout).bytesWritten, 2 ** 21);
});

Deno.test("dmu serve without --control is steered in the default place, if nobody else is there", async () => {
  await using folder = await temporaryFolder();
  const environment = { XDG_RUNTIME_DIR: folder.path, DMU_CONTROL: "" };
  const serveHere = (...args: string[]): Promise<Serving> =>
    serve(["memory:1M", "--nbd", "tcp:0", ...args], new CapturedIo({ environment }));
  const socket = `${folder.path}/dmu/control.sock`;
  const first = await serveHere();
  assert.ok(first.io.stdout.includes(`\ncontrol: unix:${socket}\n`), first.io.stdout);
  assert.equal(((await Deno.stat(socket)).mode ?? 0) & 0o777, 0o600);
  assert.equal(((await Deno.stat(`${folder.path}/dmu`)).mode ?? 0) & 0o777, 0o700);
  const second = await serveHere();
  assert.ok(second.io.stdout.includes(`\ncontrol: none, ${socket} belongs to another daemon\n`));
  const third = await serveHere("--json");
  assert.equal(JSON.parse(third.ready).control, null);
  const named = await dmu(["serve", "memory:1M", "--nbd", "tcp:0", "--control", `unix:${socket}`]);
  assert.equal(named.code, 1);
  assert.match(named.stderr, /control\.sock.*in use by another server/);
  for (const { stop } of [second, third, first]) assert.equal((await stop()).code, 0);
  assert.equal(exists(socket), false);
});

Deno.test("dmu serve --read-only refuses to be written", async () => {
  await using folder = await temporaryFolder();
  const socket = `${folder.path}/s`;
  const { stop } = await serve(["x=memory:1M", "--read-only", "--nbd", `unix:${socket}`]);
  const { code, stderr } = await dmu(["copy", "memory:1M", `nbd+unix:///x?socket=${socket}`]);
  assert.equal(code, 1);
  assert.match(stderr, /read-only/);
  assert.equal((await stop()).code, 0);
});

Deno.test("dmu serve takes targets and endpoints of a file and adds those of the command line", async () => {
  await using folder = await temporaryFolder();
  const config = `${folder.path}/dmu.toml`, socket = `${folder.path}/s`;
  await Deno.writeTextFile(
    config,
    `nbd = ["unix:${socket}"]\n[[target]]\nname = "a"\nkind = "memory"\noptions = { size = "1M" }\n` +
      'description = "first"\n',
  );
  const { ready, stop } = await serve([
    "--config",
    config,
    "b=memory:2M",
    "--nbd",
    "tcp:0",
    "--json",
  ]);
  const { targets, endpoints } = JSON.parse(ready);
  assert.deepEqual(targets.map(({ name }: { name: string }) => name), ["a", "b"]);
  assert.equal(endpoints.length, 2);
  assert.match(endpoints[1].endpoint, /^tcp:127\.0\.0\.1:[1-9]\d*$/);
  const { stdout } = await dmu(["info", endpoints[1].uri.replace(/\/a$/, ""), "--json"]);
  const list = JSON.parse(stdout);
  assert.deepEqual(
    list.exports.map((each: { name: string; description: string | null; size: number }) => [
      each.name,
      each.description,
      each.size,
    ]),
    [["a", "first", 2 ** 20], ["b", null, 2 ** 21]],
  );
  assert.equal((await stop()).code, 0);
});

Deno.test("a second signal ends dmu serve at once, with exit code 1", async () => {
  await using folder = await temporaryFolder();
  const { io, stop } = await serve(["memory:1M", "--nbd", `unix:${folder.path}/s`]);
  io.signal();
  const { stderr } = await stop();
  assert.deepEqual(io.exits, [1]);
  assert.match(stderr, /second signal, ending at once/);
});

Deno.test("dmu serve refuses what does not fit together, before anything is opened", async () => {
  await using folder = await temporaryFolder();
  const image = `${folder.path}/a.img`;
  const create = `file:${image}?size=1M`;
  const rows: readonly (readonly [string[], number, RegExp])[] = [
    [[create, "memory:1M"], 2, /under one name: write NAME=memory:1M/],
    [["a=" + create, "a=memory:1M"], 2, /Cannot add target "a": the name is given twice/],
    [[create, "--default", "x"], 2, /Cannot make "x" the default: there is no such target/],
    [[create, "--tls-require"], 2, /add --tls-certificates DIR/],
    [[create, "--config", "/nonexistent.toml"], 2, /nonexistent\.toml": there is no such file/],
    [[create, "--nbd", "tcp:99999"], 2, /its port must be a whole number from 0 to 65535/],
    [[create, "b=null:?sise=1"], 2, /there is no option "sise"; did you mean "size"\?/],
    [[create, "--backend", "/nonexistent.ts"], 2, /Cannot load the backend/],
  ];
  for (const [args, expected, message] of rows) {
    const { code, stdout, stderr } = await dmu(["serve", ...args]);
    assert.deepEqual([code, stdout], [expected, ""], stderr);
    assert.match(stderr, message);
    assert.equal(exists(image), false, `${args.join(" ")} has created the image`);
  }
});

Deno.test("dmu serve fails with exit code 1 where something cannot be opened", async () => {
  await using folder = await temporaryFolder();
  const socket = `unix:${folder.path}/none/s`;
  const rows: readonly (readonly [string[], RegExp])[] = [
    [["file:/nonexistent.img", "--nbd", `unix:${folder.path}/s`], /nonexistent\.img/],
    [["memory:1M", "--nbd", socket], /none\/s/],
    [
      ["memory:1M", "--nbd", `unix:${folder.path}/s`, "--tls-certificates", folder.path],
      /cert/,
    ],
  ];
  for (const [args, message] of rows) {
    const io = new CapturedIo();
    const { code, stdout, stderr } = await dmu(["serve", ...args], io);
    assert.deepEqual([code, stdout], [1, ""], stderr);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /should not happen/);
    assert.equal(io.handlerCount, 0);
  }
});
