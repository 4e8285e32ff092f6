/** The command line as a whole: help, exit codes, the form of errors. @module */
import assert from "node:assert/strict";
import { filters } from "../../lib/filters/mod.ts";
import manifest from "../../deno.json" with { type: "json" };
import { VERSION } from "../../cli/version.ts";
import { CapturedIo, dmu } from "./captured_io.ts";

const COMMANDS = [
  "serve",
  "info",
  "copy",
  "bench",
  "simulate",
  "table",
  "backends",
  "filters",
  "completion",
  "version",
];

Deno.test("dmu --help lists every command", async () => {
  const { code, stdout, stderr } = await dmu(["--help"]);
  assert.equal(code, 0);
  assert.equal(stderr, "");
  for (const name of COMMANDS) assert.match(stdout, new RegExp(`^  ${name} `, "m"));
  assert.doesNotMatch(stdout, /^ {2}complete /m);
});

Deno.test("every help page fits 80 columns and says what the command does", async () => {
  for (const args of [["--help"], ...COMMANDS.map((name) => [name, "--help"])]) {
    const { code, stdout } = await dmu(args);
    assert.equal(code, 0, args.join(" "));
    assert.match(stdout, /^Usage: dmu .+\n\n[A-Z][^]+\.?\n/);
    for (const line of stdout.split("\n")) {
      assert.ok(line.length <= 80, `${args.join(" ")}: "${line}"`);
      assert.equal(line, line.trimEnd(), `${args.join(" ")}: "${line}"`);
    }
  }
});

Deno.test("dmu help COMMAND is the help of the command", async () => {
  const { code, stdout } = await dmu(["help", "copy"]);
  assert.equal(code, 0);
  assert.match(stdout, /^Usage: dmu copy /);
});

Deno.test("dmu without a command prints its help on standard error: wrong usage", async () => {
  const { code, stdout, stderr } = await dmu([]);
  assert.equal(code, 2);
  assert.equal(stdout, "");
  assert.match(stderr, /^Usage: dmu COMMAND/);
});

Deno.test("errors are one line, and a caret where a text is wrong", async () => {
  const rows: readonly (readonly [string[], number, string])[] = [
    [["nothing"], 2, "dmu: unknown command 'nothing'; see dmu --help\n"],
    [["srve"], 2, "dmu: unknown command 'srve' (Did you mean serve?); see dmu --help\n"],
    [["info"], 2, "dmu: missing required argument 'spec'; see dmu info --help\n"],
    [
      ["info", "a:", "b:"],
      2,
      "dmu: too many arguments for 'info'. Expected 1 argument but got 2: " +
      "a:, b:; see dmu info --help\n",
    ],
    [
      ["info", "--jsn", "memory:1M"],
      2,
      "dmu: unknown option '--jsn' (Did you mean --json?); see dmu info --help\n",
    ],
    [
      ["copy", "memory:1M", "null:", "--depth", "0"],
      2,
      "dmu: option '--depth <n>' argument '0' is invalid. It must be a whole number from 1 to 256; " +
      "see dmu copy --help\n",
    ],
    [
      ["info", "memory:1Q"],
      2,
      'dmu: Cannot open memory: its size must be a size such as 512, 64k or 1.5G, not "1Q"\n' +
      "  memory:1Q\n" +
      "         ^^\n",
    ],
    [
      ["copy", "memory:1M", "disk.img"],
      2,
      'dmu: Cannot read "disk.img": it does not begin with a kind of storage; write file:disk.img\n' +
      "  disk.img\n" +
      "  ^^^^^^^^\n",
    ],
    [
      ["serve", "a=memory:1M?sze=3"],
      2,
      'dmu: Cannot open memory: there is no option "sze"; did you mean "size"?\n' +
      "  a=memory:1M?sze=3\n" +
      "              ^^^\n",
    ],
    [
      ["serve", "--nbd", "/run/x"],
      2,
      'dmu: Cannot listen on "/run/x": write unix:/run/x for a socket of that path\n' +
      "  /run/x\n" +
      "  ^^^^^^\n",
    ],
    [
      ["info", "nbd+unix:///?sokcet=x"],
      2,
      "",
    ],
    [
      ["info", "file:/nonexistent/disk.img"],
      1,
      "dmu: Cannot open /nonexistent/disk.img: no such file or directory\n",
    ],
  ];
  for (const [args, expected, message] of rows) {
    const { code, stdout, stderr } = await dmu(args);
    assert.equal(code, expected, `${args.join(" ")}: ${stderr}`);
    assert.equal(stdout, "", args.join(" "));
    if (message !== "") assert.equal(stderr, message);
    assert.match(stderr, /^dmu: /);
    assert.doesNotMatch(stderr, /^ +at /m, "a stack without --verbose");
  }
});

