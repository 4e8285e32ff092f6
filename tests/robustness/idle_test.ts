/** What connections cost that do nothing: memory of the server, and the speed of those that do something. @module */
import assert from "node:assert/strict";
import { startDmu, withTempDir } from "../support/tools.ts";
import { bounded, GOOD_TARGET, GoodClient, residentBytes } from "./live.ts";
import { RawClient, reads } from "./raw_client.ts";

const KIB = 1024;
const WARM_UP = 50, IDLE = 400;
/** Most memory that an idle connection may cost, in bytes; it has read something before. */
const IDLE_BYTES_MAX = 100 * KIB;
const READ_BYTES = 64 * KIB;

async function idleClients(path: string, count: number): Promise<RawClient[]> {
  const clients: RawClient[] = [];
  for (let at = 0; at < count; at++) {
    const client = await RawClient.enter(path, GOOD_TARGET);
    await client.send(reads(1, READ_BYTES));
    assert.equal((await client.read(16 + READ_BYTES)).length, 16 + READ_BYTES);
    clients.push(client);
  }
  return clients;
}

Deno.test("an idle connection costs little memory, and hundreds keep nobody from working", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/s`;
    const disk = `${GOOD_TARGET}=file:${folder}/disk.img?size=16M`;
    await using server = await startDmu([disk, "--nbd", `unix:${path}`]);
    const warm = await bounded("the first ones", 60_000, idleClients(path, WARM_UP));
    const before = residentBytes(server.pid);
    const idle = await bounded("the idle ones", 120_000, idleClients(path, IDLE));
    const each = (residentBytes(server.pid) - before) / IDLE;
    assert.ok(each <= IDLE_BYTES_MAX, `an idle connection takes ${Math.round(each)} bytes`);
    {
      await using good = await GoodClient.connect(path);
      await bounded("work among idle ones", 30_000, good.step());
    }
    for (const client of [...warm, ...idle]) client[Symbol.dispose]();
    await server.stop();
  });
});
