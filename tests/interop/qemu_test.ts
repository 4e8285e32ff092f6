/**
 * qemu's block layer as a client: qemu-img info, map, convert and compare, qemu-io patterns.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  fileHash,
  interopTest,
  run,
  runFails,
  runOk,
  sampleBytes,
  startDmu,
  withTempDir,
} from "../support/tools.ts";

const MIB = 1024 * 1024;

interopTest("qemu-img info tells the size of a target", ["qemu-img"], async () => {
  await withTempDir(async (folder) => {
    await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, "memory:48M"]);
    const info = JSON.parse(await runOk("qemu-img", ["info", "--output=json", server.uri]));
    assert.equal(info["virtual-size"], 48 * MIB);
    assert.equal(info["format"], "raw");
    await server.stop();
  });
});

interopTest(
  "qemu-img convert into a target and compare find no difference",
  ["qemu-img"],
  async () => {
    await withTempDir(async (folder) => {
      const image = join(folder, "image"), disk = join(folder, "disk.img");
      const bytes = sampleBytes(12 * MIB, 3);
      bytes.fill(0, 2 * MIB, 9 * MIB);
      await Deno.writeFile(image, bytes);
      await using server = await startDmu([
        ...["--nbd", `unix:${join(folder, "s")}`],
        `file:${disk}?size=${bytes.length}`,
      ]);
      await runOk("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", image, server.uri]);
      await runOk("qemu-img", ["compare", "-f", "raw", "-F", "raw", image, server.uri]);

      const back = join(folder, "back.qcow2");
      await runOk("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", server.uri, back]);
      await runOk("qemu-img", ["compare", "-F", "raw", back, image]);

      await runOk("qemu-io", ["-f", "raw", "-c", `write -P 7 ${9 * MIB + 512} 512`, server.uri]);
      const differ = await run("qemu-img", [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        image,
        server.uri,
      ]);
      assert.equal(differ.code, 1, differ.stdout + differ.stderr);
      assert.match(differ.stdout, new RegExp(`offset ${9 * MIB + 512}`));
      await server.stop();
      bytes.fill(7, 9 * MIB + 512, 9 * MIB + 1024);
      await Deno.writeFile(image, bytes);
      assert.equal(await fileHash(disk), await fileHash(image));
    });
  },
);

/** Commands of qemu-io that run in one connection, in this order. */
const PATTERNS: readonly string[] = [
  "write -P 0xaa 0 64k",
  "read -P 0xaa 0 64k",
  "write -P 0xbb 4k 512",
  "read -P 0xaa 0 4k",
  "read -P 0xbb 4k 512",
  "read -P 0xaa 4608 512",
  "write -f -P 0xcc 1M 3M", // FUA
  "flush",
  "read -P 0xcc 1M 3M",
  "write -z 2M 1M", // must stay allocated
  "read -P 0 2M 1M",
  "write -z -u 3M 512k", // may become a hole
  "read -P 0 3M 512k",
  "read -P 0xcc 3584k 512k",
  "discard 1M 1M",
  "aio_write -P 0xdd 5M 1M",
  "aio_write -P 0xee 6M 1M",
  "aio_flush",
  "read -P 0xdd 5M 1M",
  "read -P 0xee 6M 1M",
  "writev -P 0x11 7M 4k 8k 512",
  "read -P 0x11 7M 12800",
  "write -P 0x77 8388096 512", // the last sector
  "read -P 0x77 8388096 512",
  "read -P 0 4M 512k",
];

for (const kind of ["memory", "file"]) {
  interopTest(
    `qemu-io reads from ${kind} what it wrote, zeroed and discarded`,
    ["qemu-io"],
    async () => {
      await withTempDir(async (folder) => {
        const spec = kind === "memory" ? "memory:8M" : `file:${join(folder, "disk.img")}?size=8M`;
        await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec]);
        const commands = PATTERNS.flatMap((each) => ["-c", each]);
        const { code, stdout, stderr } = await run("qemu-io", [
          "-f",
          "raw",
          ...commands,
          server.uri,
        ]);
        const said = stdout + stderr;
        assert.equal(code, 0, said);
        assert.doesNotMatch(said, /failed|error|verification/i);
        assert.equal(said.match(/^(read|wrote|discard) /gm)?.length, PATTERNS.length - 2, said);
        await server.stop();
      });
    },
  );
}

interopTest("qemu-io finds a wrong pattern: the check above can fail", ["qemu-io"], async () => {
  await withTempDir(async (folder) => {
    await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, "memory:1M"]);
    const commands = ["-c", "write -P 1 0 4k", "-c", "read -P 2 0 4k"];
    const { stdout } = await run("qemu-io", ["-f", "raw", ...commands, server.uri]);
    assert.match(stdout, /Pattern verification failed/);
    await server.stop();
  });
});

interopTest("qemu-io cannot write to a read-only target", ["qemu-io"], async () => {
  await withTempDir(async (folder) => {
    await using server = await startDmu([
      "--nbd",
      `unix:${join(folder, "s")}`,
      "--read-only",
      "memory:1M",
    ]);
    const error = await runFails("qemu-io", ["-f", "raw", "-c", "write 0 4k", server.uri]);
    assert.match(error, /read[- ]only|not permitted|Permission/i);
    await runOk("qemu-io", ["-r", "-f", "raw", "-c", "read -P 0 0 4k", server.uri]);
    await server.stop();
  });
});

interopTest("qemu-img map agrees with what was written", ["qemu-img", "qemu-io"], async () => {
  await withTempDir(async (folder) => {
    const disk = join(folder, "disk.img");
    await using server = await startDmu([
      "--nbd",
      `unix:${join(folder, "s")}`,
      `file:${disk}?size=8M`,
    ]);
    await runOk("qemu-io", ["-f", "raw", "-c", "write -P 5 1M 2M", server.uri]);
    const map = JSON.parse(
      await runOk("qemu-img", ["map", "-f", "raw", "--output=json", server.uri]),
    );
    assert.deepEqual(
      map.map((each: Record<string, unknown>) => [each["start"], each["length"], each["zero"]]),
      [[0, MIB, true], [MIB, 2 * MIB, false], [3 * MIB, 5 * MIB, true]],
    );
    await server.stop();
  });
});
