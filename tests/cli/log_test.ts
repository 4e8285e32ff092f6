/**
 * `dmu log ls`, `show`, `dump` and `check` on files.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DISK_LOG_BITMAP_OFFSET } from "../../lib/dirty_log/constants.ts";
import { encodeHeader } from "../../lib/dirty_log/disk_layout.ts";
import { withTempDir } from "../support/tools.ts";
import { dmu } from "./captured_io.ts";

/** A log of 20 regions, of which 3 and 8 to 10 are dirty. */
function logBytes(): Uint8Array {
  const bytes = new Uint8Array(4096);
  encodeHeader(bytes, 20);
  bytes.set([0xf7, 0xf8, 0x0f], DISK_LOG_BITMAP_OFFSET);
  return bytes;
}

function withLogs(fn: (folder: string) => Promise<void>): Promise<void> {
  return withTempDir(async (folder) => {
    await Deno.writeFile(`${folder}/good`, logBytes());
    await Deno.writeFile(`${folder}/new`, new Uint8Array(4096));
    await Deno.writeFile(`${folder}/short`, new Uint8Array(10));
    await Deno.writeFile(`${folder}/torn`, logBytes().fill(7, 4, 8));
    await fn(folder);
  });
}

Deno.test("dmu log show prints header and counts", async () => {
  await withLogs(async (folder) => {
    const { code, stdout } = await dmu(["log", "show", `${folder}/good`]);
    assert.equal(code, 0);
    assert.match(
      stdout,
      /state +log\n +medium +4 KiB.*\n +header +20 regions\n.*\n +clean +16\n +dirty +4/,
    );
    const json = await dmu(["log", "show", `${folder}/good`, "--json"]);
    const shown = JSON.parse(json.stdout);
    assert.deepEqual([shown.state, shown.regions, shown.clean, shown.dirty], ["log", 20, 16, 4]);
    const torn = await dmu(["log", "show", `${folder}/torn`]);
    assert.match(torn.stdout, /problem +the header is damaged: its version is 117901063/);
  });
});

Deno.test("dmu log dump prints runs of regions", async () => {
  await withLogs(async (folder) => {
    assert.equal((await dmu(["log", "dump", `${folder}/good`])).stdout, "3\n8-10\n");
    const clean = await dmu(["log", "dump", `${folder}/good`, "--clean", "--json"]);
    assert.deepEqual(JSON.parse(clean.stdout).runs, [
      { start: 0, count: 3 },
      { start: 4, count: 4 },
      { start: 11, count: 9 },
    ]);
    const { code, stderr } = await dmu(["log", "dump", `${folder}/new`]);
    assert.equal(code, 1);
    assert.match(stderr, /Cannot dump .*: there is no log/);
  });
});

Deno.test("dmu log ls lists the logs of folders", async () => {
  await withLogs(async (folder) => {
    const { stdout } = await dmu(["log", "ls", folder, "--json"]);
    const { logs } = JSON.parse(stdout);
    assert.ok(Array.isArray(logs));
    assert.deepEqual(logs.map(({ state, dirty }) => [state, dirty]), [
      ["log", 4],
      ["new", 0],
      ["damaged", 0],
      ["damaged", 0],
    ]);
    const table = await dmu(["log", "ls", `${folder}/good`]);
    assert.match(table.stdout, /^PLACE +STATE +REGIONS +CLEAN +DIRTY\n.*good +log +20 +16 +4\n$/);
  });
});

Deno.test("dmu log check finds what no kernel would take, and exits with 1", async () => {
  await withLogs(async (folder) => {
    const good = await dmu(["log", "check", `${folder}/good`]);
    assert.deepEqual([good.code, good.stdout], [0, "1 place checked, 0 bad\n"]);
    const all = await dmu(["log", "check", folder, `${folder}/missing`]);
    assert.equal(all.code, 1);
    assert.match(all.stdout, /new: there is no log/);
    assert.match(all.stdout, /short: the medium has 10 bytes/);
    assert.match(all.stdout, /missing: no such file/);
    assert.match(all.stdout, /5 places checked, 4 bad\n$/);
    const long = logBytes();
    encodeHeader(long, 100_000);
    await Deno.writeFile(`${folder}/good`, long);
    const { stdout } = await dmu(["log", "check", `${folder}/good`]);
    assert.match(
      stdout,
      /the header says 100000 regions, which take 13524 bytes, and there are 4096/,
    );
  });
});
