/**
 * A seeded, bounded fuzzer against live servers, in this process and in one of their own: they neither
 * crash nor hang nor keep memory or descriptors, and another client is served as if nothing happened.
 *
 * @module
 */
import assert from "node:assert/strict";
import { OPERATIONS } from "../../lib/block/request.ts";
import { startDmu, withTempDir } from "../support/tools.ts";
import { attack } from "./attack.ts";
import {
  bounded,
  GOOD_TARGET,
  GoodClient,
  lapse,
  openDescriptors,
  residentBytes,
  until,
  withLive,
} from "./live.ts";

const MIB = 1 << 20;
const TARGETS = { disk: "memory:1M", later: "later:1M", file: "file:DIR/disk?size=1M" };
const DEPTH = 12;
const ATTACK_MS_MAX = 40_000;
/** So many that what attackers see of the replies, which is partly chance, is far above its bound. */
const ATTACKS = 4000;
/** What the storage has to see of them. */
const REQUESTS_MIN = 2400;
const READ_BYTES_MIN = 13_400_000;
/** A request of a good client may take this long while attacks go on, in ms; it shares two cores. */
const HARM_MS_MAX = 5_000;

Deno.test("a daemon survives whatever comes, and serves others meanwhile", async () => {
  await withLive(TARGETS, {}, async ({ daemon, path, takenBytes }) => {
    await using good = await GoodClient.connect(path);
    const attacks = attack(path, { seed: 1, count: ATTACKS, depth: DEPTH });
    const toll = await bounded(`${ATTACKS} attacks`, ATTACK_MS_MAX, good.during(attacks));
    assert.equal(toll.attacks, ATTACKS);
    assert.ok(toll.answered > 300_000 && toll.cutOff > 10, JSON.stringify(toll));
    assert.ok(good.verified > 20 && good.slowest_ms < HARM_MS_MAX, `${good.slowest_ms} ms`);
    await until("attackers are gone", () => daemon.connectionCount === 1);
    await until("their buffers are back", () => takenBytes() === 0);
    // All kinds of storage were reached, and often.
    let requests = 0, readBytes = 0;
    for (const name of ["disk", "later", "file"]) {
      const target = daemon.targets.get(name);
      assert.ok(target !== undefined);
      const { statistics } = target.device;
      assert.ok(statistics.read.latency.count > 10, `${name} was hardly read`);
      for (const operation of OPERATIONS) requests += statistics[operation].latency.count;
      readBytes += statistics.read.bytes;
    }
    assert.ok(requests > REQUESTS_MIN, `${requests} requests`);
    assert.ok(readBytes > READ_BYTES_MIN, `${readBytes} bytes were read`);
  });
});

Deno.test("a server process survives whatever comes, and serves others meanwhile", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/s`;
    await using server = await startDmu([
      ...["disk=memory:1M", "later=pattern:1M", `file=file:${folder}/disk?size=1M`],
      ...[`${GOOD_TARGET}=memory:16M`, "--nbd", `unix:${path}`],
    ]);
    const descriptors = openDescriptors(server.pid);
    {
      await using good = await GoodClient.connect(path);
      const settings = { seed: 10_001, count: 600, depth: DEPTH };
      await bounded("600 attacks", ATTACK_MS_MAX, good.during(attack(path, settings)));
      assert.ok(good.verified > 20 && good.slowest_ms < HARM_MS_MAX, `${good.slowest_ms} ms`);
    }
    await until("its sockets are closed", () => openDescriptors(server.pid) <= descriptors);
    const before = residentBytes(server.pid);
    {
      await using good = await GoodClient.connect(path);
      const settings = { seed: 20_001, count: 600, depth: DEPTH };
      await bounded("600 more attacks", ATTACK_MS_MAX, good.during(attack(path, settings)));
    }
    // The first round has warmed everything up: the second must not add to it.
    const growth = residentBytes(server.pid) - before;
    assert.ok(growth < 64 * MIB, `memory grew by ${growth} bytes`);
    await server.stop();
    assert.doesNotMatch(server.stderr(), /^dmu: error|\.ts:\d+/m);
  });
});

Deno.test("GoodClient finds out that it was harmed", async () => {
  const settings = { good: "flipped-bits:16M?after=5" };
  await withLive({}, settings, async ({ path }) => {
    await using good = await GoodClient.connect(path);
    await assert.rejects(good.during(lapse(20_000)), /read at \d+/);
  });
});
