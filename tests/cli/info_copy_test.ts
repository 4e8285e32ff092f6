/** `dmu info` and `dmu copy`, with files, memory and a backend from a file of its own. @module */
import assert from "node:assert/strict";
import { patternMismatch } from "../../backends/pattern.ts";
import { CapturedIo, dmu, temporaryFolder } from "./captured_io.ts";

const MIB = 2 ** 20;

function jsonOf(text: string): Readonly<Record<string, unknown>> {
  const value: unknown = JSON.parse(text);
  assert.ok(typeof value === "object" && value !== null);
  return { ...value };
}

Deno.test("dmu info shows size, verbs and allocation", async () => {
  const { code, stdout, stderr } = await dmu(["info", "memory:1.5G"]);
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^memory:1\.5G$/m);
  assert.match(stdout, /^ {2}size +1\.5 GiB \(1610612736 bytes\)$/m);
  assert.match(stdout, /^ {2}can +trim, zero, cache, extents, resize, fua$/m);
  assert.match(stdout, /^ {2}allocation +0 B data, 1\.5 GiB holes in 1 extent$/m);
});

Deno.test("dmu info --json counts data and holes of a file, and does not change it", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.img`;
  using file = await Deno.open(path, { createNew: true, write: true });
  await file.truncate(4 * MIB);
  await file.write(new Uint8Array(65_536).fill(1));
  await file.syncData();
  const before = await Deno.stat(path);
  const { code, stdout, stderr } = await dmu(["info", `file:${path}`, "--json"]);
  assert.deepEqual([code, stderr], [0, ""]);
  const info = jsonOf(stdout);
  assert.deepEqual([info["kind"], info["size"], info["readOnly"]], ["file", 4 * MIB, null]);
  assert.deepEqual(info["allocation"], {
    examined: 4 * MIB,
    data: 65_536,
    zero: 0,
    hole: 4 * MIB - 65_536,
    extents: 2,
  });
  assert.deepEqual((await Deno.stat(path)).mtime, before.mtime);
});

Deno.test("dmu copy makes a file that is not there, of the source's size, and verifies it", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/a.img`;
  const { code, stdout, stderr } = await dmu(["copy", "pattern:3M", `file:${path}`, "--verify"]);
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^copied 3 MiB in .+: 3 MiB written, 0 B zeroes, verified\n$/);
  const bytes = await Deno.readFile(path);
  assert.equal(bytes.length, 3 * MIB);
  assert.equal(patternMismatch(bytes, 0), -1);
});

Deno.test("dmu copy leaves holes, unless told otherwise", async () => {
  await using folder = await temporaryFolder();
  const sparse = `${folder.path}/sparse`, full = `${folder.path}/full`;
  assert.equal((await dmu(["copy", "memory:8M", `file:${sparse}`])).code, 0);
  assert.equal((await dmu(["copy", "memory:8M", `file:${full}`, "--no-sparse"])).code, 0);
  const [first, second] = [await Deno.stat(sparse), await Deno.stat(full)];
  assert.deepEqual([first.size, second.size], [8 * MIB, 8 * MIB]);
  assert.ok((first.blocks ?? 0) < 64, `${first.blocks} blocks of a hole`);
  assert.ok((second.blocks ?? 0) * 512 >= 8 * MIB, `${second.blocks} blocks`);
});

Deno.test("dmu copy --json reports what was done", async () => {
  const { code, stdout } = await dmu(["copy", "memory:1M", "memory:2M", "--json"]);
  assert.equal(code, 0);
  const report = jsonOf(stdout);
  assert.equal(report["source"], "memory:1M");
  assert.equal(report["bytesTotal"], MIB);
  assert.equal(report["bytesSkipped"], MIB);
  assert.equal(report["bytesBeyond"], MIB);
  assert.ok(Number.isInteger(report["elapsedUs"]), stdout);
});

