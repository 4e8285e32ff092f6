/**
 * The kinds `s3` and `dir`: the contract of a backend on a folder and on an S3 server, how they are
 * written, and what happens to I/O while the store fails.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { defaultRegistry } from "../../backends/mod.ts";
import type { Clock, OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { Backend } from "../../lib/block/types.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { openFolderStore } from "../../lib/object_store/mod.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { collectedLog, contractTests, testClock, testContext } from "../../lib/testing/mod.ts";
import {
  type S3TestServer,
  startS3Server,
  TEST_BUCKET,
  TEST_REGION,
} from "../support/s3_server.ts";
import { connectTo } from "../support/s3_store.ts";
import { bytesOf } from "../support/store_contract.ts";
import { withTempDir } from "../support/tools.ts";

const DISK_BYTES = 2 ** 25;

/** Pauses are short, so that holding I/O is not waiting for them; time-outs of requests are not. */
const hasty: Clock = {
  ...testClock,
  sleep: (ms, signal) => testClock.sleep(ms > 16_000 ? ms : ms / 100, signal),
};

function context(rest: Partial<OpenContext> = {}): OpenContext {
  return testContext({ files: systemFiles, clock: hasty, ...rest });
}

async function open(text: string, rest: Partial<OpenContext> = {}): Promise<Backend> {
  const { opened } = await defaultRegistry().open(parseSpec(text), context(rest));
  return opened.backend;
}

/** A folder with a volume in it. */
class Folder {
  #folder = "";
  #disks = 0;
  #host = new AbortController();

  get #path(): string {
    return join(this.#folder, `disk${this.#disks}`);
  }

