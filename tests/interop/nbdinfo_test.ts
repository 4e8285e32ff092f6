/**
 * nbdinfo of libnbd: what it says of an export, of several, of the allocation map.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { interopTest, runFails, runOk, startDmu, withTempDir } from "../support/tools.ts";

const MIB = 1024 * 1024;

/** The part of `nbdinfo --json` that is looked at. */
interface Info {
  readonly protocol: string;
  readonly TLS: boolean;
  readonly structured: boolean;
  readonly exports: readonly Record<string, unknown>[];
}

async function infoOf(uri: string, ...options: string[]): Promise<Info> {
  const info: Info = JSON.parse(await runOk("nbdinfo", ["--json", ...options, uri]));
  return info;
}

function named(uri: string, name: string): string {
  return uri.replace(/^(nbd\+unix:\/\/)\/[^?]*/, `$1/${name}`);
}

interopTest(
  "nbdinfo shows size, block sizes and flags of a memory target",
  ["nbdinfo"],
  async () => {
    await withTempDir(async (folder) => {
      await using server = await startDmu([
        "--nbd",
        `unix:${join(folder, "s")}`,
        "disk=memory:64M",
      ]);
      const { protocol, TLS, structured, exports: [found = {}] } = await infoOf(server.uri);
      assert.deepEqual([protocol, TLS, structured], ["newstyle-fixed", false, true]);
      assert.equal(found["export-size"], 64 * MIB);
      assert.ok(Array.isArray(found["contexts"]) && found["contexts"].includes("base:allocation"));
      const flags = [
        ...["is_read_only", "can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero"],
        ...["can_df", "can_multi_conn", "can_cache"],
      ];
      const values = Object.fromEntries(flags.map((flag) => [flag, found[flag]]));
      assert.deepEqual(values, {
        is_read_only: false,
        can_flush: true,
        can_fua: true,
        can_trim: true,
        can_zero: true,
        can_fast_zero: true,
        can_df: true,
        can_multi_conn: true,
        can_cache: true,
      });
      for (const field of ["block_size_minimum", "block_size_preferred", "block_size_maximum"]) {
        assert.ok(Number(found[field]) >= 1, `${field} is ${found[field]}`);
      }
      await server.stop();
    });
  },
);

interopTest("nbdinfo lists all targets with their descriptions", ["nbdinfo"], async () => {
  await withTempDir(async (folder) => {
    const config = join(folder, "dmu.toml");
    await Deno.writeTextFile(
      config,
      `nbd = ["unix:${join(folder, "s")}"]
       [[target]]
       name = "one"
       spec = "memory:1M"
       description = "the first"
       [[target]]
       name = "two"
       spec = "pattern:2M"
       read-only = true
      `,
    );
    await using server = await startDmu(["--config", config]);
    const { exports } = await infoOf(server.uri, "--list");
    const seen = exports.map((
      each,
    ) => [each["export-name"], each["export-size"], each["is_read_only"]]);
    assert.deepEqual(seen.sort(), [["one", MIB, false], ["two", 2 * MIB, true]]);
    assert.equal(
      exports.find((each) => each["export-name"] === "one")?.["description"],
      "the first",
    );
    assert.equal(
      (await runOk("nbdinfo", ["--size", named(server.uri, "two")])).trim(),
      `${2 * MIB}`,
    );
    await runOk("nbdinfo", ["--is", "read-only", named(server.uri, "two")]);
    assert.match(await runFails("nbdinfo", [named(server.uri, "three")]), /three|not|No such/i);
    await server.stop();
  });
});

interopTest(
  "nbdinfo --map shows what of a sparse file is data and what is hole",
  ["nbdinfo"],
  async () => {
    await withTempDir(async (folder) => {
      const image = join(folder, "disk.img");
      using file = await Deno.open(image, { write: true, createNew: true });
      await file.truncate(16 * MIB);
      for (const at of [0, 8 * MIB]) {
        await file.seek(at, Deno.SeekMode.Start);
        await file.write(new Uint8Array(MIB).fill(0xa5));
      }
      await file.sync();
      await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, `file:${image}`]);
      const map = JSON.parse(await runOk("nbdinfo", ["--map", "--json", server.uri]));
      assert.deepEqual(
        map.map((each: Record<string, unknown>) => [each["offset"], each["length"], each["type"]]),
        [[0, MIB, 0], [MIB, 7 * MIB, 3], [8 * MIB, MIB, 0], [9 * MIB, 7 * MIB, 3]],
      );
      await server.stop();
    });
  },
);

interopTest("nbdinfo --map of a memory target shows one hole, then what was written", [
  "nbdinfo",
  "qemu-io",
], async () => {
  await withTempDir(async (folder) => {
    await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, "memory:8M"]);
    const mapOf = async (): Promise<unknown[]> => {
      const map = JSON.parse(await runOk("nbdinfo", ["--map", "--json", server.uri]));
      return map.map((
        each: Record<string, unknown>,
      ) => [each["offset"], each["length"], each["type"]]);
    };
    assert.deepEqual(await mapOf(), [[0, 8 * MIB, 3]]);
    await runOk("qemu-io", ["-f", "raw", "-c", "write -P 1 2M 1M", server.uri]);
    assert.deepEqual(await mapOf(), [[0, 2 * MIB, 3], [2 * MIB, MIB, 0], [3 * MIB, 5 * MIB, 3]]);
    await runOk("qemu-io", ["-f", "raw", "-c", "discard 2M 1M", server.uri]);
    assert.deepEqual(await mapOf(), [[0, 8 * MIB, 3]]);
    await server.stop();
  });
});
