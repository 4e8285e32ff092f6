/**
 * An S3 server for tests: one bucket in memory, on a loopback port that the system chooses, with the
 * semantics that the Amazon S3 API reference documents for what the client uses: PutObject with
 * `If-None-Match: *`, GetObject with ranges, ListObjectsV2 in pages, DeleteObject and DeleteObjects,
 * strong consistency. Signatures are checked with aws4fetch, which is not what the client signs with.
 *
 * The fault model. A plan is asked once for each request and may name one fault:
 *
 * - `answer`: an error of that status and code, without effect, or after the effect (`afterEffect`);
 * - `drop`: the connection ends without effect; `lose-reply`: with effect, without an answer;
 * - `truncate`: the answer's body stops half way; `corrupt`: one byte of it is another one;
 * - `hold`: the request waits for a promise first.
 *
 * Beside faults there are settings: the server's clock, a quota, how it treats conditions, credentials
 * that have expired, a server without DeleteObjects.
 *
 * @module
 */
import { createHash } from "node:crypto";
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { createServer as createTlsServer } from "node:https";
import { AwsV4Signer } from "aws4fetch";
import type { S3Credentials } from "../../lib/object_store/mod.ts";
import { answers } from "./s3_answers.ts";

/** A request as a plan sees it. */
export interface S3Request {
  /** Requests before it. */
  readonly number: number;
  /** "PUT", "GET", "DELETE", "POST". */
  readonly method: string;
  /** The key; empty for the bucket. */
  readonly key: string;
  /** Query by name. */
  readonly query: URLSearchParams;
  /** Headers by lower-case name. */
  readonly headers: IncomingHttpHeaders;
}

/** What goes wrong with a request. */
export type S3Fault =
  | {
    readonly kind: "answer";
    readonly status: number;
    readonly code: string;
    readonly afterEffect?: boolean;
    /** The body; S3's XML if left out. */
    readonly body?: string;
    readonly headers?: Readonly<Record<string, string>>;
  }
  | { readonly kind: "drop" | "lose-reply" | "truncate" | "corrupt" }
  | { readonly kind: "hold"; readonly until: Promise<void> };

/** How the server is; all may be changed while it runs. */
export interface S3Settings {
  /** Who may come. */
  credentials: S3Credentials;
  /** Its clock is ahead by so many ms. */
  skewMs: number;
  /** Most bytes of all objects. */
  quotaBytes: number;
  /** What it does with `If-None-Match`. */
  conditions: "kept" | "ignored" | "refused";
  /** Session tokens that have expired. */
  expired: ReadonlySet<string>;
  /** It has DeleteObjects. */
  deletesTogether: boolean;
  /** Entries of a page of a listing. */
  pageEntries: number;
  /** Picks the fault of a request, or null. */
  plan: (request: S3Request) => S3Fault | null;
}

/** What is stored. */
export interface S3Object {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly modifiedMs: number;
}

/** A server that runs. */
export interface S3TestServer extends AsyncDisposable {
  /** `http://127.0.0.1:port`, or https and localhost. */
  readonly endpoint: string;
  readonly settings: S3Settings;
  /** The bucket's objects by whole key. */
  readonly objects: Map<string, S3Object>;
  /** What was asked, as "METHOD key", faults included. */
  readonly requests: readonly string[];
}

/** The bucket's name. */
export const TEST_BUCKET = "disks";
/** The region that signatures have to be for. */
export const TEST_REGION = "eu-north-1";
/** Who may come, at first. */
export const TEST_CREDENTIALS: S3Credentials = {
  accessKeyId: "AKIDTEST",
  secretAccessKey: "a/secret+with=signs",
};
/** What S3 tolerates between the clocks, in ms. */
const SKEW_MS_MAX = 900_000;

/** A certificate and its key, PEM. */
export interface ServerCertificate {
  readonly cert: string;
  readonly key: string;
}

/** An answer before faults are applied to it. */
export interface Reply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
}

/** An error as S3 tells it. */
export function errorReply(status: number, code: string, more = ""): Reply {
  const body =
    `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>Test: ` +
    `${code}.</Message>${more}<RequestId>1</RequestId></Error>`;
  return { status, headers: { "content-type": "application/xml" }, body };
}

async function readBody(request: IncomingMessage): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of request) if (chunk instanceof Uint8Array) chunks.push(chunk);
  const body = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.length;
  }
  return body;
}

function parseAmzDate(text: string): number {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text)?.slice(1).map(Number) ?? [];
  const [year = 0, month = 0, day = 0, hours = 0, minutes = 0, seconds = 0] = parts;
  return Date.UTC(year, month - 1, day, hours, minutes, seconds);
}

