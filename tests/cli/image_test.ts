/** `dmu image`, and `dmu copy` to images: raw files and qcow2, against qemu-img where it is there. @module */
import assert from "node:assert/strict";
import { hyphenated } from "../../cli/image/json.ts";
import { defaultRegistry } from "../../backends/mod.ts";
import { describeOptions } from "../../lib/block/options.ts";
import { interopTest, run, runOk, sampleBytes } from "../support/tools.ts";
import { CapturedIo, dmu, type Run, temporaryFolder } from "./captured_io.ts";

const MIB = 2 ** 20;

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await dmu(args);
  assert.deepEqual([code, stderr], [0, ""], `dmu ${args.join(" ")}\n${stdout}`);
  return stdout;
}

async function fails(code: number, message: RegExp, ...args: string[]): Promise<void> {
  const result: Run = await dmu(args);
  assert.equal(result.code, code, result.stderr);
  assert.match(result.stderr, message);
  assert.equal(result.stdout, "");
}

function parsed(text: string): unknown {
  const value: unknown = JSON.parse(text);
  return value;
}

async function theirJson(command: string, path: string): Promise<unknown> {
  return parsed(await runOk("qemu-img", [command, "--output=json", path]));
}

Deno.test("every page of dmu image fits into 80 columns, and create lists all options", async () => {
  const pages = ["", "create", "info", "map", "check", "snapshot", "commit", "rebase", "resize"];
  pages.push("clone", "gc", "rm");
  for (const page of [...pages, "snapshot create", "snapshot ls"]) {
    const text = await ok("image", ...page.split(" ").filter((word) => word !== ""), "--help");
    for (const line of text.split("\n")) {
      // An example may be longer: it is to be copied.
      if (!line.startsWith("    dmu ")) assert.ok(line.length <= 80, `${page}: ${line}`);
    }
  }
  const create = await ok("image", "create", "--help");
  for (const { name, image } of defaultRegistry().backends) {
    for (const option of image === undefined ? [] : describeOptions(image.createOptions)) {
      assert.match(create, new RegExp(`Options -o of ${name}:[^]*\n  ${option.name}\\b`));
    }
  }
});

Deno.test("dmu image works on raw files", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a%3Fb.img`; // a name that a spec would have to spell otherwise
  assert.equal(
    await ok("image", "create", path, "--kind", "raw", "--size", "4M"),
    `created ${path}: raw, 4 MiB (4194304 bytes)\n`,
  );
  assert.match(await ok("image", "info", path), /^ {2}format +raw\n {2}virtual size +4 MiB/m);
  assert.equal(await ok("image", "resize", path, "+1M"), `${path} has 5 MiB (5242880 bytes) now\n`);
  assert.equal((await Deno.stat(path)).size, 5 * MIB);
  await fails(1, /cuts off data, --shrink allows it\n$/, "image", "resize", path, "1M");
  await ok("image", "resize", path, "--shrink", "--", "-4M");
  assert.equal((await Deno.stat(path)).size, MIB);
  const map = await ok("image", "map", path);
  assert.match(map, /^offset +length +state +depth +at +file\n0x0 +0x100000 +zeroes +0 +0x0 +\//);
  await fails(
    1,
    /it is there already, --force/,
    "image",
    "create",
    path,
    "--kind",
    "file",
    "--size",
    "1",
  );
  await ok("image", "create", path, "--kind", "file", "--size", "512", "--force");
  assert.equal((await Deno.stat(path)).size, 512);
});

Deno.test("dmu image says what is wrong", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.img`;
  await fails(
    2,
    /its kind is missing, as in --kind qcow2/,
    "image",
    "create",
    path,
    "--size",
    "1M",
  );
  await fails(
    2,
    /there is no option "prealocation"; did you mean "preallocation"\?\n {2}prealocation=off\n {2}\^{12}\n$/,
    ...["image", "create", path, "--kind", "file", "--size", "1M", "-o", "prealocation=off"],
  );
  await fails(
    2,
    /option "preallocation" is given twice/,
    ...[
      "image",
      "create",
      path,
      "--kind",
      "file",
      "-o",
      "preallocation=off",
      "-o",
      "preallocation",
    ],
  );
  await fails(
    2,
    /kind "qcow3".+did you mean "qcow2"\?/,
    "image",
    "create",
    path,
    "--kind",
    "qcow3",
  );
  await fails(2, /memory/, "image", "info", "memory:1M");
  await fails(1, /no such file/, "image", "info", path);
  await fails(2, /see dmu image snapshot --help/, "image", "snapshot", "chreate");
  await fails(2, /give --backing PATH, or --no-backing/, "image", "rebase", path);
  // For check all that is no verdict is exit code 1.
  await fails(1, /unknown option/, "image", "check", "--reapir");
  await fails(1, /no such file/, "image", "check", path);
  await ok("image", "create", path, "--kind", "file", "--size", "1M");
  await fails(1, /file images do not have that/, "image", "check", path);
});

