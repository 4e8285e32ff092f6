/**
 * Dirty bitmaps of a real daemon, with both drivers: what libnbd, qemu-img and our own client read of them,
 * restarts and kills, and backups by the command line.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { copyFile, truncate } from "node:fs/promises";
import { CapturedIo, dmu, type Run } from "../cli/captured_io.ts";
import { ControlClient } from "../../lib/daemon/control_client.ts";
import { SeededRandom } from "../support/context.ts";
import { untilValue } from "../support/control.ts";
import {
  type DmuServer,
  interopTest,
  runOk,
  scriptProgram,
  startDmu,
  toolPath,
  withTempDir,
} from "../support/tools.ts";

const KIB = 1024, MIB = 1024 * KIB, SIZE = 8 * MIB;
const CONTEXT = "qemu:dirty-bitmap:nightly";

/** A daemon with one target "d", a raw file, and bitmaps that last. */
interface Bench {
  readonly folder: string;
  readonly image: string;
  readonly uri: string;
  server(): DmuServer;
  /** Kills the daemon, and starts it again. */
  restart(how: "stop" | "kill"): Promise<void>;
  /** A command of the command line, which has to succeed. */
  run(...args: string[]): Promise<string>;
  /** One that may fail. */
  tried(...args: string[]): Promise<Run>;
  /** Changes the disk, as qemu-io says it. */
  io(...commands: string[]): Promise<void>;
}

async function withBench(driver: string, test: (bench: Bench) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const image = join(folder, "d.img");
    await Deno.writeFile(image, new Uint8Array(0));
    await truncate(image, SIZE);
    const control = `unix:${join(folder, "c")}`;
    const args = [
      ...["--nbd", `unix:${join(folder, "s")}`, "--bitmaps", join(folder, "bitmaps")],
      ...["--control", control, "--driver", driver, `d=file:${image}`],
    ];
    let server = await startDmu(args);
    const tried = (...words: string[]): Promise<Run> =>
      dmu(words, new CapturedIo({ environment: { DMU_CONTROL: control } }));
    try {
      await test({
        folder,
        image,
        uri: `nbd+unix:///d?socket=${join(folder, "s")}`,
        server: () => server,
        tried,
        restart: async (how) => {
          await (how === "kill" ? server.kill() : server.stop());
          server = await startDmu(args);
        },
        run: async (...words) => {
          const { code, stdout, stderr } = await tried(...words);
          assert.equal(code, 0, `${words.join(" ")}: ${stderr}`);
          return stdout;
        },
        io: async (...commands) => {
          const words = commands.flatMap((each) => ["-c", each]);
          const uri = `nbd+unix:///d?socket=${join(folder, "s")}`;
          await runOk("qemu-io", ["-f", "raw", ...words, uri]);
        },
      });
      await server.stop();
    } finally {
      await server.kill();
    }
  });
}

/** What is dirty, as offsets and lengths, as nbdinfo reads it. */
async function mapOf(uri: string, context = CONTEXT): Promise<[number, number][]> {
  const text = await runOk("nbdinfo", ["--json", `--map=${context}`, uri]);
  const runs: { offset: number; length: number; type: number }[] = JSON.parse(text);
  return runs.filter(({ type }) => type === 1).map(({ offset, length }) => [offset, length]);
}

const PYTHON = `
import sys, nbd
uri, context = sys.argv[1:]
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context(context)
h.connect_uri(uri)
assert h.can_meta_context(context) and h.can_meta_context("base:allocation")
size, seen, dirty = h.get_size(), set(), []
def extent(name, offset, entries, error):
    seen.add(name)
    if name != context: return
    for length, flags in zip(entries[::2], entries[1::2]):
        if flags & 1: dirty.append((offset, length))
        offset += length
h.block_status(size, 0, extent)
assert seen == {"base:allocation", context}, seen
one = []
h.block_status(size, 0, lambda n, o, e, err: one.append((n, len(e))), nbd.CMD_FLAG_REQ_ONE)
assert sorted(n for n, _ in one) == sorted(seen) and all(c == 2 for _, c in one), one
print(dirty)
`;

