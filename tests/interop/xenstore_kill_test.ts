/**
 * Ends without warning: clients of a XenStore service that are killed at any point, over its socket and
 * through its xenbus file, and a service that is killed itself.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { seededRandom } from "../../lib/testing/random.ts";
import { Collector, ended, killQuietly } from "../support/process.ts";
import { run, type ToolName, toolPath, withTempDir } from "../support/tools.ts";
import { RecordedService, withXenbus, xenbusTest } from "../support/xenstore.ts";

const ROUNDS = 24;
/** Requests of the daemon's own client between a client's coming and its end. */
const REQUESTS_MAX = 60;

const WATCHES_AND_TRANSACTIONS = String.raw`
import os, stat, socket, struct, sys
path = sys.argv[1]
if stat.S_ISSOCK(os.stat(path).st_mode):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    f = s.fileno()
else:
    f = os.open(path, os.O_RDWR)
def ask(kind, payload, tx=0):
    os.write(f, struct.pack("<IIII", kind, 7, tx, len(payload)) + payload)
    while True:
        head = b""
        while len(head) < 16: head += os.read(f, 16 - len(head))
        got, _, _, length = struct.unpack("<IIII", head)
        body = b""
        while len(body) < length: body += os.read(f, length - len(body))
        if got != 15: return body
for n in range(1000000):
    ask(4, b"/w/%d\0token\0" % (n % 1000))
    tx = int(ask(6, b"\0")[:-1])
    ask(11, b"/w/%d\0value" % (n % 1000), tx)
    if n % 3: ask(7, b"T\0" if n % 2 else b"F\0", tx)
    ask(5, b"/w/%d\0token\0" % (n % 1000))
`;

const CLIENTS: readonly (readonly [tool: ToolName, ...args: string[]])[] = [
  ["test-xenstore", "-r", "10"],
  ["python3-pyxs", "-c", WATCHES_AND_TRANSACTIONS],
];

xenbusTest(
  "clients that are killed at any point leave nothing behind",
  ["test-xenstore", "python3-pyxs"],
  () =>
    withXenbus(async (record, file) => {
      const random = seededRandom(7);
      const root = record.service.client;
      for (let round = 0; round < ROUNDS; round++) {
        const [tool, ...args] = CLIENTS[round % 2] ?? ["test-xenstore"];
        const path = round % 4 < 2 ? record.path : file;
        const before = record.peers.length;
        const child = new Deno.Command(toolPath(tool), {
          args: tool === "python3-pyxs" ? [...args, path] : args,
          env: { XENSTORED_PATH: path },
          stdin: "null",
          stdout: "null",
          stderr: "null",
        }).spawn();
        await record.until(() => record.peers.length > before, "the client has come");
        const requests = random.below(REQUESTS_MAX);
        for (let count = 0; count < requests; count++) await root.exists("/");
        killQuietly(child, "SIGKILL");
        await child.status;
        await record.untilEmpty();
        assert.match(await record.report(), /connections 1\n/, `round ${round}`);
        const quota = await root.request(0, "quota\0" + "0\0");
        assert.match(new TextDecoder().decode(quota), /watches: 0\n/, `round ${round}`);
      }
    }),
);

const HOLDING = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
if os.fork() > 0: os._exit(0)
print("forked", flush=True)
os.read(0, 1)
`;

xenbusTest(
  "a child that holds a connection keeps it",
  ["python3-pyxs"],
  () =>
    withXenbus(async (record) => {
      const child = new Deno.Command(toolPath("python3-pyxs"), {
        args: ["-c", HOLDING, record.path],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const forked = Promise.withResolvers<void>();
      const said = new Collector(child.stdout, () => forked.resolve());
      await Promise.all([forked.promise, child.status]);
      await record.until(() => record.open === 1, "it has come");
      await record.service.client.exists("/");
      assert.equal(record.open, 1);
      await child.stdin.close();
      await said.done;
      await record.untilEmpty();
    }),
);

const MODULE = new URL("../../lib/xenstore/mod.ts", import.meta.url);
const SERVICE = `
import { startXenstoreService } from "${MODULE}";
const file = Deno.args[0] ?? "";
await startXenstoreService({
  sockets: [], xenbus: [file], domains: new Map(), opened() {}, closed() {},
  control: () => Promise.resolve(""), onFailure() {},
});
console.log("ready");
`;

xenbusTest("a xenbus file of a killed service is cleaned up, others are not touched", [
  "xenstore-ls",
], () =>
  withTempDir(async (folder) => {
    const file = join(folder, "xenbus");
    const path = join(folder, "socket");
    const child = new Deno.Command(Deno.execPath(), {
      args: ["eval", "--ext=ts", SERVICE, file],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const ready = Promise.withResolvers<void>();
    const said = new Collector(child.stdout, () => ready.resolve());
    await Promise.race([ready.promise, child.status]);
    const ls = toolPath("xenstore-ls");
    assert.equal((await run(ls, [], { env: { XENSTORED_PATH: file } })).code, 0, said.text());
    const start = (): Promise<RecordedService> => RecordedService.start(path, { xenbus: [file] });
    await assert.rejects(start, /another daemon serves it/);
    killQuietly(child, "SIGKILL");
    assert.notEqual(await ended(child, 10_000), null);
    await said.done;
    await assert.rejects(Deno.open(file), { code: "ENOTCONN" });
    const record = await start();
    assert.equal((await run(ls, [], { env: { XENSTORED_PATH: file } })).code, 0);
    await record.service.close();
    await Deno.writeTextFile(file, "precious");
    await assert.rejects(start, /something else is there/);
    assert.equal(await Deno.readTextFile(file), "precious");
  }));
