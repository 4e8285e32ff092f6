/**
 * The S3 client, and disks on it, against Ceph's RADOS gateway.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { defaultRegistry } from "../../backends/mod.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import { makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { createVolume } from "../../lib/log_disk/create_volume.ts";
import { connectS3, type ObjectStore, probeStore, StoreError } from "../../lib/object_store/mod.ts";
import { collectedLog, testClock } from "../../lib/testing/mod.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { BLOCK_BYTES, Promises } from "../crash/promises.ts";
import { SeededRandom } from "../support/context.ts";
import {
  assertKeepsFsynced,
  assertLosesFsynced,
  EXT4_TOOLS,
  ext4Lack,
  KilledExt4,
} from "../support/killed_ext4.ts";
import { type RadosGateway, startRadosGateway } from "../support/radosgw.ts";
import { EMPTY_MACHINE } from "../support/s3_store.ts";
import { checkStore, keysOf } from "../support/store_contract.ts";
import { interopTest, runOk, startDmu, withTempDir } from "../support/tools.ts";

const FLUSHLESS = fileURLToPath(new URL("../support/flushless_backend.ts", import.meta.url));
const TOOLS = ["ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"] as const;

function connect(
  gateway: RadosGateway,
  prefix: string,
  different: Partial<Parameters<typeof connectS3>[0]> = {},
): Promise<ObjectStore> {
  const { endpoint, bucket, region, credentials } = gateway;
  return connectS3(
    { path: `${bucket}/${prefix}`, endpoint, region, credentials, ...different },
    {
      clock: testClock,
      random: seededRandom(1),
      log: collectedLog(),
      machine: EMPTY_MACHINE,
    },
  );
}

async function refuses(store: ObjectStore, kind: string, text: RegExp): Promise<void> {
  await using each = store;
  await assert.rejects(each.create("a", []), (error: unknown) => {
    assert.ok(error instanceof StoreError, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.match(error.message, text);
    return true;
  });
}

async function keepsTheContract(gateway: RadosGateway): Promise<void> {
  const { credentials } = gateway;
  await using store = await connect(gateway, "contract");
  await probeStore(store, seededRandom(2));
  await checkStore(store);
  await using other = await connect(gateway, "other");
  assert.deepEqual(await keysOf(other, ""), []);
  const wrong = { ...credentials, secretAccessKey: "guessed" };
  await refuses(
    await connect(gateway, "a", { credentials: wrong }),
    "denied",
    /the secret key is wrong/,
  );
  const unknown = { ...credentials, accessKeyId: "NOBODY" };
  await refuses(
    await connect(gateway, "a", { credentials: unknown }),
    "denied",
    /the access key is not known/,
  );
  await refuses(await connect(gateway, "a", { path: "none/a" }), "no-bucket", /no such bucket/);
}

/** Makes a volume; gives what stands behind the kind in its spec. */
async function makeVolume(
  gateway: RadosGateway,
  prefix: string,
  diskBytes: number,
): Promise<string> {
  await using store = await connect(gateway, prefix);
  await createVolume(store, { diskBytes }, context());
  const { endpoint, bucket, region, credentialsFile } = gateway;
  return `${bucket}/${prefix}?endpoint=${endpoint}&region=${region}&credentials=${credentialsFile}`;
}

function context(): OpenContext {
  return systemContext({ log: collectedLog() });
}

async function openDevice(spec: string): Promise<Device> {
  const { clock, log } = context();
  const { opened } = await defaultRegistry().open(parseSpec(spec), context());
  return new Device(opened.backend, { name: "client", clock, log });
}

/** fio writes over NBD and compares; another server then reads the same. */
async function isVerifiedByFio(gateway: RadosGateway): Promise<void> {
  const { folder } = gateway;
  const volume = await makeVolume(gateway, "fio", 64 * 2 ** 20);
  const fio = async (uri: string, ...more: string[]): Promise<void> => {
    await runOk("fio", [
      ...["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--size=24M", "--iodepth=16"],
      ...["--rw=randwrite", "--bsrange=4k-256k", "--blockalign=4k", "--randseed=7"],
      ...["--verify=crc32c", "--verify_fatal=1", "--fsync=200", ...more],
    ], { cwd: folder, timeoutMs: 120_000 });
  };
  for (const mode of ["--do_verify=1", "--verify_only=1"]) {
    await using server = await startDmu([
      `d=s3://${volume}&cache=8M`,
      ...["--nbd", `unix:${join(folder, "fio.sock")}`],
    ]);
    await fio(server.uri, mode);
    await server.stop();
  }
}

