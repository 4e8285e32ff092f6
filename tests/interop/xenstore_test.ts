/**
 * Real XenStore clients against a server of this project: the xenstore-* commands, the conformance
 * suite test-xenstore, and pyxs.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { XenstoreClient } from "../../lib/xenstore/mod.ts";
import { interopTest, run, toolPath, withTempDir } from "../support/tools.ts";
import { RecordedService, withService } from "../support/xenstore.ts";

/** Calls `fn` with the environment for clients of a service, and its own client. */
function withServer(
  fn: (env: Record<string, string>, root: XenstoreClient) => Promise<void>,
): Promise<void> {
  return withService(({ path, service }) => fn({ XENSTORED_PATH: path }, service.client), {
    domains: new Map([[70_005, 5]]),
  });
}

/** Where the command of xenstore-utils with this name is. */
function command(name: string): string {
  return toolPath("xenstore-ls").replace(/xenstore-ls$/, `xenstore-${name}`);
}

interopTest("xenstore-* commands work", ["xenstore-ls"], () =>
  withServer(async (env) => {
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
  }));

interopTest("xenstore-watch sees changes", ["xenstore-ls"], () =>
  withServer(async (env, root) => {
    let over = false;
    const watching = run(command("watch"), ["-n", "2", "/w"], { env }).finally(() => over = true);
    // Nothing tells when it watches: what is written before it does is not seen.
    while (!over) await root.write("/w/x", "1");
    assert.deepEqual((await watching).stdout, "/w\n/w/x\n");
  }));

interopTest(
  "xenstore-ls lists more children than fit into one reply",
  ["xenstore-ls"],
  () =>
    withServer(async (env, root) => {
      for (let i = 0; i < 500; i++) await root.mkdir(`/many/${"x".repeat(30)}${i}`);
      const { stdout } = await run(command("list"), ["/many"], { env });
      assert.equal(stdout.trimEnd().split("\n").length, 500);
    }),
);

interopTest("test-xenstore passes", ["test-xenstore"], () =>
  withServer(async (env) => {
    const tool = toolPath("test-xenstore");
    const all = await run(tool, [], { env });
    assert.equal(all.code, 0, all.stdout + all.stderr);
    assert.equal(all.stdout.match(/ ns$/gm)?.length, 12, all.stdout);
    const random = await run(tool, ["-r", "10"], { env });
    assert.equal(random.code, 0, random.stdout + random.stderr);
  }));

const PYXS = `
import sys
from pyxs import Client
with Client(unix_socket_path=sys.argv[1]) as c:
    c.write(b"/py/a", b"1")
    c.mkdir(b"/py/b")
    assert c.read(b"/py/a") == b"1"
    assert sorted(c.list(b"/py")) == [b"a", b"b"]
    assert c.exists(b"/py/a") and not c.exists(b"/py/none")
    assert c.get_perms(b"/py/a") == [b"n0"]
    c.set_perms(b"/py/a", [b"r0"])
    assert c.get_perms(b"/py/a") == [b"r0"]
    assert c.get_domain_path(3) == b"/local/domain/3"
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

interopTest("pyxs works", ["python3-pyxs"], () =>
  withServer(async (env) => {
    const path = env["XENSTORED_PATH"] ?? "";
    const { stdout, stderr } = await run(toolPath("python3-pyxs"), ["-c", PYXS, path], { env });
    assert.equal(stdout, "done\n", stderr);
  }));

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
