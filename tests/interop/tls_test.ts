/**
 * TLS with libnbd's Python client: the right certificate, a foreign one, none, a client that does not
 * trust the server, a client without TLS; where TLS is required and where it is offered.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Certificates, makeCertificates } from "../support/certificates.ts";
import {
  type DmuServer,
  interopTest,
  run,
  runOk,
  type RunResult,
  startDmu,
  withTempDir,
} from "../support/tools.ts";

/** Connects, writes and reads back a pattern, and says whether that went through TLS. */
const CLIENT = `
import nbd, sys
uri, mode, certificates = sys.argv[1:4]
h = nbd.NBD()
h.set_tls({"off": nbd.TLS_DISABLE, "allow": nbd.TLS_ALLOW, "require": nbd.TLS_REQUIRE}[mode])
if certificates:
    h.set_tls_certificates(certificates)
    h.set_tls_verify_peer(True)
h.connect_uri(uri)
data = bytes(range(256)) * 4096
h.pwrite(data, 4096)
h.flush()
assert h.pread(len(data), 4096) == data
print("TLS" if h.get_tls_negotiated() else "plain", h.get_size())
h.shutdown()
`;

type Mode = "off" | "allow" | "require";

function connect(uri: string, mode: Mode, certificates: string): Promise<RunResult> {
  return run("python3-libnbd", ["-c", CLIENT, uri, mode, certificates], { timeoutMs: 20_000 });
}

async function connects(uri: string, mode: Mode, certificates: string, how: string): Promise<void> {
  const { code, stdout, stderr } = await connect(uri, mode, certificates);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${how} ${8 * 1024 * 1024}\n`);
}

async function isRefused(uri: string, mode: Mode, certificates: string): Promise<void> {
  const { code, stdout, stderr } = await connect(uri, mode, certificates);
  assert.notEqual(code, 0, stdout);
  assert.match(stderr, /nbd\.Error/);
  assert.equal(stdout, "");
}

/** URIs without TLS: which TLS is used is the client's setting, not the URI's. */
function plainUri(uri: string): string {
  return uri.replace(/^nbds/, "nbd").replace(/[?&]tls-\w+=[^&]*/g, "");
}

const ENDPOINTS: readonly (readonly [name: string, endpoint: (folder: string) => string])[] = [
  ["a unix socket", (folder) => `unix:${join(folder, "s")}`],
  ["TCP", () => "tcp:127.0.0.1:0"],
];

function tlsTest(
  name: string,
  options: readonly string[],
  fn: (uri: string, certificates: Certificates, server: DmuServer) => Promise<void>,
): void {
  for (const [place, endpoint] of ENDPOINTS) {
    interopTest(`${name}, over ${place}`, ["certtool", "python3-libnbd", "nbdinfo"], async () => {
      await withTempDir(async (folder) => {
        const certificates = await makeCertificates(folder);
        await using server = await startDmu([
          ...["--nbd", endpoint(folder), "--tls-certificates", certificates.server],
          ...options,
          "memory:8M",
        ]);
        await fn(plainUri(server.uri), certificates, server);
        await server.stop();
      });
    });
  }
}

tlsTest(
  "--tls-require lets in the right certificate alone",
  ["--tls-require"],
  async (uri, given) => {
    await connects(uri, "require", given.client, "TLS");
    await isRefused(uri, "require", given.foreignClient);
    await isRefused(uri, "require", given.noClient);
    // libnbd looks at the server's certificate only where there is a host name to look for in it.
    if (!uri.includes("unix")) await isRefused(uri, "require", given.distrustfulClient);
    await isRefused(uri, "off", "");
    await connects(uri, "allow", given.client, "TLS"); // those who were refused have harmed nobody
  },
);

tlsTest("without --tls-require TLS is offered, and still checked", [], async (uri, given) => {
  await connects(uri, "require", given.client, "TLS");
  await connects(uri, "off", "", "plain");
  await isRefused(uri, "require", given.foreignClient);
  await isRefused(uri, "require", given.noClient);
});

tlsTest(
  "the URI of the ready line works as it is",
  ["--tls-require"],
  async (_uri, given, server) => {
    const uri = server.uri + (server.uri.includes("?") ? "&" : "?") +
      `tls-certificates=${encodeURIComponent(given.client)}`;
    assert.match(uri, /^nbds/);
    assert.match(await runOk("nbdinfo", [uri]), /with TLS/);
  },
);

interopTest(
  "a server without TLS refuses a client that requires it",
  ["python3-libnbd"],
  async () => {
    await withTempDir(async (folder) => {
      await using server = await startDmu(["--nbd", `unix:${join(folder, "s")}`, "memory:8M"]);
      await isRefused(server.uri, "require", "");
      await connects(server.uri, "allow", "", "plain");
      await server.stop();
    });
  },
);
