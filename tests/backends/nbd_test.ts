/**
 * The nbd backend: the contract over the project's own server, nbdkit and qemu-nbd; what servers of all
 * kinds offer and lack; TLS; lost servers.
 *
 * @module
 */
import assert from "node:assert/strict";
import { memory } from "../../backends/memory.ts";
import { nbd, type NbdOptions, openNbd } from "../../backends/nbd.ts";
import { copyDevice } from "../../lib/block/copy.ts";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend, Extent, Opened } from "../../lib/block/types.ts";
import { UsageError } from "../../lib/block/usage_error.ts";
import type { Dial } from "../../lib/nbd/client/dial.ts";
import { listExports } from "../../lib/nbd/client/connect.ts";
import { exportInfoOf } from "../../lib/nbd/export_info.ts";
import { serveConnection } from "../../lib/nbd/server.ts";
import { memoryPair } from "../../lib/stream/memory_pair.ts";
import { collectedLog, contractTests, testClock, testContext } from "../../lib/testing/mod.ts";
import { makeCertificates } from "../support/certificates.ts";
import { makeImage, type OtherServer, startNbdkit, startQemuNbd } from "../support/nbd_servers.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import type { OpenContext } from "../../lib/block/context.ts";

const MIB = 2 ** 20;
const NO_FUA = { fua: false };

function open(
  uri: string,
  options: Partial<NbdOptions> = {},
  context: Partial<OpenContext> = {},
): Promise<Opened> {
  return nbd.open({ uri, connections: 1, timeout: 30, ...options }, testContext(context));
}

/** Runs `test` with what is at `uri`, and disposes it. */
async function withBackend(
  uri: string,
  test: (backend: Backend, opened: Opened) => void | Promise<void>,
  options: Partial<NbdOptions> = {},
  context: Partial<OpenContext> = {},
): Promise<void> {
  const opened = await open(uri, options, context);
  try {
    await test(opened.backend, opened);
  } finally {
    await opened.backend[Symbol.asyncDispose]();
  }
}

async function errnoOf(work: () => unknown): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    assert.ok(error instanceof BlockError, String(error));
    return error.errno;
  }
}

/** A disk behind the project's own server, in this process. */
async function openOwn(): Promise<Opened> {
  const context = testContext();
  const { backend } = await memory.open({ size: 4 * MIB, limit: 8 * MIB }, context);
  const device = new Device(backend, { name: "disk", clock: testClock, log: context.log });
  const exports = new Map([["disk", exportInfoOf(device)]]);
  const served: Promise<unknown>[] = [];
  const dial: Dial = () => {
    const [mine, theirs] = memoryPair();
    const table = { exports, defaultExport: null, stopping: false };
    served.push(serveConnection(theirs, { exports: table, open: () => ({ device }) }));
    return Promise.resolve({
      pair: mine,
      encrypt: () => Promise.reject(new Error("no TLS here")),
      close: () => {},
    });
  };
  const uri = "nbd+unix:///disk?socket=none";
  const opened = await openNbd({ uri, connections: 2, timeout: 0 }, context, dial);
  const dispose = opened.backend[Symbol.asyncDispose];
  return {
    ...opened,
    backend: {
      ...opened.backend,
      async [Symbol.asyncDispose](): Promise<void> {
        await dispose.call(opened.backend);
        await Promise.all(served);
        await device[Symbol.asyncDispose]();
      },
    },
  };
}

for (const { name, run } of contractTests("nbd (own server)", openOwn)) Deno.test(name, run);

/** What nbdkit and qemu-nbd do not tell right: zeroes that keep their storage are shown as a hole. */
const UNTOLD = "shows what was written as allocated";

/** The contract over a server of somebody else, whose disk is emptied for each case, as one test. */
function contractOver(
  name: string,
  tool: "nbdkit" | "qemu-nbd",
  start: (folder: string) => Promise<OtherServer>,
): void {
  interopTest(`nbd keeps the contract over ${name}`, [tool], () =>
    withTempDir(async (folder) => {
      await using server = await start(folder);
      const cases = contractTests("nbd", async () => {
        const opened = await open(server.uri);
        const { size } = opened.backend.geometry;
        await opened.backend.zero?.(0, size, { fua: false, mayTrim: true, fastOnly: false });
        return opened;
      }, { steps: 200, largestBytes: 40 * MIB });
      const failures: string[] = [];
      for (const { name: part, run } of cases) {
        if (part.includes(UNTOLD)) continue;
        await run().catch((error) => failures.push(`${part}: ${error}`));
      }
      assert.ok(cases.length > 50);
      assert.deepEqual(failures, []);
    }));
}

