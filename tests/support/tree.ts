/**
 * The project's own tree, as the house rules see it: all files with their text, the import map, and
 * which file refers to which. Relies on source_facts.ts, hence on `deno test`.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { dirname, join, relative } from "node:path/posix";
import { type Reference, type SourceFacts, sourceFacts } from "./source_facts.ts";

/** Folders that hold nothing of the project: history, build results, and what package managers put there. */
export const IGNORED_FOLDERS: readonly string[] = [".git", "dist", "coverage", "node_modules"];

/** Absolute path of the project's top folder. */
export const ROOT: string = fileURLToPath(new URL("../../", import.meta.url)).replace(/\/$/, "");

/** What a reference leads to. */
export type Target =
  /** A file of the project, relative to the top folder. */
  | { readonly kind: "file"; readonly path: string }
  /** A built-in module of the platform. */
  | { readonly kind: "platform"; readonly name: string }
  /** A package, by the name under which the import map has it. */
  | { readonly kind: "package"; readonly name: string }
  /** Something that the import map does not have. */
  | { readonly kind: "unknown" };

/** One resolved reference. */
export interface Edge extends Reference {
  readonly target: Target;
}

/** One TypeScript file. */
export interface SourceFile {
  /** Relative to the top folder, with `/`. */
  readonly path: string;
  readonly text: string;
  readonly facts: SourceFacts;
  readonly edges: readonly Edge[];
}

/** The part of deno.json that the rules look at. */
export interface Manifest {
  readonly exports: Readonly<Record<string, string>>;
  readonly imports: Readonly<Record<string, string>>;
  readonly tasks: Readonly<Record<string, unknown>>;
}

/** The whole tree. */
export interface Tree {
  readonly manifest: Manifest;
  /** All files that are text, by path. */
  readonly texts: ReadonlyMap<string, string>;
  /** All files, text or not. */
  readonly paths: ReadonlySet<string>;
  /** All TypeScript files, by path. */
  readonly sources: ReadonlyMap<string, SourceFile>;
}

function* walk(folder: string): Generator<string> {
  for (const entry of Deno.readDirSync(folder === "" ? ROOT : join(ROOT, folder))) {
    if (IGNORED_FOLDERS.includes(entry.name)) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory) yield* walk(path);
    else if (entry.isFile) yield path;
  }
}

function textOf(path: string): string | null {
  const bytes = Deno.readFileSync(join(ROOT, path));
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function stringRecord(value: unknown): Record<string, string> {
  if (typeof value === "string") return { ".": value };
  if (typeof value !== "object" || value === null) return {};
  const entries = Object.entries(value);
  return Object.fromEntries(entries.filter(([, each]) => typeof each === "string"));
}

function manifestOf(text: string): Manifest {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) throw new TypeError("deno.json is no object");
  const field = (name: string): unknown => Reflect.get(value, name);
  const tasks = field("tasks");
  return {
    exports: stringRecord(field("exports")),
    imports: stringRecord(field("imports")),
    tasks: typeof tasks === "object" && tasks !== null ? { ...tasks } : {},
  };
}

function mapped(specifier: string, imports: Manifest["imports"]): [string, string] | null {
  const exact = imports[specifier];
  if (exact !== undefined) return [specifier, exact];
  const prefix = Object.keys(imports)
    .filter((name) => name.endsWith("/") && specifier.startsWith(name))
    .sort((a, b) => b.length - a.length)[0];
  if (prefix === undefined) return null;
  return [prefix, (imports[prefix] ?? "") + specifier.slice(prefix.length)];
}

function resolve(path: string, reference: Reference, imports: Manifest["imports"]): Target {
  const { specifier, kind } = reference;
  if (specifier.startsWith("node:")) return { kind: "platform", name: specifier };
  if (kind === "url" || /^\.\.?\//.test(specifier)) {
    return { kind: "file", path: relative("/", join("/", dirname(path), specifier)) };
  }
  const [name, address] = mapped(specifier, imports) ?? ["", ""];
  if (/^\.\.?\//.test(address)) return { kind: "file", path: join(address) };
  return /^(npm|jsr):/.test(address) ? { kind: "package", name } : { kind: "unknown" };
}

/** Reads the tree from the disk. */
export function readTree(): Tree {
  const paths = new Set([...walk("")].sort());
  const texts = new Map<string, string>();
  for (const path of paths) {
    const text = textOf(path);
    if (text !== null) texts.set(path, text);
  }
  const manifest = manifestOf(texts.get("deno.json") ?? "{}");
  const sources = new Map<string, SourceFile>();
  for (const [path, text] of texts) {
    if (!path.endsWith(".ts")) continue;
    const facts = sourceFacts(path, text);
    const edges = facts.references.map((reference): Edge => ({
      ...reference,
      target: resolve(path, reference, manifest.imports),
    }));
    sources.set(path, { path, text, facts, edges });
  }
  return { manifest, texts, paths, sources };
}

/** All files that are reached from `roots` by references, the roots included. */
export function reachable(tree: Tree, roots: Iterable<string>): Set<string> {
  const seen = new Set<string>();
  const waiting = [...roots];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
    for (const { target } of tree.sources.get(path)?.edges ?? []) {
      if (target.kind === "file") waiting.push(target.path);
    }
  }
  return seen;
}
