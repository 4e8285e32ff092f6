/**
 * Ceph's RADOS gateway for tests: a monitor, one OSD whose store is memory, and the gateway, on loopback
 * ports that were free a moment before, everything in a folder of its own. What the processes said is
 * part of every failure to start.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { AwsClient } from "aws4fetch";
import type { S3Credentials } from "../../lib/object_store/mod.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { killQuietly } from "./process.ts";
import { toolPath } from "./tools.ts";

/** A gateway that runs, with one bucket. */
export interface RadosGateway extends AsyncDisposable {
  readonly endpoint: string;
  readonly bucket: string;
  readonly region: string;
  readonly credentials: S3Credentials;
  /** A file with the credentials, as AWS's tools read it. */
  readonly credentialsFile: string;
  /** Its folder. */
  readonly folder: string;
}

/** Time that one step of the start may take, in ms. */
const STEP_MS_MAX = 60_000;
const CREDENTIALS: S3Credentials = { accessKeyId: "DMUTEST", secretAccessKey: "dmu/test+secret" };
const REGION = "default";
/** Bytes that the memory store says it has. */
const MEMORY_BYTES = 4 * 2 ** 30;

/** A port that nobody listens on now. */
function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  return port;
}

function configuration(folder: string, ports: { mon: number; gateway: number }): string {
  return `[global]
fsid = ${crypto.randomUUID()}
run dir = ${folder}
admin socket =
pid file =
log file = ${folder}/$name.log
log to stderr = false
err to stderr = true
mon host = v1:127.0.0.1:${ports.mon}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 0
mon max pg per osd = 1000
osd objectstore = memstore
osd crush update on start = false
osd class update on start = false
memstore device bytes = ${MEMORY_BYTES}
rgw frontends = beast endpoint=127.0.0.1:${ports.gateway} tcp_nodelay=1
rgw enable usage log = false
[mon.a]
mon data = ${folder}/mon
[osd.0]
osd data = ${folder}/osd
`;
}

/** The processes of one gateway. */
class Cluster {
  readonly #folder: string;
  readonly #running: { readonly name: string; readonly child: Deno.ChildProcess }[] = [];

  constructor(folder: string) {
    this.#folder = folder;
  }

  get #configuration(): string[] {
    return ["-c", join(this.#folder, "ceph.conf")];
  }

  /** Runs a program to its end. */
  async run(
    tool: "ceph" | "ceph-mon" | "ceph-osd" | "monmaptool" | "radosgw-admin",
    ...args: string[]
  ): Promise<void> {
    const plain = tool === "monmaptool";
    const { success, stdout, stderr } = await new Deno.Command("timeout", {
      args: [
        "--kill-after=1",
        String(STEP_MS_MAX / 1000),
        toolPath(tool),
        ...plain ? [] : this.#configuration,
        ...args,
      ],
      stdin: "null",
    }).output();
    const text = new TextDecoder();
    assert.ok(
      success,
      this.#report(`${tool} failed: ${text.decode(stdout)}${text.decode(stderr)}`),
    );
  }

  /** Starts a program that stays. */
  start(tool: "ceph-mon" | "ceph-osd" | "radosgw", ...args: string[]): void {
    const child = new Deno.Command(toolPath(tool), {
      args: [...this.#configuration, "-f", ...args],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#running.push({ name: tool, child });
  }

  /** The end of every log. */
  #report(what: string): string {
    const logs = [...Deno.readDirSync(this.#folder)].filter(({ name }) => name.endsWith(".log"))
      .map(({ name }) => {
        const lines = Deno.readTextFileSync(join(this.#folder, name)).split("\n");
        return `--- ${name}\n${lines.slice(-30).join("\n")}`;
      });
    return [`Cannot start the RADOS gateway: ${what}`, ...logs].join("\n");
  }

  /** Asks until there is an answer. */
  async answers(endpoint: string): Promise<void> {
    const end = Date.now() + STEP_MS_MAX;
    while (true) {
      try {
        const response = await fetch(endpoint);
        await response.body?.cancel();
        return;
      } catch (error) {
        assert.ok(Date.now() < end, this.#report(`${endpoint} does not answer: ${String(error)}`));
        await testClock.sleep(50);
      }
    }
  }

  async stop(): Promise<void> {
    for (const { child } of this.#running.toReversed()) {
      killQuietly(child, "SIGKILL");
      await child.status;
    }
  }
}

/** Starts a gateway below a folder. What was free may be taken a moment later: then once more. */
export async function startRadosGateway(folder: string): Promise<RadosGateway> {
  const attempt = (name: string): Promise<RadosGateway> => {
    const own = join(folder, name);
    Deno.mkdirSync(own);
    return startOnce(own);
  };
  try {
    return await attempt("gateway");
  } catch (first) {
    return await attempt("again").catch((second) => {
      throw new AggregateError([first, second], `${String(first)}\n${String(second)}`);
    });
  }
}

async function startOnce(folder: string): Promise<RadosGateway> {
  const ports = { mon: freePort(), gateway: freePort() };
  const text = configuration(folder, ports);
  Deno.writeTextFileSync(join(folder, "ceph.conf"), text);
  const fsid = /^fsid = (.*)$/m.exec(text)?.[1] ?? "";
  for (const name of ["mon", "osd"]) Deno.mkdirSync(join(folder, name));
  const cluster = new Cluster(folder);
  try {
    const map = join(folder, "monmap"), osd = crypto.randomUUID();
    const address = `[v1:127.0.0.1:${ports.mon}]`;
    await cluster.run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, map);
    await cluster.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", map);
    cluster.start("ceph-mon", "-i", "a");
    await cluster.run("ceph", "osd", "new", osd, "0");
    // By itself an OSD says where it is before it knows its monitor, and now and then is refused.
    await cluster.run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=one");
    await cluster.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd);
    cluster.start("ceph-osd", "-i", "0");
    const { accessKeyId, secretAccessKey } = CREDENTIALS;
    await cluster.run(
      "radosgw-admin",
      "user",
      "create",
      "--uid=dmu",
      "--display-name=dmu",
      `--access-key=${accessKeyId}`,
      `--secret-key=${secretAccessKey}`,
    );
    cluster.start("radosgw", "-n", "client.rgw");
    const endpoint = `http://127.0.0.1:${ports.gateway}`;
    await cluster.answers(endpoint);
    const credentialsFile = join(folder, "credentials");
    Deno.writeTextFileSync(
      credentialsFile,
      `[default]\naws_access_key_id=${accessKeyId}\naws_secret_access_key=${secretAccessKey}\n`,
    );
    const gateway: RadosGateway = {
      endpoint,
      bucket: "disks",
      region: REGION,
      credentials: CREDENTIALS,
      credentialsFile,
      folder,
      [Symbol.asyncDispose]: () => cluster.stop(),
    };
    await makeBucket(gateway);
    return gateway;
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}

async function makeBucket({ endpoint, bucket, region, credentials }: RadosGateway): Promise<void> {
  const client = new AwsClient({ ...credentials, service: "s3", region, retries: 0 });
  const response = await client.fetch(`${endpoint}/${bucket}`, { method: "PUT" });
  assert.equal(response.status, 200, `Cannot make the bucket: ${await response.text()}`);
}