contractOver("nbdkit", "nbdkit", (folder) => startNbdkit(folder, "memory", "40M"));
contractOver("nbdkit with blocks of 4096 bytes", "nbdkit", (folder) =>
  startNbdkit(
    folder,
    "--filter=blocksize-policy",
    "memory",
    "4M",
    "blocksize-minimum=4096",
    "blocksize-preferred=64K",
    "blocksize-maximum=1M",
    "blocksize-error-policy=error",
  ));
contractOver("qemu-nbd", "qemu-nbd", async (folder) => {
  const image = await makeImage(folder, 4 * MIB);
  return startQemuNbd(folder, "--format=raw", "--discard=unmap", image);
});

interopTest("nbd shows what qemu-nbd exports", ["qemu-nbd"], () =>
  withTempDir(async (folder) => {
    const image = await makeImage(folder, 4 * MIB);
    await using server = await startQemuNbd(
      folder,
      "--format=raw",
      "--export-name=a disk/é",
      "--description=of a test",
      image,
    );
    const listed = await listExports(server.uri, { clock: testClock });
    assert.deepEqual(
      listed.exports.map(({ name, description, contexts, facts }) => ({
        name,
        description,
        contexts,
        size: facts?.size,
      })),
      [{
        name: "a disk/é",
        description: "of a test",
        contexts: ["base:allocation"],
        size: BigInt(4 * MIB),
      }],
    );
    const uri = server.uri.replace("///", "///a%20disk/%C3%A9");
    await withBackend(uri, async (backend, { management }) => {
      assert.deepEqual(backend.geometry, {
        size: 4 * MIB,
        minimum: 1,
        preferred: 4096,
        maximum: 32 * MIB,
        readOnly: false,
      });
      assert.equal(backend.capabilities.fua, true);
      assert.equal(management?.describe?.().description, "of a test");
      const data = new Uint8Array(65_536).fill(7);
      await backend.write(data, 65_536, { fua: true });
      const extents = await backend.extents?.(0, 4 * MIB);
      const zero = { allocated: false, zero: true };
      assert.deepEqual(extents, [
        { length: 65_536, ...zero },
        { length: 65_536, allocated: true, zero: false },
        { length: 4 * MIB - 131_072, ...zero },
      ]);
      const stored = await Deno.readFile(image);
      assert.deepEqual(stored.subarray(65_536, 131_072), data);
    });
    assert.equal(await errnoOf(() => open(server.uri)), "ENOENT");
  }));

interopTest(
  "nbd opens several connections if the server shares its cache",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      await using server = await startNbdkit(folder, "memory", "4M");
      await withBackend(server.uri, async (backend, { management }) => {
        assert.equal(management?.describe?.().connections, 4);
        const data = Uint8Array.from({ length: 4 * MIB }, (_, index) => index * 11);
        const part = 65_536;
        const lanes = Array.from({ length: 64 }, (_, index) => index * part);
        await Promise.all(
          lanes.map((at) => backend.write(data.subarray(at, at + part), at, NO_FUA)),
        );
        const back = new Uint8Array(4 * MIB);
        await Promise.all(lanes.map((at) => backend.read(back.subarray(at, at + part), at)));
        assert.deepEqual(back, data);
      }, { connections: 4 });
      await using single = await startNbdkit(
        folder,
        "--filter=multi-conn",
        "memory",
        "4M",
        "multi-conn-mode=disable",
      );
      const log = collectedLog();
      await withBackend(
        single.uri,
        (_, { management }) => {
          assert.equal(management?.describe?.().connections, 1);
        },
        { connections: 4 },
        { log },
      );
      assert.match(log.lines[0]?.message ?? "", /one connection/);
    }),
);

interopTest("nbd reads what nbdkit's pattern plugin computes, up to the end of 2^53 - 1 bytes", [
  "nbdkit",
], () =>
  withTempDir(async (folder) => {
    const size = Number.MAX_SAFE_INTEGER;
    await using server = await startNbdkit(folder, "pattern", `${size}`);
    await withBackend(server.uri, async (backend) => {
      assert.equal(backend.geometry.size, size);
      assert.equal(backend.geometry.readOnly, true);
      for (const offset of [0, 2 ** 32 - 8, 2 ** 40, size - 4095]) {
        const into = new Uint8Array(offset === 0 ? 4096 : 4095);
        await backend.read(into, offset);
        const view = new DataView(into.buffer);
        const first = Math.ceil(offset / 8) * 8;
        for (let at = first - offset; at + 8 <= into.length; at += 8) {
          assert.equal(view.getBigUint64(at), BigInt(offset) + BigInt(at));
        }
      }
      assert.equal(await errnoOf(() => backend.write(new Uint8Array(1), 0, NO_FUA)), "EPERM");
    });
  }));