/** Answers, at most, that a server lives to give. */
const ANSWERS_MAX = 60;
const BLOCKS = 512;
const DEPTH = 8;

/** Starts a server, works with it, kills it, and looks at the disk. */
async function killRound(
  args: readonly string[],
  disk: string,
  promises: Promises,
  random: SeededRandom,
): Promise<void> {
  await using server = await startDmu(args);
  const device = await openDevice(server.uri);
  const last = promises.answered + 1 + random.below(ANSWERS_MAX);
  let killed: Promise<void> | null = null;
  const work = async (): Promise<void> => {
    while (killed === null) {
      try {
        await promises.step(device);
      } catch (error) {
        // Whatever a dead server had not answered it did not promise.
        if (killed === null) throw error;
      }
      if (promises.answered >= last) killed ??= server.kill();
    }
  };
  await Promise.all(Array.from({ length: DEPTH }, work));
  await killed;
  await device[Symbol.asyncDispose]().catch(() => {});
  await using reader = await openDevice(disk);
  const content = new Uint8Array(BLOCKS * BLOCK_BYTES);
  await reader.submit(makeRequest("read", 0, content.length, { data: content }));
  promises.check(content);
}

async function keepsPromises(gateway: RadosGateway): Promise<void> {
  const volume = await makeVolume(gateway, "kill", BLOCKS * BLOCK_BYTES);
  const random = new SeededRandom(11), promises = new Promises(BLOCKS, random);
  const args = [`s3:${volume}`, "--nbd", `unix:${join(gateway.folder, "kill.sock")}`];
  for (let count = 0; count < 4; count += 1) {
    await killRound(args, `s3:${volume}`, promises, random);
  }
  // Worth something only if much was promised.
  assert.ok(promises.answered > 40 && promises.syncs > 10, `${promises.syncs}`);
}

/** The planted bug: a flush that does nothing. */
async function flushlessIsFound(gateway: RadosGateway): Promise<void> {
  const volume = await makeVolume(gateway, "flushless", BLOCKS * BLOCK_BYTES);
  const random = new SeededRandom(12), promises = new Promises(BLOCKS, random);
  const socket = `unix:${join(gateway.folder, "flushless.sock")}`;
  const args = ["--backend", FLUSHLESS, `flushless:${volume}`, "--nbd", socket];
  await assert.rejects(async () => {
    for (let count = 0; count < 4; count += 1) {
      await killRound(args, `s3:${volume}`, promises, random);
    }
  }, (error) => error instanceof assert.AssertionError && /was durable/.test(error.message));
}

/** ext4 on disks in a bucket whose servers are killed; a server that never flushes is found out. */
async function keepsExt4(gateway: RadosGateway): Promise<void> {
  const { folder } = gateway;
  const bytes = 64 * 2 ** 20, nbd = ["--nbd", `unix:${join(folder, "ext4.sock")}`];
  const volume = await makeVolume(gateway, "ext4", bytes);
  await assertKeepsFsynced(
    new KilledExt4(join(folder, "ext4"), 31, () => startDmu([`s3:${volume}`, ...nbd])),
    2,
  );
  const spec = `flushless:${await makeVolume(gateway, "ext4-flushless", bytes)}&seal-after=1h`;
  await assertLosesFsynced(
    new KilledExt4(
      join(folder, "ext4-flushless"),
      32,
      () => startDmu(["--backend", FLUSHLESS, spec, ...nbd]),
    ),
  );
}

const lack = await ext4Lack();
const ext4 = lack === null ? ", ext4 on them" : ` (without ext4: needs ${lack})`;

interopTest(
  `a RADOS gateway: the client's contract, fio over NBD, servers that are killed${ext4}`,
  [...TOOLS, "fio", ...lack === null ? EXT4_TOOLS : []],
  () =>
    withTempDir(async (folder) => {
      await using gateway = await startRadosGateway(folder);
      await keepsTheContract(gateway);
      await isVerifiedByFio(gateway);
      await keepsPromises(gateway);
      await flushlessIsFound(gateway);
      if (lack === null) await keepsExt4(gateway);
    }),
);
