/**
 * `dmu image` and `dmu copy` on disks that are objects in a folder.
 *
 * @module
 */
import assert from "node:assert/strict";
import { sampleBytes } from "../support/tools.ts";
import { dmu, type Run, temporaryFolder } from "./captured_io.ts";

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
}

async function json(...args: string[]): Promise<Record<string, unknown>> {
  const value: unknown = JSON.parse(await ok(...args, "--json"));
  assert.ok(typeof value === "object" && value !== null && !Array.isArray(value));
  return { ...value };
}

/** The largest log object. */
async function largestObject(folder: string): Promise<string> {
  let largest = "", bytes = 0;
  for await (const { name } of Deno.readDir(`${folder}/log`)) {
    const { size } = await Deno.stat(`${folder}/log/${name}`);
    if (size > bytes) [largest, bytes] = [`${folder}/log/${name}`, size];
  }
  return largest;
}

Deno.test("dmu copy goes to a disk of objects and back, and dmu image tells what it is", async () => {
  await using folder = await temporaryFolder();
  const disk = `dir:${folder.path}/d`, source = `${folder.path}/a.img`;
  await Deno.writeFile(source, sampleBytes(3 * MIB, 1));
  await ok("copy", `file:${source}`, disk);
  await ok("copy", disk, `file:${folder.path}/b.img`);
  assert.deepEqual(await Deno.readFile(`${folder.path}/b.img`), await Deno.readFile(source));
  const info = await json("image", "info", disk);
  assert.equal(info["virtual-size"], 3 * MIB);
  assert.equal(info["dirty-flag"], false);
  const text = await ok("image", "info", disk);
  assert.match(text, /garbage bytes +0\n {2}cost +stored gib months /);
  for (const line of text.split("\n")) {
    assert.ok(line.length <= 80 || line.startsWith("dir:"), line);
  }
  const map: unknown = JSON.parse(await ok("image", "map", disk, "--json"));
  assert.ok(Array.isArray(map) && map[0].data === true && map[0].depth === 0);
  await ok("image", "resize", disk, "+1M");
  assert.equal((await json("image", "info", disk))["virtual-size"], 4 * MIB);
  await fails(1, /there is a volume/, "image", "create", disk, "--size", "1M");
  await ok("image", "create", disk, "--size", "1M", "--force");
  assert.equal((await json("image", "info", disk))["virtual-size"], MIB);
});

Deno.test("dmu image snapshot, clone, gc and rm work on disks of objects", async () => {
  await using folder = await temporaryFolder();
  const disk = `dir:${folder.path}/d`, clone = `dir:${folder.path}/c`;
  const one = `${folder.path}/1.img`, two = `${folder.path}/2.img`;
  await Deno.writeFile(one, sampleBytes(MIB, 1));
  await Deno.writeFile(two, sampleBytes(MIB, 2));
  await ok("copy", `file:${one}`, disk);
  assert.equal(await ok("image", "snapshot", "create", disk, "first"), "kept first\n");
  await ok("copy", `file:${two}`, disk);
  const list = await ok("image", "snapshot", "ls", disk);
  assert.match(list, /^id +taken \(UTC\) +VM state +name\nfirst /);
  await fails(1, /there is none/, "image", "clone", disk, clone, "--snapshot", "second");
  await fails(2, /give --snapshot NAME/, "image", "clone", disk, clone);
  await ok("image", "clone", disk, clone, "--snapshot", "first");
  for (const [spec, file] of [[`${disk}?snapshot=first`, one], [clone, one], [disk, two]]) {
    const back = `${folder.path}/back.img`;
    await ok("copy", spec ?? "", `file:${back}`);
    assert.deepEqual(await Deno.readFile(back), await Deno.readFile(file ?? ""), spec);
  }
  await fails(
    1,
    /a clone \([0-9a-f]+ at .+\) needs it/,
    "image",
    "snapshot",
    "delete",
    disk,
    "first",
  );
  await fails(1, /a clone \([0-9a-f]+ at .+\) needs its snapshot/, "image", "rm", disk);
  assert.match(await ok("image", "check", clone, "--deep"), /no errors were found/);
  assert.match(await ok("image", "rm", clone), /^removed .*: \d+ objects?\n$/);
  await ok("image", "snapshot", "delete", disk, "first");
  const report = await json("image", "gc", disk);
  assert.ok(Number(report["deletedBytes"]) > MIB, JSON.stringify(report));
  const back = `${folder.path}/after.img`;
  await ok("copy", disk, `file:${back}`);
  assert.deepEqual(await Deno.readFile(back), await Deno.readFile(two));
  await ok("image", "rm", disk);
  await fails(1, /there is no volume/, "image", "info", disk);
  await fails(1, /there is no volume/, "image", "rm", disk);
});

Deno.test("dmu image check finds damage, loss and leaks in a disk of objects", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/d`, disk = `dir:${path}`;
  await Deno.writeFile(`${folder.path}/a.img`, sampleBytes(MIB, 1));
  await ok("copy", `file:${folder.path}/a.img`, disk);
  assert.match(await ok("image", "check", disk, "--deep"), /no errors were found/);
  await Deno.mkdir(`${path}/probe`, { recursive: true });
  await Deno.writeTextFile(`${path}/probe/left-over`, "x");
  const leaky = await dmu(["image", "check", disk]);
  assert.equal(leaky.code, 3);
  assert.match(leaky.stdout, /1 leaked object\n/);
  const mended = await ok("image", "check", disk, "--repair", "leaks");
  assert.match(mended, /mended +0 corruptions, 1 leak\n/);
  const object = await largestObject(path);
  const bytes = await Deno.readFile(object), at = bytes.length - 1000;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  await Deno.writeFile(object, bytes);
  assert.match(await ok("image", "check", disk), /no errors were found/); // headers are sound
  const deep = await dmu(["image", "check", disk, "--deep"]);
  assert.equal(deep.code, 2);
  assert.match(deep.stdout, /line \d+ of its data is damaged/);
  // What a checkpoint knows is missed when it is gone.
  await ok("image", "snapshot", "create", disk, "s");
  await Deno.remove(object);
  const lost = await dmu(["image", "check", disk]);
  assert.equal(lost.code, 2, lost.stdout);
  assert.match(lost.stdout, /log\/[0-9a-f]{16} is missing/);
});

Deno.test("image tools that write refuse a disk of objects that was not closed, unless forced", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/d`, disk = `dir:${path}`;
  await ok("image", "create", disk, "--size", "1M");
  await ok("copy", "pattern:?size=1M", disk);
  // The object by which the writer has ended is lost: as after a crash.
  const names = (await Array.fromAsync(Deno.readDir(`${path}/log`))).map(({ name }) => name).sort();
  await Deno.remove(`${path}/log/${names.at(-1)}`);
  assert.equal((await json("image", "info", disk))["dirty-flag"], true);
  for (const verb of [["gc", disk], ["rm", disk], ["snapshot", "create", disk, "s"]]) {
    await fails(1, /in use, or was not closed; --force goes on/, "image", ...verb);
  }
  await ok("image", "snapshot", "create", disk, "s", "--force");
  await ok("image", "gc", disk);
  await ok("image", "rm", disk);
});