  async open(): Promise<Backend> {
    this.#folder = Deno.makeTempDirSync({ prefix: "dmu-dir-" });
    await using store = await openFolderStore(this.#path, context());
    await createVolume(store, { diskBytes: DISK_BYTES }, context());
    return await this.reopen();
  }

  reopen(): Promise<Backend> {
    const { signal: host } = this.#host;
    // A host without power has no time either.
    const sleep: Clock["sleep"] = (ms, signal) =>
      hasty.sleep(ms, signal === undefined ? host : AbortSignal.any([signal, host]));
    return open(`dir:${this.#path}?on-error=fail`, { signal: host, clock: { ...hasty, sleep } });
  }

  /** What a crash at this moment leaves: every file is whole once it can be seen. */
  async crash(): Promise<Backend> {
    const from = this.#path;
    this.#disks += 1;
    for (const part of ["", "log", "ckpt"]) {
      Deno.mkdirSync(join(this.#path, part), { recursive: true });
      for (const { name, isFile } of entries(join(from, part))) {
        if (isFile) Deno.linkSync(join(from, part, name), join(this.#path, part, name));
      }
    }
    this.#host.abort(new Error("the host lost its power"));
    this.#host = new AbortController();
    return await this.reopen();
  }

  cleanUp(): void {
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

function entries(folder: string): Deno.DirEntry[] {
  try {
    return [...Deno.readDirSync(folder)];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

const folder = new Folder();
for (
  const { name, run } of contractTests("dir", () => folder.open(), {
    largestBytes: 2 ** 22,
    steps: 120,
    reopen: () => folder.reopen(),
    crash: () => folder.crash(),
    cleanUp: () => folder.cleanUp(),
  })
) {
  Deno.test(name, run);
}

const KEYS = "[default]\naws_access_key_id=AKIDTEST\naws_secret_access_key=a/secret+with=signs\n";

/** A volume on a test server, and how its disk is written. */
interface Bucket extends AsyncDisposable {
  readonly server: S3TestServer;
  /** The spec, as `s3:` or as `s3://`. */
  spec(options?: string, slashes?: string): string;
}

async function startBucket(): Promise<Bucket> {
  const server = await startS3Server();
  const folder = Deno.makeTempDirSync({ prefix: "dmu-s3-" });
  Deno.writeTextFileSync(join(folder, "keys"), KEYS);
  await using test = await connectTo(server);
  await createVolume(test.store, { diskBytes: DISK_BYTES }, context());
  return {
    server,
    spec: (options = "on-error=fail", slashes = "") =>
      `s3:${slashes}${TEST_BUCKET}/some/prefix?endpoint=${server.endpoint}&region=${TEST_REGION}` +
      `&credentials=${folder}/keys&${options}`,
    async [Symbol.asyncDispose](): Promise<void> {
      await server[Symbol.asyncDispose]();
      Deno.removeSync(folder, { recursive: true });
    },
  };
}

let bucket: Bucket | null = null;
for (
  const { name, run } of contractTests("s3", async () => {
    bucket = await startBucket();
    return await open(bucket.spec());
  }, {
    largestBytes: 2 ** 21,
    steps: 120,
    reopen: () => open(bucket?.spec("on-error=wait", "//") ?? ""),
    cleanUp: async () => await bucket?.[Symbol.asyncDispose](),
  })
) {
  Deno.test(name, run);
}

Deno.test("s3 fails to open at once when the store does not answer as it should", async () => {
  await using bucket = await startBucket();
  const wait = bucket.spec("on-error=wait");
  const refused = (text: RegExp): (error: unknown) => boolean => (error) => {
    assert.ok(error instanceof BlockError, String(error));
    assert.match(error.message, text);
    return true;
  };
  bucket.server.settings.credentials = { accessKeyId: "AKIDTEST", secretAccessKey: "another" };
  await assert.rejects(open(wait), refused(/the secret key is wrong/));
  bucket.server.settings.credentials = {
    accessKeyId: "AKIDTEST",
    secretAccessKey: "a/secret+with=signs",
  };
  bucket.server.settings.conditions = "ignored";
  await assert.rejects(open(wait), refused(/it overwrites objects.*read-only alone/));
  const reader = await open(wait, { readOnly: true });
  assert.equal(reader.geometry.readOnly, true);
  await reader[Symbol.asyncDispose]();
  await assert.rejects(open(wait.replace("some/prefix", "some/other")), refused(/some\/other/));
});

Deno.test("s3 holds I/O while the store fails when on-error is wait, and loses nothing", async () => {
  await using bucket = await startBucket();
  const log = collectedLog();
  const disk = await open(bucket.spec("on-error=wait&cache=4M"), { log });
  const body = bytesOf(1, 65_536);
  await disk.write(body, 0, { fua: false });
  const faults = [
    { kind: "answer", status: 403, code: "QuotaExceeded" },
    { kind: "answer", status: 503, code: "SlowDown" },
    { kind: "drop" },
  ] as const;
  let asked = 0;
  const { promise: enough, resolve } = Promise.withResolvers<void>();
  bucket.server.settings.plan = () => {
    asked += 1;
    if (asked === 30) resolve();
    return faults[asked % faults.length] ?? null;
  };
  let flushed = false;
  const flush = Promise.resolve(disk.flush()).then(() => flushed = true);
  await enough;
  assert.equal(flushed, false);
  bucket.server.settings.plan = () => null;
  await flush;
  await disk[Symbol.asyncDispose]();
  const messages = log.lines.map(({ level, message }) => `${level}: ${message}`).join("\n");
  assert.match(messages, /error: s3:.*: I\/O is held until this passes: Cannot /);
  assert.match(messages, /info: s3:.*: it works again, I\/O goes on after \d+ s/);
  await checkHas(bucket, body);
});

async function checkHas(bucket: Bucket, body: Uint8Array): Promise<void> {
  const again = await open(bucket.spec());
  const found = new Uint8Array(body.length);
  await again.read(found, 0);
  assert.deepEqual(found, body);
  await again[Symbol.asyncDispose]();
}

Deno.test("s3 fails I/O while the store fails when on-error is fail, and loses nothing", async () => {
  await using bucket = await startBucket();
  const disk = await open(bucket.spec("on-error=fail"));
  const body = bytesOf(2, 65_536);
  await disk.write(body, 0, { fua: false });
  bucket.server.settings.plan = () => ({ kind: "answer", status: 403, code: "QuotaExceeded" });
  await assert.rejects(
    async () => await disk.flush(),
    (error: unknown) => error instanceof BlockError && error.errno === "ENOSPC",
  );
  bucket.server.settings.plan = () => null;
  await disk.flush();
  await disk[Symbol.asyncDispose]();
  await checkHas(bucket, body);
});

Deno.test("the specs of s3 and dir say what is wrong with them", async () => {
  await assert.rejects(
    open("s3://disks/a?endpont=x"),
    /there is no option "endpont"; did you mean "endpoint"/,
  );
  await assert.rejects(open("s3:?region=x"), /its path is missing/);
  await assert.rejects(open("s3://disks/a?style=host"), /must be one of auto, path, virtual/);
  await assert.rejects(open("s3:x?endpoint=https://h/path"), /begins with no name of a bucket/);
  await assert.rejects(open("s3:disks?endpoint=https://h/path"), /Cannot use the endpoint/);
  await assert.rejects(open("dir:"), /its path is missing/);
  await withTempDir(async (folder) => {
    await assert.rejects(open(`dir:${folder}`), /dir:/);
  });
});