Deno.test("hyphenated() gives the names that qemu-img has", () => {
  const rows = [
    ["virtualSize", "virtual-size"],
    ["vmClockNsec", "vm-clock-nsec"],
    ["extendedL2", "extended-l2"],
    ["start", "start"],
  ] as const;
  for (const [ours, theirs] of rows) assert.equal(hyphenated(ours), theirs);
});

interopTest(
  "dmu image info, map and check print the JSON of qemu-img",
  ["qemu-img", "qemu-io"],
  async () => {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/a.qcow2`, base = `${folder.path}/base.img`;
    await Deno.writeFile(base, sampleBytes(MIB, 1));
    const options = [
      "-o",
      "backing_file=base.img",
      "-o",
      "backing-fmt=raw",
      "-o",
      "lazy_refcounts=on",
    ];
    await ok("image", "create", path, "--kind", "qcow2", "--size", "2M", ...options);
    await runOk("qemu-io", [
      "-f",
      "qcow2",
      "-c",
      "write -P 5 64k 128k",
      "-c",
      "write -z 512k 64k",
      path,
    ]);
    await ok("image", "snapshot", "create", path, "first");
    for (const command of ["info", "check"]) {
      assert.deepEqual(
        parsed(await ok("image", command, path, "--json")),
        await theirJson(command, path),
        command,
      );
    }
    const ours = parsed(await ok("image", "map", path, "--json"));
    assert.ok(Array.isArray(ours));
    // Whether a run is compressed is told by later versions of qemu-img only.
    const plain = ours.map(({ compressed: _, ...rest }) => rest);
    assert.deepEqual(plain, await theirJson("map", path));
  },
);

interopTest(
  "dmu image snapshot keeps, lists, applies and forgets states",
  ["qemu-img", "qemu-io"],
  async () => {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/a.qcow2`;
    const write = (byte: number): Promise<string> =>
      runOk("qemu-io", ["-f", "qcow2", "-c", `write -P ${byte} 0 1M`, path]);
    await ok("image", "create", `qcow2:${path}`, "--size", "4M");
    assert.match(await ok("image", "snapshot", "ls", path), /has 0 snapshots\n$/);
    await write(1);
    assert.equal(await ok("image", "snapshot", "create", path, "one"), "kept one\n");
    await write(2);
    assert.match(
      await ok("image", "snapshot", "ls", path),
      /^id +taken[^\n]+\n1 +\d{4}-[^\n]+ one\n$/,
    );
    assert.match(await ok("image", "info", path), /^ {2}1 snapshot\n {2}id +taken/m);
    await ok("image", "snapshot", "apply", path, "one");
    await runOk("qemu-io", ["-f", "qcow2", "-r", "-c", "read -P 1 0 1M", path]);
    await ok("image", "snapshot", "delete", path, "one");
    assert.deepEqual(parsed(await ok("image", "snapshot", "ls", path, "--json")), []);
    await runOk("qemu-img", ["check", path]);
  },
);

