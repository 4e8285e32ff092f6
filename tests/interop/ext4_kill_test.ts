/**
 * ext4 on a disk of kind `dir` whose server is killed in mid-write, again and again. (On a bucket: see
 * radosgw_test.ts.)
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemContext } from "../../lib/daemon/context.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openFolderStore } from "../../lib/object_store/mod.ts";
import { collectedLog } from "../../lib/testing/mod.ts";
import {
  assertKeepsFsynced,
  assertLosesFsynced,
  EXT4_TOOLS,
  ext4Lack,
  KilledExt4,
} from "../support/killed_ext4.ts";
import { needs, startDmu, withTempDir } from "../support/tools.ts";

const DISK_BYTES = 64 * 2 ** 20;
const ROUNDS = 3;
const FLUSHLESS = fileURLToPath(new URL("../support/flushless_backend.ts", import.meta.url));

const lack = await ext4Lack();
const need = needs(...EXT4_TOOLS);

async function makeVolume(path: string): Promise<void> {
  const context = systemContext({ log: collectedLog() });
  await using store = await openFolderStore(path, context);
  await createVolume(store, { diskBytes: DISK_BYTES }, context);
}

/** Registers a test; `fn` gets the folder of a volume, and one to work in. */
function killTest(name: string, fn: (volume: string, folder: string) => Promise<void>): void {
  const suffix = lack === null ? need.suffix : ` (skipped: needs ${lack})`;
  Deno.test({
    name: name + suffix,
    ignore: lack !== null || need.ignore,
    fn: async () => {
      need.require();
      await withTempDir(async (folder) => {
        const volume = join(folder, "volume");
        await makeVolume(volume);
        await fn(volume, folder);
      });
    },
  });
}

killTest(
  "ext4 on a folder keeps what was fsynced when its server is killed",
  (volume, folder) =>
    assertKeepsFsynced(
      new KilledExt4(
        join(folder, "ext4"),
        21,
        () => startDmu([`dir:${volume}`, "--nbd", `unix:${join(folder, "s")}`]),
      ),
      ROUNDS,
    ),
);

killTest("ext4 on a folder whose server never flushes is found to lose files", (volume, folder) => {
  const spec = `flushless-dir:${volume}?seal-after=1h`;
  return assertLosesFsynced(
    new KilledExt4(
      join(folder, "ext4"),
      22,
      () => startDmu(["--backend", FLUSHLESS, spec, "--nbd", `unix:${join(folder, "s")}`]),
    ),
  );
});
