/**
 * Dirty bitmaps of a daemon's targets: what a configuration says of them, what the control plane does and
 * shows, and changes that go past the Device.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { memory } from "../../backends/memory.ts";
import { defaultRegistry } from "../../backends/mod.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import { type ConfigParts, finishConfig, parseConfig } from "../../lib/daemon/config.ts";
import { openTarget } from "../../lib/daemon/target.ts";
import { MemoryLog } from "../support/context.ts";
import { untilState, untilValue, valueOf, wish } from "../support/control.ts";
import { withPlane } from "../support/control_plane.ts";
import { withTempDir } from "../support/tools.ts";

const KIB = 1024, MIB = 1024 * KIB;

/** Time after which something that has to become so has failed to, in ms. */
const UNTIL_MS_MAX = 30_000;

/** Resolves when something is so; fails if it does not become so for long. */
async function until(condition: () => boolean): Promise<void> {
  const end_ms = performance.now() + UNTIL_MS_MAX;
  while (!condition()) {
    assert.ok(performance.now() < end_ms, `not within ${UNTIL_MS_MAX} ms: ${condition}`);
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
  }
}

function parse(target: string, top = 'bitmaps = "/b"'): ConfigParts {
  const text = `${top}\n[[target]]\nname = "d"\nspec = "memory:1M"\n${target}\n`;
  return parseConfig(text, { path: "dmu.toml" });
}

Deno.test("parseConfig() reads bitmaps with their granularity", () => {
  const parts = parse('bitmaps = ["nightly", "weekly.x:1M"]');
  assert.equal(parts.bitmapDir, "/b");
  assert.deepEqual(parts.targets?.[0]?.bitmaps, [
    { name: "nightly" },
    { name: "weekly.x", granularity: MIB },
  ]);
});

