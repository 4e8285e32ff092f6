/**
 * Disks on the same bucket: dmu's, s3backer's in its safe and in a tuned mode, and nbdkit's S3 plugin.
 *
 * @module
 */
import { join } from "node:path";
import { systemContext } from "../lib/daemon/context.ts";
import { createVolume } from "../lib/log_disk/create_volume.ts";
import { connectS3 } from "../lib/object_store/mod.ts";
import type { RadosGateway } from "../tests/support/radosgw.ts";
import { command } from "./commands.ts";
import { DMU } from "./servers.ts";

/** A disk that is served. */
export interface ServedDisk {
  /** What fio is told. */
  readonly fio: readonly string[];
  stop(): Promise<void>;
}

/** Where a disk is to be. */
export interface DiskPlace {
  readonly gateway: RadosGateway;
  /** The endpoint, behind the delay. */
  readonly endpoint: string;
  /** Unique for a disk; the same one opens it again. */
  readonly prefix: string;
  readonly bytes: number;
  /** Empty and private. */
  readonly folder: string;
}

/** A program to compare. */
export interface Peer {
  readonly name: string;
  /** Opens a disk; makes it first if `fresh`. */
  open(place: DiskPlace, fresh: boolean): Promise<ServedDisk>;
}

const START_MS_MAX = 60_000;

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + START_MS_MAX;
  while (!await isSo()) {
    if (performance.now() > end) throw new Error(`Cannot start ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function succeeds(path: string, args: readonly string[]): Promise<boolean> {
  return await command(path, args).then(() => true, () => false);
}

async function startNbd(
  name: string,
  { folder }: DiskPlace,
  socket: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<ServedDisk> {
  const [program = "", ...rest] = args;
  await Deno.remove(socket).catch(() => {});
  const child = new Deno.Command(program, {
    args: rest,
    env,
    cwd: folder,
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  const uri = `nbd+unix:///?socket=${socket}`;
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await child.status;
  };
  try {
    await until(name, () => succeeds("nbdinfo", ["--size", uri]));
  } catch (error) {
    await stop();
    throw error;
  }
  return { fio: ["--ioengine=nbd", `--uri=${uri}`], stop };
}

const dmu: Peer = {
  name: "dmu",
  async open(place, fresh): Promise<ServedDisk> {
    const { gateway: { bucket, region, credentials, credentialsFile }, endpoint, prefix } = place;
    if (fresh) {
      const silent = (): void => {};
      const log = { error: silent, warn: silent, info: silent, debug: silent };
      const context = systemContext({ log });
      const path = `${bucket}/${prefix}`;
      await using store = await connectS3({ path, endpoint, region, credentials }, context);
      await createVolume(store, { diskBytes: place.bytes }, context);
    }
    const socket = join(place.folder, "dmu.sock");
    const spec =
      `d=s3://${bucket}/${prefix}?endpoint=${endpoint}&region=${region}&credentials=${credentialsFile}`;
    return await startNbd("dmu", place, socket, [...DMU, "serve", "--nbd", `unix:${socket}`, spec]);
  },
};

/** s3backer with its options; it is a file below a mount. */
function s3backer(name: string, options: readonly string[]): Peer {
  return {
    name,
    async open({ gateway, endpoint, prefix, bytes, folder }): Promise<ServedDisk> {
      const { bucket, credentials } = gateway;
      const keys = join(folder, "keys"), mount = join(folder, "mount");
      const { accessKeyId, secretAccessKey } = credentials;
      Deno.writeTextFileSync(keys, `${accessKeyId}:${secretAccessKey}\n`, { mode: 0o600 });
      Deno.mkdirSync(mount, { recursive: true });
      const child = new Deno.Command("s3backer", {
        args: [
          ...["-f", "--quiet", "--force", `--accessFile=${keys}`, `--baseURL=${endpoint}/`],
          // With a region it would name the bucket in the host's name. Gateways take any region.
          ...[`--prefix=${prefix}`, `--size=${bytes}`, ...options],
          ...[bucket, mount],
        ],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      try {
        await until("s3backer", () => Deno.stat(join(mount, "file")).then(() => true, () => false));
      } catch (error) {
        child.kill("SIGTERM");
        await child.status;
        throw error;
      }
      return {
        fio: ["--ioengine=psync", `--filename=${join(mount, "file")}`],
        async stop(): Promise<void> {
          await command("umount", [mount]);
          await child.status;
        },
      };
    },
  };
}

const nbdkit: Peer = {
  name: "nbdkit S3",
  async open(place): Promise<ServedDisk> {
    const { gateway: { bucket, credentials }, endpoint, prefix, bytes, folder } = place;
    const socket = join(folder, "nbdkit.sock");
    const { accessKeyId, secretAccessKey } = credentials;
    return await startNbd("nbdkit", place, socket, [
      ...["nbdkit", "--foreground", "--unix", socket, "S3", `access-key=${accessKeyId}`],
      ...[`secret-key=${secretAccessKey}`, `endpoint-url=${endpoint}`, `bucket=${bucket}`],
      ...[`key=${prefix}`, `size=${bytes}`, "object-size=65536"],
    ]);
  },
};

/** Every write is a PUT before it is answered. */
export const S3BACKER_SAFE = "s3backer safe";
/** Larger blocks, a write-back cache and many threads: fast, and not durable. */
export const S3BACKER_TUNED = "s3backer tuned";

/** All; the first one is compared with the others. */
export const PEERS: readonly Peer[] = [
  dmu,
  s3backer(S3BACKER_SAFE, ["--blockSize=4k", "--blockCacheSize=0", "--minWriteDelay=0"]),
  s3backer(S3BACKER_TUNED, [
    ...["--blockSize=128k", "--blockCacheSize=2048", "--blockCacheThreads=32"],
    ...["--readAhead=32", "--readAheadTrigger=2", "--blockCacheWriteDelay=0", "--listBlocks"],
  ]),
  nbdkit,
];