interopTest(
  "nbd cuts long ranges to what a request can carry",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      const size = 2 ** 40;
      await using server = await startNbdkit(folder, "memory", "1T");
      await withBackend(server.uri, async (backend) => {
        await backend.write(new Uint8Array(4096).fill(1), 2 ** 33, NO_FUA);
        const options = { fua: false, mayTrim: true, fastOnly: false };
        await backend.zero?.(2 ** 32, 2 ** 33, options);
        await backend.trim?.(0, size, NO_FUA);
        await backend.cache?.(2 ** 33, 2 ** 33);
        let at = 0;
        while (at < size) {
          const extents: Extent[] = await backend.extents?.(at, size - at) ?? [];
          assert.ok(extents.length > 0 && extents.every(({ zero }) => zero));
          at += extents.reduce((sum, { length }) => sum + length, 0);
        }
        assert.equal(at, size);
      });
    }),
);

/** A filter that takes something away, and the verbs that are gone then. */
const LACKING: readonly (readonly [string, readonly string[], readonly (keyof Backend)[]])[] = [
  ["zeroing", ["--filter=nozero", "memory", "4M"], ["zero"]],
  ["caching", ["--filter=nocache", "memory", "4M", "cachemode=none"], ["cache"]],
  ["all but reading", ["-r", "memory", "4M"], ["trim", "zero"]],
  ["structured replies", ["--no-sr", "memory", "4M"], ["extents"]],
];

for (const [name, args, verbs] of LACKING) {
  interopTest(
    `nbd lacks the verbs of a server without ${name}`,
    ["nbdkit"],
    () =>
      withTempDir(async (folder) => {
        await using server = await startNbdkit(folder, ...args);
        await withBackend(server.uri, async (backend) => {
          const optional = ["trim", "zero", "cache", "extents"] as const;
          assert.deepEqual(optional.filter((verb) => backend[verb] === undefined), verbs);
          const into = new Uint8Array(70_000).fill(1);
          await backend.read(into, 5);
          assert.ok(into.every((byte) => byte === 0));
          assert.equal(await errnoOf(() => backend.read(new Uint8Array(2), 4 * MIB - 1)), "EINVAL");
        });
      }),
  );
}

interopTest(
  "nbd warns once of a server that cannot flush",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      await using server = await startNbdkit(
        folder,
        "eval",
        "get_size=echo 1M",
        "pread=dd if=/dev/zero count=$3 iflag=count_bytes",
        "pwrite=cat >/dev/null",
        "can_write=exit 0",
        "can_flush=exit 3",
        "can_fua=echo none",
      );
      const log = collectedLog();
      await withBackend(
        server.uri,
        async (backend) => {
          assert.equal(backend.capabilities.fua, false);
          await backend.flush();
          await backend.flush();
        },
        {},
        { log },
      );
      assert.deepEqual(log.lines.map(({ level }) => level), ["warn"]);
      assert.match(log.lines[0]?.message ?? "", /no flush/);
    }),
);

interopTest(
  "nbd passes on a server's errors with its words",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      await using server = await startNbdkit(
        folder,
        "--filter=error",
        "memory",
        "4M",
        "error=ENOSPC",
        "error-pwrite-rate=100%",
        "error-zero-rate=100%",
      );
      await withBackend(server.uri, async (backend) => {
        assert.equal(await errnoOf(() => backend.write(new Uint8Array(9), 0, NO_FUA)), "ENOSPC");
        const options = { fua: false, mayTrim: true, fastOnly: false };
        assert.equal(await errnoOf(() => backend.zero?.(0, 4096, options)), "ENOSPC");
        await backend.read(new Uint8Array(9), 0);
      });
    }),
);

interopTest(
  "copyDevice() copies sparsely from qemu-nbd to nbdkit",
  ["qemu-nbd", "nbdkit"],
  () =>
    withTempDir(async (folder) => {
      const image = await makeImage(folder, 64 * MIB);
      using file = await Deno.open(image, { write: true });
      for (const at of [0, 5 * MIB + 512, 64 * MIB - 70_000]) {
        await file.seek(at, Deno.SeekMode.Start);
        await file.write(new Uint8Array(70_000).fill(7));
      }
      await using from = await startQemuNbd(folder, "--format=raw", "--read-only", image);
      await using to = await startNbdkit(folder, "memory", "65M");
      const log = collectedLog();
      const deviceAt = async (name: string, uri: string): Promise<Device> =>
        new Device((await open(uri)).backend, { name, clock: testClock, log });
      await using source = await deviceAt("source", from.uri);
      await using destination = await deviceAt("destination", to.uri);
      const options = { clock: testClock, destinationIsZero: true, verify: true };
      const report = await copyDevice(source, destination, options);
      assert.ok(report.bytesRead >= 210_000 && report.bytesRead < MIB, `${report.bytesRead} read`);
      assert.equal(report.verified?.differenceAt, null);
      assert.equal(report.bytesBeyond, MIB);
    }),
);

