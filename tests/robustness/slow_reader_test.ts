/**
 * Clients that ask for much and take nothing: what each can pin is bounded, what all can pin together
 * is bounded, they are cut off after a time, and others are served meanwhile.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  CONNECTION_BYTES_MAX,
  REQUEST_BYTES_MAX,
  SCARCE_CONNECTION_BYTES,
} from "../../lib/block/limits.ts";
import { COMMAND } from "../../lib/nbd/constants.ts";
import { compact, joined } from "../nbd/fixtures.ts";
import { bounded, GoodClient, lapse, turn, until, withLive } from "./live.ts";
import { RawClient, reads } from "./raw_client.ts";

const MIB = 1 << 20;
/** Buffers come in classes, four to a doubling. */
const CLASS_SLACK = 1.25;
const STALLED =
  /Connection of process \d+ .* the peer has taken nothing of what was sent for \d+ ms/;

/** Runs until `over`, and gives the most bytes that were out. */
async function mostTaken(takenBytes: () => number, over: () => boolean): Promise<number> {
  let most = 0;
  while (!over()) {
    most = Math.max(most, takenBytes());
    await turn();
  }
  return most;
}

for (const kind of ["memory", "later"]) {
  Deno.test(`a client that takes no replies pins little and is cut off (${kind})`, async () => {
    const settings = { limits: { sendStall_ms: 600 } };
    await withLive({ disk: `${kind}:1G` }, settings, async ({ path, daemon, log, takenBytes }) => {
      await using good = await GoodClient.connect(path);
      using idle = await RawClient.enter(path, "disk");
      using slow = await RawClient.enter(path, "disk");
      await slow.send(reads(100, REQUEST_BYTES_MAX));
      await until("the attack has begun", () => takenBytes() > 0);
      const gone = mostTaken(takenBytes, () => daemon.connectionCount === 2);
      const most = await bounded("the cut", 20_000, good.during(gone));
      assert.ok(most >= REQUEST_BYTES_MAX, `${most} bytes: it was no attack`);
      const bound = CLASS_SLACK * (CONNECTION_BYTES_MAX + REQUEST_BYTES_MAX) + MIB;
      assert.ok(most < bound, `${most} bytes were out`);
      assert.equal(log.lines.filter((line) => STALLED.test(line)).length, 1, log.lines.join("\n"));
      // It finds the end behind what the kernel had taken.
      assert.ok(await slow.drain() < REQUEST_BYTES_MAX);
      // Whoever waits for nothing may be silent for as long as he likes.
      await idle.send(reads(1, 4096));
      assert.equal((await idle.read(16 + 4096)).length, 16 + 4096);
    });
  });
}

Deno.test("a client that takes its replies slowly is not cut off", async () => {
  const sendStall_ms = 400;
  await withLive({ disk: "memory:1G" }, { limits: { sendStall_ms } }, async ({ path }) => {
    using slow = await RawClient.enter(path, "disk");
    await slow.send(reads(1, REQUEST_BYTES_MAX));
    const started = performance.now();
    let total = (await slow.read(16)).length;
    while (performance.now() - started < 3 * sendStall_ms) {
      total += (await slow.read(MIB)).length;
      await lapse(sendStall_ms / 3);
    }
    assert.ok(total < REQUEST_BYTES_MAX, "it was not slow");
    while (total < 16 + REQUEST_BYTES_MAX) {
      const count = (await slow.read(MIB)).length;
      assert.ok(count > 0, `cut off after ${total} bytes`);
      total += count;
    }
  });
});

Deno.test("clients that take no replies pin a bounded amount together", async () => {
  const plentyBytes = 256 * MIB, clients = 24;
  const settings = { limits: { plentyBytes, sendStall_ms: 2_400 } };
  await withLive({ disk: "memory:1G" }, settings, async ({ path, daemon, log, takenBytes }) => {
    await using good = await GoodClient.connect(path);
    const slow = await Promise.all(
      Array.from({ length: clients }, () => RawClient.enter(path, "disk")),
    );
    await Promise.all(slow.map((client) => client.send(reads(20, REQUEST_BYTES_MAX))));
    await until("memory is scarce", () => takenBytes() > plentyBytes);
    // Somebody with a big request has to wait until the first ones were cut off, and no longer.
    using patient = await RawClient.enter(path, "disk");
    await patient.send(reads(1, REQUEST_BYTES_MAX));
    const served = patient.read(16 + REQUEST_BYTES_MAX);
    const gone = mostTaken(takenBytes, () => daemon.connectionCount === 2);
    const most = await bounded("the cut of all", 30_000, good.during(gone));
    assert.ok(
      most < plentyBytes + CLASS_SLACK * REQUEST_BYTES_MAX + clients * 2 * SCARCE_CONNECTION_BYTES,
      `${most} bytes were out`,
    );
    assert.equal((await bounded("the answer", 10_000, served)).length, 16 + REQUEST_BYTES_MAX);
    assert.equal(log.lines.filter((line) => STALLED.test(line)).length, clients);
    assert.ok(good.slowest_ms < 3_000, `${good.slowest_ms} ms for a small request`);
    for (const client of slow) client[Symbol.dispose]();
  });
});

Deno.test("clients that stop in the middle of a write make room while memory is scarce", async () => {
  const plentyBytes = 64 * MIB;
  const settings = { limits: { plentyBytes, scarceSweep_ms: 300 } };
  await withLive({ disk: "memory:1G" }, settings, async ({ path, daemon, log, takenBytes }) => {
    await using good = await GoodClient.connect(path);
    const half = new Uint8Array(16 * MIB);
    const write = joined([compact(COMMAND.WRITE, 1, 0, REQUEST_BYTES_MAX), half]);
    using first = await RawClient.enter(path, "disk");
    await first.send(write);
    await until("its bytes are in", () => takenBytes() >= half.length);
    // There is enough for everybody: it may take its time.
    await lapse(900);
    assert.equal(daemon.connectionCount, 2);
    const more = await Promise.all(
      Array.from({ length: 4 }, () => RawClient.enter(path, "disk")),
    );
    await Promise.all(more.map((client) => client.send(write)));
    const cut = (): boolean =>
      log.lines.some((line) => line.includes("in the middle of a request"));
    await bounded("the cut", 20_000, good.during(until("there is one", cut)));
    await until("there is room", () => takenBytes() <= plentyBytes);
    for (const client of more) client[Symbol.dispose]();
  });
});
