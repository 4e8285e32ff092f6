/**
 * What the house rules need to know of a source file, taken from its syntax tree: imports, default
 * exports, casts, calls. Relies on `Deno.lint.runPlugin`, which `deno test` alone offers; so this
 * module can be used from tests only.
 *
 * @module
 */

/** How one file refers to another. */
export interface Reference {
  readonly specifier: string;
  /** An import or re-export, or a file that is named by `new URL("./x.ts", import.meta.url)`. */
  readonly kind: "import" | "url";
  /** Only types are taken, so nothing is loaded at run time. */
  readonly typeOnly: boolean;
  readonly line: number;
}

/** Something that a rule looks for, and where. */
export interface Finding {
  readonly what:
    | "default export"
    | "any"
    | "as unknown as"
    | "compiler directive"
    | "Deno.dlopen"
    | "sleep";
  readonly line: number;
}

/** The facts of one file. */
export interface SourceFacts {
  /** The file opens with a doc comment that holds `@module`. */
  readonly opensWithModuleComment: boolean;
  readonly references: readonly Reference[];
  readonly findings: readonly Finding[];
  /** Names of all functions and methods called, `assert.equal` as "assert" and "assert.equal". */
  readonly calls: ReadonlySet<string>;
  /** Every identifier that occurs outside import and export lists of names. */
  readonly identifiers: ReadonlySet<string>;
  /** Names that are exported by a declaration. */
  readonly exports: readonly string[];
}

const COMPILER_DIRECTIVE = /@ts-(ignore|expect-error|nocheck)\b|deno-lint-ignore-file/;

/** Functions that wait for time to pass, by the modules that have them under any name. */
const SLEEPS: readonly (readonly [module: RegExp, names: RegExp])[] = [
  [/^node:timers(\/promises)?$/, /^(setTimeout|setInterval|scheduler|default|\*)$/],
  [/^@std\/async/, /^(delay|\*)$/],
];

type Node = Deno.lint.Node;

function literalText(node: Node | undefined): string | null {
  if (node === undefined) return null;
  if (node.type === "TSLiteralType") return literalText(node.literal);
  return node.type === "Literal" && typeof node.value === "string" ? node.value : null;
}

function isImportMeta(node: Node, property: string): boolean {
  return node.type === "MemberExpression" && node.object.type === "MetaProperty" &&
    node.property.type === "Identifier" && node.property.name === property;
}

function dottedName(node: Node): string[] {
  if (node.type === "Identifier") return [node.name];
  if (node.type === "ChainExpression") return dottedName(node.expression);
  if (node.type === "MemberExpression" && node.property.type === "Identifier" && !node.computed) {
    const owner = dottedName(node.object);
    return owner.length === 0 ? [node.property.name] : [...owner, node.property.name];
  }
  return [];
}

/** The time-out of `setTimeout(f, 0)` lets pending events run and is no sleep; any other is. */
function isSleep(name: readonly string[], args: readonly Node[]): boolean {
  const last = name.at(-1);
  if (last === "setInterval") return true;
  if (name.join(".") === "Atomics.wait" || name.join(".") === "Atomics.waitAsync") {
    return args.length > 3;
  }
  if (last !== "setTimeout") return false;
  const delay = args[1];
  return delay !== undefined && !(delay.type === "Literal" && delay.value === 0);
}

function takesSleep(
  module: string,
  specifier: Deno.lint.ImportDeclaration["specifiers"][0],
): boolean {
  const name = specifier.type === "ImportDefaultSpecifier"
    ? "default"
    : specifier.type === "ImportNamespaceSpecifier"
    ? "*"
    : specifier.imported.type === "Identifier"
    ? specifier.imported.name
    : "*";
  return SLEEPS.some(([from, names]) => from.test(module) && names.test(name));
}

function isNameOnly(node: Node): boolean {
  const parent = "parent" in node ? node.parent : undefined;
  return parent !== undefined &&
    (parent.type === "ImportSpecifier" || parent.type === "ExportSpecifier" ||
      parent.type === "ImportDefaultSpecifier" || parent.type === "ImportNamespaceSpecifier");
}

function declaredNames(node: Node): string[] {
  switch (node.type) {
    case "VariableDeclaration":
      return node.declarations.flatMap(({ id }) => id.type === "Identifier" ? [id.name] : []);
    case "FunctionDeclaration":
    case "ClassDeclaration":
      return node.id === null ? [] : [node.id.name];
    case "TSInterfaceDeclaration":
    case "TSTypeAliasDeclaration":
    case "TSEnumDeclaration":
      return node.id.type === "Identifier" ? [node.id.name] : [];
    default:
      return [];
  }
}

