/** Control planes and their clients that die: kill -9 of a daemon and of who is connected. @module */
import assert from "node:assert/strict";
import { untilState, untilValue, valueOf, wish, withControl } from "../../support/control.ts";
import {
  type DmuServer,
  interopTest,
  run,
  runOk,
  scriptProgram,
  startDmu,
  withTempDir,
} from "../../support/tools.ts";

const HOLDER = scriptProgram(new URL("holder.ts", import.meta.url));
const MAIN = scriptProgram(new URL("../../../cli/main.ts", import.meta.url));

function startKept(folder: string): Promise<DmuServer> {
  const endpoints = ["--control", `unix:${folder}/control`, "--nbd", `unix:${folder}/nbd`];
  return startDmu([...endpoints, "--state", `${folder}/state`]);
}

interopTest(
  "targets outlive a daemon with --state that stops, and one that is killed",
  ["nbdinfo"],
  () =>
    withTempDir(async (folder) => {
      const control = `${folder}/control`;
      const uri = `nbd+unix:///d?socket=${folder}/nbd`;
      const disk = `file:${folder}/disk`;
      {
        await using server = await startKept(folder);
        await withControl(control, async (client) => {
          await wish(client, "d", {
            backend: disk,
            size: "1048576",
            "endpoints/0": `unix:${folder}/own`,
          });
          await wish(client, "e", { backend: "memory:1M", ephemeral: "1" });
          for (const name of ["d", "e"]) await untilState(client, name, "4");
          await client.write("/dmu/target/d/size", "2097152");
          await untilValue(client, "/dmu/target/d/size", (value) => value === "2097152");
          while (await runOk("nbdinfo", ["--size", uri]) !== "2097152\n");
          const env = { DMU_CONTROL: "none" };
          const args = ["serve", "--state", `${folder}/state`, "--nbd", `unix:${folder}/other`];
          const [program = "", ...rest] = MAIN;
          const second = await run(program, [...rest, ...args], { env });
          assert.equal(second.code, 1);
          assert.match(second.stderr, /another daemon keeps its targets there/);
        });
        await server.stop();
      }
      for (const end of ["kill", "stop"] as const) {
        await using server = await startKept(folder);
        await withControl(control, async (client) => {
          assert.equal(await valueOf(client, "/dmu/target/d/state"), "4");
          assert.equal(await valueOf(client, "/dmu/target/e"), null);
          assert.equal(await valueOf(client, "/dmu/target/d/backend"), disk);
        });
        assert.equal(await runOk("nbdinfo", ["--size", uri]), "2097152\n");
        await runOk("nbdinfo", [`nbd+unix:///?socket=${folder}/own`]);
        await server[end]();
      }
    }),
);

/** The states of a target at whose first sight the daemon is killed. */
const MOMENTS: readonly (readonly string[])[] = [["1", "2", "4"], ["2", "4"], ["4"]];

for (const moment of MOMENTS) {
  interopTest(
    `a target whose daemon is killed in state ${moment[0]} is there afterwards or not, never half`,
    ["nbdinfo"],
    () =>
      withTempDir(async (folder) => {
        const control = `${folder}/control`;
        let seen: string | null = null;
        {
          await using server = await startKept(folder);
          await withControl(control, async (client) => {
            await wish(client, "d", { backend: `file:${folder}/disk`, size: "1048576" });
            seen = await untilValue(
              client,
              "/dmu/target/d/state",
              (state) => moment.some((each) => each === state),
            );
            await server.kill();
          });
        }
        await using server = await startKept(folder);
        await withControl(control, async (client) => {
          const state = await valueOf(client, "/dmu/target/d/state");
          // Durable before it is shown.
          if (seen === "4") assert.equal(state, "4");
          else assert.ok(state === null || state === "4", `state ${state}`);
          if (state === null) return assert.equal(await valueOf(client, "/dmu/target/d"), null);
          const uri = `nbd+unix:///d?socket=${folder}/nbd`;
          assert.equal(await runOk("nbdinfo", ["--size", uri]), "1048576\n");
        });
        await server.stop();
      }),
  );
}

interopTest(
  "a client that is killed loses its target, watches and transactions, and its hook runs once",
  [
    "nbdinfo",
  ],
  () =>
    withTempDir(async (folder) => {
      const control = `${folder}/control`;
      const notes = `${folder}/notes`;
      const script = `echo "$DMU_MINOR $DMU_HANDLE $DMU_REASON $DMU_CONTROL" >> ${notes}`;
      await Deno.writeTextFile(
        `${folder}/dmu.toml`,
        `nbd = ["unix:${folder}/nbd"]\n[control]\nlisten = ["unix:${control}"]\n` +
          `[hook.note]\ncommand = ["/bin/sh", "-c", '${script}']\n`,
      );
      await using server = await startDmu(["--config", `${folder}/dmu.toml`, "x=memory:1M"]);
      await withControl(control, async (client) => {
        await using holder = await startDmu([control, "mine"], { program: HOLDER });
        const { minor, handle } = holder.ready;
        await runOk("nbdinfo", [`nbd+unix:///mine?socket=${folder}/nbd`]);
        await untilValue(client, `/dmu/file/${minor}/onexit/${handle}`, (text) =>
          text === "hook note");
        assert.equal(await valueOf(client, `/dmu/file/${minor}/onexit/1`), "remove mine");
        await holder.kill();
        await untilValue(client, "/dmu/target/mine", (value) =>
          value === null);
        await untilValue(client, `/dmu/file/${minor}`, (value) =>
          value === null);
        assert.equal(await Deno.readTextFile(notes), `${minor} ${handle} close unix:${control}\n`);
        const report = new TextDecoder().decode(await client.request(0, "memreport\0"));
        // The daemon's own, and this one.
        assert.match(report, /^connections 2$/m);
        assert.equal(await valueOf(client, "/dmu/target/x/state"), "4");
      });
      await server.stop();
      assert.equal((await Deno.readTextFile(notes)).split("\n").length, 2);
    }),
);
