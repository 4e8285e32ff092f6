/**
 * AWS Signature Version 4 in the Authorization header, as the Amazon S3 API reference has it
 * ("Authenticating Requests: Using the Authorization Header"): paths are encoded once and not
 * normalized, every header that is given is signed.
 *
 * @module
 */
import { createHash, createHmac } from "node:crypto";

const ALGORITHM = "AWS4-HMAC-SHA256";

/** What a request is signed with. */
export interface S3Credentials {
  /** The public half. */
  readonly accessKeyId: string;
  /** The secret half. */
  readonly secretAccessKey: string;
  /** Goes with temporary credentials. */
  readonly sessionToken?: string;
  /** When they end, in ms since 1970; absent if they do not, or nobody knows. */
  readonly expiresMs?: number;
}

/** A request that is to be signed. */
export interface Unsigned {
  /** "GET", "PUT" … */
  readonly method: string;
  /** Path as it will be sent: `encodePath` made it. */
  readonly path: string;
  /** Query by name, decoded. */
  readonly query: readonly (readonly [name: string, value: string])[];
  /** Headers by lower-case name, `host` among them. All are signed. */
  readonly headers: Readonly<Record<string, string>>;
  /** SHA-256 of the body, in hex. */
  readonly payloadHash: string;
}

/** SHA-256 in hex. */
export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

function hmac(key: string | Uint8Array, text: string): Uint8Array {
  return createHmac("sha256", key).update(text).digest();
}

/** Percent-encoding as SigV4 wants it: all but unreserved characters, in capital hex. */
export function encodePart(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** Encodes a path; slashes stay. */
export function encodePath(path: string): string {
  return path.split("/").map(encodePart).join("/");
}

/** A query in the order in which it is signed, by name and then by value; it may be sent like that. */
export function encodeQuery(query: Unsigned["query"]): string {
  const byName = (a: readonly string[], b: readonly string[]): number => {
    const left = a.join("\0"), right = b.join("\0");
    return left < right ? -1 : Number(left > right);
  };
  return query.map((pair) => pair.map(encodePart)).sort(byName).map((pair) => pair.join("=")).join(
    "&",
  );
}

/** Time as SigV4 writes it: `20130524T000000Z`. */
export function amzDate(wallMs: number): string {
  return new Date(wallMs).toISOString().replace(/\.\d+/, "").replace(/[:-]/g, "");
}

/** Signs requests for one region; the key that is derived for a day is kept. */
export class Signer {
  readonly #region: string;
  readonly #service: string;
  #derived: { readonly from: string; readonly key: Uint8Array } | null = null;

  /** `service` is "s3" for everything but tests of the algorithm. */
  constructor(region: string, service = "s3") {
    this.#region = region;
    this.#service = service;
  }

  /** The key that signs on a day (`20130524`) with a secret. */
  signingKey(secret: string, day: string): Uint8Array {
    const from = `${day}/${secret}`;
    if (this.#derived?.from === from) return this.#derived.key;
    const parts = [day, this.#region, this.#service, "aws4_request"];
    let key: string | Uint8Array = `AWS4${secret}`;
    for (const part of parts) key = hmac(key, part);
    const derived = { from, key: typeof key === "string" ? new Uint8Array() : key };
    this.#derived = derived;
    return derived.key;
  }

  /** The headers to send: those given, the time, the hash of the body, and the signature of all that. */
  sign(request: Unsigned, credentials: S3Credentials, wallMs: number): Record<string, string> {
    const time = amzDate(wallMs);
    const headers: Record<string, string> = {
      ...request.headers,
      "x-amz-content-sha256": request.payloadHash,
      "x-amz-date": time,
    };
    const { sessionToken } = credentials;
    if (sessionToken !== undefined) headers["x-amz-security-token"] = sessionToken;
    const { signature, scope, signed } = this.signature({ ...request, headers }, credentials, time);
    headers.authorization = `${ALGORITHM} Credential=${credentials.accessKeyId}/${scope}, ` +
      `SignedHeaders=${signed}, Signature=${signature}`;
    return headers;
  }

  /** The signature of a request whose headers are complete, at a time that `amzDate` gave. */
  signature(
    request: Unsigned,
    credentials: S3Credentials,
    time: string,
  ): { readonly signature: string; readonly scope: string; readonly signed: string } {
    const names = Object.keys(request.headers).sort();
    const signed = names.join(";");
    const canonical = [
      request.method,
      request.path,
      encodeQuery(request.query),
      ...names.map((name) => `${name}:${(request.headers[name] ?? "").trim().replace(/ +/g, " ")}`),
      "",
      signed,
      request.payloadHash,
    ].join("\n");
    const day = time.slice(0, 8);
    const scope = `${day}/${this.#region}/${this.#service}/aws4_request`;
    const text = `${ALGORITHM}\n${time}\n${scope}\n${sha256(canonical)}`;
    const key = this.signingKey(credentials.secretAccessKey, day);
    const signature = createHmac("sha256", key).update(text).digest("hex");
    return { signature, scope, signed };
  }
}
