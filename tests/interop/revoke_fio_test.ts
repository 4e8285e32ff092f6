/**
 * Revocation under real load: one fio at depth 32 is revoked in mid-run, again and again, while
 * another one verifies what it writes to the same daemon and must see nothing of it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../backends/mod.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { finishConfig } from "../../lib/daemon/config.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import type { OpenFile } from "../../lib/handle/open_file.ts";
import { MemoryLog } from "../support/context.ts";
import { interopTest, run, type RunResult, withTempDir } from "../support/tools.ts";

const ROUNDS = 20;
/** Requests of the victim that have to be done before it is revoked. */
const REQUESTS_BEFORE = 200;
const UNTIL_MS_MAX = 30_000;

async function until(what: string, condition: () => boolean): Promise<void> {
  const end_ms = performance.now() + UNTIL_MS_MAX;
  while (!condition()) {
    assert.ok(performance.now() < end_ms, `not within ${UNTIL_MS_MAX} ms: ${what}`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

function fio(folder: string, daemon: Daemon, target: string, more: string[]): Promise<RunResult> {
  const uri = daemon.endpoints[0]?.uri(target) ?? "";
  return run("fio", [
    ...["--name=job", "--ioengine=nbd", `--uri=${uri}`, "--size=16M", "--iodepth=32", "--bs=4k"],
    ...more,
  ], { cwd: folder, timeoutMs: 120_000 });
}

function fileOf(daemon: Daemon, target: string): OpenFile | null {
  return [...daemon.files].find((file) => file.target === target) ?? null;
}

/** Starts a victim, revokes it in mid-run, and gives what it says. */
async function revokeOne(folder: string, daemon: Daemon): Promise<void> {
  const driver = daemon.targets.get("victim")?.driver;
  const device = daemon.targets.get("victim")?.device;
  assert.ok(device !== undefined);
  const done = (): number =>
    device.statistics.read.snapshot().count + device.statistics.write.snapshot().count;
  const before = done();
  const running = fio(folder, daemon, "victim", ["--rw=randrw", "--time_based", "--runtime=100"]);
  await until("the victim works", () => done() > before + REQUESTS_BEFORE);
  const file = fileOf(daemon, "victim");
  assert.ok(file !== null);
  let released = 0;
  file.onexit.add({ name: "count", run: () => void (released += 1) });
  file.revoke();
  // A thread of its own may be in one request, which counts as in flight a moment after it has entered.
  const doneThen = done();
  const most = doneThen + (driver === "blocking" ? 1 : device.inFlight);
  await file.drain();
  assert.equal(device.inFlight, 0, "drained with operations inside");
  await file.released;
  const { code, stderr } = await running;
  if (driver === "streams") assert.equal(done(), most, "an operation got lost");
  assert.ok(done() <= most, "an operation has entered after the revocation");
  assert.notEqual(code, 0, `the victim has not noticed: ${stderr}`);
  assert.equal(released, 1);
  await until("its file is gone", () => fileOf(daemon, "victim") === null);
}

for (const driver of ["streams", "blocking"] as const) {
  interopTest(
    `fio is revoked in mid-run again and again, another fio sees nothing (${driver})`,
    ["fio"],
    async () => {
      await withTempDir(async (folder) => {
        const targets = ["victim", "other"].map((name) => ({
          name,
          spec: parseSpec("memory:16M"),
          description: "",
          readOnly: false,
        }));
        const endpoints = [parseEndpoint(`unix:${folder}/s`)];
        const config = finishConfig({ targets, endpoints, driver });
        const log = new MemoryLog();
        const daemon = await startDaemon(config, { registry: defaultRegistry(), log });
        try {
          const verify = ["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"];
          let over = false;
          const verifying = (async (): Promise<number> => {
            let runs = 0;
            for (; !over; runs += 1) {
              const { code, stdout, stderr } = await fio(folder, daemon, "other", verify);
              assert.equal(code, 0, stdout + stderr);
            }
            return runs;
          })();
          try {
            await until("the other one works", () => fileOf(daemon, "other") !== null);
            for (let round = 0; round < ROUNDS; round += 1) await revokeOne(folder, daemon);
          } finally {
            over = true;
            assert.ok(await verifying > 0);
          }
          await until("all connections are over", () => daemon.connectionCount === 0);
        } finally {
          await daemon.stop();
        }
        assert.deepEqual(log.lines.filter((line) => line.startsWith("error")), []);
      });
    },
  );
}
