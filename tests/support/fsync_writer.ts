/**
 * A program for tests: writes files into a folder until it fails or is killed, several at a time. It
 * prints `begun PATH` before it makes a file, and `synced PATH SHA256` once fsync of the file and then of
 * its folder have returned: from then on the file has to be there, whatever happens.
 *
 * Arguments: the folder, a name for what this run makes, a seed.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { seededRandom } from "../../lib/testing/random.ts";
import { sampleBytes } from "./tools.ts";

/** Files that are written at a time. */
const LANES = 4;
/** Bytes: of most files, of a few, and of one write. */
const SMALL_BYTES_MAX = 20_000, LARGE_BYTES_MAX = 200_000, WRITE_BYTES_MAX = 32_768;

/** Prints a line: so short that a pipe takes it whole. */
function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

async function sync(folder: string): Promise<void> {
  using handle = await Deno.open(folder);
  await handle.sync();
}

async function writeAll(path: string, content: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  for (let at = 0; at < content.length;) {
    at += await file.write(content.subarray(at, at + WRITE_BYTES_MAX));
  }
  await file.sync();
}

async function lane(root: string, folder: string, seed: number): Promise<never> {
  const random = seededRandom(seed);
  await Deno.mkdir(join(root, folder));
  await sync(root);
  for (let index = 0;; index += 1) {
    const path = join(folder, `f${index}`);
    const length = random.below(random.oneIn(6) ? LARGE_BYTES_MAX : SMALL_BYTES_MAX);
    const content = sampleBytes(length, random.uint32());
    say(`begun ${path}`);
    // Half of them as editors do it: complete under another name, then renamed.
    const renamed = random.oneIn(2);
    const first = join(root, renamed ? `${path}.new` : path);
    await writeAll(first, content);
    if (renamed) await Deno.rename(first, join(root, path));
    await sync(join(root, folder));
    say(`synced ${path} ${createHash("sha256").update(content).digest("hex")}`);
  }
}

const [root = "", name = "", seed = ""] = Deno.args;
const random = seededRandom(Number(seed));
await Promise.all(
  Array.from({ length: LANES }, (_, index) => lane(root, `${name}-${index}`, random.uint32())),
);
