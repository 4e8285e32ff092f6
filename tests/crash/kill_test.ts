/**
 * The real server is killed in mid-write, again and again: what it answered as flushed or FUA is in the
 * file afterwards, and the next server takes over lock and socket. The page cache survives a kill, so
 * this finds promises that are made before the file has the data, not a missing fdatasync: that is
 * what file_layer_test.ts and strace_test.ts are for.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultRegistry } from "../../backends/mod.ts";
import { Device } from "../../lib/block/device.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import { startDmu, withTempDir } from "../support/tools.ts";
import { BLOCK_BYTES, Promises } from "./promises.ts";

const BLOCKS = 256;
const ROUNDS = 6;
const DEPTH = 8;
/** Answers, at most, that a server lives to give. */
const ANSWERS_MAX = 80;
const CARELESS = fileURLToPath(new URL("./careless_backend.ts", import.meta.url));

async function connect(uri: string): Promise<Device> {
  const context = systemContext({ log: new MemoryLog() });
  const { opened } = await defaultRegistry().open(parseSpec(uri), context);
  return new Device(opened.backend, { name: "client", clock: context.clock, log: context.log });
}

/** Starts a server, works with it, kills it, and looks at the file. */
async function round(
  args: readonly string[],
  path: string,
  promises: Promises,
  random: SeededRandom,
): Promise<void> {
  await using server = await startDmu(args);
  const device = await connect(server.uri);
  const last = promises.answered + 1 + random.below(ANSWERS_MAX);
  let killed: Promise<void> | null = null;
  const work = async (): Promise<void> => {
    while (killed === null) {
      try {
        await promises.step(device);
      } catch (error) {
        // Whatever a dead server had not answered it did not promise.
        if (killed === null) throw error;
      }
      // Others are in flight now.
      if (promises.answered >= last) killed ??= server.kill();
    }
  };
  await Promise.all(Array.from({ length: DEPTH }, work));
  await killed;
  await device[Symbol.asyncDispose]().catch(() => {});
  promises.check(await Deno.readFile(path));
}

Deno.test("a server that is killed in mid-write has kept what it promised", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "disk");
    const random = new SeededRandom(11);
    const promises = new Promises(BLOCKS, random);
    const args = [`file:${path}?size=${BLOCKS * BLOCK_BYTES}`, "--nbd", `unix:${folder}/s`];
    for (let count = 0; count < ROUNDS; count += 1) await round(args, path, promises, random);
    // Worth something only if much was promised.
    assert.ok(promises.answered > 100 && promises.syncs > 30, `${promises.syncs}`);
  });
});

Deno.test("a server that answers before the file has the data is found out", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "disk");
    const random = new SeededRandom(12);
    const promises = new Promises(BLOCKS, random);
    const spec = `careless:${path}?size=${BLOCKS * BLOCK_BYTES}&behind=4`;
    const args = ["--backend", CARELESS, spec, "--nbd", `unix:${folder}/s`];
    await assert.rejects(async () => {
      for (let count = 0; count < ROUNDS; count += 1) await round(args, path, promises, random);
    }, (error) => error instanceof assert.AssertionError && /was durable/.test(error.message));
  });
});
