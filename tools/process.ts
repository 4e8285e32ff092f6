/**
 * Running commands for the tasks, and printing. Relies on nothing of the project: tasks must work on
 * a tree that does not.
 *
 * @module
 */

/** Prints text as it is. */
export function print(text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}

/** The arguments of a task, without the `--` that npx leaves in. */
export function taskArguments(): string[] {
  return Deno.args[0] === "--" ? Deno.args.slice(1) : [...Deno.args];
}

/** Removes colours. */
export function plain(text: string): string {
  // deno-lint-ignore no-control-regex -- the escape character is what is looked for
  return text.replace(/\x1b\[[0-9;]*m/g, "");
}

/** What a command has printed on its standard output, and how it ended. */
export interface Outcome {
  readonly code: number;
  readonly stdout: string;
}

/** Runs Deno with these arguments; its output is shown as it comes. */
export async function runDeno(args: readonly string[]): Promise<Outcome> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    env: Deno.stdout.isTerminal() && !Deno.noColor ? { FORCE_COLOR: "1" } : {},
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const decoder = new TextDecoder();
  let stdout = "";
  for await (const chunk of child.stdout) {
    const text = decoder.decode(chunk, { stream: true });
    stdout += text;
    print(text);
  }
  const { code } = await child.status;
  return { code, stdout: plain(stdout) };
}
