/** Spec strings: what each part becomes, and where the caret stands when a part is wrong. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  encodeSpecText,
  parseNamedSpec,
  parseSpec,
  type Spec,
  targetNameProblem,
} from "../../lib/block/spec.ts";
import { caretLines, UsageError } from "../../lib/block/usage_error.ts";

const kinds = ["file", "memory", "nbd", "null", "pattern"];

function values(spec: Spec): Record<string, unknown> {
  return Object.fromEntries([...spec.options].map(([name, option]) => [name, option.value]));
}

/** The message, and the text with what is marked between « and ». */
function faultOf(text: string, parse: (text: string) => unknown): [string, string] {
  try {
    parse(text);
  } catch (error) {
    assert.ok(error instanceof UsageError, String(error));
    assert.ok(error.place !== null);
    const { text: source, start, end } = error.place;
    assert.equal(caretLines(error.place).length, 2);
    return [
      error.message,
      `${source.slice(0, start)}«${source.slice(start, end)}»${source.slice(end)}`,
    ];
  }
  throw new Error(`${text} was taken`);
}

Deno.test("parseSpec() takes kind, argument and options apart", () => {
  const rows: readonly (readonly [string, string, string, Record<string, string>])[] = [
    ["file:disk.img", "file", "disk.img", {}],
    ["file:/var/lib/a:b=c.img", "file", "/var/lib/a:b=c.img", {}],
    ["memory:1G", "memory", "1G", {}],
    ["memory:", "memory", "", {}],
    ["null:?size=1T", "null", "", { size: "1T" }],
    ["file:disk.img?direct&mode=a=b", "file", "disk.img", { direct: "", mode: "a=b" }],
    ["file:what%3F100%25.img", "file", "what?100%.img", {}],
    ["file:h%C3%A4.img", "file", "hä.img", {}],
    ["file:ü+ .img", "file", "ü+ .img", {}],
    ["x:a?b=%26%3d%00", "x", "a", { b: "&=\0" }],
  ];
  for (const [text, kind, argument, options] of rows) {
    const spec = parseSpec(text);
    assert.equal(spec.kind, kind, text);
    assert.equal(spec.argument, argument, text);
    assert.deepEqual(values(spec), options, text);
    assert.equal(spec.uri, false);
    assert.equal(spec.text, text);
  }
});

Deno.test("parseSpec() keeps a URI whole", () => {
  for (
    const text of [
      "nbd://localhost:10809/disk",
      "nbd+unix:///x?socket=/run/a.sock&tls-type=x509",
      "nbds+unix:?socket=x",
      "nbd:///%zz",
    ]
  ) {
    const spec = parseSpec(text);
    assert.equal(spec.uri, true, text);
    assert.equal(spec.argument, text);
    assert.equal(spec.kind, text.slice(0, text.indexOf(":")));
    assert.equal(spec.options.size, 0);
  }
});

Deno.test("parseNamedSpec() tells a name from a spec without one", () => {
  const rows: readonly (readonly [string, string | null, string])[] = [
    ["disk=file:a.img", "disk", "file:a.img"],
    ["a.b_c-1=memory:1G?x=y", "a.b_c-1", "memory:1G?x=y"],
    ["file:a=b.img", null, "file:a=b.img"],
    ["x=nbd+unix:///?socket=y", "x", "nbd+unix:///?socket=y"],
    ["nbd+unix:///?socket=y", null, "nbd+unix:///?socket=y"],
  ];
  for (const [text, name, rest] of rows) {
    const named = parseNamedSpec(text);
    assert.equal(named.name, name, text);
    assert.equal(named.spec.text, rest);
    assert.equal(named.spec.kindPlace.text, text);
  }
});

