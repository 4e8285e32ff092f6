/**
 * The backends of the guide for backend authors: they are what the guide shows, and they pass the kit.
 *
 * @module
 */
import assert from "node:assert/strict";
import { chunks } from "../../docs/examples/chunks.ts";
import { ram } from "../../docs/examples/ram.ts";
import { upper } from "../../docs/examples/upper.ts";
import { type ContractOptions, contractTests, testContext } from "../../lib/testing/mod.ts";
import { type Backend, type Opened, parseSpec, Registry, systemContext } from "../../mod.ts";
import { makeAsync } from "../support/async_backend.ts";

const ROOT = new URL("../../", import.meta.url);

for (
  const { name, run } of contractTests("ram", () => ram.open({ size: 3 * 2 ** 20 }, testContext()))
) Deno.test(name, run);

/** Folders that are made for each case and removed after it. */
function folders(): ContractOptions & { open: () => Promise<Opened> } {
  let folder = "";
  const { log } = testContext();
  const reopen = (): Promise<Opened> =>
    chunks.open({ folder, size: 200 * 2 ** 20 + 4096 }, systemContext({ log }));
  return {
    open: async () => {
      folder = await Deno.makeTempDir();
      return await reopen();
    },
    reopen,
    cleanUp: () => Deno.remove(folder, { recursive: true }),
    largestBytes: 2 ** 22,
  };
}

const { open, ...options } = folders();
for (const { name, run } of contractTests("chunks", open, options)) Deno.test(name, run);

Deno.test("chunks refuses a disk of more chunks than it can hold open", async () => {
  await assert.rejects(() => chunks.open({ folder: ".", size: 2 ** 40 }, testContext()), {
    errno: "EINVAL",
  });
});

Deno.test("upper reads small letters as capitals, whether the layer below takes time or not", async () => {
  for (const below of [(disk: Backend) => disk, (disk: Backend) => makeAsync(disk)]) {
    const disk = below((await ram.open({ size: 2 ** 20 }, testContext())).backend);
    const { backend } = await upper.open(disk, {}, testContext());
    await backend.write(new TextEncoder().encode("Block 1z{"), 100, { fua: false });
    const bytes = new Uint8Array(9);
    const reading = backend.read(bytes, 100);
    assert.equal(reading instanceof Promise, !backend.capabilities.synchronous);
    await reading;
    assert.equal(new TextDecoder().decode(bytes), "BLOCK 1Z{");
    assert.equal(backend.trim, undefined);
    await backend[Symbol.asyncDispose]();
  }
  const registry = new Registry();
  registry.registerFilter(upper);
  assert.equal(registry.findFilter("upper").name, "upper");
});

Deno.test("the guide's examples can be registered and named in a spec", () => {
  const registry = new Registry();
  registry.register(ram);
  registry.register(chunks);
  assert.equal(registry.prepare(parseSpec("ram:1M")).type.name, "ram");
  assert.equal(registry.prepare(parseSpec("chunks:folder?size=1G")).type.name, "chunks");
});

Deno.test("the guide shows the examples as they are", async () => {
  const guide = await Deno.readTextFile(new URL("docs/writing-backends.md", ROOT));
  const ramText = await Deno.readTextFile(new URL("docs/examples/ram.ts", ROOT));
  assert.ok(guide.includes(ramText), "docs/writing-backends.md and docs/examples/ram.ts differ");
  const upperText = await Deno.readTextFile(new URL("docs/examples/upper.ts", ROOT));
  assert.ok(
    guide.includes(upperText),
    "docs/writing-backends.md and docs/examples/upper.ts differ",
  );
});
