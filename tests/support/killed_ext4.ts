/**
 * ext4 on a served disk whose server is killed while files are written: nbdfuse makes the target a file,
 * a loop device makes it a block device. However the server ends, the file system has to be sound once
 * its journal is replayed, and every file has to be whole whose fsync had returned.
 *
 * Nothing here can hang on a dead disk: nbdfuse is killed before anything is unmounted, and whenever a
 * step takes too long; then all I/O fails.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import { FUSE_LACK, type FuseFile, mountFuseFile } from "./fuse.ts";
import { canMount, withLoopDevice } from "./mounts.ts";
import { Collector, ended, killQuietly, within } from "./process.ts";
import { type DmuServer, run, runOk, scriptProgram, type ToolName } from "./tools.ts";

/** The tools that it takes. */
export const EXT4_TOOLS: readonly ToolName[] = ["nbdfuse", "mkfs.ext4", "e2fsck"];

/** What this machine lacks for it besides tools; null if nothing. */
export async function ext4Lack(): Promise<string | null> {
  return FUSE_LACK ?? (await canMount() ? null : "losetup and mount");
}

/** Lines of the writer, at least and at most, after which the server is killed. */
const LINES_MIN = 10, LINES_MAX = 90;
/** Time for these lines, and for the writer's end on a disk that fails, in ms. */
const WORK_MS_MAX = 60_000, END_MS_MAX = 30_000;
/** Time after which nbdfuse is killed, whatever hangs, in ms. */
const DEVICE_MS_MAX = 240_000;
/** Of losetup. Not even e2fsck gets the file itself: it writes single bytes, which nbdfuse does not widen. */
const LOOP: readonly string[] = ["--direct-io=on"];
const WRITER = new URL("./fsync_writer.ts", import.meta.url);

/** The served disk as a block device. */
interface Disk {
  /** What the device is on. */
  readonly file: FuseFile;
  /** The path of the device. */
  readonly device: string;
}

/** A writer that runs. */
interface Writer {
  /** Resolves when it has printed enough lines. */
  readonly enough: Promise<void>;
  /** Its end: it fails by itself when the disk does. Rejects if it does not. */
  end(): Promise<void>;
}

/** A file system that is carried on from one killed server to the next. */
export class KilledExt4 {
  readonly #folder: string;
  readonly #start: () => Promise<DmuServer>;
  readonly #random: SeededRandom;
  #rounds = 0;
  #begun = 0;
  /** The SHA-256 of each file whose fsync has returned. */
  readonly #synced = new Map<string, string>();

  /** Works in `folder`; `start` starts a server of the disk, always of the same one. */
  constructor(folder: string, seed: number, start: () => Promise<DmuServer>) {
    this.#folder = folder;
    this.#random = seededRandom(seed);
    this.#start = start;
  }

  /** Files whose fsync has returned. */
  get synced(): number {
    return this.#synced.size;
  }

  /** Files that were begun and whose fsync never returned. */
  get cut(): number {
    return this.#begun - this.#synced.size;
  }

  /** Makes the file system, and stops the server in peace. */
  async make(): Promise<void> {
    await Deno.mkdir(this.#folder);
    await Deno.mkdir(this.#mountPoint);
    await using server = await this.#start();
    await this.#onDevice(server, async ({ device }) => {
      await runOk("mkfs.ext4", ["-q", "-E", "lazy_itable_init=0,nodiscard", device]);
    });
    await server.stop();
  }

  /** Checks everything, writes, and kills the server at a random moment. */
  async round(): Promise<void> {
    this.#rounds += 1;
    await using server = await this.#start();
    await this.#mounted(server, (file) => this.#writeAndKill(server, file));
  }

  /** Checks everything, and stops the server in peace. */
  async check(): Promise<void> {
    this.#rounds += 1;
    await using server = await this.#start();
    await this.#mounted(server, () => Promise.resolve());
    await server.stop();
  }

  get #mountPoint(): string {
    return join(this.#folder, "mount");
  }

  /** Calls `fn` with a block device, for a time that is bounded. */
  async #onDevice(server: DmuServer, fn: (disk: Disk) => Promise<void>): Promise<void> {
    await using file = await mountFuseFile(
      join(this.#folder, `fuse${this.#rounds}`),
      server.uri,
    );
    const work = withLoopDevice(file.path, LOOP, (device) => fn({ file, device }));
    if (await within(work.then(() => true), DEVICE_MS_MAX) === true) return;
    await file.kill();
    // However this ends now: it says nothing of the file system.
    await Promise.allSettled([work]);
    assert.fail(`not done within ${DEVICE_MS_MAX} ms\n${server.stderr()}`);
  }