Deno.test("parseNamedSpec() points at what is wrong and says what to write", () => {
  const rows: readonly (readonly [string, string, string])[] = [
    ["", "«»", "a spec is missing; write KIND:ARGUMENT, as in file:disk.img"],
    ["a=", "a=«»", "a spec is missing; write KIND:ARGUMENT, as in file:disk.img"],
    [
      "disk.img",
      "«disk.img»",
      "it does not begin with a kind of storage; write file:disk.img",
    ],
    [
      "a=/x/disk.img?direct",
      "a=«/x/disk.img»?direct",
      "it does not begin with a kind of storage; write file:/x/disk.img?direct",
    ],
    ["./a:b", "«./a:b»", "it does not begin with a kind of storage; write file:./a:b"],
    ["memory", "memory«»", "a colon is missing after the kind; write memory:"],
    ["null?size=1", "null«»?size=1", "a colon is missing after the kind; write null:?size=1"],
    ["memry", "«memry»", "it does not begin with a kind of storage; write memory:"],
    [
      "my disk=file:x",
      "«my disk»=file:x",
      "a target's name is made of letters, digits, dots, underscores and hyphens",
    ],
    ["=file:x", "«»=file:x", "a target's name must not be empty"],
    ["..=file:x", "«..»=file:x", 'a target cannot be named ".."'],
    [
      "file:x?",
      "file:x?«»",
      'an option is missing here; a "?" in a name is written %3F, a "&" %26',
    ],
    [
      "file:x?a&&b",
      "file:x?a&«»&b",
      'an option is missing here; a "?" in a name is written %3F, a "&" %26',
    ],
    ["file:x?=1", "file:x?«»=1", '"" is no name of an option; a "?" is written %3F'],
    ["file:x?A=1", "file:x?«A»=1", '"A" is no name of an option; a "?" is written %3F'],
    ["file:x?a=1&a=2", "file:x?a=1&«a»=2", 'option "a" is given twice'],
    ["file:100%.img", "file:100«%».img", 'a percent sign is written "%25"'],
    ["file:x?a=%4", "file:x?a=«%»4", 'a percent sign is written "%25"'],
    ["file:x?a=b%C3%28", "file:x?a=b«%C3%28»", "%C3%28 is not UTF-8"],
  ];
  for (const [text, marked, reason] of rows) {
    const [message, found] = faultOf(text, (it) => parseNamedSpec(it, { kinds }));
    assert.equal(found, marked);
    assert.equal(message, `Cannot read "${text}": ${reason}`);
  }
});

Deno.test("parseSpec() refuses a spec past the limit", () => {
  const [message] = faultOf(`file:${"x".repeat(9000)}`, parseSpec);
  assert.match(message, /^Cannot read "file:x{55}…": it is longer than 8192 characters$/);
});

Deno.test("parseSpec() puts the origin in front of the message", () => {
  const [message] = faultOf("x", (text) => parseSpec(text, { origin: "dmu.toml:3:8" }));
  assert.match(message, /^dmu\.toml:3:8: Cannot read "x": /);
});

Deno.test("parseSpec() reads back what encodeSpecText() wrote", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), fc.string({ unit: "binary" }), (path, value) => {
      fc.pre(!path.startsWith("//") && path.isWellFormed() && value.isWellFormed());
      const text = `file:${encodeSpecText(path)}?a=${encodeSpecText(value)}`;
      const spec = parseSpec(text);
      assert.equal(spec.argument, path);
      assert.equal(spec.options.get("a")?.value, value);
    }),
    { seed: 21, numRuns: 500 },
  );
});

Deno.test("parseNamedSpec() throws nothing but UsageError, whatever it is given", () => {
  const unit = fc.constantFrom("a", "=", ":", "/", "?", "&", "%", "4", "é", "\0", "file", "%C3");
  fc.assert(
    fc.property(fc.string({ unit, maxLength: 30 }), (text) => {
      try {
        parseNamedSpec(text, { kinds });
      } catch (error) {
        assert.ok(error instanceof UsageError, `${text}: ${String(error)}`);
        assert.ok(error.place !== null && error.place.start <= error.place.end);
        assert.ok(error.place.end <= text.length);
      }
    }),
    { seed: 22, numRuns: 2000 },
  );
});

Deno.test("targetNameProblem() accepts what fits a path and a URI", () => {
  for (const name of ["default", "a", "Disk-1.2_x", "x".repeat(255)]) {
    assert.equal(targetNameProblem(name), null, name);
  }
  for (const name of ["", ".", "..", "a/b", "a b", "ä", "a\0", "x".repeat(256)]) {
    assert.notEqual(targetNameProblem(name), null, name);
  }
});
