/**
 * Real XenStore clients against a server of this project: the xenstore-* commands, the conformance
 * suite test-xenstore, and pyxs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { XenstoreClient } from "../../lib/xenstore/mod.ts";
import { interopTest, run, type ToolName, toolPath, withTempDir } from "../support/tools.ts";
import { RecordedService, withService, withXenbus, xenbusTest } from "../support/xenstore.ts";

type Body = (env: Record<string, string>, root: XenstoreClient) => Promise<void>;

/** Registers a test of clients over a socket, and the same test through a xenbus file. */
function clientTest(name: string, tools: readonly ToolName[], fn: Body): void {
  const domains = new Map([[70_005, 5]]);
  interopTest(
    `${name} over a socket`,
    tools,
    () =>
      withService(({ path, service }) => fn({ XENSTORED_PATH: path }, service.client), { domains }),
  );
  xenbusTest(`${name} through a xenbus file`, tools, () =>
    withXenbus(async (record, file) => {
      await fn({ XENSTORED_PATH: file }, record.service.client);
      assert.deepEqual(new Set(record.peers.map(({ kind }) => kind)), new Set(["xenbus"]));
      await record.untilEmpty();
    }, { domains }));
}

/** Where the command of xenstore-utils with this name is. */
function command(name: string): string {
  return toolPath("xenstore-ls").replace(/xenstore-ls$/, `xenstore-${name}`);
}

clientTest("xenstore-* commands work", ["xenstore-ls"], async (env) => {
  const ask = async (name: string, ...args: string[]): Promise<[number, string]> => {
    const { code, stdout } = await run(command(name), args, { env });
    return [code, stdout];
  };
  assert.deepEqual(await ask("write", "/a/b", "hello", "/a/c", ""), [0, ""]);
  assert.deepEqual(await ask("read", "/a/b"), [0, "hello\n"]);
  assert.deepEqual(await ask("list", "/a"), [0, "b\nc\n"]);
  assert.deepEqual(await ask("exists", "/a/b"), [0, ""]);
  assert.equal((await ask("exists", "/a/none"))[0], 1);
  assert.deepEqual(await ask("chmod", "/a/b", "n0", "r5"), [0, ""]);
  const [, listing] = await ask("ls", "-p", "/a");
  assert.match(listing, /^b = "hello" .*\(n0,r5\)\nc = "" .*\(n0\)\n$/);
  assert.deepEqual(await ask("rm", "/a"), [0, ""]);
  assert.equal((await ask("read", "/a/b"))[0], 1);
});

clientTest("xenstore-watch sees changes", ["xenstore-ls"], async (env, root) => {
  let over = false;
  const watching = run(command("watch"), ["-n", "2", "/w"], { env }).finally(() => over = true);
  // Nothing tells when it watches: what is written before it does is not seen.
  while (!over) await root.write("/w/x", "1");
  assert.deepEqual((await watching).stdout, "/w\n/w/x\n");
});

clientTest(
  "xenstore-list shows more children than fit into one reply",
  ["xenstore-ls"],
  async (env, root) => {
    for (let i = 0; i < 500; i++) await root.mkdir(`/many/${"x".repeat(30)}${i}`);
    const { stdout } = await run(command("list"), ["/many"], { env });
    assert.equal(stdout.trimEnd().split("\n").length, 500);
  },
);

clientTest("test-xenstore passes", ["test-xenstore"], async (env) => {
  const tool = toolPath("test-xenstore");
  const all = await run(tool, [], { env });
  assert.equal(all.code, 0, all.stdout + all.stderr);
  assert.equal(all.stdout.match(/ ns$/gm)?.length, 12, all.stdout);
  const random = await run(tool, ["-r", "10"], { env });
  assert.equal(random.code, 0, random.stdout + random.stderr);
});