/** Checks who sent a request, as S3 does; gives the refusal, or null. */
async function refuse(
  { method = "", headers }: IncomingMessage,
  url: string,
  body: Uint8Array<ArrayBuffer>,
  { credentials, expired, skewMs }: S3Settings,
): Promise<Reply | null> {
  const authorization = headers.authorization ?? "";
  const parts =
    /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/
      .exec(authorization);
  if (parts === null) return errorReply(403, "AccessDenied");
  const [, keyId, day, region, signed = ""] = parts;
  if (keyId !== credentials.accessKeyId) return errorReply(403, "InvalidAccessKeyId");
  const token = headers["x-amz-security-token"];
  if (typeof token === "string" && expired.has(token)) return errorReply(400, "ExpiredToken");
  if (token !== credentials.sessionToken) return errorReply(403, "InvalidToken");
  if (region !== TEST_REGION) {
    const more = `<Region>${TEST_REGION}</Region>`;
    return errorReply(400, "AuthorizationHeaderMalformed", more);
  }
  const names = signed.split(";");
  const mustSign = Object.keys(headers).filter((name) => name.startsWith("x-amz-"));
  const unsigned = [...mustSign, "host"].filter((name) => !names.includes(name));
  const date = String(headers["x-amz-date"]), hash = String(headers["x-amz-content-sha256"]);
  if (unsigned.length > 0 || date.slice(0, 8) !== day) return errorReply(403, "AccessDenied");
  if (hash !== createHash("sha256").update(body).digest("hex")) {
    return errorReply(400, "XAmzContentSHA256Mismatch");
  }
  const own = names.filter((name) => name !== "host").map((name): [string, string] => [
    name,
    String(headers[name]),
  ]);
  const { accessKeyId, secretAccessKey } = credentials;
  const signer = new AwsV4Signer({
    method,
    url,
    headers: own,
    accessKeyId,
    secretAccessKey,
    service: "s3",
    region,
    datetime: date,
    allHeaders: true,
  });
  if (await signer.authHeader() !== authorization) return errorReply(403, "SignatureDoesNotMatch");
  const apart = Math.abs(parseAmzDate(date) - (Date.now() + skewMs));
  return apart > SKEW_MS_MAX ? errorReply(403, "RequestTimeTooSkewed") : null;
}

/** Starts a server; with a certificate it speaks TLS. */
export async function startS3Server(
  options: Partial<S3Settings> & { readonly certificate?: ServerCertificate } = {},
): Promise<S3TestServer> {
  const { certificate, ...different } = options;
  const settings: S3Settings = {
    credentials: TEST_CREDENTIALS,
    skewMs: 0,
    quotaBytes: Infinity,
    conditions: "kept",
    expired: new Set(),
    deletesTogether: true,
    pageEntries: 1000,
    plan: () => null,
    ...different,
  };
  const objects = new Map<string, S3Object>();
  const requests: string[] = [];
  const scheme = certificate === undefined ? "http" : "https";
  /** Requests that are being answered, whether or not anybody waits for it any more. */
  const running = new Set<Promise<void>>();
  const stopped = Promise.withResolvers<void>();

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", headers } = request;
    const url = new URL(request.url ?? "", `${scheme}://${headers.host}`);
    const [, bucket = "", path = ""] = /^\/([^/]*)\/?(.*)$/s.exec(url.pathname) ?? [];
    const key = decodeURIComponent(path);
    requests.push(`${method} ${key}`);
    const seen: S3Request = {
      number: requests.length - 1,
      method,
      key,
      query: url.searchParams,
      headers,
    };
    const body = await readBody(request);
    const fault = settings.plan(seen);
    if (fault?.kind === "hold") await Promise.race([fault.until, stopped.promise]);
    if (fault?.kind === "drop") return void response.destroy();
    const early = fault?.kind === "answer" && fault.afterEffect !== true ? reply(fault) : null;
    const refused = early ?? await refuse(request, url.href, body, settings);
    const result = refused ??
      (bucket === TEST_BUCKET
        ? answers(settings, objects, seen, body)
        : errorReply(404, "NoSuchBucket"));
    if (fault?.kind === "lose-reply") return void response.destroy();
    send(response, fault?.kind === "answer" ? reply(fault) : result, fault, settings.skewMs);
  }

  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    const served = serve(request, response).catch((error) => void response.destroy(error))
      .finally(() => running.delete(served));
    running.add(served);
  };
  const server: Server = certificate === undefined
    ? createServer(listener)
    : createTlsServer({ ...certificate }, listener);
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" ? address?.port : null;
  return {
    endpoint: `${scheme}://${certificate === undefined ? "127.0.0.1" : "localhost"}:${port}`,
    settings,
    objects,
    requests,
    async [Symbol.asyncDispose](): Promise<void> {
      stopped.resolve();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await Promise.all(running);
    },
  };
}

function reply(fault: S3Fault & { readonly kind: "answer" }): Reply {
  const { status, code, body, headers } = fault;
  const plain = errorReply(status, code);
  return {
    status,
    body: body ?? plain.body ?? "",
    headers: { ...plain.headers, ...headers },
  };
}

/** Sends an answer, damaged where the fault says so. */
function send(
  response: ServerResponse,
  { status, headers, body = "" }: Reply,
  fault: S3Fault | null,
  skewMs: number,
): void {
  const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body.slice();
  const hasBody = status !== 204;
  response.writeHead(status, {
    date: new Date(Date.now() + skewMs).toUTCString(),
    ...headers,
    ...(hasBody && { "content-length": String(bytes.length) }),
  });
  if (fault?.kind === "truncate") {
    response.write(bytes.subarray(0, Math.floor(bytes.length / 2)), () => response.destroy());
    return;
  }
  if (fault?.kind === "corrupt") {
    const at = Math.floor(bytes.length / 2);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
  }
  response.end(hasBody ? bytes : undefined);
}
