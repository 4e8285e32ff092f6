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

/** Fields of /proc/PID/stat from the third on: the second is the name in brackets and may hold anything. */
function statOf(pid: number | string): string[] | null {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null; // It has ended.
  }
}

/** Places of parent, user and system time, and the times of children that were waited for, in `statOf`. */
const PARENT = 1, TIMES = [11, 12, 13, 14] as const;

/** A process and all that it has started: some servers start one for each connection. */
export function processTree(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const { name } of Deno.readDirSync("/proc")) {
    const parent = /^\d+$/.test(name) ? Number(statOf(name)?.[PARENT]) : 0;
    if (parent > 1) children.set(parent, [...children.get(parent) ?? [], Number(name)]);
  }
  const tree = [pid];
  for (const each of tree) tree.push(...children.get(each) ?? []);
  return tree;
}

/** CPU time of a process and all that it has started so far, user and system, in µs (steps of 10 000). */
export function cpuTimeUs(pid: number): number {
  let ticks = 0;
  for (const each of processTree(pid)) {
    const fields = statOf(each);
    for (const at of TIMES) ticks += Number(fields?.[at] ?? 0);
  }
  return ticks * (1_000_000 / TICKS_PER_SECOND);
}

/** Memory of a process and all that it has started, in bytes; what they share counts once. */
export function memoryBytes(pid: number): number {
  let kib = 0;
  for (const each of processTree(pid)) {
    try {
      const text = Deno.readTextFileSync(`/proc/${each}/smaps_rollup`);
      kib += Number(/^Pss:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0);
    } catch {
      // It has ended.
    }
  }
  return kib * 1024;
}