function opensWithModuleComment(source: string): boolean {
  const text = source.startsWith("#!") ? source.slice(source.indexOf("\n") + 1) : source;
  const comment = /^\s*\/\*\*([\s\S]*?)\*\//.exec(text)?.[1];
  if (comment === undefined || !/@module\b/.test(comment)) return false;
  return comment.replace(/[\s*]|@module/g, "").length >= 10; // says something, too
}

/** Reads the facts of one TypeScript file. Throws if it is no TypeScript. */
export function sourceFacts(path: string, source: string): SourceFacts {
  const references: Reference[] = [];
  const findings: Finding[] = [];
  const calls = new Set<string>();
  const identifiers = new Set<string>();
  const exports: string[] = [];

  const lineStarts = [0];
  for (let at = source.indexOf("\n"); at >= 0; at = source.indexOf("\n", at + 1)) {
    lineStarts.push(at + 1);
  }
  const lineOf = (node: { range: Deno.lint.Range }): number => {
    const line = lineStarts.findIndex((start) => start > node.range[0]);
    return line < 0 ? lineStarts.length : line;
  };
  const refer = (node: Node, target: Node | null | undefined, typeOnly = false): void => {
    const specifier = literalText(target ?? undefined);
    if (specifier === null) return;
    references.push({ specifier, kind: "import", typeOnly, line: lineOf(node) });
  };
  const referByUrl = (node: Node, target: Node | undefined): void => {
    const specifier = literalText(target);
    if (specifier === null || /(^|\/)\.{0,2}$/.test(specifier)) return; // a folder
    references.push({ specifier, kind: "url", typeOnly: false, line: lineOf(node) });
  };
  const find = (what: Finding["what"], node: { range: Deno.lint.Range }): void => {
    findings.push({ what, line: lineOf(node) });
  };

  const visitor: Deno.lint.LintVisitor = {
    Program(node): void {
      for (const comment of node.comments) {
        if (COMPILER_DIRECTIVE.test(comment.value)) find("compiler directive", comment);
      }
    },
    ImportDeclaration(node): void {
      refer(node, node.source, node.importKind === "type");
      if (node.specifiers.some((each) => takesSleep(node.source.value, each))) find("sleep", node);
    },
    ExportAllDeclaration: (node): void => refer(node, node.source, node.exportKind === "type"),
    ExportNamedDeclaration(node): void {
      refer(node, node.source, node.exportKind === "type");
      if (node.declaration !== null) exports.push(...declaredNames(node.declaration));
      for (const specifier of node.specifiers) {
        if (specifier.exported.type !== "Identifier") continue;
        exports.push(specifier.exported.name);
        if (specifier.exported.name === "default") find("default export", node);
      }
    },
    ImportExpression: (node): void => refer(node, node.source),
    TSImportType: (node): void => refer(node, node.argument, true),
    ExportDefaultDeclaration: (node): void => find("default export", node),
    TSAnyKeyword: (node): void => find("any", node),
    Literal(node): void {
      if (node.value === "dlopen") find("Deno.dlopen", node); // Deno["dlopen"]
    },
    TSAsExpression(node): void {
      const { expression: inner } = node;
      if (inner.type === "TSAsExpression" && inner.typeAnnotation.type === "TSUnknownKeyword") {
        find("as unknown as", node);
      }
    },
    Identifier(node): void {
      if (node.name === "dlopen") find("Deno.dlopen", node);
      if (!isNameOnly(node)) identifiers.add(node.name);
    },
    NewExpression(node): void {
      const [path, base] = node.arguments;
      if (dottedName(node.callee).join() !== "URL" || base === undefined) return;
      if (isImportMeta(base, "url")) referByUrl(node, path);
    },
    CallExpression(node): void {
      const name = dottedName(node.callee);
      for (let length = 1; length <= name.length; length++) {
        calls.add(name.slice(0, length).join("."));
      }
      if (isSleep(name, node.arguments)) find("sleep", node);
      if (isImportMeta(node.callee, "resolve")) referByUrl(node, node.arguments[0]);
    },
  };
  Deno.lint.runPlugin(
    { name: "facts", rules: { facts: { create: (): Deno.lint.LintVisitor => visitor } } },
    path,
    source,
  );
  return {
    opensWithModuleComment: opensWithModuleComment(source),
    references,
    findings,
    calls,
    identifiers,
    exports,
  };
}
