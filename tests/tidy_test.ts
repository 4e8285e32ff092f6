/**
 * The house rules as tests: what may import what, where system calls live, how long a file may be,
 * that nothing is dead, unlisted, undocumented or linked to nowhere. Every exception is in
 * EXCEPTIONS with its reason, and one that is no longer needed fails as well.
 *
 * @module
 */
import assert from "node:assert/strict";
import { dirname, join, normalize } from "node:path/posix";
import { reachable, readTree, ROOT, type SourceFile } from "./support/tree.ts";
import type { Finding } from "./support/source_facts.ts";

/** Most lines of a file. */
const FILE_LINES_MAX = 600;

/** What each folder may import besides itself. The longest matching row counts; "" is everything. */
const FOLDERS: readonly {
  readonly folder: string;
  readonly imports: readonly string[];
  /** What it may take types from, beyond `imports`. */
  readonly types?: readonly string[];
}[] = [
  { folder: "mod.ts", imports: ["lib", "backends"] },
  { folder: "cli", imports: ["mod.ts", "lib", "backends"] },
  { folder: "backends", imports: ["lib/block", "lib/sys"] },
  { folder: "backends/mod.ts", imports: ["backends", "lib/block", "lib/filters"] },
  { folder: "backends/nbd.ts", imports: ["lib/block", "lib/sys", "lib/nbd"] },
  { folder: "backends/mirror", imports: ["lib/block", "lib/sys", "lib/dirty_log"] },
  {
    folder: "backends/s3",
    imports: ["lib/block", "lib/sys", "lib/object_store", "lib/log_disk"],
  },
  { folder: "lib/block", imports: [], types: ["lib/sys"] },
  { folder: "lib/filters", imports: ["lib/block"] },
  { folder: "lib/stream", imports: ["lib/block"] },
  { folder: "lib/driver", imports: ["lib/block", "lib/stream", "lib/sys"] },
  { folder: "lib/dm_user", imports: ["lib/block", "lib/stream", "lib/sys"] },
  { folder: "lib/nbd", imports: ["lib/block", "lib/stream", "lib/sys"] },
  { folder: "lib/fuse", imports: ["lib/block", "lib/stream", "lib/sys"] },
  { folder: "lib/handle", imports: ["lib/block"] },
  {
    folder: "lib/xenstore",
    imports: ["lib/block", "lib/driver", "lib/fuse", "lib/handle", "lib/stream", "lib/sys"],
  },
  { folder: "lib/dirty_log", imports: ["lib/block", "lib/sys"] },
  { folder: "lib/object_store", imports: ["lib/block", "lib/sys"] },
  { folder: "lib/log_disk", imports: ["lib/block", "lib/sys", "lib/object_store"] },
  { folder: "lib/trace", imports: ["lib/block", "lib/stream", "lib/sys"] },
  { folder: "lib/sys", imports: [] },
  {
    folder: "lib/bench",
    imports: ["lib/block", "lib/nbd", "lib/stream", "lib/sys", "lib/testing"],
  },
  { folder: "lib/testing", imports: ["lib/block", "lib/sys"] },
  { folder: "lib/daemon", imports: ["lib", "backends"] },
  { folder: "tests", imports: [""] },
  { folder: "bench", imports: [""] },
  { folder: "tools", imports: [] },
  { folder: "docs", imports: ["mod.ts", "lib/testing"] },
];

/** Packages that stay inside one place, so that they can be replaced there. */
const PACKAGE_HOMES: Readonly<Record<string, readonly string[]>> = {
  "@aws-sdk/credential-providers": ["lib/object_store"],
  "@bomb.sh/tab": ["cli"],
  "@commander-js/extra-typings": ["cli"],
  "@rgrove/parse-xml": ["lib/object_store"],
  aws4fetch: ["tests"],
  commander: ["cli"],
  "fast-check": ["tests", "lib/testing"],
  "smol-toml": ["lib/daemon", "tests"],
};

/** Packages that no file imports, because another package does: pinned here, used by that one. */
const PEERS: Readonly<Record<string, string>> = {
  commander: "@commander-js/extra-typings",
};

