/**
 * A real server of a mirror, killed while fio writes: the legs differ in regions that its log calls dirty
 * alone, and the next server makes them equal. And its legs taken out of use and back from the command
 * line.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { runCli } from "../../cli/run.ts";
import { ControlClient } from "../../lib/daemon/control_client.ts";
import { inspectLog } from "../../lib/dirty_log/inspect.ts";
import type { MirrorStatus } from "../../lib/block/types.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { CapturedIo } from "../cli/captured_io.ts";
import { fileHash, interopTest, run, startDmu, withTempDir } from "../support/tools.ts";

const SIZE_MIB = 16, REGION_BYTES = 65_536;
const WAIT_MS_MAX = 120_000;
const ROUNDS = 2;

function specOf(folder: string): string {
  const leg = (number: number): string => `file:${folder}/leg${number}%3Fsize=${SIZE_MIB}M`;
  return `m=mirror:${leg(1)},${leg(2)}?log=${folder}/log&region-size=64k`;
}

function serve(folder: string): ReturnType<typeof startDmu> {
  const control = `unix:${folder}/control`;
  return startDmu([specOf(folder), "--nbd", `unix:${folder}/s`, "--control", control], {
    env: { DMU_CONTROL: control },
  });
}

/** Looks at the mirror until it is as wanted. */
async function until(
  control: ControlClient,
  what: string,
  condition: (status: MirrorStatus) => boolean,
): Promise<MirrorStatus> {
  const end_ms = performance.now() + WAIT_MS_MAX;
  for (;;) {
    const status = await control.mirror("m");
    if (condition(status)) return status;
    assert.ok(performance.now() < end_ms, `waited for ${what}: ${JSON.stringify(status)}`);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

const isEqual = ({ resync, dirty, legs }: MirrorStatus): boolean =>
  resync === null && dirty === 0 && legs.every(({ state }) => state === "in-sync");

function fio(uri: string, folder: string, seed: number, ...more: string[]): ReturnType<typeof run> {
  return run("fio", [
    ...["--name=w", "--ioengine=nbd", `--uri=${uri}`, `--size=${SIZE_MIB}M`, "--iodepth=16"],
    ...["--rw=randwrite", "--bsrange=512-32k", "--blockalign=512", "--refill_buffers"],
    ...[`--randseed=${seed}`, ...more],
  ], { cwd: folder, timeoutMs: 120_000 });
}

/** Legs are equal wherever the log says so. */
async function checkLegs(folder: string): Promise<number> {
  const [one, two] = await Promise.all([1, 2].map((leg) => Deno.readFile(`${folder}/leg${leg}`)));
  const { clean, regions, problems } = inspectLog(systemFiles, `${folder}/log`);
  assert.deepEqual(problems, []);
  assert.equal(regions, SIZE_MIB * 2 ** 20 / REGION_BYTES);
  let different = 0;
  for (let region = 0; region < regions; region += 1) {
    const [left, right] = [one, two].map((leg) =>
      leg?.subarray(region * REGION_BYTES, (region + 1) * REGION_BYTES)
    );
    assert.ok(left !== undefined && right !== undefined);
    if (left.every((byte, at) => byte === right[at])) continue;
    different += 1;
    assert.ok(!clean.has(region), `legs differ in region ${region}, which is clean`);
  }
  return different;
}

interopTest(
  "a mirror that is killed under fio is made equal by the next server",
  ["fio"],
  async () => {
    await withTempDir(async (folder) => {
      for (let round = 0; round < ROUNDS; round += 1) {
        await using server = await serve(folder);
        {
          await using control = await ControlClient.connect(`${folder}/control`);
          const before = await until(control, "the first copying", isEqual);
          const work = fio(server.uri, folder, round + 1, "--loops=1000");
          const written = (before.legs[0]?.writtenBytes ?? 0) + (2 + round) * 2 ** 20;
          await until(control, "writes", ({ legs }) => (legs[0]?.writtenBytes ?? 0) > written);
          await server.kill();
          assert.notEqual((await work).code, 0);
        }
        await checkLegs(folder);
        // A killed server leaves its sockets: the next one takes them over.
      }
      await using server = await serve(folder);
      await using control = await ControlClient.connect(`${folder}/control`);
      await until(control, "the copying", isEqual);
      await server.stop();
      assert.equal(await fileHash(join(folder, "leg1")), await fileHash(join(folder, "leg2")));
    });
  },
);

interopTest("dmu mirror takes a leg out of use and back while fio verifies", ["fio"], async () => {
  await withTempDir(async (folder) => {
    await using server = await serve(folder);
    await using control = await ControlClient.connect(`${folder}/control`);
    const dmu = async (...args: string[]): Promise<string> => {
      const io = new CapturedIo({ environment: { DMU_CONTROL: `unix:${folder}/control` } });
      assert.equal(await runCli(args, io), 0, io.stderr);
      return io.stdout;
    };
    await until(control, "the first copying", isEqual);
    const work = fio(server.uri, folder, 3, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1");
    await dmu("mirror", "drop", "m", "1");
    const dropped = await dmu("mirror", "show", "m");
    assert.match(dropped, /1 {2}failed .*\n *2 {2}in-sync/);
    assert.match(dropped, /leg 1 +it was taken out of use/);
    const missed = await until(control, "writes", ({ dirty }) => dirty > 0);
    await dmu("mirror", "add", "m", "1");
    const result = await work;
    assert.equal(result.code, 0, result.stdout + result.stderr);
    await until(control, "the copying", isEqual);
    assert.ok(missed.legs[0]?.state === "failed");
    await server.stop();
    assert.equal(await fileHash(join(folder, "leg1")), await fileHash(join(folder, "leg2")));
  });
});
