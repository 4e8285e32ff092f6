/** Options: what each type takes, what is refused, and how the refusal reads. @module */
import assert from "node:assert/strict";
import {
  choiceOption,
  countOption,
  describeOptions,
  flagOption,
  omittable,
  type OptionSchema,
  optionSchema,
  parseOptions,
  pathOption,
  sizeOption,
  textOption,
} from "../../lib/block/options.ts";
import { caretLines, nearest, type Place, UsageError } from "../../lib/block/usage_error.ts";

interface Everything {
  readonly size: number;
  readonly direct: boolean;
  readonly path: string;
  readonly label: string;
  readonly count: number;
  readonly mode: "fast" | "slow";
  readonly limit: number | undefined;
}

const everything: OptionSchema<Everything> = optionSchema<Everything>({
  size: sizeOption({ summary: "Size", default: 1536 }),
  direct: flagOption({ summary: "Bypass the page cache", default: false }),
  path: pathOption({ summary: "The file" }),
  label: textOption({ summary: "A label", default: "none" }),
  count: countOption({ summary: "How many", default: 3, min: 1, max: 9 }),
  mode: choiceOption(["fast", "slow"], { summary: "How", default: "fast" }),
  limit: omittable(sizeOption({ summary: "Most bytes" })),
});

function parse(values: Record<string, unknown>): Everything {
  return parseOptions(everything, new Map(Object.entries(values)), {
    action: "open thing",
    argument: "path",
  });
}

function messageOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof UsageError, String(error));
    return error.message;
  }
  throw new Error("nothing was thrown");
}

Deno.test("parseOptions() fills in defaults", () => {
  assert.deepEqual(parse({ path: "x" }), {
    size: 1536,
    direct: false,
    path: "x",
    label: "none",
    count: 3,
    mode: "fast",
  });
});

Deno.test("parseOptions() takes text and typed values alike", () => {
  const text = parse({ path: "x", size: "4k", direct: "", count: "9", mode: "slow", limit: "1M" });
  const typed = parse({
    path: "x",
    size: 4096,
    direct: true,
    count: 9,
    mode: "slow",
    limit: 2 ** 20,
  });
  assert.deepEqual(text, typed);
  assert.equal(text.limit, 2 ** 20);
  for (const word of ["off", "NO", "0", "False"]) {
    assert.equal(parse({ path: "x", direct: word }).direct, false, word);
  }
});

Deno.test("parseOptions() names the option that is wrong, unknown or missing", () => {
  const rows: readonly (readonly [Record<string, unknown>, string])[] = [
    [{}, "Cannot open thing: its path is missing"],
    [{ path: "" }, "Cannot open thing: its path must not be empty"],
    [{ path: "a\0b" }, "Cannot open thing: its path must not hold a NUL character"],
    [{ path: 3 }, "Cannot open thing: its path must be a path"],
    [
      { path: "x", siez: "1" },
      'Cannot open thing: there is no option "siez"; did you mean "size"?',
    ],
    [
      { path: "x", "__proto__x": "1" },
      'Cannot open thing: there is no option "__proto__x"; there are size, direct, path, label, ' +
      "count, mode, limit",
    ],
    [
      { path: "x", size: "1Q" },
      'Cannot open thing: option "size" must be a size such as 512, 64k or 1.5G, not "1Q"',
    ],
    [{ path: "x", size: -1 }, 'Cannot open thing: option "size" must not be negative, as "-1" is'],
    [
      { path: "x", size: true },
      'Cannot open thing: option "size" must be a size such as 512, 64k or 1G',
    ],
    [
      { path: "x", direct: "maybe" },
      'Cannot open thing: option "direct" must be true or false (or yes, no, on, off, 1, 0)',
    ],
    [
      { path: "x", direct: "constructor" },
      'Cannot open thing: option "direct" must be true or false (or yes, no, on, off, 1, 0)',
    ],
    [{ path: "x", label: "" }, 'Cannot open thing: option "label" must not be empty'],
    [
      { path: "x", count: "10" },
      'Cannot open thing: option "count" must be a whole number from 1 to 9',
    ],
    [
      { path: "x", count: 1.5 },
      'Cannot open thing: option "count" must be a whole number from 1 to 9',
    ],
    [{ path: "x", mode: "fsat" }, 'Cannot open thing: option "mode" must be one of fast, slow'],
  ];
  for (const [values, message] of rows) assert.equal(messageOf(() => parse(values)), message);
});

Deno.test("parseOptions() refuses any option where there are none", () => {
  const none = optionSchema<Record<never, never>>({});
  const run = (): unknown => parseOptions(none, new Map([["x", "1"]]), { action: "open null" });
  assert.equal(messageOf(run), 'Cannot open null: there is no option "x"; there are none');
});

Deno.test("parseOptions() puts the place it was given into the error", () => {
  const place: Place = { origin: "dmu.toml:3:1", text: "size = 1", start: 0, end: 4 };
  assert.throws(
    () =>
      parseOptions(everything, new Map([["nope", 1]]), {
        action: "open thing",
        place: (key, part) => key === "nope" && part === "name" ? place : null,
      }),
    (error) =>
      error instanceof UsageError && error.place === place &&
      error.message.startsWith("dmu.toml:3:1: Cannot open thing: there is no option"),
  );
});

Deno.test("describeOptions() lists type, meaning and default of each option", () => {
  assert.deepEqual(describeOptions(everything).map((help) => Object.values(help).join(" / ")), [
    "size / size / Size / false / 1536",
    "direct / flag / Bypass the page cache / false / false",
    "path / path / The file / true / ",
    "label / text / A label / false / none",
    "count / count / How many / false / 3",
    "mode / fast|slow / How / false / fast",
    "limit / size / Most bytes / false / ",
  ]);
  assert.equal(
    describeOptions(optionSchema({ a: sizeOption({ summary: "", default: 2 ** 30 }) }))[0]?.default,
    "1G",
  );
});

Deno.test("nearest() suggests only what is close", () => {
  const kinds = ["file", "memory", "null", "pattern"];
  assert.equal(nearest("fiel", kinds), "file");
  assert.equal(nearest("fil", kinds), "file");
  assert.equal(nearest("FILE", kinds), "file");
  assert.equal(nearest("memroy", kinds), "memory");
  assert.equal(nearest("qcow2", kinds), null);
  assert.equal(nearest("x".repeat(100_000), kinds), null);
});

Deno.test("caretLines() marks the place below the text", () => {
  assert.deepEqual(caretLines({ text: "memory:1Q", start: 7, end: 9 }), [
    "  memory:1Q",
    "         ^^",
  ]);
  assert.deepEqual(caretLines({ text: "file:", start: 5, end: 5 }), ["  file:", "       ^"]);
  assert.deepEqual(caretLines({ text: "a\nb", start: 2, end: 3 }), ["  a\ufffdb", "    ^"]);
  assert.deepEqual(caretLines({ text: "😀x", start: 2, end: 3 }), ["  😀x", "   ^"]);
});

Deno.test("caretLines() cuts a long text to the width and keeps the place in it", () => {
  for (const start of [0, 10, 40, 76, 77, 150, 298, 299]) {
    const text = `${".".repeat(start)}X${".".repeat(299 - start)}`;
    const [line, carets] = caretLines({ text, start, end: start + 1 });
    assert.ok(line.length <= 80 && carets.length <= 80, `${start}: ${line.length}`);
    assert.equal(line[carets.indexOf("^")], "X", `at ${start}`);
  }
});
