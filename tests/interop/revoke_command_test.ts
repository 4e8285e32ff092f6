/**
 * Revocation as an operator does it: `dmu revoke` on a daemon of its own process, while one fio at depth
 * 32 works on the target and another one verifies what it writes to the same daemon.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { XenstoreClient } from "../../lib/xenstore/mod.ts";
import { untilValue, valueOf, withControl } from "../support/control.ts";
import {
  interopTest,
  run,
  runOk,
  type RunResult,
  scriptProgram,
  startDmu,
  withTempDir,
} from "../support/tools.ts";

const ROUNDS = 20;
const [PROGRAM = "", ...PROGRAM_ARGS] = scriptProgram(
  new URL("../../cli/main.ts", import.meta.url),
);

interface Served {
  readonly folder: string;
  readonly client: XenstoreClient;
  readonly dmu: (...args: string[]) => Promise<RunResult>;
  readonly uri: (target: string) => string;
}

async function served(
  args: readonly string[],
  fn: (served: Served) => Promise<void>,
): Promise<void> {
  await withTempDir(async (folder) => {
    const control = `unix:${folder}/control`;
    await using server = await startDmu([
      "--control",
      control,
      "--nbd",
      `unix:${folder}/s`,
      ...args,
    ]);
    const env = { DMU_CONTROL: control };
    const dmu = (...words: string[]): Promise<RunResult> =>
      run(PROGRAM, [...PROGRAM_ARGS, ...words], { env });
    const uri = (target: string): string => `nbd+unix:///${target}?socket=${folder}/s`;
    await withControl(`${folder}/control`, (client) => fn({ folder, client, dmu, uri }));
    await server.stop();
  });
}

function fio({ folder, uri }: Served, target: string, ...more: string[]): Promise<RunResult> {
  return run("fio", [
    ...["--name=job", "--ioengine=nbd", `--uri=${uri(target)}`, "--size=8M", "--bs=4k"],
    ...more,
  ], { cwd: folder, timeoutMs: 120_000 });
}

/** The minor of the open file that leads to a target, when there is one with operations inside. */
async function minorOf(client: XenstoreClient, target: string): Promise<string> {
  const events = await client.watch("/dmu/file");
  try {
    for await (const _ of events) {
      for (const minor of await client.directory("/dmu/file")) {
        const path = `/dmu/file/${minor}`;
        if (await valueOf(client, `${path}/target`) !== target) continue;
        if (await valueOf(client, `${path}/state`) !== "active") continue;
        // A client may look at the export over a connection of its own first.
        if (Number(await valueOf(client, `${path}/active`)) > 0) return minor;
      }
    }
  } finally {
    await events.return?.();
  }
  assert.fail("the control plane is gone");
}

interopTest(
  "dmu revoke takes fio's access away in mid-run, another fio sees nothing",
  [
    "fio",
    "nbdinfo",
  ],
  () =>
    served(
      ["--filter", "delay:?time=1ms", "victim=memory:8M", "other=memory:8M"],
      async (bench) => {
        const { client, dmu, uri } = bench;
        let over = false;
        const verifying = (async (): Promise<number> => {
          const verify = ["--rw=randwrite", "--iodepth=4", "--verify=crc32c", "--verify_fatal=1"];
          let runs = 0;
          for (; !over; runs += 1) {
            const { code, stdout, stderr } = await fio(bench, "other", ...verify);
            assert.equal(code, 0, stdout + stderr);
          }
          return runs;
        })();
        try {
          for (let round = 0; round < ROUNDS; round += 1) {
            const load = ["--rw=randrw", "--iodepth=32", "--time_based", "--runtime=100"];
            const running = fio(bench, "victim", ...load);
            const minor = await minorOf(client, "victim");
            const keepOpen = round % 3 === 0;
            const whose = round % 3 === 1 ? minor : "victim";
            const more = keepOpen ? ["--keep-open"] : [];
            const revoked = await dmu("revoke", whose, "--drain", "20", ...more);
            assert.deepEqual([revoked.code, revoked.stdout], [0, "1 open file revoked, drained\n"]);
            const shut = round % 3 === 2;
            assert.equal(await valueOf(client, "/dmu/target/victim/state"), shut ? "2" : "4");
            const { code, stderr } = await running;
            assert.notEqual(code, 0, `fio has not noticed: ${stderr}`);
            await untilValue(client, `/dmu/file/${minor}`, (value) => value === null);
            const inFlight = "/dmu/target/victim/statistics/in-flight";
            await untilValue(client, inFlight, (value) => value === "0");
            if (!shut) continue;
            assert.notEqual((await run("nbdinfo", [uri("victim")])).code, 0);
            assert.equal((await dmu("admit", "victim")).code, 0);
            await runOk("nbdinfo", [uri("victim")]);
          }
        } finally {
          over = true;
          assert.ok(await verifying > 0);
        }
      },
    ),
);

interopTest("dmu revoke --drain that takes too long fails, and access stays revoked", [
  "fio",
  "nbdinfo",
], () =>
  served(["other=memory:8M"], async (bench) => {
    const { client, dmu, uri } = bench;
    const slow = ["slow", "memory:8M", "--filter", "delay:?read=3s"];
    assert.equal((await dmu("create", ...slow)).code, 0);
    const running = fio(
      bench,
      "slow",
      "--rw=randread",
      "--iodepth=32",
      "--time_based",
      "--runtime=100",
    );
    const minor = await minorOf(client, "slow");
    await untilValue(client, `/dmu/file/${minor}/active`, (value) => value === "32");
    const late = await dmu("revoke", "slow", "--drain", "0.1");
    assert.deepEqual([late.code, late.stdout], [1, ""]);
    assert.match(late.stderr, /^dmu: Cannot drain open file \d+: .*\n$/);
    assert.equal(await valueOf(client, "/dmu/target/slow/state"), "2");
    assert.notEqual((await run("nbdinfo", [uri("slow")])).code, 0);
    const patient = await dmu("revoke", "slow", "--drain", "20");
    assert.equal(patient.code, 0, patient.stderr);
    assert.notEqual((await running).code, 0);
    await untilValue(client, `/dmu/file/${minor}`, (value) => value === null);
    assert.equal((await dmu("rm", "slow")).code, 0);
    await runOk("nbdinfo", [uri("other")]);
  }));