interopTest(
  "nbd says so when its server is killed",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      const log = collectedLog();
      const server = await startNbdkit(folder, "--filter=delay", "memory", "4M", "delay-read=60");
      await withBackend(
        server.uri,
        async (backend) => {
          const work = [errnoOf(() => backend.read(new Uint8Array(9), 0))];
          await backend.write(new Uint8Array(9), 0, NO_FUA);
          await server[Symbol.asyncDispose]();
          const [errno] = await Promise.all(work);
          assert.ok(errno === "EIO" || errno === "ECONNRESET", `${errno}`);
          assert.equal(await errnoOf(() => backend.flush()), "ENOTCONN");
        },
        {},
        { log },
      );
      assert.match(log.lines[0]?.message ?? "", /connection is lost/);
    }),
);

interopTest(
  "nbd gives up when the target is torn down",
  ["nbdkit"],
  () =>
    withTempDir(async (folder) => {
      await using server = await startNbdkit(
        folder,
        "--filter=delay",
        "memory",
        "4M",
        "delay-read=60",
      );
      const controller = new AbortController();
      await withBackend(
        server.uri,
        async (backend) => {
          const work = errnoOf(() => backend.read(new Uint8Array(9), 0));
          await backend.write(new Uint8Array(9), 0, NO_FUA);
          controller.abort(new BlockError("ECANCELED", "torn down"));
          assert.equal(await work, "ECANCELED");
        },
        {},
        { signal: controller.signal },
      );
    }),
);

Deno.test("nbd says where nobody listens", async () => {
  await withTempDir(async (folder) => {
    const uri = `nbd+unix:///?socket=${folder}/none`;
    await assert.rejects(open(uri), (error) => {
      assert.ok(error instanceof BlockError && error.errno === "ENOENT");
      assert.ok(error.message.includes(`${folder}/none`), error.message);
      return true;
    });
  });
});

Deno.test("nbd refuses certificates for a URI without TLS, and a wrong URI", async () => {
  const options = { "tls-certificates": "somewhere" };
  await assert.rejects(open("nbd://localhost", options), UsageError);
  await assert.rejects(open("nbd://localhost?x=1"), UsageError);
  await assert.rejects(open("nbds://localhost", { "tls-certificates": "/none" }), /ca-cert\.pem/);
});

interopTest(
  "nbd speaks TLS with nbdkit",
  ["nbdkit", "certtool"],
  () =>
    withTempDir(async (folder) => {
      const certificates = await makeCertificates(folder);
      const { client, noClient, foreignClient, distrustfulClient } = certificates;
      const tls = [`--tls-certificates=${certificates.server}`, "--tls-verify-peer"];
      await using forced = await startNbdkit(folder, "--tls=require", ...tls, "memory", "4M");
      await using offered = await startNbdkit(folder, "--tls=on", ...tls, "memory", "4M");
      await using without = await startNbdkit(folder, "--tls=off", "memory", "4M");
      const secure = (server: OtherServer, more = ""): string =>
        server.uri.replace("nbd+unix", "nbds+unix") + more;
      const name = "&tls-hostname=localhost";
      const table: readonly (readonly [string, string, string | null])[] = [
        [secure(forced, name), client, null],
        [secure(offered, name), client, null],
        // A unix socket has no name of its own to compare with.
        [secure(forced), client, null],
        [secure(forced, "&tls-hostname=127.0.0.1"), client, null],
        [secure(forced, "&tls-hostname=elsewhere.example"), client, "EACCES"],
        [secure(forced, "&tls-hostname=elsewhere.example&tls-verify-peer=0"), client, null],
        [secure(forced, name), distrustfulClient, "EACCES"],
        [secure(forced, `${name}&tls-verify-peer=0`), distrustfulClient, null],
        [secure(without, name), client, "EPERM"],
      ];
      for (const [uri, folder, expected] of table) {
        const options = { "tls-certificates": folder };
        const data = new Uint8Array(3 * MIB).fill(3), back = new Uint8Array(3 * MIB);
        const work = (): Promise<void> =>
          withBackend(uri, async (backend, { management }) => {
            assert.equal(management?.describe?.().encrypted, true);
            await backend.write(data, 1, NO_FUA);
            await backend.read(back, 1);
            assert.deepEqual(back, data);
          }, options);
        assert.equal(await errnoOf(work), expected, uri);
      }
      for (const wrong of [noClient, foreignClient]) {
        const options = { "tls-certificates": wrong };
        assert.notEqual(
          await errnoOf(() => withBackend(secure(forced, name), () => {}, options)),
          null,
        );
      }
      assert.equal(await errnoOf(() => open(forced.uri)), "EACCES");
      await withBackend(offered.uri, (_, { management }) => {
        assert.equal(management?.describe?.().encrypted, false);
      });
    }),
);
