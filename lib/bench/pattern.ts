/**
 * Where requests go: at random, one behind the other, by Zipf's law, or mostly to one hot part. As text
 * `random`, `sequential`, `zipf:1.2`, `hot:90/10` (90 % of the requests go to 10 % of the disk).
 *
 * @module
 */
import { ZIPF_EXPONENT, ZIPF_EXPONENT_MAX } from "./limits.ts";

/** How places are chosen. */
export type Pattern =
  | { readonly kind: "random" }
  | { readonly kind: "sequential" }
  | {
    readonly kind: "zipf";
    /** The exponent of Zipf's law, above 0. */
    readonly exponent: number;
  }
  | {
    readonly kind: "hot";
    /** Share of the requests that go to the hot part, above 0 and below 1. */
    readonly requests: number;
    /** Share of the disk that is hot, above 0 and below 1. */
    readonly part: number;
  };

const PATTERN_WORDS = "random, sequential, zipf:EXPONENT or hot:REQUESTS/PART (in percent)";
/** Requests in percent that go to the hot part, and how much of the disk that is, if not told. */
const HOT_REQUESTS = "90", HOT_PART = "10";

function percent(text: string): number {
  const value = /^\d{1,2}(\.\d{1,3})?$/.test(text) ? Number(text) : 0;
  return value / 100;
}

/** The pattern that `text` stands for, or why it stands for none: a phrase that goes after a name. */
export function parsePattern(text: string): Pattern | { problem: string } {
  const wrong = { problem: `must be ${PATTERN_WORDS}, not "${text}"` };
  const [kind, detail, ...rest] = text.split(":");
  if (rest.length > 0) return wrong;
  if ((kind === "random" || kind === "sequential") && detail === undefined) return { kind };
  if (kind === "zipf") {
    const told = detail ?? String(ZIPF_EXPONENT);
    const exponent = /^\d(\.\d{1,3})?$/.test(told) ? Number(told) : 0;
    if (exponent > 0 && exponent <= ZIPF_EXPONENT_MAX) return { kind, exponent };
    return { problem: `must be zipf with an exponent above 0, at most ${ZIPF_EXPONENT_MAX}` };
  }
  if (kind !== "hot") return wrong;
  const [requestsText = "", partText = "", ...more] = (detail ?? `${HOT_REQUESTS}/${HOT_PART}`)
    .split("/");
  const requests = percent(requestsText), part = percent(partText);
  return requests > 0 && part > 0 && more.length === 0 ? { kind, requests, part } : wrong;
}

/** A pattern as one would type it; `parsePattern` reads it back. */
export function spellPattern(pattern: Pattern): string {
  const percentage = (share: number): string => String(Number((share * 100).toFixed(3)));
  switch (pattern.kind) {
    case "zipf":
      return `zipf:${pattern.exponent}`;
    case "hot":
      return `hot:${percentage(pattern.requests)}/${percentage(pattern.part)}`;
    default:
      return pattern.kind;
  }
}
