/**
 * The error of whoever wrote a spec string, an endpoint, an option or a configuration file: it
 * knows the text and the place in it, so that a caret can be printed below.
 *
 * @module
 */
import { levenshteinDistance } from "@std/text";

/** Where in a text something is wrong: UTF-16 indexes into one line. */
export interface Place {
  /** What the line is from, with line and column ("dmu.toml:3:7"); absent if the text is all there is. */
  readonly origin?: string;
  /** The line, or the whole text. */
  readonly text: string;
  /** Index of the first character that is wrong. */
  readonly start: number;
  /** Index behind the last character that is wrong; equal to `start` if something is missing there. */
  readonly end: number;
}

/** Something the user wrote cannot be used. The command line ends with exit code 2. */
export class UsageError extends Error {
  /** Where the fault is, or null if it is in no text. */
  readonly place: Place | null;

  /** `message` says what, why and what to do, without a full stop. */
  constructor(message: string, place?: Place | null, options?: { cause?: unknown }) {
    super(place?.origin === undefined ? message : `${place.origin}: ${message}`, options);
    this.name = "UsageError";
    this.place = place ?? null;
  }
}

/** Columns that the text and its caret are indented by. */
const INDENT = 2;

/** Control characters would move the caret, or the terminal: one replacement for each. */
function visible(text: string): string {
  return text.replace(/\p{Cc}/gu, "\ufffd");
}

/**
 * The text of `place` and, below it, carets under what is wrong; at most `columns` wide. A long
 * text is cut to what surrounds the place.
 */
export function caretLines(place: Place, columns = 80): [string, string] {
  const room = columns - INDENT;
  let text = visible(place.text);
  let start = Math.min(place.start, text.length);
  let end = Math.min(Math.max(place.end, start), text.length);
  if (text.length > room) {
    const from = Math.max(0, Math.min(start - Math.floor(room / 3), text.length - room + 2));
    const to = Math.min(text.length, from + room - 2);
    const head = from > 0 ? "…" : "";
    text = head + text.slice(from, to) + (to < text.length ? "…" : "");
    start += head.length - from;
    end = Math.max(start, Math.min(end, to) + head.length - from);
  }
  const before = [...text.slice(0, start)].length;
  const marked = Math.max(1, [...text.slice(start, end)].length);
  const pad = " ".repeat(INDENT);
  return [pad + text, pad + " ".repeat(before) + "^".repeat(marked)];
}

/** Characters of a word that are compared. */
const COMPARED_MAX = 64;

/**
 * The word of `candidates` that `word` was most likely meant to be, or null if none is close: at
 * most half of its letters and no more than three may be wrong.
 */
export function nearest(word: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let least = Math.max(1, Math.min(3, Math.floor(word.length / 2))) + 1;
  const start = word.slice(0, COMPARED_MAX).toLowerCase();
  for (const candidate of candidates) {
    const distance: number = levenshteinDistance(start, candidate.toLowerCase());
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** `did you mean "…"?` or, if nothing is close, the list of what there is. */
export function suggest(word: string, candidates: readonly string[]): string {
  const close = nearest(word, candidates);
  if (close !== null) return `did you mean "${close}"?`;
  return candidates.length === 0 ? "there are none" : `there are ${candidates.join(", ")}`;
}