Deno.test("--verbose adds the stack", async () => {
  const { code, stderr } = await dmu(["info", "file:/nonexistent", "--verbose"]);
  assert.equal(code, 1);
  assert.match(stderr, /^ +at /m);
});

Deno.test("a closed standard output ends a command quietly", async () => {
  const { code, stderr } = await dmu(["backends"], new CapturedIo({ closed: true }));
  assert.equal(code, 1);
  assert.equal(stderr, "");
});

Deno.test("dmu version tells the version of the manifest", async () => {
  assert.equal(VERSION, manifest.version);
  const text = await dmu(["version"]);
  assert.match(text.stdout, new RegExp(`^dmu ${VERSION.replaceAll(".", "\\.")} \\(deno `));
  assert.equal((await dmu(["--version"])).stdout, `${VERSION}\n`);
  const json: unknown = JSON.parse((await dmu(["version", "--json"])).stdout);
  assert.ok(typeof json === "object" && json !== null && "version" in json && "deno" in json);
  assert.equal(json.version, VERSION);
});

Deno.test("dmu backends lists kinds and describes one", async () => {
  const list = await dmu(["backends"]);
  assert.equal(list.code, 0);
  for (const kind of ["file", "memory", "nbd", "null", "pattern"]) {
    assert.match(list.stdout, new RegExp(`^  ${kind} +\\w`, "m"));
  }
  for (const kind of ["file", "memory", "nbd", "null", "pattern"]) {
    const { stdout } = await dmu(["backends", kind]);
    for (const line of stdout.split("\n")) assert.ok(line.length <= 80, `${kind}: ${line}`);
  }
  const one = await dmu(["backends", "memory"]);
  assert.match(one.stdout, /^memory: .+\n\n {2}memory:SIZE\?option=value/);
  assert.match(one.stdout, /^ {2}size=SIZE +.*\(required\)$/m);
  const wrong = await dmu(["backends", "fil"]);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /there is no such kind; did you mean "file"\?/);
});

Deno.test("dmu filters lists filters and describes one, in 80 columns", async () => {
  const list = await dmu(["filters"]);
  assert.equal(list.code, 0);
  for (const { name } of filters) {
    assert.match(list.stdout, new RegExp(`^  ${name} +\\w`, "m"));
    const { stdout } = await dmu(["filters", name]);
    assert.ok(stdout.startsWith(`${name}: `));
    for (const line of stdout.split("\n")) assert.ok(line.length <= 80, `${name}: ${line}`);
  }
  const one = await dmu(["filters", "error"]);
  assert.match(one.stdout, /^ {2}errno=WORD +what it fails with: one of EIO, ENOSPC/m);
  const json: unknown = JSON.parse((await dmu(["filters", "--json"])).stdout);
  assert.ok(typeof json === "object" && json !== null && "filters" in json);
  assert.ok(Array.isArray(json.filters) && json.filters.length === filters.length);
  const wrong = await dmu(["filters", "dealy"]);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /there is no such filter; did you mean "delay"\?/);
});

Deno.test("dmu backends --json has every option", async () => {
  const { stdout } = await dmu(["backends", "memory", "--json"]);
  const json: unknown = JSON.parse(stdout);
  assert.ok(typeof json === "object" && json !== null && "options" in json);
  assert.ok("argument" in json && json.argument === "size");
  assert.ok(Array.isArray(json.options) && json.options.length > 0);
});
