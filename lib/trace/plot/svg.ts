/**
 * Pieces of SVG 1.1: text that cannot become markup, numbers without noise, and the few shapes that
 * panels are made of. See https://www.w3.org/TR/SVG11/.
 *
 * @module
 */

/** What XML 1.0 has no place for, and what turns the direction of text around. */
const UNFIT = /[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069\ufffe\uffff]/gu;
const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** A text for content and attributes of XML and HTML; what has no place there becomes U+FFFD. */
export function escapeText(text: string): string {
  return text.toWellFormed().replace(UNFIT, "\ufffd")
    .replace(/[&<>"']/g, (character) => ENTITIES[character] ?? "");
}

/** A coordinate: two decimals at most. */
export function px(value: number): string {
  return String(Math.round(value * 100) / 100 + 0);
}

/** Text at a place. `kind` is a class of the style sheet, with `end` or `mid` for where it is anchored. */
export function text(x: number, y: number, content: string, kind: string): string {
  return `<text x="${px(x)}" y="${px(y)}" class="${kind}">${escapeText(content)}</text>\n`;
}

/** A rectangle. */
export function rect(x: number, y: number, width: number, height: number, kind: string): string {
  return `<rect x="${px(x)}" y="${px(y)}" width="${px(width)}" height="${px(height)}" ` +
    `class="${kind}"/>\n`;
}

/** A path. */
export function path(data: string, kind: string): string {
  return data === "" ? "" : `<path d="${data}" class="${kind}"/>\n`;
}

/** A way of values to coordinates. */
export type Scale = (value: number) => number;

/** Values from `from` to `to` as coordinates from `start` to `end`. */
export function linear(from: number, to: number, start: number, end: number): Scale {
  const factor = (end - start) / (to - from);
  return (value) => start + (value - from) * factor;
}

/** The same, by orders of magnitude; `from` is above 0, and what is below it is shown there. */
export function logarithmic(from: number, to: number, start: number, end: number): Scale {
  const inner = linear(Math.log(from), Math.log(to), start, end);
  return (value) => inner(Math.log(Math.max(from, value)));
}

/** Widths of characters in a wide sans serif, as a share of its size. */
const NARROW = /[ijl.,:;'|!]/, SLIM = /[ftr() /-]/, WIDE = /[mwMW%…]/;

/** Width in px that a text takes at a size in px, about: there is no font to measure it with. */
export function textWidth(content: string, size: number): number {
  const widthOf = (character: string): number =>
    NARROW.test(character) ? 0.3 : SLIM.test(character) ? 0.4 : WIDE.test(character) ? 0.95 : 0.63;
  return [...content].reduce((sum, character) => sum + widthOf(character), 0) * size;
}
