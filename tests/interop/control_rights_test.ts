/**
 * Users other than the daemon's own at the control plane of `dmu serve`: strangers are refused, who is
 * listed sees and changes what permissions give, and what is given outlasts what the daemon rewrites.
 *
 * @module
 */
import assert from "node:assert/strict";
import { ask, untilState, untilValue, valueOf, withControl, xenstore } from "../support/control.ts";
import {
  interopTest,
  run,
  runOk,
  type RunResult,
  startDmu,
  toolPath,
  withTempDir,
} from "../support/tools.ts";

const STRANGER = 65_533, LISTED = 65_534, DOMAIN = 7;
/** Sends one CONTROL and prints what comes back. */
const CONTROL = `
import pyxs, sys
client = pyxs.connection.UnixSocketConnection(sys.argv[1])
client.connect()
client.send(pyxs._internal.Packet(0, b'dmu\\0{"verb":"info"}\\0', 0, 0))
print(client.recv().payload)
`;

function as(uid: number, path: string, name: string, ...args: string[]): Promise<RunResult> {
  const program = [toolPath("xenstore-ls").replace(/ls$/, name), ...args];
  return run(toolPath("setpriv"), ["--reuid", String(uid), "--clear-groups", ...program], {
    env: { XENSTORED_PATH: path },
  });
}

interopTest(
  "users of dmu's control plane see and change what permissions give, and nothing else",
  ["xenstore-ls", "setpriv", "python3-pyxs", "fio"],
  () =>
    withTempDir(async (folder) => {
      if (Deno.uid() !== 0) return assert.ok(true, "another user cannot be had without root");
      await Deno.chmod(folder, 0o755);
      const control = `${folder}/control`, nbd = `unix:${folder}/nbd`;
      await Deno.writeTextFile(
        `${folder}/dmu.toml`,
        `nbd = ["${nbd}"]\n[control]\nlisten = ["unix:${control}?mode=0666"]\n` +
          `[control.users]\n${LISTED} = ${DOMAIN}\n`,
      );
      await using server = await startDmu(["--config", `${folder}/dmu.toml`, "d=memory:8M"]);
      const top = "/dmu/target/d";
      await withControl(control, async (client) => {
        for (const uid of [STRANGER, LISTED]) {
          const tries: readonly (readonly [string, ...string[]])[] = [
            ["ls", "/"],
            ["read", "/dmu/daemon/pid"],
            ["list", "/dmu/file"],
            ["write", `${top}/state`, "5"],
            ["write", "/dmu/target/n/backend", "memory:1M", "/dmu/target/n/state", "1"],
            ["rm", top],
            ["chmod", top, `b${DOMAIN}`],
          ];
          for (const [name, ...args] of tries) {
            const { code, stdout } = await as(uid, control, name, ...args);
            assert.deepEqual([uid, name, code === 0, stdout], [uid, name, false, ""]);
          }
        }
        assert.equal(await valueOf(client, `${top}/state`), "4");
        assert.deepEqual(await client.directory("/dmu/target"), ["d"]);
        const asking = ["--reuid", String(LISTED), "--clear-groups", toolPath("python3-pyxs")];
        const refused = await run(toolPath("setpriv"), [...asking, "-c", CONTROL, control]);
        assert.equal(refused.stdout, "b'EACCES\\x00'\n", refused.stderr);

        await xenstore(control, "chmod", "-r", top, "n0", `r${DOMAIN}`);
        await xenstore(control, "chmod", `${top}/size`, "n0", `b${DOMAIN}`);
        assert.equal((await as(LISTED, control, "write", `${top}/size`, "16M")).code, 0);
        await untilValue(client, `${top}/size`, (value) => value === "16777216");
        assert.notEqual((await as(LISTED, control, "write", `${top}/state`, "5")).code, 0);
        await runOk("fio", [
          ...["--name=job", "--ioengine=nbd", `--uri=nbd+unix:///d?socket=${folder}/nbd`],
          ...["--rw=write", "--bs=4k", "--size=64k"],
        ], { cwd: folder });
        await untilValue(client, `${top}/statistics/write/count`, (value) => value === "16");
        await ask(client, { verb: "revoke", target: "d" });
        await ask(client, { verb: "admit", target: "d" });
        await untilState(client, "d", "4");
        // All of this was written by the daemon since.
        for (const [node, value] of [["size", "16777216"], ["state", "4"]] as const) {
          assert.equal((await as(LISTED, control, "read", `${top}/${node}`)).stdout, `${value}\n`);
        }
        const counted = await as(LISTED, control, "read", `${top}/statistics/write/count`);
        assert.equal(counted.stdout, "16\n");
        assert.equal((await as(LISTED, control, "write", `${top}/size`, "17M")).code, 0);
        await untilValue(client, `${top}/size`, (value) => value === "17825792");
      });
      await server.stop();
    }),
);
