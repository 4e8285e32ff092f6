/**
 * Which tests can run while the machine does something else: those that need processor time, memory
 * and a temporary folder of their own, and nothing that others could take or slow down. Whatever is
 * not known to be like that is kept for a quiet machine.
 *
 * @module
 */

/** `calm` tests bear company, the others want the machine for themselves. */
export type Part = "calm" | "alone";

/** Folders of tests/ whose tests are calm, but for what UNCALM finds. */
const CALM_FOLDERS: readonly string[] = [
  "backends",
  "block",
  "crash",
  "dirty_log",
  "dm_user",
  "filters",
  "fuse",
  "log_disk",
  "nbd",
  "object_store",
  "qcow2",
  "stream",
  "testing",
  "trace",
];

/**
 * Signs of a test that is not calm: it runs servers or programs of ours, threads, sockets or mounts, or
 * looks at the clock, the memory or the environment of its process.
 */
const UNCALM: RegExp = new RegExp(
  [
    /\/lib\/(daemon|driver|handle|xenstore)\//,
    /\/support\/(fuse|killed_ext4|mounts|nbd_servers|radosgw|s3_server|server|simulation|xenstored?)\.ts/,
    /"node:(child_process|cluster|http|https|net|tls|worker_threads)"/,
    /\b(startDmu|scriptProgram|Worker)\b/,
    /\bDeno\.(Command|chdir|connect|connectTls|env|listen|listenTls|memoryUsage|serve|umask)\b/,
    /\b(performance\.now|Date\.now|process\.(cpuUsage|memoryUsage|resourceUsage))\b/,
    /\/(dev|proc)\//,
  ].map(({ source }) => source).join("|"),
);

/** The part to which a test file belongs, by its path (relative to the top folder) and its text. */
export function partOf(path: string, text: string): Part {
  const [, folder = "", file] = /^tests\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
  return file !== undefined && CALM_FOLDERS.includes(folder) && !UNCALM.test(text)
    ? "calm"
    : "alone";
}

function* walk(folder: URL, path: string): Generator<string> {
  for (const { name, isDirectory } of Deno.readDirSync(new URL(`${path}/`, folder))) {
    if (isDirectory) yield* walk(folder, `${path}/${name}`);
    else if (name.endsWith("_test.ts")) yield `${path}/${name}`;
  }
}

/** All test files of one part, sorted; paths relative to `root`, the project's top folder. */
export function filesOf(part: Part, root: URL): string[] {
  return [...walk(root, "tests")]
    .filter((path) => partOf(path, Deno.readTextFileSync(new URL(path, root))) === part)
    .sort();
}