Deno.test("dmu copy fails with one line and exit code 1", async () => {
  const rows: readonly (readonly [string, string, RegExp])[] = [
    ["memory:2M", "memory:1M", /the destination has 1048576 bytes, the source 2097152\n$/],
    ["memory:1M", "pattern:1M", /the destination is read-only\n$/],
  ];
  for (const [from, to, message] of rows) {
    const { code, stdout, stderr } = await dmu(["copy", from, to]);
    assert.equal(code, 1);
    assert.equal(stdout, "");
    assert.match(stderr, message);
  }
});

Deno.test("dmu copy draws progress on a terminal only, and cleans it up", async () => {
  const io = new CapturedIo({ errIsTerminal: true });
  const { code, stderr } = await dmu(["copy", "pattern:8M", "null:"], io);
  assert.equal(code, 0);
  assert.match(stderr, /^\rcopy [█░]+ +\d+% of 8 MiB/);
  assert.ok(stderr.endsWith("\r\x1b[K"));
  assert.equal(io.handlerCount, 0);
  assert.equal((await dmu(["copy", "pattern:8M", "null:"])).stderr, "");
});

Deno.test("dmu copy stops at a signal, with exit code 1", async () => {
  await using folder = await temporaryFolder();
  await Deno.writeTextFile(`${folder.path}/slow.ts`, SLOW_BACKEND);
  const io = new CapturedIo();
  const args = ["copy", "slow:", "null:", "--backend", `${folder.path}/slow.ts`];
  const hook = (): void => io.signal();
  addEventListener("slow-read", hook, { once: true });
  try {
    const { code, stdout, stderr } = await dmu(args, io);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.equal(stderr, "dmu: Cannot finish the copy: it was interrupted\n");
    assert.deepEqual(io.exits, []);
  } finally {
    removeEventListener("slow-read", hook);
  }
});

/** A backend of somebody else: it has no end, and says so when it is read. */
const SLOW_BACKEND = `
import { optionSchema, sizeOption } from ${
  JSON.stringify(new URL("../../lib/block/options.ts", import.meta.url).href)
};
export const slow = {
  name: "slow",
  summary: "reads nothing but zeroes",
  argument: "size",
  options: optionSchema({ size: sizeOption({ summary: "size", default: 2 ** 40 }) }),
  open: ({ size }) => Promise.resolve({
    backend: {
      geometry: { size, minimum: 1, preferred: 4096, maximum: 2 ** 25, readOnly: false },
      capabilities: { synchronous: true, fua: true },
      read: (into) => { dispatchEvent(new Event("slow-read")); into.fill(7); },
      write: () => {},
      flush: () => {},
      [Symbol.asyncDispose]: () => Promise.resolve(),
    },
  }),
};
`;

Deno.test("--backend loads a backend from a file, and says what is wrong with another one", async () => {
  await using folder = await temporaryFolder();
  const write = async (name: string, text: string): Promise<string> => {
    await Deno.writeTextFile(`${folder.path}/${name}`, text);
    return `${folder.path}/${name}`;
  };
  const good = await write("good.ts", SLOW_BACKEND);
  const { code, stdout } = await dmu(["info", "slow:", "--backend", good]);
  assert.equal(code, 0);
  assert.match(stdout, /^ {2}size +1 TiB /m);
  const bad = await write("bad.ts", "export const nothing = 1;");
  const broken = await write("broken.ts", "export const = 1;");
  const rows: readonly (readonly [string, RegExp])[] = [
    [
      bad,
      /bad\.ts: it exports no object with name, summary, options and open \(it exports nothing\)/,
    ],
    [broken, /Cannot load the backend .*broken\.ts: /],
    [`${folder.path}/absent.ts`, /Cannot load the backend .*absent\.ts: /],
  ];
  for (const [path, message] of rows) {
    const run = await dmu(["info", "slow:", "--backend", path]);
    assert.equal(run.code, 2);
    assert.match(run.stderr, message);
  }
  const twice = await dmu(["backends", "--backend", good, "--backend", good]);
  assert.match(twice.stderr, /Cannot register backend slow: the name is taken/);
});
