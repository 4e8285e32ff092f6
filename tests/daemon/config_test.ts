/** Configuration files: what they become, and file:line:column of whatever is wrong. @module */
import assert from "node:assert/strict";
import { parseSpec } from "../../lib/block/spec.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  type ConfigParts,
  finishConfig,
  parseConfig,
  readConfig,
  type TargetConfig,
} from "../../lib/daemon/config.ts";
import { defaultRegistry } from "../../backends/mod.ts";

const FULL = `
default = "disk"
nbd = [
  "unix:/run/dmu.sock?mode=0660", # for qemu
  "tcp:10809",
]

driver = "streams"

[tls]
certificates = "/etc/dmu/tls"
require = true

[limits]
connections = 20

[[target]]
name = "disk"
spec = "file:/var/lib/disk.img?direct=yes"
description = "The disk"

[[target]]
name = "scratch"
kind = "memory"
options = { size = "4G", limit = 1048576 }
read-only = true

[[target]]
name = "empty"
kind = "null"

[target.options]
size = "1T"
`;

function parse(text: string): ConfigParts {
  const kinds = ["file", "memory", "null"];
  return parseConfig(text, { path: "dmu.toml", kinds });
}

function faultOf(run: () => unknown): UsageError {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof UsageError, String(error));
    return error;
  }
  throw new Error("nothing was thrown");
}

Deno.test("parseConfig() reads a whole file", () => {
  const config = finishConfig(parse(FULL));
  assert.equal(config.defaultTarget, "disk");
  assert.deepEqual(config.endpoints, [
    { kind: "unix", path: "/run/dmu.sock", mode: 0o660 },
    { kind: "tcp", host: "127.0.0.1", port: 10809 },
  ]);
  assert.deepEqual(config.tls, { certificates: "/etc/dmu/tls", require: true });
  assert.equal(config.connectionsMax, 20);
  assert.equal(config.driver, "streams");
  const shown = config.targets.map(({ name, description, readOnly, spec }) => [
    name,
    description,
    readOnly,
    spec.text,
  ]);
  assert.deepEqual(shown, [
    ["disk", "The disk", false, "file:/var/lib/disk.img?direct=yes"],
    ["scratch", "", true, "memory:?size=4G&limit=1048576"],
    ["empty", "", false, "null:?size=1T"],
  ]);
  for (const { spec } of config.targets) defaultRegistry().prepare(spec);
});

Deno.test("parseConfig() names file, line and column of what is wrong, and marks it", () => {
  const head = '[[target]]\nname = "a"\n';
  const rows: readonly (readonly [string, string, string])[] = [
    ["x = [1,\n y = 2", "dmu.toml:2:2: Cannot read the configuration: invalid value", " «»y = 2"],
    [
      "nbt = []",
      'dmu.toml:1:1: Cannot read the configuration: there is no option "nbt"; did you mean "nbd"?',
      "«nbt» = []",
    ],
    [
      "nbd = 3",
      'dmu.toml:1:7: Cannot read the configuration: option "nbd" must be a list',
      "nbd = «3»",
    ],
    [
      "nbd = [3]",
      'dmu.toml:1:7: Cannot read the configuration: option "nbd" must be a list of endpoints, each as text',
      "nbd = «[3]»",
    ],
    [
      'nbd = [\n  "unix:/a",\n  "tcp:x:y",\n]',
      'dmu.toml:3:4: Cannot listen on "tcp:x:y": its port must be a whole number from 0 to 65535',
      "tcp:x:«y»",
    ],
    [
      'default = "b"\n' + head + 'spec = "memory:1G"',
      'dmu.toml:1:11: Cannot make "b" the default: there is no such target',
      'default = «"b"»',
    ],
    [
      "[tls]\nrequire = true",
      'dmu.toml:1:1: Cannot read [tls]: option "certificates" is missing',
      "«[tls]»",
    ],
    [
      '[tls]\ncertificates = "x"\nrequire = "perhaps"  # what',
      'dmu.toml:3:11: Cannot read [tls]: option "require" must be true or false (or yes, no, on, off, 1, 0)',
      'require = «"perhaps"»  # what',
    ],
    [
      "[limits]\nconnections = 0",
      'dmu.toml:2:15: Cannot read [limits]: option "connections" must be a whole number from 1 to 65536',
      "connections = «0»",
    ],
    [
      "[target]\nname = 'x'",
      'dmu.toml:1:1: Cannot read the configuration: option "target" must be written as [[target]]',
      "«[target]»",
    ],
    [
      '[[target]]\nspec = "memory:1G"',
      'dmu.toml:1:1: Cannot read [[target]]: option "name" is missing',
      "«[[target]]»",
    ],
    [
      head,
      "dmu.toml:1:1: Cannot read [[target]]: it says not what to open; " +
      'write spec = "KIND:ARGUMENT", or kind and a table of options',
      "«[[target]]»",
    ],
    [
      '[[target]]\nname = "a/b"\nspec = "memory:1G"',
      'dmu.toml:2:8: Cannot add target "a/b": a target\'s name is made of letters, digits, dots, ' +
      "underscores and hyphens",
      'name = «"a/b"»',
    ],
    [
      `${head}spec = "memory:1G"\n${head}spec = "memory:2G"`,
      'dmu.toml:5:8: Cannot add target "a": another target has this name',
      'name = «"a"»',
    ],
    [
      `${head}spec = "memory:1G"\nkind = "memory"`,
      'dmu.toml:4:1: Cannot read [[target]]: it has a spec, so no "kind"',
      '«kind» = "memory"',
    ],
    [
      `${head}spec = "disk.img"`,
      'dmu.toml:3:8: Cannot read "disk.img": it does not begin with a kind of storage; ' +
      "write file:disk.img",
      "«disk.img»",
    ],
    [
      `${head}spec = "memory:1G"\nread-olny = true`,
      'dmu.toml:4:1: Cannot read [[target]]: there is no option "read-olny"; did you mean "read-only"?',
      "«read-olny» = true",
    ],
  ];
  for (const [text, message, marked] of rows) {
    const fault = faultOf(() => parse(text));
    assert.equal(fault.message, message);
    const { text: line, start, end } = fault.place ?? { text: "", start: 0, end: 0 };
    assert.equal(`${line.slice(0, start)}«${line.slice(start, end)}»${line.slice(end)}`, marked);
  }
});

