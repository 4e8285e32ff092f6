/** The registry: finding kinds, checking options before anything is opened, refusing what collides. @module */
import assert from "node:assert/strict";
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError, hasErrno } from "../../lib/block/errors.ts";
import type { ImageTools } from "../../lib/block/image.ts";
import {
  describeOptions,
  flagOption,
  type OptionSchema,
  optionSchema,
  pathOption,
  sizeOption,
} from "../../lib/block/options.ts";
import { isBackendType, Registry } from "../../lib/block/registry.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { Backend, BackendType, FilterType, Opened } from "../../lib/block/types.ts";
import { UsageError } from "../../lib/block/usage_error.ts";

const backend: Backend = {
  geometry: { size: 0, minimum: 1, preferred: 4096, maximum: 4096, readOnly: false },
  capabilities: { synchronous: true, fua: false },
  read: () => {},
  write: () => {},
  flush: () => {},
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

const context: OpenContext = {
  clock: { now: () => 0, wall: () => 0, sleep: () => Promise.resolve() },
  random: { uint32: () => 4, fill: () => {} },
  files: {
    open: () => {
      throw new BlockError("ENOENT", "Cannot open a file: there are none here");
    },
  },
  log: { error: () => {}, warn: () => {}, info: () => {}, debug: () => {} },
  signal: new AbortController().signal,
  readOnly: false,
  mayBlock: false,
};

interface DiskOptions {
  readonly path: string;
  readonly direct: boolean;
}

const diskOptions: OptionSchema<DiskOptions> = optionSchema<DiskOptions>({
  path: pathOption({ summary: "The file" }),
  direct: flagOption({ summary: "No cache", default: false }),
});

function diskType(seen: DiskOptions[], fault?: unknown): BackendType<DiskOptions> {
  return {
    name: "disk",
    summary: "A disk",
    options: diskOptions,
    argument: "path",
    open(options: DiskOptions): Promise<Opened> {
      if (fault !== undefined) throw fault;
      seen.push(options);
      return Promise.resolve({ backend });
    },
  };
}

const voidType: BackendType<{ size: number }> = {
  name: "void",
  summary: "Nothing",
  options: optionSchema({ size: sizeOption({ summary: "Size", default: 2 ** 30 }) }),
  open: () => Promise.resolve({ backend }),
};

const remoteType: BackendType<{ uri: string }> = {
  name: "remote",
  summary: "Elsewhere",
  options: optionSchema({ uri: pathOption({ summary: "The URI" }) }),
  argument: "uri",
  schemes: ["remote", "remote+unix"],
  open: () => Promise.resolve({ backend }),
};

function registryOf(disk: BackendType<DiskOptions> = diskType([])): Registry {
  const registry = new Registry();
  registry.register(disk);
  registry.register(voidType);
  registry.register(remoteType);
  return registry;
}

Deno.test("Registry.open() gives the backend its checked options", async () => {
  const seen: DiskOptions[] = [];
  const registry = registryOf(diskType(seen));
  const { opened, spec, type } = await registry.open(parseSpec("disk:/a?direct=yes"), context);
  assert.equal(opened.backend, backend);
  assert.equal(spec.text, "disk:/a?direct=yes");
  assert.equal(type.name, "disk");
  await registry.open(parseSpec("disk:?path=/b"), context);
  assert.deepEqual(seen, [{ path: "/a", direct: true }, { path: "/b", direct: false }]);
});

Deno.test("Registry.prepare() opens nothing and refuses what cannot be opened", () => {
  const seen: DiskOptions[] = [];
  const registry = registryOf(diskType(seen));
  const rows: readonly (readonly [string, string, string])[] = [
    [
      "dsk:x",
      "«dsk»:x",
      'Cannot open "dsk:x": there is no kind "dsk"; did you mean "disk"? (there are disk, remote, void)',
    ],
    [
      "qcow2:x",
      "«qcow2»:x",
      'Cannot open "qcow2:x": there is no kind "qcow2"; there are disk, remote, void',
    ],
    [
      "disk:///etc/x",
      "«disk»:///etc/x",
      'Cannot open "disk:///etc/x": disk takes no URI; write disk:/etc/x',
    ],
    [
      "remote+unx://x",
      "«remote+unx»://x",
      'Cannot open "remote+unx://x": there is no scheme "remote+unx"; did you mean "remote+unix"?',
    ],
    [
      "http://x",
      "«http»://x",
      'Cannot open "http://x": no backend takes the scheme "http"; there are remote, remote+unix',
    ],
    ["disk:", "disk:«»", "Cannot open disk: its path is missing"],
    ["disk:?direct", "disk:«»?direct", "Cannot open disk: its path is missing"],
    [
      "disk:x?drect",
      "disk:x?«drect»",
      'Cannot open disk: there is no option "drect"; did you mean "direct"?',
    ],
    [
      "disk:x?direct=2",
      "disk:x?direct=«2»",
      'Cannot open disk: option "direct" must be true or false (or yes, no, on, off, 1, 0)',
    ],
    [
      "disk:x?path=y",
      "disk:x?«path»=y",
      'Cannot open disk: its path is given twice, after "disk:" and as an option',
    ],
    [
      "void:1G",
      "void:«1G»",
      "Cannot open void: void takes options only; write void:?option=value, or nothing there",
    ],
    [
      "void:?size=1Q",
      "void:?size=«1Q»",
      'Cannot open void: option "size" must be a size such as 512, 64k or 1.5G, not "1Q"',
    ],
  ];
  for (const [text, marked, message] of rows) {
    assert.throws(() => registry.prepare(parseSpec(text)), (error) => {
      assert.ok(error instanceof UsageError && error.place !== null, String(error));
      const { text: source, start, end } = error.place;
      assert.equal(error.message, message);
      assert.equal(
        `${source.slice(0, start)}«${source.slice(start, end)}»${source.slice(end)}`,
        marked,
      );
      return true;
    });
  }
  assert.deepEqual(seen, []);
});

Deno.test("Registry.find() hands a URI whole to the kind that claims its scheme", () => {
  const registry = registryOf();
  const { type } = registry.prepare(parseSpec("remote+unix:///x?socket=y"));
  assert.equal(type.name, "remote");
});

Deno.test("Registry.open() turns what a backend throws into a BlockError, a usage error stays", async () => {
  const spec = parseSpec("disk:x");
  const missing = new Deno.errors.NotFound("Cannot open x");
  await assert.rejects(registryOf(diskType([], missing)).open(spec, context), { errno: "ENOENT" });
  await assert.rejects(registryOf(diskType([], new TypeError("bug"))).open(spec, context), {
    errno: "EIO",
  });
  // What a backend throws that was loaded with a copy of the library of its own.
  const foreign = Object.assign(new Error("full"), { errno: "ENOSPC" });
  await assert.rejects(
    registryOf(diskType([], foreign)).open(spec, context),
    (error) => error instanceof BlockError && error.errno === "ENOSPC" && hasErrno(foreign),
  );
  const usage = new UsageError("Cannot open disk: the size of a new file is missing");
  await assert.rejects(
    registryOf(diskType([], usage)).open(spec, context),
    (error) => error === usage,
  );
});

Deno.test("Registry.register() refuses names that are taken or malformed", () => {
  const registry = registryOf();
  assert.throws(() => registry.register(voidType), /backend void: the name is taken/);
  assert.throws(
    () => registry.register({ ...remoteType, name: "other" }),
    /Cannot register backend other: remote claims the scheme remote already/,
  );
  for (const name of ["", "A", "1a", "a_b", "a:b"]) {
    assert.throws(() => registry.register({ ...voidType, name }), UsageError, name);
  }
  assert.deepEqual(registry.kinds, ["disk", "remote", "void"]);
});

Deno.test("Registry describes its kinds", () => {
  const [disk] = registryOf().backends;
  assert.ok(disk !== undefined);
  assert.equal(disk.argument, "path");
  assert.deepEqual(describeOptions(disk.options).map(({ name, type }) => `${name}:${type}`), [
    "path:path",
    "direct:flag",
  ]);
});

Deno.test("Registry.findFilter() finds filters and checks their options", async () => {
  const registry = new Registry();
  const slow: FilterType<{ direct: boolean }> = {
    name: "slow",
    summary: "Slows down",
    options: optionSchema({ direct: flagOption({ summary: "x", default: false }) }),
    open: (next) => Promise.resolve({ backend: next }),
  };
  registry.registerFilter(slow);
  assert.throws(() => registry.registerFilter(slow), /filter slow: the name is taken/);
  assert.throws(
    () => registry.prepareFilter(parseSpec("slow:?drct")),
    /Cannot use filter slow: there is no option "drct"; did you mean "direct"\?/,
  );
  const opened = await registry.prepareFilter(parseSpec("slow:?direct"))(backend, context);
  assert.equal(opened.backend, backend);
  assert.throws(
    () => registry.findFilter("sow"),
    /Cannot use filter "sow": there is no such filter; did you mean "slow"\?/,
  );
});

Deno.test("isBackendType() tells a backend type from what a module may export besides", () => {
  assert.ok(isBackendType(voidType));
  assert.ok(isBackendType(diskType([])));
  const { name: _name, ...nameless } = voidType;
  const wrong: readonly unknown[] = [
    null,
    undefined,
    "void",
    () => {},
    nameless,
    { ...voidType, options: {} },
    { ...voidType, options: { size: "size" } },
    { ...voidType, open: null },
    { ...voidType, schemes: "nbd" },
  ];
  for (const value of wrong) assert.equal(isBackendType(value), false, Deno.inspect(value));
});

Deno.test("Registry finds the kind of an image, and its tools", () => {
  const registry = new Registry();
  const image: ImageTools<DiskOptions> = {
    format: "disk9",
    createOptions: optionSchema({}),
    detect: (head) => head[0] === 9,
    create: () => Promise.resolve(),
    info: ({ path }) =>
      Promise.resolve({ virtualSize: 1, filename: path, format: "disk9", dirtyFlag: false }),
  };
  const type: BackendType<DiskOptions> = { ...diskType([]), image };
  assert.ok(isBackendType(type));
  assert.ok(!isBackendType({ ...type, image: { ...image, info: undefined } }));
  registry.register(type);
  registry.register({ ...diskType([]), name: "other" });
  assert.equal(registry.detectImage(new Uint8Array([9, 9]))?.name, "disk");
  assert.equal(registry.detectImage(new Uint8Array([8])), null);
  const { disk, tools } = registry.prepareImage(parseSpec("disk:a.img?direct"));
  assert.deepEqual(disk, { path: "a.img", direct: true });
  assert.equal(tools.format, "disk9");
  assert.throws(
    () => registry.prepareImage(parseSpec("other:a.img")),
    /^UsageError: Cannot work on "other:a.img": there are no image tools for other, only for disk$/,
  );
  assert.throws(() => registry.prepareImage(parseSpec("disk:a.img?size=3")), UsageError);
});
