/**
 * The XML reader of the tests refuses what is not well-formed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { elementsOf, parseXml } from "./xml.ts";

Deno.test("parseXml() reads elements, attributes, entities", () => {
  const root = parseXml('<a x="1 &lt; 2"><b/>t&amp;t<c y="&#39;">\n</c></a>\n');
  assert.deepEqual([...elementsOf(root)].map(({ name }) => name), ["a", "b", "c"]);
  assert.deepEqual([root.attributes, root.text], [{ x: "1 < 2" }, "t&t"]);
});

Deno.test("parseXml() refuses what is not well-formed", () => {
  const rows = ["", "<a>", "<a></b>", "<a/><b/>", "<a>&nbsp;</a>", "<a>&</a>", "<a>1 < 2</a>"];
  const more = ['<a x="1" x="2"/>', "<a x=1/>", "<a>\u0007</a>", "<a>\ud800</a>", "<a/>text"];
  for (const source of [...rows, ...more]) {
    assert.throws(() => parseXml(source), assert.AssertionError, source);
  }
});
