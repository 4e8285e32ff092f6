/**
 * The single file of `deno task compile`, run as an operator would: with an empty environment, twice at
 * once, with a cache that somebody has changed or that belongs to somebody else. Takes about half a
 * minute: each first start unpacks the whole runtime.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startS3Server, TEST_BUCKET, TEST_CREDENTIALS, TEST_REGION } from "./support/s3_server.ts";
import { interopTest, run, runOk, type RunResult, startDmu, withTempDir } from "./support/tools.ts";

const COMPILER: string = fileURLToPath(new URL("../tools/compile.ts", import.meta.url));
const PROBE: string = fileURLToPath(new URL("./support/compiled_probe.ts", import.meta.url));
const BUILD_MS_MAX = 120_000;

const USER = Deno.uid() ?? 0;
/** Where a start without HOME and XDG_CACHE_HOME unpacks, and where it does if it cannot there. */
const FALLBACK = `/var/tmp/dmu-${USER}`;
const LAST_RESORT = `/tmp/dmu-${USER}`;

/** Removes the fallback folders afterwards, unless they were there before. */
async function leavingNoTrace(fn: () => Promise<void>): Promise<void> {
  const there = (path: string): Promise<boolean> => Deno.stat(path).then(() => true, () => false);
  const removed: string[] = [];
  for (const path of [FALLBACK, LAST_RESORT]) if (!await there(path)) removed.push(path);
  try {
    await fn();
  } finally {
    for (const path of removed) {
      if (await there(path)) await Deno.remove(path, { recursive: true });
    }
  }
}

async function build(folder: string, ...args: string[]): Promise<string> {
  const output = join(folder, "dmu");
  const command = ["run", "--allow-all", COMPILER, "--fast", "--output", output, ...args];
  await runOk(Deno.execPath(), command, { timeoutMs: BUILD_MS_MAX, env: { DENORT_BIN: "" } });
  return output;
}

/** What the probe prints. */
interface Report {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly folder: string;
  readonly worker: string;
  readonly umask: number;
}

function reportOf(result: RunResult): Report {
  assert.equal(result.stderr, "");
  const report: Report = JSON.parse(result.stdout);
  return report;
}

function start(
  file: string,
  args: readonly string[],
  env: Record<string, string> = {},
  cwd = "/",
): Promise<RunResult> {
  return run(file, args, { clearEnv: true, env, cwd });
}

/** The files of a cache, without what the runtime keeps for itself. */
function namesIn(cache: string): string[] {
  return [...Deno.readDirSync(cache)].map(({ name }) => name).filter((name) => name !== "state")
    .sort();
}

function fileIn(cache: string, prefix: string): string {
  const name = namesIn(cache).find((each) => each.startsWith(prefix));
  assert.ok(name !== undefined, `no ${prefix} in ${cache}`);
  return join(cache, name);
}

