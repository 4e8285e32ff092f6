/**
 * A strict reader of the XML that is written here: elements, attributes, text and the five entities. What
 * is not well-formed throws, so that a picture that a browser would refuse fails a test.
 *
 * @module
 */
import assert from "node:assert/strict";

/** An element with what is in it. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: XmlElement[];
  /** Its own text, without that of its children. */
  text: string;
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&amp;": "&",
  "&lt;": "<",
  "&gt;": ">",
  "&quot;": '"',
  "&#39;": "'",
};

function decoded(text: string): string {
  assert.doesNotMatch(text, /[<>]/, "a bracket in text");
  assert.doesNotMatch(text, /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u);
  return text.replace(/&[^;]*;?/g, (entity) => {
    const found = ENTITIES[entity];
    assert.ok(found !== undefined, `unknown entity ${entity}`);
    return found;
  });
}

function attributesOf(source: string): Record<string, string> {
  const attributes: Record<string, string> = {};
  const rest = source.replace(/\s+([\w:-]+)="([^"]*)"/g, (_all, name: string, value: string) => {
    assert.ok(!(name in attributes), `attribute ${name} is twice`);
    attributes[name] = decoded(value);
    return "";
  });
  assert.equal(rest.trim(), "", "attributes");
  return attributes;
}

/** The root element of a document. Throws AssertionError if it is not well-formed. */
export function parseXml(source: string): XmlElement {
  const root: XmlElement = { name: "", attributes: {}, children: [], text: "" };
  const open = [root];
  let at = 0;
  for (const tag of source.matchAll(/<(\/?)([A-Za-z][\w:-]*)((?:\s+[\w:-]+="[^"]*")*)\s*(\/?)>/g)) {
    const [all, end, name = "", attributes = "", empty] = tag;
    const parent = open.at(-1);
    assert.ok(parent !== undefined);
    parent.text += decoded(source.slice(at, tag.index));
    at = tag.index + all.length;
    if (end !== "") {
      assert.equal(name, open.pop()?.name, `</${name}> ends something else`);
      continue;
    }
    const element = { name, attributes: attributesOf(attributes), children: [], text: "" };
    parent.children.push(element);
    if (empty === "") open.push(element);
  }
  root.text += decoded(source.slice(at));
  assert.deepEqual(open, [root], "elements that do not end");
  assert.equal(root.text.trim(), "", "text beside the root");
  const [first] = root.children;
  assert.ok(first !== undefined && root.children.length === 1, "one root");
  return first;
}

/** An element and all in it, in the order of the document. */
export function* elementsOf(element: XmlElement): Generator<XmlElement> {
  yield element;
  for (const child of element.children) yield* elementsOf(child);
}