const PYXS = `
import sys
from pyxs import Client
with Client(**{sys.argv[2]: sys.argv[1]}) as c:
    c.write(b"/py/a", b"1")
    c.mkdir(b"/py/b")
    assert c.read(b"/py/a") == b"1"
    assert sorted(c.list(b"/py")) == [b"a", b"b"]
    assert c.exists(b"/py/a") and not c.exists(b"/py/none")
    assert c.get_perms(b"/py/a") == [b"n0"]
    c.set_perms(b"/py/a", [b"r0"])
    assert c.get_perms(b"/py/a") == [b"r0"]
    assert c.get_domain_path(3) == b"/local/domain/3"
    if sys.argv[2] == "unix_socket_path":  # pyxs has no monitor over a file
        with c.monitor() as m:
            m.watch(b"/py/w", b"token")
            assert next(m.wait()).path == b"/py/w"
            c.write(b"/py/w/x", b"1")
            assert next(m.wait()).path == b"/py/w/x"
    c.transaction()
    c.write(b"/py/a", b"2")
    c.commit()
    assert c.read(b"/py/a") == b"2"
    c.delete(b"/py")
    assert not c.exists(b"/py")
print("done")
`;

clientTest("pyxs works", ["python3-pyxs"], async (env) => {
  const path = env["XENSTORED_PATH"] ?? "";
  const how = (await Deno.stat(path)).isSocket ? "unix_socket_path" : "xen_bus_path";
  const args = ["-c", PYXS, path, how];
  const { stdout, stderr } = await run(toolPath("python3-pyxs"), args, { env });
  assert.equal(stdout, "done\n", stderr);
});

interopTest("users are domains by the table, and whoever is not listed is refused", [
  "xenstore-ls",
  "setpriv",
], () =>
  withTempDir(async (folder) => {
    await Deno.chmod(folder, 0o755);
    const path = join(folder, "socket");
    const record = await RecordedService.start(path, {
      sockets: [{ path, mode: 0o666 }],
      domains: new Map([[70_001, 5]]),
    });
    await using service = record.service;
    const root = service.client;
    await root.write("/secret", "s");
    await root.mkdir("/local/domain/5");
    await root.setPermissions("/local/domain/5", [{ domid: 5, rights: 0 }]);
    const as = async (uid: number, name: string, ...args: string[]): Promise<[number, string]> => {
      const user = ["--reuid", String(uid), "--clear-groups", command(name), ...args];
      const { code, stdout } = await run(toolPath("setpriv"), user, {
        env: { XENSTORED_PATH: path },
      });
      return [code, stdout];
    };
    assert.deepEqual(await as(70_001, "write", "own", "1"), [0, ""]);
    assert.equal(await root.readText("/local/domain/5/own"), "1");
    assert.deepEqual(await as(70_001, "read", "own"), [0, "1\n"]);
    assert.equal((await as(70_001, "read", "/secret"))[0], 1);
    assert.equal((await as(70_001, "write", "/secret", "x"))[0], 1);
    assert.equal((await as(70_001, "rm", "/secret"))[0], 1);
    assert.notEqual((await as(65_534, "read", "/local/domain/5/own"))[0], 0);
    await record.until(() => record.all("refused").length === 1, "one was refused");
    assert.match(record.all("refused")[0]?.text ?? "", /user 65534: the user is not listed/);
    assert.deepEqual(new Set(record.peers.map(({ domid }) => domid)), new Set([5]));
    assert.equal(await root.readText("/secret"), "s");
  }));

