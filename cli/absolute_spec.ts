/**
 * Specs for another process: relative paths in them mean this process's working directory, so they are
 * made absolute before they go to a daemon, which has another one.
 *
 * @module
 */
import { resolve } from "node:path";
import { describeOptions, type OptionSchema } from "../lib/block/options.ts";
import type { Registry } from "../lib/block/registry.ts";
import { encodeSpecText, parseSpec, type Spec, withDefaultOption } from "../lib/block/spec.ts";
import type { Place } from "../lib/block/usage_error.ts";

/** Part of a text, and what stands there instead. */
interface Change {
  readonly place: Place;
  readonly text: string;
}

/**
 * The spec of a backend with absolute paths. One of a kind that is known here is checked; one that only
 * the daemon knows stays as it is. `size` is what will be its option of that name. Throws UsageError.
 */
export function absoluteSpec(text: string, registry: Registry, size?: number): string {
  const spec = parseSpec(text);
  if (spec.uri) return absoluteUri(text);
  const type = registry.backends.find(({ name }) => name === spec.kind);
  if (type === undefined) return text;
  const sized = describeOptions(type.options).some(({ name }) => name === "size");
  const { argument } = type;
  const whole = size === undefined || !sized || argument === "size"
    ? spec
    : withDefaultOption(spec, "size", String(size));
  if (argument !== "size" || size === undefined) registry.prepare(whole);
  return withAbsolutePaths(spec, type.options, argument, (each) => absoluteSpec(each, registry));
}

/** The spec of a filter with absolute paths; one that only the daemon knows stays as it is. */
export function absoluteFilter(text: string, registry: Registry): string {
  const type = registry.filters.find(({ name }) => name === text.split(":", 1)[0]);
  return type === undefined ? text : withAbsolutePaths(parseSpec(text), type.options, undefined);
}

/** An endpoint `unix:PATH` with an absolute path; others as they are. */
export function absoluteEndpoint(text: string): string {
  if (!text.startsWith("unix:")) return text;
  return withAbsolutePaths(parseSpec(text), null, "path");
}

function withAbsolutePaths(
  spec: Spec,
  options: OptionSchema<unknown> | null,
  argument: string | undefined,
  inner: (spec: string) => string = (each) => each,
): string {
  const types = new Map(
    options === null
      ? [[argument, "path"]]
      : describeOptions(options).map(({ name, type }) => [name, type]),
  );
  const changes: Change[] = [];
  const change = (name: string | undefined, text: unknown, place: Place): void => {
    if (typeof text !== "string" || text === "") return;
    if (types.get(name) === "path") changes.push({ place, text: resolve(text) });
    // A spec in a spec is text of it: it is written as such once more.
    if (types.get(name) === "specs") {
      changes.push({ place, text: text.split(",").map(inner).join(",") });
    }
  };
  change(argument, spec.argument, spec.argumentPlace);
  for (const [name, { value, valuePlace }] of spec.options) change(name, value, valuePlace);
  // From the last to the first, so that the places of those before stay right.
  changes.sort((a, b) => b.place.start - a.place.start);
  return changes.reduce(
    (text, { place: { start, end }, text: part }) =>
      text.slice(0, start) + encodeSpecText(part) + text.slice(end),
    spec.text,
  );
}

/** The parameters of NBD URIs that are paths on this machine. */
function absoluteUri(text: string): string {
  return text.replace(
    /([?&](?:socket|tls-certificates)=)([^&]+)/g,
    (whole, head: string, value: string) => {
      try {
        return head +
          encodeURI(resolve(decodeURIComponent(value))).replace(/[&#?]/g, encodeURIComponent);
      } catch {
        // No valid escape: the daemon says so.
        return whole;
      }
    },
  );
}
