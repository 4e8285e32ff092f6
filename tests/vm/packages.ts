/**
 * What the virtual machine is made of: packages of Debian, fetched and unpacked, not installed.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { runOk } from "../support/tools.ts";

/** Time in ms for fetching some 80 MB of packages. */
const FETCH_MS_MAX = 300_000;
/** A mirror may fail now and then. */
const RETRIES = ["-o", "Acquire::Retries=3"];
/** The package whose dependency is Debian's newest kernel. */
const KERNEL_PACKAGE = "linux-image-amd64";
/** Packages of what runs in the machine; libraries that they need and this machine has are its own. */
const PROGRAM_PACKAGES = ["busybox-static", "dmsetup", "libdevmapper1.02.1"];

/** Fetches and unpacks into a folder, unless something is there. Throws Error. */
export async function unpackPackages(folder: string): Promise<void> {
  Deno.mkdirSync(folder, { recursive: true });
  if (namesIn(join(folder, "boot")).length > 0) return;
  const depends = await runOk("apt-cache", ["depends", KERNEL_PACKAGE]);
  const kernel = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  if (kernel === undefined) {
    throw new Error(
      `Cannot find a kernel: apt-cache knows no ${KERNEL_PACKAGE}; run apt-get update`,
    );
  }
  const archives = join(folder, "archives");
  Deno.mkdirSync(archives, { recursive: true });
  const options = { cwd: archives, timeoutMs: FETCH_MS_MAX };
  await runOk("apt-get", [...RETRIES, "download", "-q", kernel, ...PROGRAM_PACKAGES], options);
  for (const name of namesIn(archives)) {
    await runOk("dpkg", ["-x", join(archives, name), folder], { timeoutMs: FETCH_MS_MAX });
  }
}

/** The names in a folder; none if there is no such folder. */
export function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** A program of the packages that were unpacked. Throws Error if none has it. */
export function unpacked(folder: string, name: string): string {
  for (const place of ["bin", "sbin", "usr/bin", "usr/sbin"]) {
    if (namesIn(join(folder, place)).includes(name)) return join(folder, place, name);
  }
  throw new Error(`Cannot find ${name} in ${folder}`);
}

/** Shared libraries that a program loads, by the path at which it looks for them. */
export async function librariesOf(
  program: string,
  folder: string,
): Promise<{ readonly from: string; readonly to: string }[]> {
  const places = ["lib", "usr/lib"].map((top) => join(folder, top, "x86_64-linux-gnu"));
  const env = { LD_LIBRARY_PATH: places.join(":") };
  const listed = await runOk("ldd", [program], { env });
  const paths = [...listed.matchAll(/^\s*(?:\S+ => )?(\/\S+) \(/gm)].map(([, path = ""]) => path);
  const interpreter = paths.find((path) => path.includes("/ld-linux"));
  return paths.map((from) => ({
    from,
    // The loader has its place in the program; the others are looked for beside the C library.
    to: from === interpreter
      ? from
      : join("/lib/x86_64-linux-gnu", from.slice(dirname(from).length)),
  }));
}