interopTest("dmu image check has the exit codes of qemu-img", ["qemu-img", "qemu-io"], async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.qcow2`;
  await ok("image", "create", path, "--kind", "qcow2", "--size", "4M");
  await runOk("qemu-io", ["-f", "qcow2", "-c", "write -P 1 0 1M", path]);
  assert.match(await ok("image", "check", path), /^ {2}verdict +no errors were found$/m);
  // The first refcount block is in the third cluster: a count of 1 for one that is free is a leak.
  const poke = async (offset: number, bytes: readonly number[]): Promise<void> => {
    using file = await Deno.open(path, { write: true });
    await file.seek(offset, Deno.SeekMode.Start);
    await file.write(new Uint8Array(bytes));
  };
  const size = (await Deno.stat(path)).size / 65_536;
  await Deno.truncate(path, (size + 1) * 65_536);
  await poke(2 * 65_536 + size * 2, [0, 1]);
  const leak = await dmu(["image", "check", path]);
  assert.deepEqual([leak.code, (await run("qemu-img", ["check", path])).code], [3, 3], leak.stdout);
  assert.match(leak.stdout, /^ {2}verdict +1 leaked cluster$/m);
  assert.match(
    await ok("image", "check", path, "--repair", "leaks"),
    /^ {2}mended +0 corruptions, 1 leak$/m,
  );
  await poke(2 * 65_536 + 10, [0, 0]);
  const corrupt = await dmu(["image", "check", path, "--json"]);
  assert.deepEqual([corrupt.code, (await run("qemu-img", ["check", path])).code], [2, 2]);
  await ok("image", "check", path, "--repair", "all");
  await runOk("qemu-img", ["check", path]);
});

interopTest("dmu image commit and rebase keep the content", ["qemu-img", "qemu-io"], async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.qcow2`,
    base = `${folder.path}/base.img`,
    other = `${folder.path}/other.img`;
  await Deno.writeFile(base, sampleBytes(MIB, 1));
  await Deno.writeFile(other, sampleBytes(MIB, 2));
  const options = ["-o", "backing-file=base.img", "-o", "backing-fmt=raw"];
  await ok("image", "create", path, "--kind", "qcow2", ...options);
  await runOk("qemu-io", ["-f", "qcow2", "-c", "write -P 5 64k 128k", path]);
  const before = await ok("copy", `qcow2:${path}`, `file:${folder.path}/before`, "--json");
  assert.match(before, /"bytesTotal":1048576/);
  await ok("image", "rebase", path, "--backing", "other.img", "--backing-format", "raw");
  assert.match(await ok("image", "info", path), /^ {2}backing file +other.img \(raw\)$/m);
  await runOk("qemu-img", ["compare", "-F", "raw", path, `${folder.path}/before`]);
  await ok("image", "rebase", path, "--backing", base, "--backing-format", "raw");
  assert.match(await ok("image", "commit", path), /^committed /);
  assert.deepEqual(await Deno.readFile(base), await Deno.readFile(`${folder.path}/before`));
  await ok("image", "rebase", path, "--no-backing");
  await fails(2, /it has no backing file\n$/, "image", "commit", path);
  await Deno.remove(base);
  await runOk("qemu-img", ["compare", "-F", "raw", path, `${folder.path}/before`]);
});

interopTest("dmu copy makes images, compressed if it is told so", ["qemu-img"], async () => {
  await using folder = await temporaryFolder();
  const raw = `${folder.path}/raw`, plain = `${folder.path}/plain`, small = `${folder.path}/small`;
  const content = new Uint8Array(4 * MIB + 512);
  content.set(new TextEncoder().encode("text ".repeat(MIB / 5)), 100_000);
  content.set(sampleBytes(300_000, 1), 3 * MIB);
  await Deno.writeFile(raw, content);
  await ok("copy", `file:${raw}`, `qcow2:${plain}`, "-o", "cluster-size=4k");
  await ok("copy", `file:${raw}`, `qcow2:${small}`, "--compress", "-o", "compression_type=zstd");
  for (const path of [plain, small]) {
    await runOk("qemu-img", ["check", path]);
    await runOk("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", path, raw]);
  }
  assert.match(await ok("image", "info", plain), /^ {2}cluster size +4 KiB/m);
  assert.match(await ok("image", "info", small), /^ {2}compression type +zstd$/m);
  assert.ok((await Deno.stat(small)).size < (await Deno.stat(plain)).size / 2);
  await fails(
    2,
    /it is for a new image/,
    "copy",
    `file:${raw}`,
    `qcow2:${plain}`,
    "-o",
    "cluster-size=4k",
  );
  await fails(
    2,
    /memory does not compress, qcow2 does/,
    "copy",
    `file:${raw}`,
    "memory:8M",
    "--compress",
  );
  await fails(2, /it is for images that are made/, "copy", `file:${raw}`, "memory:8M", "-o", "x=1");
  await ok("copy", `file:${raw}`, `qcow2:${plain}`, "--verify");
});

Deno.test("dmu image create draws its progress on a terminal", async () => {
  await using folder = await temporaryFolder();
  const io = new CapturedIo({ errIsTerminal: true });
  const args = ["image", "create", `${folder.path}/a`, "--kind", "file", "--size", "64M"];
  const { code, stderr } = await dmu([...args, "-o", "preallocation=full"], io);
  assert.equal(code, 0);
  assert.match(stderr, /^\rcreate [█░]+ +\d+% of 64 MiB/);
  assert.ok(stderr.endsWith("\r\x1b[K"));
  assert.equal(io.handlerCount, 0);
});
