/**
 * `dmu completion`: the script for a shell, and the hidden command by which that script asks what
 * could stand next. What can be completed is read off the commands themselves.
 *
 * @module
 */
import { type Complete, RootCommand, script } from "@bomb.sh/tab";
import { defaultRegistry } from "../backends/mod.ts";
import { type AnyCommand, command, examples, oneOf } from "./command.ts";
import type { CliIo } from "./io.ts";
import { type LiveNames, liveNames, NO_NAMES } from "./live_names.ts";
import { printable } from "./safe_text.ts";

/** Shells that there are scripts for. */
const SHELLS = ["bash", "zsh", "fish"] as const;
/** Entries of a folder that are offered at most. */
const ENTRIES_MAX = 200;

/** The command `dmu completion`. */
export function completionCommand(io: CliIo): AnyCommand {
  return command("completion", io)
    .summary("print the completion script for a shell")
    .description("Print the completion script for a shell.")
    .addArgument(oneOf("<shell>", "the shell", SHELLS))
    .addHelpText(
      "after",
      examples([
        ["In this bash", "source <(dmu completion bash)"],
        ["In every zsh", 'dmu completion zsh >"${fpath[1]}/_dmu"'],
        ["In every fish", "dmu completion fish >~/.config/fish/completions/dmu.fish"],
      ]),
    )
    .action((shell) => shell === "bash" ? io.out(BASH_SCRIPT) : script(shell, "dmu", "dmu"));
}

/**
 * The package's own script for bash evaluates what was typed, needs another package's functions, and
 * loses words with a colon; specs have one. This one splits at blanks, and runs nothing but dmu.
 */
const BASH_SCRIPT = String.raw`# bash completion for dmu
_dmu() {
  local line="${"$"}{COMP_LINE:0:COMP_POINT}" value
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  local current="${"$"}{words[${"$"}{#words[@]} - 1]}"
  # Bash replaces only what stands behind the last of these two characters.
  local tail="${"$"}{current##*[:=]}"
  local head="${"$"}{current%"$tail"}"
  COMPREPLY=()
  while IFS= read -r value; do
    [[ $value =~ ^:[0-9]+$ ]] && continue
    value="${"$"}{value%%$'\t'*}"
    value="${"$"}{value#"${"$"}{head#*=}"}"
    [[ $value == "$tail"* ]] && COMPREPLY+=("$value")
  done < <("$1" complete -- "${"$"}{words[@]:1}" 2>/dev/null)
  [[ ${"$"}{COMPREPLY[0]-} == *[:/] ]] && compopt -o nospace
  return 0
}
complete -F _dmu dmu
`;

/** Arguments that are paths. */
const FILE_ARGUMENTS = ["file", "files", "trace", "in", "out"];

/** What onexit actions begin with. */
const ACTIONS = ["remove", "snapshot", "flush", "commit", "gc", "merge", "hook"];

/** The hidden command that completion scripts call: `dmu complete -- WORDS`. */
export function completeCommand(io: CliIo, program: AnyCommand): AnyCommand {
  return command("complete", io)
    .description("Print what could stand next")
    .argument("[words...]", "the words so far, the last one unfinished")
    .action(async (words) => {
      const root = new RootCommand();
      const live = talksToDaemon(program, words) ? await liveNames(io, words) : NO_NAMES;
      for (const each of program.commands) {
        if (each.name() !== "complete") describe(root, each, { words, live });
      }
      root.parse([...words]);
    });
}

/** What is being completed. */
interface Typed {
  /** The words so far, the last one unfinished. */
  readonly words: readonly string[];
  /** What the running daemon has. */
  readonly live: LiveNames;
}

/** True if the command that is being typed takes names that a running daemon knows. */
function talksToDaemon(program: AnyCommand, words: readonly string[]): boolean {
  const found = program.commands.find((each) => each.name() === words[0]);
  if (found === undefined) return false;
  return found.registeredArguments.some(isLive) || talksToDaemon(found, words.slice(1));
}

const LIVE_ARGUMENTS = ["target", "target|minor", "minor", "handle", "action"];

function isLive(argument: { name(): string; readonly description: string }): boolean {
  // `dmu simulate` has targets too, which are yet to be made.
  return LIVE_ARGUMENTS.includes(argument.name()) && !argument.description.startsWith("NAME=");
}

