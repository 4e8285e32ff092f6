/**
 * Certificates for tests, made by certtool: one authority with a server and a client, and a second
 * authority whose client nobody should trust.
 *
 * @module
 */
import { join } from "node:path";
import { runOk } from "./tools.ts";

/** Folders as libnbd and qemu want them: ca-cert.pem and the own certificate with its key. */
export interface Certificates {
  /** ca-cert.pem, server-cert.pem, server-key.pem. */
  readonly server: string;
  /** ca-cert.pem, client-cert.pem, client-key.pem of the server's authority. */
  readonly client: string;
  /** A client of another authority that trusts the server's: only the server can object. */
  readonly foreignClient: string;
  /** ca-cert.pem of the server's authority alone. */
  readonly noClient: string;
  /** A client with a good certificate that trusts another authority: only the client can object. */
  readonly distrustfulClient: string;
}

const TEMPLATES = {
  ca: ["ca", "cert_signing_key"],
  server: ["dns_name = localhost", "ip_address = 127.0.0.1", "tls_www_server", "signing_key"],
  client: ["tls_www_client", "signing_key"],
} as const;

/** Makes a key and a certificate; `authority` is the path of the signer's, without its ending. */
async function make(
  path: string,
  kind: keyof typeof TEMPLATES,
  authority: string | null,
): Promise<void> {
  const template = `${path}.template`;
  const lines = [`cn = "dmu test ${kind}"`, "expiration_days = 30", ...TEMPLATES[kind]];
  await Deno.writeTextFile(template, lines.join("\n") + "\n");
  const key = `${path}-key.pem`;
  await runOk("certtool", [
    "--generate-privkey",
    "--key-type=rsa",
    "--bits=2048",
    "--outfile",
    key,
  ]);
  const signed = authority === null ? ["--generate-self-signed"] : [
    ...["--generate-certificate", "--load-ca-certificate", `${authority}-cert.pem`],
    ...["--load-ca-privkey", `${authority}-key.pem`],
  ];
  const output = ["--load-privkey", key, "--template", template, "--outfile", `${path}-cert.pem`];
  await runOk("certtool", [...signed, ...output]);
}

async function gather(folder: string, files: Readonly<Record<string, string>>): Promise<string> {
  await Deno.mkdir(folder);
  for (const [name, source] of Object.entries(files)) {
    await Deno.copyFile(source, join(folder, name));
  }
  return folder;
}

/** Makes all of them in `folder`. */
export async function makeCertificates(folder: string): Promise<Certificates> {
  const at = (name: string): string => join(folder, name);
  await make(at("ca"), "ca", null);
  await make(at("other-ca"), "ca", null);
  await make(at("server"), "server", at("ca"));
  await make(at("client"), "client", at("ca"));
  await make(at("foreign"), "client", at("other-ca"));
  const ca = { "ca-cert.pem": at("ca-cert.pem") };
  const client = (name: string): Record<string, string> => ({
    "client-cert.pem": at(`${name}-cert.pem`),
    "client-key.pem": at(`${name}-key.pem`),
  });
  return {
    server: await gather(at("for server"), {
      ...ca,
      "server-cert.pem": at("server-cert.pem"),
      "server-key.pem": at("server-key.pem"),
    }),
    client: await gather(at("for client"), { ...ca, ...client("client") }),
    foreignClient: await gather(at("for foreign client"), { ...ca, ...client("foreign") }),
    noClient: await gather(at("for no client"), ca),
    distrustfulClient: await gather(at("for distrustful client"), {
      "ca-cert.pem": at("other-ca-cert.pem"),
      ...client("client"),
    }),
  };
}