for (const driver of ["streams", "blocking"]) {
  interopTest(
    `libnbd and qemu-img read a bitmap of a target with the ${driver} driver`,
    ["nbdinfo", "qemu-img", "qemu-io", "python3-libnbd"],
    () =>
      withBench(driver, async ({ uri, folder, run, io }) => {
        await io("write -P 1 0 1M");
        await run("bitmap", "add", "nightly", "d");
        await run("bitmap", "add", "x.y", "d", "--granularity", "512");
        await io("write -P 2 1M 64k", "write 3M 1", "discard 5M 100k", "write -z 6M 1M");
        const expected = [[MIB, 64 * KIB], [3 * MIB, 64 * KIB], [5 * MIB, 128 * KIB], [
          6 * MIB,
          MIB,
        ]];
        assert.deepEqual(await mapOf(uri), expected);
        assert.deepEqual(await mapOf(uri, "qemu:dirty-bitmap:x.y"), [
          [MIB, 64 * KIB],
          [3 * MIB, 512],
          [5 * MIB, 100 * KIB],
          [6 * MIB, MIB],
        ]);
        const listed = await runOk("nbdinfo", ["--list", uri]);
        for (const name of ["base:allocation", CONTEXT, "qemu:dirty-bitmap:x.y"]) {
          assert.ok(listed.includes(name), listed);
        }
        const python = await runOk(toolPath("python3-libnbd"), ["-c", PYTHON, uri, CONTEXT]);
        assert.deepEqual(JSON.parse(python.replaceAll("(", "[").replaceAll(")", "]")), expected);
        // qemu shows what is dirty as absent, with this option.
        const options = `driver=nbd,path=${join(folder, "s")},export=d,x-dirty-bitmap=${CONTEXT}`;
        const map = await runOk("qemu-img", ["map", "--output=json", "--image-opts", options]);
        const runs: { start: number; length: number; data: boolean }[] = JSON.parse(map);
        const dirty = runs.filter(({ data }) => !data).map(({ start, length }) => [start, length]);
        assert.deepEqual(dirty, expected);
        assert.match(await run("bitmap", "ls"), /nightly +transient +active +64 KiB +1.25 MiB +-/);
        assert.match(await run("show", "d"), /bitmap +x\.y, 512 B, transient/);
        await run("bitmap", "rm", "nightly", "d");
        assert.ok(!(await runOk("nbdinfo", ["--list", uri])).includes(CONTEXT));
      }),
  );

  interopTest(
    `a bitmap of a target with the ${driver} driver survives restarts and kills`,
    ["nbdinfo", "qemu-io"],
    () =>
      withBench(driver, async ({ uri, run, tried, io, restart }) => {
        await run("bitmap", "add", "nightly", "d", "--persistent", "--granularity", "4k");
        await run("bitmap", "add", "passing", "d");
        await io("write 0 64k", "write -z 1M 128k");
        await restart("stop");
        const first: [number, number][] = [[0, 64 * KIB], [MIB, 128 * KIB]];
        assert.deepEqual(await mapOf(uri), first);
        assert.equal((await tried("bitmap", "show", "passing", "d")).code, 1);
        await io("write 2M 1k");
        await run("bitmap", "freeze", "nightly", "d");
        await io("write 3M 1k", "discard 4M 1k");
        await restart("kill");
        // A point is exact; marks since then were made ahead, 64 regions at a time.
        assert.deepEqual(await mapOf(uri), [...first, [2 * MIB, 4 * KIB]]);
        const ahead: [number, number][] = [[3 * MIB, 256 * KIB], [4 * MIB, 256 * KIB]];
        assert.match(await run("bitmap", "show", "nightly", "d"), /dirty since +512 KiB/);
        await run("bitmap", "drop", "nightly", "d");
        assert.deepEqual(await mapOf(uri), ahead);
        await run("resize", "d", "+1M");
        await restart("kill");
        assert.deepEqual(await mapOf(uri), [...ahead, [SIZE, MIB]]);
      }),
  );
}