Deno.test("the single file keeps its cache safe", async (t) => {
  await withTempDir(async (folder) => {
    const file = await build(folder, "--main", PROBE);
    const cacheHome = join(folder, "cache home");
    const cache = join(cacheHome, "dmu");
    const env = { XDG_CACHE_HOME: cacheHome };

    await t.step("two first starts at once both work", async () => {
      const results = await Promise.all([
        start(file, ["0", "a"], env),
        start(file, ["0", "b"], env),
      ]);
      assert.deepEqual(results.map((each) => reportOf(each).args[1]), ["a", "b"]);
      assert.deepEqual(namesIn(cache).map((name) => name.replace(/-.*/, "")), [
        "deno",
        "dmu",
        "marks",
      ]);
    });

    await t.step("the folder and the files are for their owner alone", () => {
      for (const path of [cache, ...namesIn(cache).map((name) => join(cache, name))]) {
        const { mode, uid } = Deno.statSync(path);
        assert.deepEqual([(mode ?? 0) & 0o077, uid], [0, USER], path);
      }
    });

    await t.step("arguments, folder, umask, environment and exit code pass unchanged", async () => {
      const args = ["7", "", "two words", "*", "--help", "a'b\"c$HOME`id`\\", "ü\n"];
      const given = { ...env, user: "U", folder: "F", new: "N", LC_ALL: "C.UTF-8", place: "P" };
      const result = await start(file, args, given, folder);
      assert.equal(result.code, 7);
      const report = reportOf(result);
      assert.deepEqual(report.args, args);
      assert.equal(report.folder, Deno.realPathSync(folder));
      assert.equal(report.umask, Deno.umask());
      for (const [name, value] of Object.entries(given)) {
        assert.equal(report.env[name], value, name);
      }
      assert.equal(report.env["problem"], undefined);
    });

    await t.step("a worker starts", async () => {
      assert.equal(reportOf(await start(file, ["0"], env)).worker, "started");
    });

    await t.step("later starts unpack nothing", async () => {
      const before = Deno.statSync(fileIn(cache, "deno-")).ino;
      await start(file, ["0"], env);
      assert.equal(Deno.statSync(fileIn(cache, "deno-")).ino, before);
    });

    await t.step("a changed program is not run", async () => {
      const path = fileIn(cache, "dmu-");
      const { atime, mtime } = Deno.statSync(path);
      const text = Deno.readTextFileSync(path);
      const changed = text.replace('"started"', '"CHANGED"');
      assert.equal(changed.length, text.length);
      assert.notEqual(changed, text);
      Deno.writeTextFileSync(path, changed);
      Deno.utimeSync(path, atime ?? 0, mtime ?? 0);
      assert.equal(reportOf(await start(file, ["0"], env)).worker, "started");
      assert.equal(Deno.readTextFileSync(path), text);
    });

    await t.step("a changed runtime is not run", async () => {
      const path = fileIn(cache, "deno-");
      const size = Deno.statSync(path).size;
      Deno.writeTextFileSync(path, "#!/bin/sh\necho CHANGED\n");
      const report = reportOf(await start(file, ["0"], env));
      assert.equal(report.worker, "started");
      assert.equal(Deno.statSync(path).size, size);
    });

    await t.step("links in place of files are not followed", async () => {
      const path = fileIn(cache, "dmu-");
      const elsewhere = join(folder, "elsewhere.js");
      Deno.renameSync(path, elsewhere);
      Deno.symlinkSync(elsewhere, path);
      assert.equal(reportOf(await start(file, ["0"], env)).worker, "started");
      assert.ok(Deno.lstatSync(path).isFile);
    });

    await t.step("what PATH leads to is not used", async () => {
      const traps = join(folder, "traps");
      const sprung = join(folder, "sprung");
      Deno.mkdirSync(traps);
      for (
        const name of ["gzip", "tail", "head", "stat", "mkdir", "mv", "sha256sum", "id", "deno"]
      ) {
        Deno.writeTextFileSync(join(traps, name), `#!/bin/sh\n: >${sprung}\n`, { mode: 0o755 });
      }
      await Deno.remove(cache, { recursive: true });
      reportOf(await start(file, ["0"], { ...env, PATH: traps }));
      assert.throws(() => Deno.statSync(sprung), Deno.errors.NotFound);
    });

    await t.step("unsafe folders are refused, the next safe one is taken", async () => {
      const home = join(folder, "home");
      const own = join(home, ".cache", "dmu");
      Deno.mkdirSync(join(home, ".cache"), { recursive: true });
      Deno.renameSync(cache, own); // unpacked already: later starts check, they do not unpack
      const unsafe: Record<string, (path: string) => void> = {
        open: (path) => Deno.mkdirSync(path, { mode: 0o755 }),
        "read-only": (path) => Deno.mkdirSync(path, { mode: 0o500 }),
        link: (path) => Deno.symlinkSync(own, path),
        file: (path) => Deno.writeTextFileSync(path, ""),
        ...(USER === 0
          ? {
            foreign: (path: string): void => {
              Deno.mkdirSync(path, { mode: 0o700 });
              Deno.chownSync(path, 65534, 65534);
            },
          }
          : {}),
      };
      for (const [name, make] of Object.entries(unsafe)) {
        const place = join(folder, name);
        Deno.mkdirSync(place);
        make(join(place, "dmu"));
        const result = await start(file, ["0"], { XDG_CACHE_HOME: place, HOME: home });
        const report = reportOf(result);
        assert.equal(report.env["DENO_DIR"], join(own, "state"), name);
        if (name !== "file" && name !== "link") assert.deepEqual(namesIn(join(place, "dmu")), []);
      }
      for (const value of ["", "relative"]) {
        const report = reportOf(await start(file, ["0"], { XDG_CACHE_HOME: value, HOME: home }));
        assert.equal(report.env["DENO_DIR"], join(own, "state"), `XDG_CACHE_HOME="${value}"`);
      }
    });

    await t.step("a home that is not there is not made", () =>
      leavingNoTrace(async () => {
        const missing = join(folder, "nonexistent");
        const report = reportOf(await start(file, ["0"], { HOME: missing }));
        assert.equal(report.env["DENO_DIR"], join(FALLBACK, "state"));
        assert.throws(() => Deno.statSync(missing), Deno.errors.NotFound);
      }));

    await t.step(
      "a damaged file is refused with one line for each place",
      () =>
        leavingNoTrace(async () => {
          const damaged = join(folder, "damaged");
          const bytes = Deno.readFileSync(file);
          bytes.fill(0, bytes.length - 1_000_000);
          Deno.writeFileSync(damaged, bytes, { mode: 0o755 });
          const place = join(folder, "for damaged");
          Deno.mkdirSync(place);
          const result = await start(damaged, ["0"], { HOME: place });
          assert.equal(result.code, 1, result.stderr);
          assert.equal(result.stdout, "");
          assert.match(
            result.stderr,
            /Cannot unpack.*\n.*for damaged\/\.cache\/dmu has no room, or .* is damaged/,
          );
          assert.deepEqual(
            namesIn(join(place, ".cache/dmu")).filter((name) => !name.startsWith("dmu-")),
            [],
          );
        }),
    );
  });
});

