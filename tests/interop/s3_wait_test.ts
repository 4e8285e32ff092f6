/**
 * `dmu serve` of a disk whose S3 server goes away, as NBD clients and whoever stops it see it: I/O waits, goes on
 * when the server is back, and is given up in the end when the daemon is to stop.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { type BlockError, toBlockError } from "../../lib/block/errors.ts";
import { systemClock } from "../../lib/daemon/context.ts";
import { connectNbd } from "../../lib/nbd/client/connect.ts";
import type { NbdConnection } from "../../lib/nbd/client/connection.ts";
import { testContext } from "../../lib/testing/mod.ts";
import { within } from "../support/process.ts";
import {
  type S3TestServer,
  startS3Server,
  TEST_BUCKET,
  TEST_REGION,
} from "../support/s3_server.ts";
import { connectTo } from "../support/s3_store.ts";
import { type DmuServer, startDmu, withTempDir } from "../support/tools.ts";

const KEYS = "[default]\naws_access_key_id=AKIDTEST\naws_secret_access_key=a/secret+with=signs\n";
const BLOCK = 4096;
/** A guard for what has to come to an end, ms. */
const LONG_MS = 120_000;

/** A disk that is served, with a client. */
interface Setting {
  readonly server: S3TestServer;
  readonly spec: string;
  readonly dmu: DmuServer;
  readonly client: NbdConnection;
  /** From now on the S3 server answers so. */
  fail(fault: "503" | "drop" | null): void;
}

async function withDisk(options: string, fn: (setting: Setting) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    await using server = await startS3Server();
    {
      await using test = await connectTo(server);
      await createVolume(test.store, { diskBytes: 2 ** 25 }, testContext());
    }
    Deno.writeTextFileSync(join(folder, "keys"), KEYS);
    const spec = `s3:${TEST_BUCKET}/some/prefix?endpoint=${server.endpoint}&region=${TEST_REGION}` +
      `&credentials=${folder}/keys${options}`;
    await using dmu = await startDmu([`d=${spec}`, "--nbd", `unix:${folder}/s`]);
    await using client = await connectNbd(dmu.uri, { clock: systemClock });
    await fn({
      server,
      spec,
      dmu,
      client,
      fail: (fault) => {
        server.settings.plan = () => {
          if (fault === null) return null;
          return fault === "drop"
            ? { kind: "drop" }
            : { kind: "answer", status: 503, code: "ServiceUnavailable" };
        };
      },
    });
  });
}

function filled(value: number): Uint8Array {
  return new Uint8Array(BLOCK).fill(value);
}

/** What a request ended with: null if it was done. */
function outcomeOf(request: Promise<void>): Promise<BlockError | null> {
  return request.then(() => null, toBlockError);
}

/** Resolves once the log has such a line. */
async function said(dmu: DmuServer, line: RegExp): Promise<void> {
  const end = performance.now() + LONG_MS;
  while (!line.test(dmu.stderr())) {
    assert.ok(performance.now() < end, `no line like ${line} in:\n${dmu.stderr()}`);
    await systemClock.sleep(20);
  }
}

/** The first byte of some blocks, as another host finds them. */
async function firstBytes(spec: string, blocks: readonly number[]): Promise<number[]> {
  return await withTempDir(async (folder) => {
    await using dmu = await startDmu([`d=${spec}`, "--nbd", `unix:${folder}/s`]);
    const found: number[] = [];
    {
      await using client = await connectNbd(dmu.uri, { clock: systemClock });
      for (const block of blocks) {
        const into = new Uint8Array(BLOCK);
        await client.read(into, block * BLOCK);
        found.push(into[0] ?? -1);
      }
    }
    await dmu.stop();
    return found;
  });
}

Deno.test("dmu serve holds I/O of an S3 disk while the server is away, and completes it when it is back", async () => {
  await withDisk("", async ({ spec, dmu, client, fail }) => {
    await client.write(filled(1), 0);
    await client.flush();
    fail("503");
    await client.write(filled(2), 0);
    const flushed = outcomeOf(client.flush());
    await said(dmu, /I\/O is held until this passes/);
    await client.write(filled(3), BLOCK);
    assert.equal(await within(flushed.then(() => true), 1), null, "it waits");
    fail(null);
    assert.equal(await flushed, null);
    await said(dmu, /it works again, I\/O goes on/);
    await client.flush();
    // The same, while it is to stop already.
    fail("503");
    await client.write(filled(4), 0);
    const last = outcomeOf(client.flush());
    Deno.kill(dmu.pid, "SIGTERM");
    await said(dmu, /stopping, 1 connection to finish/);
    fail(null);
    assert.equal(await last, null);
    const status = await within(dmu.ended, LONG_MS);
    assert.equal(status?.code, 0, dmu.stderr());
    assert.deepEqual(await firstBytes(spec, [0, 1]), [4, 3]);
  });
});

Deno.test("dmu serve gives up an S3 server that is away when it is to stop, and says what that means", async () => {
  await withDisk("", async ({ server, spec, dmu, client, fail }) => {
    await client.write(filled(1), 0);
    await client.flush();
    const before = new Set(server.objects.keys());
    fail("drop");
    await client.write(filled(2), 0);
    const outcomes = [outcomeOf(client.flush()), outcomeOf(client.write(filled(3), BLOCK, 1))];
    await said(dmu, /I\/O is held until this passes/);
    Deno.kill(dmu.pid, "SIGTERM");
    const status = await within(dmu.ended, LONG_MS);
    assert.ok(status !== null, `it does not end:\n${dmu.stderr()}`);
    for (const outcome of await Promise.all(outcomes)) {
      assert.ok(outcome !== null, "it was acknowledged, and is not there");
    }
    assert.equal(status.code, 1, dmu.stderr());
    assert.match(dmu.stderr(), /warning: Target d is to be closed: what waits for its storage is/);
    assert.match(dmu.stderr(), /does not answer: connection/);
    assert.match(
      dmu.stderr(),
      /: 8 KiB could not be stored, written after the last flush .*: lost$/m,
    );
    assert.deepEqual(new Set(server.objects.keys()), before);
    fail(null);
    assert.deepEqual(await firstBytes(spec, [0, 1]), [1, 0]);
  });
});
