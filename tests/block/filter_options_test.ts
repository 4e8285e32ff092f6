/**
 * Options of times, chances and lists: as text, typed, and what is refused.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  chanceOption,
  describeOptions,
  listOption,
  optionSchema,
  parseOptions,
  timeOption,
} from "../../lib/block/options.ts";

const SCHEMA = optionSchema<{ wait: number; rate: number; verbs: readonly string[] }>({
  wait: timeOption({ summary: "a time", default: 10, max: 60_000 }),
  rate: chanceOption({ summary: "a chance", default: 0.5 }),
  verbs: listOption(["read", "write"], { summary: "some verbs", default: ["read"] }),
});

function parse(input: Record<string, unknown>): unknown {
  return parseOptions(SCHEMA, new Map(Object.entries(input)), { action: "test" });
}

Deno.test("parseOptions() takes times, chances and lists as text and typed", () => {
  assert.deepEqual(parse({}), { wait: 10, rate: 0.5, verbs: ["read"] });
  assert.deepEqual(parse({ wait: "1.5s", rate: "1%", verbs: "write,read" }), {
    wait: 1500,
    rate: 0.01,
    verbs: ["write", "read"],
  });
  assert.deepEqual(parse({ wait: 250, rate: 1, verbs: ["write"] }), {
    wait: 250,
    rate: 1,
    verbs: ["write"],
  });
});

Deno.test("parseOptions() says what is wrong with a time, a chance or a list", () => {
  const rows: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [{ wait: "10" }, /option "wait" must be a time such as 250us, 10ms, 1.5s or 2min, not "10"/],
    [{ wait: "2min" }, /must be at most 1min/],
    [{ wait: -1 }, /must not be negative/],
    [{ wait: true }, /must be a time/],
    [{ rate: "1.5" }, /must be a chance from 0 to 1/],
    [{ rate: "101%" }, /must be a chance/],
    [{ rate: "-0.1" }, /must be a chance/],
    [{ verbs: "" }, /must be some of read,write/],
    [{ verbs: "read,fly" }, /must be some of read,write/],
    [{ verbs: [] }, /must be some of read,write/],
    [{ verbs: ["read", "read"] }, /must not name anything twice/],
  ];
  for (const [input, message] of rows) {
    assert.throws(() => parse(input), { name: "UsageError", message }, JSON.stringify(input));
  }
});

Deno.test("describeOptions() shows the defaults of times, chances and lists as one writes them", () => {
  assert.deepEqual(describeOptions(SCHEMA).map((option) => [option.type, option.default]), [
    ["time", "10ms"],
    ["chance", "0.5"],
    ["read,write", "read"],
  ]);
});