Deno.test("parseConfig() says where a bitmap is wrong", () => {
  const rows: [string, RegExp][] = [
    ['bitmaps = ["a/b"]', /a bitmap's name is made of letters.*dmu\.toml:5:\d+|a\/b/],
    ['bitmaps = ["b:1000"]', /a granularity is a power of two/],
    ['bitmaps = ["b:x"]', /Cannot keep bitmap "b:x": its granularity/],
    ['bitmaps = ["b:1M:2"]', /write NAME or NAME:GRANULARITY/],
    ['bitmaps = "b"', /must be a list/],
  ];
  for (const [text, message] of rows) {
    assert.throws(() => parse(text), (error: unknown) => {
      assert.ok(error instanceof UsageError && error.place !== null, text);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("finishConfig() wants a folder for bitmaps, that of the state if there is no other", () => {
  const nbd = 'nbd = ["unix:/run/s"]';
  const finish = (target: string, top: string): string | null =>
    finishConfig(parse(target, `${nbd}\n${top}`)).bitmapDir;
  assert.equal(finish('bitmaps = ["b"]', 'state = "/s"'), "/s/bitmaps");
  assert.equal(finish("", ""), null);
  assert.throws(() => finish('bitmaps = ["b"]', ""), /there is no folder for them/);
  assert.throws(() => finish('bitmaps = ["b", "b"]', 'bitmaps = "/b"'), /two have the same name/);
});

interface Opened {
  readonly log: MemoryLog;
  readonly target: Awaited<ReturnType<typeof openTarget>>;
}

async function opened(folder: string, spec: string, bitmaps: readonly string[]): Promise<Opened> {
  const registry = defaultRegistry();
  registry.register({
    ...memory,
    name: "kept",
    open: async (...args: Parameters<typeof memory.open>) => ({
      ...await memory.open(...args),
      management: { applySnapshot: () => undefined, commit: () => undefined },
    }),
  });
  const log = new MemoryLog();
  const config = {
    name: "d",
    spec: parseSpec(spec),
    description: "",
    readOnly: false,
    bitmaps: bitmaps.map((name) => ({ name })),
    bitmapFolder: folder,
  };
  const giveUp = new AbortController().signal;
  const target = await openTarget(config, { registry, log, pool: new BufferPool(), giveUp });
  return { log, target };
}

Deno.test("a bitmap that a target has to have begins with all marked, and then goes on", async () => {
  await withTempDir(async (folder) => {
    const spec = `file:${join(folder, "d.img")}?size=1M`;
    const places = join(folder, "a/b");
    {
      const { target } = await opened(places, spec, ["nightly"]);
      assert.equal(target.bitmaps[0]?.dirtyBytes, MIB);
      await assert.rejects(opened(places, "memory:1M", ["nightly"]), {
        errno: "EAGAIN",
        message: /Cannot open target d: Cannot open bitmap nightly of d: another daemon has it/,
      });
      await target.bitmap({ action: "clear", name: "nightly" });
      const data = new Uint8Array(1);
      await target.device.submit(makeRequest("write", 0, 1, { data }));
      await target.close();
    }
    const { target, log } = await opened(places, spec, ["nightly"]);
    assert.deepEqual([target.bitmaps[0]?.dirtyBytes, log.lines], [64 * KIB, []]);
    await target.close();
    const other = await opened(places, "memory:1M", []);
    assert.match(other.log.lines.join(), /kept for other storage: all of the disk is marked/);
    assert.equal(other.target.bitmaps[0]?.dirtyBytes, MIB);
    await other.target.bitmap({ action: "remove", name: "nightly" });
    await other.target.close();
    assert.deepEqual([...Deno.readDirSync(places)], []);
  });
});

Deno.test("a snapshot that is applied counts as a change of all", async () => {
  await withTempDir(async (folder) => {
    const { target } = await opened(folder, "kept:1M", []);
    await target.bitmap({ action: "add", name: "b", persistent: false });
    await target.management?.commit?.();
    assert.equal(target.bitmaps[0]?.dirtyBytes, 0);
    await target.management?.applySnapshot?.("s");
    assert.equal(target.bitmaps[0]?.dirtyBytes, MIB);
    await target.close();
  });
});

Deno.test("bitmaps are made, shown and removed through the control plane", async () => {
  await withPlane(async ({ client, ask, targets }) => {
    await wish(client, "d@x", { backend: "memory:1M" });
    await untilState(client, "d@x", "4");
    const bitmap = { verb: "bitmap", target: "d.x" };
    const facts = { name: "a.b", granularity: 4096, persistent: false, frozen: false };
    assert.deepEqual(await ask({ ...bitmap, action: "list" }), { ok: true, bitmaps: [] });
    assert.deepEqual(await ask({ ...bitmap, action: "add", name: "a.b", granularity: 4096 }), {
      ok: true,
      bitmaps: [{ ...facts, dirtyBytes: 0, newBytes: 0 }],
    });
    await ask({ ...bitmap, action: "add", name: "c", marked: true });
    const node = "/dmu/target/d@x/bitmap";
    assert.deepEqual((await client.directory(node)).sort(), ["a@b", "c"]);
    assert.equal(await valueOf(client, `${node}/a@b/granularity`), "4096");
    assert.equal(await valueOf(client, `${node}/a@b/persistent`), "0");
    await ask({ ...bitmap, action: "freeze", name: "c" });
    assert.equal(await valueOf(client, `${node}/c/frozen`), "1");
    // What others take away comes back.
    await client.remove(`${node}/c`);
    await untilValue(client, `${node}/c/frozen`, (value) => value === "1");
    await ask({ ...bitmap, action: "remove", name: "a.b" });
    assert.deepEqual(await client.directory(node), ["c"]);
    assert.deepEqual(targets.exports.exports.get("d.x")?.contexts, [
      "base:allocation",
      "qemu:dirty-bitmap:c",
    ]);
    await ask({ ...bitmap, action: "merge", name: "c" });
    await ask({ ...bitmap, action: "remove", name: "c" });
    assert.equal(await valueOf(client, node), null);
    const refusals: [Record<string, unknown>, string, RegExp][] = [
      [{ action: "add", name: "p", persistent: true }, "EOPNOTSUPP", /start it with --bitmaps DIR/],
      [{ action: "add" }, "EINVAL", /name/],
      [{ action: "shred", name: "c" }, "EINVAL", /action/],
      [{ action: "clear", name: "c" }, "EINVAL", /there is none/],
      [{ action: "list", target: "e" }, "ENOENT", /none of this name/],
    ];
    for (const [request, errno, message] of refusals) {
      const answer = await ask({ ...bitmap, ...request });
      assert.deepEqual([answer["ok"], answer["errno"]], [false, errno]);
      assert.match(String(answer["message"]), message);
    }
  });
});

Deno.test("an open file's end merges a point that it was told to", async () => {
  await withPlane(async ({ client, ask, minor, hangUp, targets }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    for (const action of ["merge d", "merge d b c", "merge e b"]) {
      assert.equal((await ask({ verb: "onexit-add", minor, action }))["ok"], false, action);
    }
    await ask({ verb: "bitmap", target: "d", action: "add", name: "b", marked: true });
    await ask({ verb: "bitmap", target: "d", action: "freeze", name: "b" });
    const added = await ask({ verb: "onexit-add", minor, action: "merge d b" });
    assert.equal(added["ok"], true);
    hangUp();
    await until(() => targets.opened("d").bitmaps[0]?.frozen === false);
    assert.equal(targets.opened("d").bitmaps[0]?.dirtyBytes, MIB);
  });
});