xenbusTest(
  "users of a xenbus file are domains by the table too",
  ["xenstore-ls", "setpriv"],
  () =>
    withXenbus(async (record, file) => {
      const root = record.service.client;
      await root.mkdir("/local/domain/5");
      await root.setPermissions("/local/domain/5", [{ domid: 5, rights: 0 }]);
      const as = async (
        uid: number,
        name: string,
        ...args: string[]
      ): Promise<[number, string]> => {
        const user = ["--reuid", String(uid), "--clear-groups", command(name), ...args];
        const { code, stdout } = await run(toolPath("setpriv"), user, {
          env: { XENSTORED_PATH: file },
        });
        return [code, stdout];
      };
      assert.deepEqual(await as(70_001, "write", "own", "1"), [0, ""]);
      assert.equal(await root.readText("/local/domain/5/own"), "1");
      assert.equal((await as(70_001, "write", "/secret", "x"))[0], 1);
      assert.notEqual((await as(65_534, "read", "/local/domain/5/own"))[0], 0);
      await record.until(() => record.all("refused").length > 0, "one was refused");
      assert.match(record.all("refused")[0]?.text ?? "", /user 65534: the user is not listed/);
      assert.deepEqual(new Set(record.peers.map(({ domid }) => domid)), new Set([5]));
    }, { domains: new Map([[70_001, 5]]) }),
);

const FILE_CALLS = String.raw`
import errno, os, select, signal, struct, sys, threading
def message(kind, payload, tx=0):
    return struct.pack("<IIII", kind, 7, tx, len(payload)) + payload
def fails(code, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == code, error
        return
    raise AssertionError("it did not fail")
path = sys.argv[1]
f = os.open(path, os.O_RDWR | os.O_NONBLOCK)
fails(errno.EAGAIN, os.read, f, 100)
fails(errno.ESPIPE, os.lseek, f, 0, os.SEEK_SET)
fails(errno.ESPIPE, os.pread, f, 1, 0)
fails(errno.E2BIG, os.write, f, struct.pack("<IIII", 2, 7, 0, 4081))
fails(errno.EINVAL, os.write, f, message(2, b"/" + b"x" * 4096))
fails(errno.EINVAL, os.write, f, message(4, b"/bad path\0t\0"))
poll = select.poll()
poll.register(f, select.POLLIN)
assert poll.poll(0) == []
assert os.write(f, message(4, b"/w\0token\0")) == 16 + 9
assert poll.poll(5000) == [(f, select.POLLIN)]
assert os.read(f, 4096) == message(4, b"OK\0") + struct.pack("<IIII", 15, 0, 0, 9) + b"/w\0token\0"
assert poll.poll(0) == []
# Somebody who polls is woken by what another open does.
g = os.open(path, os.O_RDWR)
seen = []
poller = threading.Thread(target=lambda: seen.append(poll.poll(10000)))
poller.start()
two = message(11, b"/w/x\0" + b"1") + message(2, b"/w/x\0")
assert os.write(g, two) == len(two)
poller.join()
assert seen == [[(f, select.POLLIN)]], seen
os.read(f, 4096)
# Any split of reads.
answer = b"".join(os.read(g, 1) for _ in range(19 + 17))
assert answer == message(11, b"OK\0") + message(2, b"1"), answer
# A read that waits lets others write, and a signal ends it.
reader = threading.Thread(target=lambda: seen.append(os.read(g, 100)))
reader.start()
os.write(g, message(2, b"/w/x\0"))
reader.join()
assert seen[1] == message(2, b"1"), seen
class Alarm(Exception):
    pass
def alarm(*_):
    raise Alarm()
signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    os.read(g, 100)
    raise AssertionError("the read was not interrupted")
except Alarm:
    pass
# A child that has the file open keeps it open.
r, w = os.pipe()
if os.fork() == 0:
    os.close(w)
    os.read(r, 1)
    os._exit(0)
os.close(r)
os.close(g)
print("done", flush=True)
`;

xenbusTest(
  "a xenbus file does with system calls what that of Linux does",
  ["python3-pyxs"],
  () =>
    withXenbus(async (record, file) => {
      const { stdout, stderr } = await run(toolPath("python3-pyxs"), ["-c", FILE_CALLS, file]);
      assert.equal(stdout, "done\n", stderr);
      await record.untilEmpty();
      assert.equal(record.peers.length, 2);
      assert.match(await record.report(), /connections 1\n/);
    }),
);
