/** `dmu serve --control` as a process, steered by xenstore-* programs and by a client. @module */
import assert from "node:assert/strict";
import type { XenstoreClient } from "../../../lib/xenstore/mod.ts";
import {
  ask,
  untilState,
  untilValue,
  valueOf,
  withControl,
  xenstore,
} from "../../support/control.ts";
import {
  type DmuServer,
  interopTest,
  run,
  runOk,
  startDmu,
  withTempDir,
} from "../../support/tools.ts";

interface Steered {
  readonly server: DmuServer;
  /** The control socket. */
  readonly control: string;
  readonly folder: string;
  readonly client: XenstoreClient;
  /** The URI of a target. */
  readonly uri: (target: string) => string;
}

function steered(args: readonly string[], fn: (steered: Steered) => Promise<void>): Promise<void> {
  return withTempDir(async (folder) => {
    const control = `${folder}/control`;
    const sockets = ["--control", `unix:${control}`, "--nbd", `unix:${folder}/nbd`];
    await using server = await startDmu([...sockets, ...args]);
    const uri = (target: string): string => `nbd+unix:///${target}?socket=${folder}/nbd`;
    await withControl(control, (client) => fn({ server, control, folder, client, uri }));
    await server.stop();
  });
}

interopTest(
  "dmu serve --control makes, resizes, removes and refuses targets for xenstore-write",
  ["xenstore-ls", "nbdinfo"],
  () =>
    steered([], async ({ server, control, client, uri, folder }) => {
      assert.deepEqual(server.ready["control"], [`unix:${control}`]);
      assert.deepEqual(server.ready["targets"], []);
      const top = "/dmu/target/d";
      await xenstore(
        control,
        "write",
        `${top}/backend`,
        "memory:",
        `${top}/size`,
        "1048576",
        `${top}/state`,
        "1",
      );
      await untilState(client, "d", "4");
      assert.equal(await runOk("nbdinfo", ["--size", uri("d")]), "1048576\n");
      await xenstore(control, "write", `${top}/size`, "2M");
      await untilValue(client, `${top}/size`, (value) => value === "2097152");
      assert.equal(await runOk("nbdinfo", ["--size", uri("d")]), "2097152\n");
      const shown = await xenstore(control, "ls", top);
      assert.match(shown, /^backend = "memory:"\nsize = "2097152"\nstate = "4"\n/);
      assert.ok(shown.includes(`0 = "${uri("d")}"`), shown);

      await xenstore(control, "write", `${top}/size`, "nonsense");
      const error = await untilValue(client, `${top}/error`, (value) => value !== null);
      assert.match(error ?? "", /a size such as 512, 64k or 1\.5G, not "nonsense"/);
      await untilValue(client, `${top}/size`, (value) => value === "2097152");

      await xenstore(
        control,
        "write",
        "/dmu/target/e/backend",
        "memery:1M",
        "/dmu/target/e/state",
        "1",
      );
      await untilState(client, "e", "6");
      assert.match(await valueOf(client, "/dmu/target/e/error") ?? "", /did you mean "memory"/);
      await xenstore(
        control,
        "write",
        "/dmu/target/e/backend",
        "memory:1M",
        "/dmu/target/e/endpoints/0",
        `unix:${folder}/own`,
        "/dmu/target/e/state",
        "1",
      );
      await untilState(client, "e", "4");
      assert.equal(await valueOf(client, "/dmu/target/e/error"), null);
      assert.equal(
        await runOk("nbdinfo", ["--size", `nbd+unix:///?socket=${folder}/own`]),
        "1048576\n",
      );
      // Its own endpoint leads to nothing else.
      assert.notEqual((await run("nbdinfo", [`nbd+unix:///d?socket=${folder}/own`])).code, 0);

      await xenstore(control, "write", `${top}/state`, "5");
      await untilState(client, "d", "6");
      assert.notEqual((await run("nbdinfo", [uri("d")])).code, 0);
      await xenstore(control, "write", `${top}/state`, "1");
      await untilState(client, "d", "4");
      await xenstore(control, "rm", top);
      await xenstore(control, "rm", "/dmu/target/e");
      await untilValue(client, `${top}/state`, (value) => value === null);
      while ((await run("nbdinfo", [uri("d")])).code === 0);
    }),
);