/** Words that say where or by whom a file was written, or where packages come from. */
const FOREIGN_WORDS: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [/(?<![\w.])\/(work|root|home\/\w+|Users)\//, "a path of one person's machine"],
  [/\/tmp\/(ref|plan)\b/, "a path of one person's machine"],
  [/\b(helper|worker|AI|agent) sessions?\b/i, "who wrote it is no part of it"],
  [/\bissues?( #|\/| )?\d+\b/i, "an issue number means nothing to a reader of the code"],
  [/\bshared\/(specs|data|hooks)\b|\bDESIGN(\.md)?\b/, "a document that is not in the tree"],
  [/\b(registry|npm|jsr|mirrors?)\.[\w-]+\.(io|org|com|dev|net)\b/i, "a package registry's host"],
  [/\/\/(jsr\.io|esm\.sh|deno\.land)\//, "a package registry's host"],
];

interface Exception {
  readonly rule: string;
  readonly path: string;
  readonly reason: string;
}

/** All exceptions, each with its reason. */
const EXCEPTIONS: readonly Exception[] = [
  {
    rule: "Deno.dlopen",
    path: "tests/support/source_facts.ts",
    reason: "it looks for that name and so has to spell it",
  },
];

const tree = readTree();
const sources = [...tree.sources.values()];
const needed = new Set<Exception>();

/** Fails with every problem that no exception covers. `problems` are paths with what is wrong there. */
function settle(rule: string, problems: readonly (readonly [path: string, what: string])[]): void {
  const left = problems.filter(([path]) => {
    const exception = EXCEPTIONS.find((each) => each.rule === rule && each.path === path);
    if (exception !== undefined) needed.add(exception);
    return exception === undefined;
  });
  assert.deepEqual(left.map(([path, what]) => `${path}: ${what}`), []);
}

function isUnder(path: string, folder: string): boolean {
  return folder === "" || path === folder || path.startsWith(`${folder}/`);
}

function under(...folders: string[]): SourceFile[] {
  return sources.filter(({ path }) => folders.some((folder) => isUnder(path, folder)));
}

function findings(what: Finding["what"], files: readonly SourceFile[]): [string, string][] {
  return files.flatMap(({ path, facts }) =>
    facts.findings.filter((each) => each.what === what)
      .map((each): [string, string] => [path, `${what} in line ${each.line}`])
  );
}

function isTest(path: string): boolean {
  return path.endsWith("_test.ts");
}

const testFiles = sources.filter(({ path }) => isTest(path));

Deno.test("the tree is read whole", () => {
  assert.ok(tree.sources.has("tests/tidy_test.ts"));
  assert.ok(tree.sources.has("lib/block/types.ts"));
  assert.ok(Object.keys(tree.manifest.imports).length > 0);
  const self = tree.sources.get("tests/tidy_test.ts");
  assert.ok(
    self?.edges.some(({ target }) =>
      target.kind === "file" && target.path === "tests/support/tree.ts"
    ),
  );
});

Deno.test("imports keep the directions of the folder table", () => {
  const problems: [string, string][] = [];
  for (const { path, edges } of sources) {
    const row = FOLDERS.filter(({ folder }) => isUnder(path, folder))
      .sort((a, b) => b.folder.length - a.folder.length)[0];
    if (row === undefined) {
      problems.push([path, "is in no folder of the table"]);
      continue;
    }
    for (const { target, typeOnly, line } of edges) {
      if (target.kind !== "file") continue;
      const allowed = [row.folder, ...row.imports, ...(typeOnly ? row.types ?? [] : [])];
      if (allowed.some((folder) => isUnder(target.path, folder))) continue;
      problems.push([path, `line ${line} imports ${target.path}, which ${row.folder} may not`]);
    }
  }
  settle("directions", problems);
});

Deno.test("imports lead to files that exist, platform modules, or the import map", () => {
  const problems: [string, string][] = [];
  for (const { path, edges } of sources) {
    for (const { target, specifier, line } of edges) {
      if (target.kind === "unknown") {
        problems.push([path, `line ${line}: "${specifier}" is not in the import map of deno.json`]);
      } else if (target.kind === "file" && !tree.paths.has(target.path)) {
        problems.push([path, `line ${line}: there is no ${target.path}`]);
      }
    }
  }
  settle("resolves", problems);
});

Deno.test("packages stay in the places that they are for", () => {
  const problems: [string, string][] = [];
  for (const { path, edges } of sources) {
    for (const { target, line } of edges) {
      const homes = target.kind === "package" ? PACKAGE_HOMES[target.name] : undefined;
      if (homes === undefined || homes.some((home) => isUnder(path, home))) continue;
      problems.push([path, `line ${line} imports a package that belongs to ${homes.join(", ")}`]);
    }
  }
  settle("packages", problems);
});

Deno.test("every package is exact, used, and explained in docs/dependencies.md", () => {
  const explained = tree.texts.get("docs/dependencies.md") ?? "";
  const used = new Set(
    sources.flatMap(({ edges }) =>
      edges.flatMap(({ target }) => target.kind === "package" ? [target.name] : [])
    ),
  );
  const problems: [string, string][] = [];
  for (const [name, address] of Object.entries(tree.manifest.imports)) {
    const found = /^(?:npm|jsr):((?:@[^/@]+\/)?[^/@]+)(@\d+\.\d+\.\d+[\w.-]*)?(?=\/|$)/.exec(
      address,
    );
    if (found === null) continue;
    if (found[2] === undefined) problems.push(["deno.json", `${name} has no exact version`]);
    if (!used.has(name) && !used.has(PEERS[name] ?? "")) {
      problems.push(["deno.json", `${name} is imported by no file`]);
    }
    if (!explained.includes(`\`${found[1]}\``)) {
      problems.push(["docs/dependencies.md", `does not explain \`${found[1]}\``]);
    }
  }
  settle("dependencies", problems);
});

Deno.test("Deno.dlopen is used in lib/sys alone", () => {
  const outside = sources.filter(({ path }) => !isUnder(path, "lib/sys"));
  settle("Deno.dlopen", findings("Deno.dlopen", outside));
});

Deno.test(`no file has more than ${FILE_LINES_MAX} lines`, () => {
  const problems: [string, string][] = [];
  for (const [path, text] of tree.texts) {
    if (isUnder(path, "tests/golden")) continue; // recorded data
    const lines = text.split("\n").length - 1;
    if (lines > FILE_LINES_MAX) problems.push([path, `has ${lines} lines`]);
  }
  settle("lines", problems);
});

Deno.test("every source file opens with a comment that says what it is, with @module", () => {
  const problems = sources.filter(({ facts }) => !facts.opensWithModuleComment)
    .map(({ path }): [string, string] => [path, "does not open with /** … @module */"]);
  settle("module comment", problems);
});

for (const what of ["default export", "any", "as unknown as", "compiler directive"] as const) {
  Deno.test(`no source file has: ${what}`, () => settle(what, findings(what, sources)));
}

Deno.test("tests do not sleep", () => {
  settle("sleep", findings("sleep", under("tests")));
});

Deno.test("every test file registers tests and asserts something", () => {
  const problems: [string, string][] = [];
  for (const { path, facts, edges } of testFiles) {
    const calls = [...facts.calls];
    const asserts = calls.some((name) => /(^|\.)assert\w*$/.test(name));
    const contractKit = edges.some(({ target }) =>
      target.kind === "file" && isUnder(target.path, "lib/testing")
    );
    if (!asserts && !contractKit) problems.push([path, "asserts nothing"]);
    const registers = facts.calls.has("Deno.test") ||
      edges.some(({ target }) =>
        target.kind === "file" && /support|lib\/testing/.test(target.path)
      );
    if (!registers) problems.push([path, "registers no test"]);
  }
  assert.ok(testFiles.length > 0);
  settle("asserts", problems);
});

Deno.test("tests are laid out as the code is", () => {
  const own = ["interop", "simulation", "crash", "golden", "robustness", "support", "vm"];
  const problems: [string, string][] = [];
  for (const { path } of under("tests")) {
    const folder = path.split("/")[1] ?? "";
    const mirrored = [`lib/${folder}`, `backends/${folder}`, folder].some((place) =>
      [...tree.paths].some((each) => isUnder(each, place))
    );
    const atTop = path.split("/").length === 2;
    if (!atTop && !mirrored && !own.includes(folder)) {
      problems.push([path, `there is no ${folder}, lib/${folder} or backends/${folder}`]);
    }
  }
  settle("layout", problems);
});

Deno.test("no source file of the product is dead", () => {
  const exported = Object.values(tree.manifest.exports).map((path) => normalize(path));
  assert.ok(exported.length > 0);
  const alive = reachable(tree, exported);
  const problems = under("mod.ts", "lib", "backends", "cli")
    .filter(({ path }) => !alive.has(path))
    .map(({ path }): [string, string] => [path, `is reached from none of ${exported.join(", ")}`]);
  settle("dead", problems);
});

Deno.test("no file that serves tests, benchmarks or tasks is dead", () => {
  const commands = JSON.stringify(tree.manifest.tasks) + (tree.texts.get(".ci/run") ?? "");
  const started = sources.map(({ path }) => path).filter((path) => commands.includes(path));
  const alive = reachable(tree, [...testFiles.map(({ path }) => path), ...started]);
  const problems = under("tests", "bench", "tools")
    .filter(({ path }) => !alive.has(path))
    .map(({ path }): [string, string] => [path, "is used by no test and no task"]);
  settle("dead", problems);
});

/** A kind of storage or a filter, as far as the rules look into it. */
interface Listed {
  readonly name: string;
  readonly options: unknown;
}

function isListed(value: unknown): value is Listed {
  return typeof value === "object" && value !== null && "name" in value && "open" in value &&
    "summary" in value && "options" in value && typeof value.name === "string";
}

async function load(path: string): Promise<Record<string, unknown>> {
  const module: Record<string, unknown> = await import(`file://${join(ROOT, path)}`);
  return module;
}

/** Every file of `folder` that is one kind of its own: a file, or the mod.ts of a folder. */
function kindsIn(folder: string): string[] {
  return under(folder).map(({ path }) => path).filter((path) => {
    const rest = path.slice(folder.length + 1);
    return rest !== "mod.ts" && (!rest.includes("/") || /^[^/]+\/mod\.ts$/.test(rest));
  });
}

for (const [folder, list] of [["backends", "backends"], ["lib/filters", "filters"]] as const) {
  Deno.test(`${folder}/mod.ts lists every file of ${folder}`, async () => {
    const kinds = kindsIn(folder);
    assert.ok(kinds.length > 0);
    const listed = (await load(`${folder}/mod.ts`))[list];
    assert.ok(Array.isArray(listed), `${folder}/mod.ts does not export the list "${list}"`);
    assert.equal(new Set(listed.map(({ name }) => name)).size, listed.length, "a name is twice");
    const problems: [string, string][] = [];
    for (const path of kinds) {
      const own = Object.values(await load(path)).filter(isListed);
      if (own.length === 0) {
        problems.push([path, "exports no kind with name, summary, options, open"]);
      }
      for (const kind of own) {
        if (!listed.includes(kind)) {
          problems.push([path, `${kind.name} is not in ${folder}/mod.ts`]);
        }
      }
    }
    settle("registry", problems);
  });
}

for (
  const [folder, list, noun] of [
    ["backends", "backends", "backend"],
    ["lib/filters", "filters", "filter"],
  ] as const
) {
  Deno.test(`every ${noun} has a manual page that names its options, and every page a ${noun}`, async () => {
    const { describeOptions } = await load("lib/block/options.ts");
    const kinds = (await load(`${folder}/mod.ts`))[list];
    assert.ok(Array.isArray(kinds));
    assert.ok(
      typeof describeOptions === "function",
      "lib/block/options.ts exports no describeOptions",
    );
    const problems: [string, string][] = [];
    const pages = new Set<string>();
    for (const kind of kinds) {
      assert.ok(isListed(kind));
      const page = `docs/${list}/${kind.name}.md`;
      pages.add(page);
      const text = tree.texts.get(page);
      if (text === undefined) {
        problems.push([page, "is missing"]);
        continue;
      }
      for (const option of describeOptions(kind.options)) {
        if (!text.includes(`\`${option.name}`)) {
          problems.push([page, `does not name ${option.name}`]);
        }
      }
    }
    for (const path of tree.paths) {
      const ofKind = isUnder(path, `docs/${list}`) && !path.endsWith("/README.md");
      if (ofKind && !pages.has(path)) problems.push([path, `is the page of no ${noun}`]);
    }
    settle("manual", problems);
  });
}

Deno.test("every limit is used", () => {
  const problems: [string, string][] = [];
  const product = under("lib", "backends", "cli");
  for (const { path, facts } of product.filter((each) => each.path.endsWith("/limits.ts"))) {
    for (const name of facts.exports) {
      const used = product.some((each) => each.path !== path && each.facts.identifiers.has(name));
      if (!used) problems.push([path, `${name} is used nowhere`]);
    }
  }
  settle("limits", problems);
});

Deno.test("no file speaks of where or by whom it was written", () => {
  const problems: [string, string][] = [];
  for (const [path, text] of tree.texts) {
    for (const [number, line] of text.split("\n").entries()) {
      for (const [pattern, reason] of FOREIGN_WORDS) {
        const found = pattern.exec(line)?.[0];
        if (found !== undefined) problems.push([path, `line ${number + 1}: "${found}", ${reason}`]);
      }
    }
  }
  settle("foreign words", problems);
});

const pages = [...tree.texts].filter(([path]) => path.endsWith(".md"));

/** The anchor under which a page shows a heading. */
function anchorOf(heading: string): string {
  return heading.trim().toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-");
}

function anchorsOf(text: string): Set<string> {
  const prose = text.replace(/^```[\s\S]*?^```/gm, "");
  return new Set([...prose.matchAll(/^#{1,6} (.*)$/gm)].map((found) => anchorOf(found[1] ?? "")));
}

Deno.test("links between pages lead somewhere", () => {
  const problems: [string, string][] = [];
  for (const [path, text] of pages) {
    const prose = text.replace(/^```[\s\S]*?^```/gm, "").replace(/`[^`\n]*`/g, "");
    for (const [, link = ""] of prose.matchAll(/\]\(\s*([^)\s]+)[^)]*\)/g)) {
      if (/^[a-z]+:/i.test(link)) continue;
      const [file = "", anchor = ""] = link.split("#");
      const target = file === "" ? path : join(dirname(path), decodeURIComponent(file));
      const isFolder = [...tree.paths].some((each) =>
        each.startsWith(`${normalize(`${target}/`)}`)
      );
      if (!tree.paths.has(target) && !isFolder) problems.push([path, `${link} leads nowhere`]);
      const there = tree.texts.get(target);
      if (anchor !== "" && there !== undefined && !anchorsOf(there).has(anchor)) {
        problems.push([path, `${link}: ${target} has no such heading`]);
      }
    }
  }
  settle("links", problems);
});

Deno.test("tasks that pages and scripts speak of exist", () => {
  const problems: [string, string][] = [];
  for (const [path, text] of [...pages, [".ci/run", tree.texts.get(".ci/run") ?? ""] as const]) {
    for (
      const [, task = ""] of text.matchAll(
        /\b(?:deno|deno@[\d.]+|"\$DENO") task ([a-z][a-z0-9]*(?:[:-][a-z0-9]+)*)\b/g,
      )
    ) {
      if (!(task in tree.manifest.tasks)) problems.push([path, `there is no task ${task}`]);
    }
  }
  assert.ok("start" in tree.manifest.tasks && "test" in tree.manifest.tasks);
  settle("tasks", problems);
});

Deno.test("every exception is still needed", () => {
  assert.deepEqual(EXCEPTIONS.filter((each) => !needed.has(each)), []);
  assert.ok(EXCEPTIONS.every(({ reason }) => reason.length > 10));
});
