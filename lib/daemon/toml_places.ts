/**
 * Where things stand in a TOML document, for error messages: the parser tells values, not places.
 * A line scanner that knows headers, keys and values that go on over several lines; what it does
 * not find (a key written in an unusual way) is placed at the nearest thing above it.
 *
 * @module
 */
import type { Place } from "../block/usage_error.ts";

/** A key and its value, in one line. Columns count from 0. */
interface Entry {
  readonly line: number;
  readonly nameStart: number;
  readonly nameEnd: number;
  readonly valueStart: number;
}

const HEADER = /^\s*\[(\[)?\s*([A-Za-z0-9_."'-]+)\s*\]/;
const KEY = /^\s*([A-Za-z0-9_."'-]+)\s*=\s*/;
const VALUE = /^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^#]*)/;

/** What a line leaves open: a multi-line string, or brackets. */
interface Open {
  readonly quote: string;
  readonly depth: number;
}

function openAfter(text: string, before: Open): Open {
  let { quote, depth } = before;
  for (let at = 0; at < text.length; at += 1) {
    const three = text.slice(at, at + 3);
    if (quote !== "") {
      if (text.charAt(at) === "\\" && quote.startsWith('"')) at += 1;
      else if (text.startsWith(quote, at)) {
        at += quote.length - 1;
        quote = "";
      }
    } else if (three === '"""' || three === "'''") {
      quote = three;
      at += 2;
    } else if (/["']/.test(text.charAt(at))) quote = text.charAt(at);
    else if (text.charAt(at) === "#") break;
    else if (/[[{]/.test(text.charAt(at))) depth += 1;
    else if (/[\]}]/.test(text.charAt(at))) depth -= 1;
  }
  // A string of one line ends with it, whatever the line is worth.
  return { quote: quote.length === 3 ? quote : "", depth: Math.max(0, depth) };
}

/** Finds the places of keys and values of one document. */
export class TomlPlaces {
  readonly #path: string;
  readonly #lines: readonly string[];
  readonly #entries = new Map<string, Entry>();

  /** `path` is the name of the file in messages, `text` the document. */
  constructor(path: string, text: string) {
    this.#path = path;
    this.#lines = text.split(/\r?\n/);
    this.#scan();
  }

  #scan(): void {
    const counts = new Map<string, number>();
    let prefix = "";
    let open: Open = { quote: "", depth: 0 };
    for (const [line, text] of this.#lines.entries()) {
      if (open.quote !== "" || open.depth > 0) {
        open = openAfter(text, open);
        continue;
      }
      const header = HEADER.exec(text);
      if (header !== null) {
        const [, double, name = ""] = header;
        prefix = headerPath(name.replace(/["']/g, ""), double !== undefined, counts);
        const nameStart = text.indexOf("[");
        const end = text.trimEnd().length;
        this.#entries.set(prefix, { line, nameStart, nameEnd: end, valueStart: nameStart });
        continue;
      }
      const key = KEY.exec(text);
      if (key === null) continue;
      const [whole, name = ""] = key;
      const nameStart = text.indexOf(name);
      const nameEnd = nameStart + name.length;
      const path = [prefix, name.replace(/["']/g, "")].filter((part) => part !== "").join(".");
      this.#entries.set(path, { line, nameStart, nameEnd, valueStart: whole.length });
      open = openAfter(text.slice(whole.length), open);
    }
  }

  #at(line: number, start: number, end: number): Place {
    const text = this.#lines[line] ?? "";
    const origin = `${this.#path}:${line + 1}:${start + 1}`;
    return { origin, text, start, end: Math.max(start, end) };
  }

  /**
   * The place of the name or the value at `path`: "default", "tls.require", "target[0].spec". What
   * is not there itself is placed at the table that holds it, or at the first line.
   */
  find(path: string, part: "name" | "value"): Place {
    const entry = this.#entries.get(path);
    if (entry === undefined) return this.#inside(path, part);
    const { line, nameStart, nameEnd, valueStart } = entry;
    if (part === "name" || valueStart <= nameStart) return this.#at(line, nameStart, nameEnd);
    const text = (this.#lines[line] ?? "").slice(valueStart);
    const length = VALUE.exec(text)?.[0].trimEnd().length ?? 0;
    return this.#at(line, valueStart, valueStart + length);
  }

  /** A key of an inline table, or else what holds it. */
  #inside(path: string, part: "name" | "value"): Place {
    const dot = path.lastIndexOf(".");
    if (dot < 0) return this.#at(0, 0, 0);
    const parent = path.slice(0, dot);
    const holder = this.#entries.get(parent);
    if (holder === undefined) return this.find(parent, "name");
    const text = this.#lines[holder.line] ?? "";
    const key = path.slice(dot + 1).replace(/[^\w-]/g, "");
    const found = new RegExp(`[{,]\\s*(${key})\\s*=\\s*("[^"]*"|'[^']*'|[^,}\\s]*)`, "d")
      .exec(text.slice(holder.valueStart));
    const span = found?.indices?.[part === "name" ? 1 : 2];
    if (span === undefined) return this.find(parent, "name");
    return this.#at(holder.line, holder.valueStart + span[0], holder.valueStart + span[1]);
  }

  /** The place of a string in the list at `path`: `literal` is the string. */
  findItem(path: string, literal: string): Place {
    const from = this.#entries.get(path);
    for (let line = from?.line ?? 0; line < this.#lines.length; line += 1) {
      for (const quote of ['"', "'"]) {
        const at = (this.#lines[line] ?? "").indexOf(quote + literal + quote);
        if (at >= 0) return this.#at(line, at + 1, at + 1 + literal.length);
      }
    }
    return this.find(path, "value");
  }

  /** The place at a line and column that count from 1, as parsers tell them. */
  at(line: number, column: number): Place {
    return this.#at(line - 1, column - 1, column - 1);
  }
}

/** The path of a header: tables below a table of an array belong to its latest element. */
function headerPath(name: string, isArray: boolean, counts: Map<string, number>): string {
  if (isArray) {
    const index = (counts.get(name) ?? -1) + 1;
    counts.set(name, index);
    return `${name}[${index}]`;
  }
  const dot = name.indexOf(".");
  const first = dot < 0 ? name : name.slice(0, dot);
  const index = counts.get(first);
  return dot < 0 || index === undefined ? name : `${first}[${index}]${name.slice(dot)}`;
}