Deno.test("options of a configured target are checked at their place", () => {
  const rows: readonly (readonly [string, string])[] = [
    [
      '[[target]]\nname = "a"\nkind = "memory"\noptions = { size = "1Q" }',
      'dmu.toml:4:20: Cannot open memory: its size must be a size such as 512, 64k or 1.5G, not "1Q"',
    ],
    [
      '[[target]]\nname = "a"\nkind = "memory"\n[target.options]\nsize = "1G"\nlimti = 1',
      'dmu.toml:6:1: Cannot open memory: there is no option "limti"; did you mean "limit"?',
    ],
    [
      '[[target]]\nname = "a"\nkind = "memroy"',
      'dmu.toml:3:8: Cannot open "memroy:": there is no kind "memroy"; did you mean "memory"?',
    ],
    [
      '[[target]]\nname = "a"\nspec = "memory:1Q"',
      'dmu.toml:3:8: Cannot open memory: its size must be a size such as 512, 64k or 1.5G, not "1Q"',
    ],
  ];
  for (const [text, message] of rows) {
    const [target] = parse(text).targets ?? [];
    assert.ok(target !== undefined);
    const fault = faultOf(() => defaultRegistry().prepare(target.spec));
    assert.ok(fault.message.startsWith(message), fault.message);
  }
});

Deno.test("places stay right after multi-line strings and arrays", () => {
  const text = [
    "[[target]]",
    'name = "a"',
    'description = """',
    "[tls]",
    'spec = "not this"',
    '"""',
    'spec = "nope"',
  ].join("\n");
  assert.match(faultOf(() => parse(text)).message, /^dmu\.toml:7:8: Cannot read "nope"/);
});

function target(name: string): TargetConfig {
  return { name, spec: parseSpec("memory:1G"), description: "", readOnly: false };
}

Deno.test("finishConfig() chooses the default target", () => {
  const endpoints = [{ kind: "tcp", host: "127.0.0.1", port: 1 }] as const;
  const choose = (...names: string[]): string | null =>
    finishConfig({ targets: names.map(target), endpoints }).defaultTarget;
  assert.equal(choose("only"), "only");
  assert.equal(choose("a", "default"), "default");
  assert.equal(choose("a", "b"), null);
  const told = { targets: [target("a"), target("b")], endpoints, defaultTarget: "b" };
  assert.equal(finishConfig(told).defaultTarget, "b");
  assert.equal(finishConfig({ ...told, defaultTarget: null }).defaultTarget, null);
});

Deno.test("finishConfig() refuses what does not fit together", () => {
  const unix = { kind: "unix", path: "/a", mode: 0o600 } as const;
  const tcp = { kind: "tcp", host: "::1", port: 0 } as const;
  const targets = [target("a")];
  const rows: readonly (readonly [ConfigParts, RegExp])[] = [
    [{ endpoints: [unix] }, /Cannot serve: there is no target/],
    [{ targets }, /there is no endpoint; add --nbd unix:PATH/],
    [{ targets: [target("a"), target("a")], endpoints: [unix] }, /"a": the name is given twice/],
    [{ targets: [target("a b")], endpoints: [unix] }, /"a b": a target's name is made of/],
    [{ targets, endpoints: [unix], defaultTarget: "x" }, /no such target; there are a$/],
    [{ targets, endpoints: [unix, { ...unix, mode: 0o666 }] }, /"unix:\/a\?.*given twice/],
    [{ targets, endpoints: Array(65).fill(tcp) }, /more than 64 endpoints/],
    [
      { targets: Array.from({ length: 4097 }, (_, index) => target(`t${index}`)) },
      /more than 4096 targets/,
    ],
  ];
  for (const [parts, message] of rows) assert.throws(() => finishConfig(parts), message);
  assert.equal(finishConfig({ targets, endpoints: [tcp, tcp] }).endpoints.length, 2);
});

Deno.test("readConfig() says why a file cannot be read", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/dmu.toml`;
    await assert.rejects(readConfig(path), /Cannot read the configuration .*no such file/);
    await Deno.writeFile(path, new Uint8Array([0x61, 0xff]));
    await assert.rejects(
      readConfig(path),
      /Cannot read the configuration ".*it is not UTF-8 text$/,
    );
    await assert.rejects(readConfig(folder), /Cannot read the configuration ".*it is a directory$/);
    await Deno.writeTextFile(path, `# ${"x".repeat(1024 * 1024)}`);
    await assert.rejects(readConfig(path), /it has more than 1048576 bytes/);
    await Deno.writeTextFile(path, 'nbd = ["tcp:1"]');
    assert.equal((await readConfig(path)).endpoints?.length, 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the example of the operator guide is a configuration", async () => {
  const guide = await Deno.readTextFile(new URL("../../docs/operator-guide.md", import.meta.url));
  const examples = [...guide.matchAll(/^```toml\n([^]*?)^```/gm)].map((found) => found[1] ?? "");
  assert.equal(examples.length, 1);
  for (const text of examples) {
    const { targets } = finishConfig(parse(text));
    assert.equal(targets.length, 3);
    for (const { spec } of targets) defaultRegistry().prepare(spec);
  }
});