/** AWS's own packages come along, though they are loaded only when nothing else knows credentials. */
async function checkCredentialChain(file: string, folder: string): Promise<void> {
  await using server = await startS3Server();
  const { accessKeyId, secretAccessKey } = TEST_CREDENTIALS;
  const keys = { Version: 1, AccessKeyId: accessKeyId, SecretAccessKey: secretAccessKey };
  const program = join(folder, "keys");
  Deno.writeTextFileSync(program, `#!/bin/sh\necho '${JSON.stringify(keys)}'\n`, { mode: 0o700 });
  Deno.mkdirSync(join(folder, ".aws"));
  const config = join(folder, ".aws/config");
  Deno.writeTextFileSync(
    config,
    `[default]\nregion=${TEST_REGION}\ncredential_process=${program}\n`,
  );
  const spec = `s3://${TEST_BUCKET}/disk?endpoint=${server.endpoint}`;
  const env = { HOME: folder, PATH: "/usr/bin:/bin", AWS_EC2_METADATA_DISABLED: "true" };
  const known = await start(file, ["image", "info", spec], env);
  assert.match(known.stderr, /there is no volume/);
  Deno.removeSync(config);
  const unknown = await start(file, ["image", "info", spec], env);
  assert.match(
    unknown.stderr,
    /^dmu: Cannot find credentials: set AWS_ACCESS_KEY_ID .* any providers\)$/m,
  );
}

interopTest("the single file serves with an empty environment", ["nbdinfo"], async () => {
  await withTempDir((folder) =>
    leavingNoTrace(async () => {
      const file = await build(folder);
      const version = await start(file, ["version"]);
      assert.equal(version.code, 0, version.stderr);
      assert.match(version.stdout, /\d+\.\d+\.\d+/);
      assert.equal((Deno.statSync(FALLBACK).mode ?? 0) & 0o777, 0o700);
      assert.equal((await start(file, ["no-such-command"])).code, 2);
      await checkCredentialChain(file, folder);

      const server = await startDmu([
        "--nbd",
        `unix:${join(folder, "socket")}`,
        "--control",
        `unix:${join(folder, "control")}`,
        "disk=memory:1M",
      ], {
        program: ["/usr/bin/env", "-i", file, "serve", "--json"],
      });
      assert.match(await runOk("nbdinfo", [server.uri]), /export-size: 1048576/);
      const given = { DMU_CONTROL: `unix:${join(folder, "control")}`, DENO_DIR: "/mine" };
      const exec = ["onexit", "exec", "--", "/usr/bin/env"];
      const inherited = (await start(file, exec, given)).stdout.replace(/^_=.*\n/m, "").trim();
      assert.deepEqual(
        inherited.split("\n").filter((line) =>
          !/^(DMU_ONEXIT_MINOR=\d+|PWD=.*|SHLVL=.*)$/.test(line)
        )
          .sort(),
        ["DENO_DIR=/mine", `DMU_CONTROL=${given.DMU_CONTROL}`],
      );
      await server.stop(); // the signal reaches the program itself: nothing stands in between
    })
  );
});
