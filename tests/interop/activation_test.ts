/**
 * systemd socket activation: sockets that are bound before dmu starts, from systemd-socket-activate and
 * from a parent that does it by hand with several named sockets.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  interopTest,
  runOk,
  scriptProgram,
  startDmu,
  toolPath,
  withTempDir,
} from "../support/tools.ts";

const MAIN = new URL("../../cli/main.ts", import.meta.url);

/** Binds sockets, makes them descriptors 3 and on, and becomes the program that follows. */
const PARENT = `
import os, socket, sys
names, paths, command = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
for number, path in enumerate(paths):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(8)
    os.dup2(s.fileno(), 30 + number)
for number in range(len(paths)):
    os.dup2(30 + number, 3 + number, inheritable=True)
    os.close(30 + number)
os.environ.update(LISTEN_FDS=str(len(paths)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(command[0], command)
`;

function sizeAt(socket: string): Promise<string> {
  return runOk("nbdinfo", ["--size", `nbd+unix:///?socket=${socket}`]);
}

interopTest(
  "dmu serves on sockets that its parent has bound",
  ["nbdinfo", "python3-libnbd"],
  async () => {
    await withTempDir(async (folder) => {
      const a = join(folder, "a"), b = join(folder, "b");
      await using server = await startDmu(["--nbd", "systemd:", "memory:3M"], {
        wrapper: [toolPath("python3-libnbd"), "-c", PARENT, "a:b", `${a},${b}`],
      });
      assert.equal(await sizeAt(a), `${3 * 1024 * 1024}\n`);
      assert.equal(await sizeAt(b), `${3 * 1024 * 1024}\n`);
      await server.stop();
      assert.ok(Deno.lstatSync(a).isSocket, "the socket belongs to the parent: it has to stay");
    });
  },
);

interopTest(
  "systemd:NAME serves on the sockets of that name",
  ["nbdinfo", "python3-libnbd"],
  async () => {
    await withTempDir(async (folder) => {
      const a = join(folder, "a"), b = join(folder, "b"), own = join(folder, "own");
      await using server = await startDmu([
        "--nbd",
        "systemd:b",
        "--nbd",
        `unix:${own}`,
        "memory:1M",
      ], {
        wrapper: [toolPath("python3-libnbd"), "-c", PARENT, "a:b", `${a},${b}`],
      });
      assert.equal(await sizeAt(b), "1048576\n");
      assert.equal(await sizeAt(own), "1048576\n");
      await server.stop();
    });
  },
);

interopTest("systemd-socket-activate starts dmu at the first connection", [
  ...["nbdinfo", "systemd-socket-activate"] as const,
], async () => {
  await withTempDir(async (folder) => {
    const socket = join(folder, "s");
    const denoDir = Deno.env.get("DENO_DIR");
    const child = new Deno.Command(toolPath("systemd-socket-activate"), {
      args: [
        ...[
          `--listen=${socket}`,
          ...(denoDir === undefined ? [] : [`--setenv=DENO_DIR=${denoDir}`]),
        ],
        ...[...scriptProgram(MAIN), "serve", "--nbd", "systemd:", "memory:5M"],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    // It says on its standard error that it listens; it becomes dmu, same process, when a client comes.
    const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    while (!said.includes("Listening on")) {
      const { value, done } = await reader.read();
      assert.ok(!done, `systemd-socket-activate has ended: ${said}`);
      said += value;
    }
    assert.equal(await sizeAt(socket), `${5 * 1024 * 1024}\n`);
    child.kill("SIGTERM");
    while (!(await reader.read()).done);
    assert.equal((await child.status).code, 0);
  });
});

interopTest("systemd: without sockets is an error that says so", ["nbdinfo"], async () => {
  await assert.rejects(startDmu(["--nbd", "systemd:", "memory:1M"]), /LISTEN_FDS|systemd/);
});