/** Tells the completer of a command and of those below it. */
function describe(root: RootCommand, each: AnyCommand, typed: Typed, above = ""): void {
  const name = above + each.name();
  const word = typed.words.at(-1) ?? "";
  const target = root.command(name, each.summary());
  for (const option of each.options) {
    const name = option.long?.replace(/^--/, "");
    if (name === undefined) continue;
    if (!option.required) target.option(name, option.description);
    else if (name === "filter") target.option(name, option.description, completeFilter);
    else target.option(name, option.description, (add) => completePath(add, valueIn(word), ""));
  }
  for (const argument of each.registeredArguments) {
    const { argChoices = [], variadic } = argument;
    const handler = (add: Complete): void => {
      for (const choice of argChoices) add(choice, "");
      if (name === "replay" && argument.name() === "target") completeSpec(add, word);
      if (isLive(argument)) completeLive(add, argument.name(), typed);
      else if (argument.name() === "bitmap") completeBitmap(add, typed);
      else if (argument.name() === "kind") completeKind(add);
      else if (FILE_ARGUMENTS.includes(argument.name())) completePath(add, word, "");
      else if (argument.name() === "filter") completeFilter(add);
      else if (argument.name() === "place") completePath(add, word, "");
      else if (argChoices.length === 0) completeSpec(add, word);
    };
    target.argument(argument.name(), handler, variadic);
  }
  for (const below of each.commands) describe(root, below, typed, `${name} `);
}

/** Names and numbers that the daemon knows. */
function completeLive(add: Complete, what: string, { words, live }: Typed): void {
  const minor = words.find((word) => /^\d+$/.test(word));
  if (what.startsWith("target") || what === "action") {
    for (const each of live.targets) add(each, "");
  }
  if (what.endsWith("minor")) {
    for (const { minor, kind, peer } of live.files) add(String(minor), `${kind}, ${peer}`);
  }
  if (what === "action") {
    for (const each of ACTIONS) add(each, "");
  }
  if (what !== "handle") return;
  for (const file of live.files.filter((each) => String(each.minor) === minor)) {
    for (const { handle, action } of file.onexit) add(String(handle), printable(action));
  }
}

/** Names of bitmaps of all targets: which one is meant is typed later. */
function completeBitmap(add: Complete, { live }: Typed): void {
  for (const each of new Set(live.bitmaps)) add(each, "");
}

/** What stands behind the "=" of an option that is being typed. */
function valueIn(word: string): string {
  return word.startsWith("-") ? word.slice(word.indexOf("=") + 1) : word;
}

function completeKind(add: Complete): void {
  for (const { name, summary } of defaultRegistry().backends) add(name, summary);
}

function completeFilter(add: Complete): void {
  for (const { name, summary } of defaultRegistry().filters) add(name, summary);
}

/** Kinds of storage and schemes; after `file:` and others that take a path the files. What stands before NAME's "=" is left out. */
function completeSpec(add: Complete, whole: string): void {
  const word = whole.replace(/^[\w.-]+=/, "");
  const { backends } = defaultRegistry();
  const kind = backends.find(({ name, argument }) =>
    argument === "path" && word.startsWith(`${name}:`)
  );
  if (kind !== undefined) {
    const prefix = `${kind.name}:`;
    return completePath(add, word.slice(prefix.length), prefix);
  }
  for (const { name, summary, schemes = [] } of backends) {
    if (schemes.length === 0) add(`${name}:`, summary);
    for (const scheme of schemes) add(`${scheme}://`, summary);
  }
}

/** Offers what a folder has that begins as `start` does. */
function completePath(add: Complete, start: string, prefix: string): void {
  const cut = start.lastIndexOf("/") + 1;
  const folder = start.slice(0, cut), begin = start.slice(cut);
  try {
    let count = 0;
    for (const { name, isDirectory } of Deno.readDirSync(folder === "" ? "." : folder)) {
      if (!name.startsWith(begin) || (begin === "" && name.startsWith("."))) continue;
      add(`${prefix}${folder}${name}${isDirectory ? "/" : ""}`, "");
      count += 1;
      if (count === ENTRIES_MAX) return;
    }
  } catch {
    // Nothing can be offered of a folder that cannot be read.
  }
}
