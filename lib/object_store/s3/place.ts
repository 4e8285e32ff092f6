/**
 * Where a bucket is: endpoint, region, bucket and prefix, and from them the address of a request in path
 * style (`https://endpoint/bucket/key`) or virtual-host style (`https://bucket.endpoint/key`).
 *
 * @module
 */
import { UsageError } from "../../block/usage_error.ts";
import { encodePath } from "./sign.ts";

/** How the bucket is named in an address. */
export type AddressStyle = "path" | "virtual";

/** Where objects are. */
export interface S3Place {
  /** The bucket. */
  readonly bucket: string;
  /** What keys begin with; empty, or it ends in a slash. */
  readonly prefix: string;
  /** Scheme and host. */
  readonly endpoint: URL;
  /** What requests are signed for. */
  readonly region: string;
  /** How the bucket is named. */
  readonly style: AddressStyle;
}

/** Bytes of a prefix at most: S3's keys have 1024, of which the disk's own take less than 256. */
const PREFIX_BYTES_MAX = 700;

/** Reads `bucket/prefix`. Throws UsageError. */
export function parseBucketPath(
  text: string,
): { readonly bucket: string; readonly prefix: string } {
  const [, bucket = "", rest = ""] = /^\/*([^/]*)\/*(.*?)\/*$/s.exec(text) ?? [];
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/.test(bucket)) {
    throw new UsageError(
      `Cannot use "${text}": it begins with no name of a bucket; write bucket/prefix`,
    );
  }
  if (!/^[\x20-\x7e]*$/.test(rest) || /(^|\/)\.{0,2}(\/|$)/.test(rest === "" ? "x" : rest)) {
    throw new UsageError(
      `Cannot use "${text}": a prefix is made of ASCII, and no part of it is empty, "." or ".."`,
    );
  }
  if (rest.length > PREFIX_BYTES_MAX) {
    throw new UsageError(
      `Cannot use "${text}": the prefix has more than ${PREFIX_BYTES_MAX} bytes`,
    );
  }
  return { bucket, prefix: rest === "" ? "" : `${rest}/` };
}

/** Reads an endpoint: `https://host[:port]`, or without a scheme. Throws UsageError. */
export function parseEndpoint(text: string): URL {
  const url = URL.parse(/^https?:\/\//i.test(text) ? text : `https://${text}`);
  const isPlain = url !== null && url.pathname === "/" && url.search === "" && url.hash === "" &&
    url.username === "";
  if (isPlain) return url;
  throw new UsageError(`Cannot use the endpoint "${text}": write https://host or http://host:port`);
}

/** The endpoint that AWS has for a region. */
export function awsEndpoint(region: string): URL {
  if (!/^[a-z0-9-]+$/.test(region)) {
    throw new UsageError(`Cannot use the region "${region}": it is made of a-z, 0-9 and hyphens`);
  }
  const suffix = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
  return new URL(`https://s3.${region}.${suffix}`);
}

/** The style that suits: AWS wants virtual hosts, servers of one's own seldom have the names for it. */
export function defaultStyle(endpoint: URL, bucket: string): AddressStyle {
  const isAws = /\.amazonaws\.com(\.cn)?$/.test(endpoint.hostname);
  // A certificate for *.host does not hold for a bucket with dots.
  return isAws && /^[a-z0-9-]+$/.test(bucket) ? "virtual" : "path";
}

/** Host and encoded path of a key; of the bucket itself if the key is null. */
export function addressOf(
  place: S3Place,
  key: string | null,
): { readonly origin: string; readonly host: string; readonly path: string } {
  const { endpoint, bucket, style, prefix } = place;
  const inBucket = key === null ? "/" : `/${encodePath(prefix + key)}`;
  const host = style === "virtual" ? `${bucket}.${endpoint.host}` : endpoint.host;
  const path = style === "virtual" ? inBucket : `/${bucket}${key === null ? "" : inBucket}`;
  return { origin: `${endpoint.protocol}//${host}`, host, path };
}

/** What messages call it. */
export function placeName({ bucket, prefix }: S3Place): string {
  return `s3://${bucket}/${prefix.slice(0, -1)}`;
}