interopTest(
  "dmu serve --control answers self, info, revoke, admit and onexit verbs",
  ["xenstore-ls", "nbdinfo"],
  () =>
    steered(["d=memory:1M"], async ({ server, control, client, uri, folder }) => {
      const { minor } = await ask(client, { verb: "self" });
      assert.ok(typeof minor === "number" && minor >= 1);
      assert.deepEqual(await ask(client, { verb: "info" }), {
        ok: true,
        pid: server.pid,
        version: "0.1.0",
        control: [`unix:${control}`],
        nbd: [`unix:${folder}/nbd`],
        metrics: null,
        stateDir: null,
        hooks: [],
        defaultTarget: "d",
      });
      await untilValue(client, `/dmu/file/${minor}/kind`, (value) => value === "control");
      assert.match(await valueOf(client, `/dmu/file/${minor}/peer`) ?? "", /^process \d+ of user/);

      assert.deepEqual(await ask(client, { verb: "revoke", target: "d" }), {
        ok: true,
        files: 0,
        drained: true,
      });
      assert.equal(await valueOf(client, "/dmu/target/d/state"), "2");
      assert.notEqual((await run("nbdinfo", [uri("d")])).code, 0);
      assert.deepEqual(await ask(client, { verb: "admit", target: "d" }), { ok: true });
      assert.equal(await valueOf(client, "/dmu/target/d/state"), "4");
      await runOk("nbdinfo", [uri("d")]);
      await ask(client, { verb: "revoke", target: "d" });
      // What a client claims is put back, and lets nobody in.
      await client.write("/dmu/target/d/state", "4");
      await untilState(client, "d", "2");
      assert.notEqual((await run("nbdinfo", [uri("d")])).code, 0);
      await client.write("/dmu/target/d/state", "1");
      await untilState(client, "d", "4");
      await runOk("nbdinfo", [uri("d")]);

      const added = await ask(client, { verb: "onexit-add", minor, action: "flush d" });
      assert.deepEqual(added, { ok: true, handle: 1 });
      await untilValue(client, `/dmu/file/${minor}/onexit/1`, (value) => value === "flush d");
      const fired = { verb: "onexit-remove", minor, handle: 1, fire: true };
      assert.deepEqual(await ask(client, fired), { ok: true });
      await untilValue(client, `/dmu/file/${minor}/onexit/1`, (value) => value === null);

      const rows: readonly (readonly [Record<string, unknown>, string])[] = [
        [{ verb: "none" }, "EINVAL"],
        [{ verb: "self", more: 1 }, "EINVAL"],
        [{ verb: "revoke" }, "EINVAL"],
        [{ verb: "revoke", minor: 60_000 }, "EBADF"],
        [{ verb: "revoke", target: "x" }, "ENOENT"],
        [{ verb: "admit", target: "x" }, "ENOENT"],
        [fired, "ENOENT"],
        [{ verb: "onexit-add", minor: 60_000, action: "flush d" }, "EBADF"],
        [{ verb: "onexit-add", minor, action: "flush x" }, "ENOENT"],
        [{ verb: "onexit-add", minor, action: "hook x" }, "ENOENT"],
        [{ verb: "onexit-add", minor, action: "snapshot d" }, "EOPNOTSUPP"],
        [{ verb: "onexit-add", minor, action: "commit d" }, "EOPNOTSUPP"],
        [{ verb: "onexit-add", minor, action: "flush 'd" }, "EINVAL"],
        [{ verb: "onexit-add", minor, action: "flush" }, "EINVAL"],
        [{ verb: "onexit-add", minor, action: "explode d" }, "EINVAL"],
      ];
      for (const [request, errno] of rows) {
        const { ok, errno: found, message } = await ask(client, request);
        assert.deepEqual([request, ok, found], [request, false, errno]);
        assert.match(String(message), /^Cannot /);
      }
    }),
);