  /** Calls `fn` while the file system is mounted, after it was found sound and complete. */
  async #mounted(server: DmuServer, fn: (file: FuseFile) => Promise<void>): Promise<void> {
    await this.#onDevice(server, async ({ file, device }) => {
      await isSound(device);
      await runOk("mount", [device, this.#mountPoint]);
      try {
        await this.#isComplete();
        await fn(file);
      } catch (error) {
        await file.kill();
        throw error;
      } finally {
        const { code } = await run("umount", [this.#mountPoint]);
        if (code !== 0) await runOk("umount", ["--lazy", this.#mountPoint]);
      }
    });
  }

  async #isComplete(): Promise<void> {
    if (this.#synced.size === 0) return;
    const sums = [...this.#synced].map(([path, hash]) => `${hash}  ${path}\n`).join("");
    const options = { cwd: this.#mountPoint, stdin: sums };
    const { code, stdout, stderr } = await run("sha256sum", ["--check", "--quiet"], options);
    assert.equal(code, 0, `a file is lost whose fsync had returned:\n${stdout}${stderr}`);
  }

  async #writeAndKill(server: DmuServer, file: FuseFile): Promise<void> {
    const lines = LINES_MIN + this.#random.below(LINES_MAX - LINES_MIN + 1);
    const writer = this.#startWriter(lines);
    const inTime = await within(writer.enough.then(() => true), WORK_MS_MAX);
    await server.kill();
    await file.kill();
    await writer.end();
    assert.ok(inTime === true, `not ${lines} lines of the writer in ${WORK_MS_MAX} ms`);
  }

  #startWriter(lines: number): Writer {
    const seed = `${this.#random.uint32()}`;
    const [program = "", ...args] = scriptProgram(WRITER);
    const child = new Deno.Command(program, {
      args: [...args, this.#mountPoint, `r${this.#rounds}`, seed],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const enough = Promise.withResolvers<void>();
    let left = lines;
    const said = new Collector(child.stdout, (line) => {
      const [what, path = "", hash = ""] = line.split(" ");
      if (what === "begun") this.#begun += 1;
      else this.#synced.set(path, hash);
      left -= 1;
      if (left === 0) enough.resolve();
    });
    const errors = new Collector(child.stderr);
    // One that ends too early has done enough as well, and then `end` says why.
    void child.status.then(() => enough.resolve());
    return {
      enough: enough.promise,
      async end(): Promise<void> {
        const status = await ended(child, END_MS_MAX);
        if (status === null) killQuietly(child, "SIGKILL");
        assert.ok(status !== null, `the writer still runs ${END_MS_MAX} ms after its disk's end`);
        await Promise.all([said.done, errors.done]);
        assert.ok(left <= 0, `the writer has failed before the server: ${errors.text()}`);
      },
    };
  }
}

/** Replays the journal; then nothing may be left to repair. */
async function isSound(disk: string): Promise<void> {
  for (const [args, most] of [[["-p"], 1], [["-f", "-n"], 0]] as const) {
    const { code, stdout, stderr } = await run("e2fsck", [...args, disk]);
    const said = `e2fsck ${args.join(" ")}: exit code ${code}\n${stdout}${stderr}`;
    assert.ok(code <= most, `the file system is broken: ${said}`);
  }
}

/** Fails if a disk does not keep what was fsynced when its server is killed `rounds` times. */
export async function assertKeepsFsynced(ext4: KilledExt4, rounds: number): Promise<void> {
  await ext4.make();
  for (let count = 0; count < rounds; count += 1) await ext4.round();
  await ext4.check();
  // Worth something only if there was much to keep, and each server was killed in mid-write.
  const { synced, cut } = ext4;
  assert.ok(synced >= rounds && cut >= rounds, `${synced} files synced, ${cut} cut`);
}

/** Fails if it is not seen, after one kill, that a disk does not keep what was fsynced. */
export async function assertLosesFsynced(ext4: KilledExt4): Promise<void> {
  await ext4.make();
  await ext4.round();
  assert.ok(ext4.synced > 0);
  await assert.rejects(
    ext4.check(),
    (error) =>
      error instanceof assert.AssertionError &&
      /a file is lost whose fsync had returned|the file system is broken/.test(error.message),
  );
}
