/** What is done at the end of an open file: actions by their texts, over a whole control plane. @module */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../../backends/mod.ts";
import { memory } from "../../../backends/memory.ts";
import type { CollectReport } from "../../../lib/block/image.ts";
import type { Registry } from "../../../lib/block/registry.ts";
import { splitWords } from "../../../lib/daemon/control/words.ts";
import { untilState, valueOf, wish } from "../../support/control.ts";
import { withPlane } from "../../support/control_plane.ts";
import { withTempDir } from "../../support/tools.ts";

async function turn(): Promise<void> {
  await new Promise<void>((resolve) => setTimeout(resolve, 0));
}

/** A registry with a kind "kept" whose management notes what it is told. */
function registryWithNotes(notes: string[]): Registry {
  const registry = defaultRegistry();
  registry.register({
    ...memory,
    name: "kept",
    open: async (...args: Parameters<typeof memory.open>) => ({
      ...await memory.open(...args),
      management: {
        createSnapshot: (name: string): void => {
          if (name === "bad") throw new Error("no such name");
          notes.push(`snapshot ${name}`);
        },
        commit: (): void => void notes.push("commit"),
        collect: (): CollectReport => {
          notes.push("gc");
          return { movedBytes: 0, deletedObjects: 0, deletedBytes: 0 };
        },
      },
    }),
  });
  return registry;
}

Deno.test("splitWords() parts words as a shell does", () => {
  const rows: readonly (readonly [string, string[] | null])[] = [
    ["", []],
    ["  a  b\tc ", ["a", "b", "c"]],
    [`snapshot d 'a b' "c d"e`, ["snapshot", "d", "a b", "c de"]],
    [`'' "" a\\ b`, ["", "", "a b"]],
    [`"a\\"b\\\\c\\d" 'a\\b'`, ['a"b\\c\\d', "a\\b"]],
    ["'a", null],
    ['"a', null],
    ["a\\", null],
  ];
  for (const [text, words] of rows) assert.deepEqual(splitWords(text), words, text);
});

Deno.test("actions of an open file run at its end, in their order, and one that fails stops no other", async () => {
  const notes: string[] = [];
  await withPlane(async ({ client, minor, ask, hangUp, targets, files, log }) => {
    await wish(client, "d", { backend: "kept:1M" });
    await wish(client, "e", { backend: "memory:1M" });
    for (const name of ["d", "e"]) await untilState(client, name, "4");
    const texts = [
      "snapshot d bad",
      "snapshot d 'a name'",
      "commit d",
      "flush d",
      "snapshot d",
      "remove e",
      "gc d",
    ];
    for (const [index, action] of texts.entries()) {
      const reply = await ask({ verb: "onexit-add", minor, action });
      assert.deepEqual(reply, { ok: true, handle: index + 1 });
    }
    assert.deepEqual(files.get(minor).onexit.list().map(({ name }) => name), texts);
    hangUp();
    while (files.size > 0) await turn();
    assert.deepEqual(notes, ["snapshot a name", "commit", `snapshot onexit-${minor}-5`, "gc"]);
    assert.equal(targets.opened("d").device.statistics.flush.latency.count, 1);
    assert.equal(targets.get("e"), null);
    assert.equal(log.lines.filter((line) => line.startsWith("error: Onexit action 1")).length, 1);
  }, { registry: registryWithNotes(notes) });
});

Deno.test("actions are for the target that had the name when they were added", async () => {
  const notes: string[] = [];
  await withPlane(async ({ client, minor, ask, targets }) => {
    await wish(client, "d", { backend: "kept:1M" });
    await untilState(client, "d", "4");
    for (const action of ["remove d", "snapshot d", "commit d", "flush d", "gc d"]) {
      assert.equal((await ask({ verb: "onexit-add", minor, action }))["ok"], true);
    }
    await client.write("/dmu/target/d/state", "5");
    await untilState(client, "d", "6");
    await wish(client, "d", { backend: "kept:1M" });
    await untilState(client, "d", "4");
    const served = targets.get("d");
    for (const handle of [1, 2, 3, 4, 5]) {
      assert.deepEqual(await ask({ verb: "onexit-remove", minor, handle, fire: true }), {
        ok: true,
      });
    }
    assert.deepEqual(notes, []);
    assert.equal(targets.get("d"), served);
    assert.equal(await valueOf(client, "/dmu/target/d/state"), "4");
    assert.equal(targets.opened("d").device.statistics.flush.latency.count, 0);
  }, { registry: registryWithNotes(notes) });
});

Deno.test("hooks run with the facts of their file, and their failures are told", () =>
  withTempDir(async (folder) => {
    const script = 'echo "$0 $1 $DMU_MINOR $DMU_HANDLE $DMU_REASON $DMU_CONTROL" >> "$1"';
    const hooks = new Map([
      ["note", ["/bin/sh", "-c", script, "hook", `${folder}/notes`]],
      ["fail", ["/bin/sh", "-c", "exit 3"]],
      ["none", ["/nonexistent/program"]],
    ]);
    await withPlane(async ({ minor, ask, hangUp, files }) => {
      assert.deepEqual((await ask({ verb: "info" }))["hooks"], ["note", "fail", "none"]);
      for (const name of ["note", "fail", "none", "note"]) {
        await ask({ verb: "onexit-add", minor, action: `hook ${name}` });
      }
      const fire = (handle: number): Promise<Record<string, unknown>> =>
        ask({ verb: "onexit-remove", minor, handle, fire: true });
      assert.deepEqual(await fire(1), { ok: true });
      const failed = await fire(2);
      assert.deepEqual([failed["errno"], failed["message"]], [
        "EIO",
        "Hook fail ended with code 3",
      ]);
      assert.equal((await fire(3))["errno"], "ENOENT");
      hangUp();
      while (files.size > 0) await turn();
      const place = `${folder}/notes`;
      assert.equal(
        await Deno.readTextFile(place),
        `hook ${place} ${minor} 1 fire none\nhook ${place} ${minor} 4 close none\n`,
      );
    }, { hooks });
  }));

Deno.test("a control connection whose access was taken away steers nothing any more", () =>
  withPlane(async ({ minor, ask, files }) => {
    const reply = await ask({ verb: "revoke", minor, drain_ms: 1_000 });
    assert.deepEqual(reply, { ok: true, files: 1, drained: true });
    assert.equal((await ask({ verb: "self" }))["ok"], false);
    while (files.size > 0) await turn();
  }));