interopTest(
  "dmu copy --since makes chains of backups",
  ["qemu-img", "qemu-io"],
  () =>
    withBench("blocking", async ({ folder, image, run, tried, io, uri }) => {
      const random = new SeededRandom(8);
      const at = (name: string): string => join(folder, name);
      const change = async (): Promise<void> => {
        const commands = Array.from({ length: 6 }, (_, index) => {
          const offset = random.below(SIZE - 300_000), length = 1 + random.below(300_000);
          const what = ["write -P 7", `write -P ${index}`, "write -z", "discard"][random.below(4)];
          return `${what} ${offset} ${length}`;
        });
        await io(...commands);
      };
      await change();
      await run("bitmap", "add", "nightly", "d", "--persistent", "--granularity", "4k");
      await run("copy", "target:d", `qcow2:${at("0.qcow2")}`);
      await copyFile(image, at("rolling.img"));
      await copyFile(image, at("0.img"));
      for (let count = 1; count <= 3; count += 1) {
        await change();
        await copyFile(image, at(`${count}.img`));
        // One that fails loses nothing, and neither does one without --advance.
        await Deno.writeFile(at("small.img"), new Uint8Array(512));
        const since = ["copy", "--since", "nightly"];
        const failed = await tried(...since, "--advance", "target:d", `file:${at("small.img")}`);
        assert.deepEqual([failed.code, failed.stdout], [1, ""]);
        assert.match(failed.stderr, /the destination has 512 bytes, the source 8388608/);
        await run(...since, uri, `file:${at("rolling.img")}`, "--verify");
        const backing = ["-o", `backing-file=${count - 1}.qcow2`];
        const told = await run(
          ...[...since, "--advance", "target:d", `qcow2:${at(`${count}.qcow2`)}`],
          ...[...backing, "--json"],
        );
        const report: Record<string, unknown> = JSON.parse(told);
        assert.ok(Number(report["bytesUnchanged"]) > SIZE / 4, told);
        assert.match(await run("bitmap", "ls", "d"), /persistent +active +4 KiB +0 B/);
      }
      for (let count = 0; count <= 3; count += 1) {
        const files = [at(`${count}.img`), at(`${count}.qcow2`)];
        await runOk("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", ...files]);
      }
    }),
);
interopTest(
  "dmu copy --since that is killed leaves nothing frozen",
  ["qemu-io"],
  () =>
    withBench("streams", async ({ folder, run, io, tried }) => {
      await io("write -P 1 0 4M");
      await run("bitmap", "add", "nightly", "d", "--marked");
      // The destination takes nothing: the copy waits until it is killed.
      const slow = `unix:${join(folder, "slow")}`;
      await using server = await startDmu([
        "--nbd",
        slow,
        "b=memory:8M",
        "--filter",
        "delay:?write=1h",
      ]);
      const copy = await startDmu([], {
        program: scriptProgram(new URL("bitmap_copy.ts", import.meta.url)),
        env: { DMU_CONTROL: `unix:${join(folder, "c")}`, COPY_TO: server.uri },
      });
      const { stdout } = await tried("bitmap", "show", "nightly", "d");
      assert.match(stdout, /state +frozen/);
      await copy.kill();
      await using control = await ControlClient.connect(join(folder, "c"));
      const frozen = "/dmu/target/d/bitmap/nightly/frozen";
      await untilValue(control.store, frozen, (value) => value === "0");
      assert.match(await run("bitmap", "show", "nightly", "d"), /state +active[^]*dirty +8 MiB/);
    }),
);

interopTest(
  "dmu copy --since says what is wrong with its options",
  ["qemu-io"],
  () =>
    withBench("streams", async ({ folder, image, uri, run, tried }) => {
      const to = `file:${join(folder, "to.img")}`;
      await run("bitmap", "add", "nightly", "d");
      const rows: [string[], number, RegExp][] = [
        [
          ["--since", "nope", uri, `file:${image}`],
          1,
          /has no metadata context qemu:dirty-bitmap:nope/,
        ],
        [["--since", "nightly", uri, to], 1, /no such file/],
        [
          ["--since", "nightly", `file:${image}`, to],
          2,
          /--since is for an NBD URI, or target:NAME/,
        ],
        [["--since", "nightly", "--advance", uri, to], 2, /--advance is for a target/],
        [["--advance", "target:d", to], 2, /--advance goes with --since/],
        [["--since", "a/b", uri, to], 2, /Cannot use "a\/b" as bitmap/],
        [["--since", "nightly", "target:none", to], 1, /none/],
      ];
      for (const [args, code, message] of rows) {
        const found = await tried("copy", ...args);
        assert.equal(found.code, code, found.stderr);
        assert.match(found.stderr, message);
      }
      await run("bitmap", "freeze", "nightly", "d");
      const busy = await tried("copy", "--since", "nightly", "--advance", "target:d", to);
      assert.match(busy.stderr, /a point is frozen already; drop or merge it first/);
      assert.match(await run("bitmap", "ls"), /frozen/);
    }),
);
