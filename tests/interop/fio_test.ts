/**
 * fio with its NBD engine: random writes of mixed sizes at depth 16, then everything is read and its
 * checksum compared; and the same on storage with a fault, where fio has to complain.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemFiles } from "../../lib/sys/file.ts";
import type { StartOptions } from "../support/server.ts";
import {
  interopTest,
  run,
  type RunResult,
  startDmu,
  toolPath,
  withTempDir,
} from "../support/tools.ts";

const FAULTY = fileURLToPath(new URL("../support/faulty_backends.ts", import.meta.url));

const SIZE = "64M";

function verify(uri: string, folder: string, ...more: string[]): Promise<RunResult> {
  return run("fio", [
    ...["--name=verify", "--ioengine=nbd", `--uri=${uri}`, `--size=${SIZE}`, "--iodepth=16"],
    ...["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7"],
    ...["--output-format=json", ...more],
  ], { cwd: folder, timeoutMs: 120_000 });
}

const SIZES: readonly (readonly [name: string, options: readonly string[]])[] = [
  ["512 B to 64 KiB", ["--bsrange=512-64k", "--blockalign=512"]],
  ["4 KiB to 1 MiB", ["--bssplit=4k/40:12k/20:64k/20:256k/15:1m/5", "--blockalign=4k"]],
];

/** The only job of fio's report. */
function jobOf({ stdout, stderr }: RunResult): Record<string, Record<string, number>> {
  const report = JSON.parse(stdout.slice(stdout.indexOf("{")));
  assert.equal(report.jobs.length, 1, stdout + stderr);
  return report.jobs[0];
}

for (const kind of ["memory", "file"]) {
  for (const [name, options] of SIZES) {
    interopTest(`fio verifies what it wrote to ${kind} in pieces of ${name}`, ["fio"], async () => {
      await withTempDir(async (folder) => {
        const spec = kind === "memory"
          ? `memory:${SIZE}`
          : `file:${join(folder, "disk")}?size=${SIZE}`;
        await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec]);
        const result = await verify(server.uri, folder, ...options);
        assert.equal(result.code, 0, result.stdout + result.stderr);
        const { read, write } = jobOf(result);
        assert.equal(write?.["io_bytes"], 64 * 1024 * 1024);
        assert.equal(read?.["io_bytes"], 64 * 1024 * 1024, "not all was verified");
        await server.stop();
      });
    });
  }
}

const DIRECT_SIZE = "16M";

/** True if files in the folder of the tests can be opened past the page cache. */
const directWorks = await withTempDir((folder) => {
  try {
    systemFiles.open(join(folder, "probe"), {
      ...{ readOnly: false, createSize: 4096, direct: true, lock: false },
    }).close();
    return true;
  } catch {
    return false;
  }
});

/** Writes and reads of the same places follow one another closely, 16 at a time. */
async function verifyDirect(options: StartOptions = {}): Promise<void> {
  await withTempDir(async (folder) => {
    const spec = `file:${join(folder, "disk")}?size=${DIRECT_SIZE}&direct=yes`;
    await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, spec], options);
    const result = await verify(server.uri, folder, ...[
      ...[`--size=${DIRECT_SIZE}`, "--bssplit=4k/60:8k/20:64k/15:256k/5", "--blockalign=4k"],
      "--verify_backlog=32",
    ]);
    assert.equal(result.code, 0, result.stdout + result.stderr);
    const { read, write } = jobOf(result);
    assert.equal(write?.["io_bytes"], 16 * 1024 * 1024);
    assert.equal(read?.["io_bytes"], 16 * 1024 * 1024, "not all was verified");
    // What it runs in ends with it.
    const { pid } = server.ready;
    assert.ok(typeof pid === "number");
    Deno.kill(pid, "SIGTERM");
    assert.equal((await server.ended).code, 0, server.stderr());
  });
}

if (directWorks) {
  interopTest("fio verifies what it wrote to a direct file", ["fio"], () => verifyDirect());

  const name = "fio verifies what it wrote to a direct file where io_uring is not permitted";
  interopTest(name, ["fio", "strace"], () => {
    const fault = "inject=io_uring_setup:error=EPERM";
    const trace = ["-f", "--seccomp-bpf", "-e", "trace=io_uring_setup", "-e", fault];
    return verifyDirect({ wrapper: [toolPath("strace"), ...trace, "-o", "/dev/null"] });
  });
}

const DM_USER = fileURLToPath(new URL("../support/dm_user_backend.ts", import.meta.url));

for (const channels of [1, 4]) {
  const name = `fio verifies what it wrote through dm-user with ${channels} channel(s)`;
  interopTest(name, ["fio"], async () => {
    await withTempDir(async (folder) => {
      await using server = await startDmu([
        ...["--nbd", `unix:${join(folder, "s")}`, "--backend", DM_USER],
        `dm-user-memory:${SIZE}?channels=${channels}`,
      ]);
      const result = await verify(server.uri, folder, "--bsrange=512-256k", "--blockalign=512");
      assert.equal(result.code, 0, result.stdout + result.stderr);
      assert.equal(jobOf(result).read?.["io_bytes"], 64 * 1024 * 1024, "not all was verified");
      await server.stop();
    });
  });
}

const FAULTS: readonly (readonly [fault: string, complaint: RegExp])[] = [
  ["failing-writes", /io_u error .* Input\/output error: write/],
  ["lost-writes", /bad magic header|verify failed/],
  ["flipped-bits", /crc32c: verify failed/],
];

for (const [fault, complaint] of FAULTS) {
  interopTest(`fio complains of ${fault}: the check above can fail`, ["fio"], async () => {
    await withTempDir(async (folder) => {
      await using server = await startDmu([
        ...["--nbd", `unix:${join(folder, "s")}`, "--backend", FAULTY],
        `${fault}:${SIZE}`,
      ]);
      const result = await verify(server.uri, folder, "--bsrange=4k-64k", "--blockalign=4k");
      assert.notEqual(result.code, 0, result.stdout);
      assert.match(result.stderr, complaint);
      await server.stop();
    });
  });
}
