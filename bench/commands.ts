/**
 * Commands that benchmarks run, and what Linux tells of a process: CPU time from /proc.
 *
 * @module
 */

/** CPUs that servers and clients are pinned to: one each, or the only one. */
export interface Pinning {
  readonly server: number;
  readonly client: number;
}

/** The first CPU for the server, the second for the client. */
export function pinning(): Pinning {
  return { server: 0, client: navigator.hardwareConcurrency > 1 ? 1 : 0 };
}

/** Runs a command that has to succeed; gives its standard output. */
export async function command(path: string, args: readonly string[]): Promise<string> {
  const { success, code, stdout, stderr } = await new Deno.Command(path, {
    args: [...args],
    env: { LC_ALL: "C" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) {
    throw new Error(
      `Cannot run ${path} ${args.join(" ")}: exit code ${code}\n${decoder.decode(stderr)}`,
    );
  }
  return decoder.decode(stdout);
}

/** The first line that a command prints, or null if there is no such command. */
export async function firstLine(path: string, args: readonly string[]): Promise<string | null> {
  try {
    return (await command(path, args)).split("\n")[0] ?? "";
  } catch {
    return null;
  }
}

/** Ticks a second of the times in /proc: USER_HZ, which is 100 on every Linux with Deno. */
const TICKS_PER_SECOND = 100;

/** CPU time of a process and all its threads so far, user and system, in µs (steps of 10 000). */
export function cpuTimeUs(pid: number): number {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // The second field is the name in brackets and may hold anything; utime and stime are 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * (1_000_000 / TICKS_PER_SECOND);
}
