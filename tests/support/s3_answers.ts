/**
 * What the S3 server for tests does and answers, when nothing goes wrong.
 *
 * @module
 */
import { createHash } from "node:crypto";
import {
  errorReply,
  type Reply,
  type S3Object,
  type S3Request,
  type S3Settings,
} from "./s3_server.ts";

const XML = { "content-type": "application/xml" };
const NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"';

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The effect of a request, and its answer. */
export function answers(
  settings: S3Settings,
  objects: Map<string, S3Object>,
  request: S3Request,
  body: Uint8Array<ArrayBuffer>,
): Reply {
  const { method, key, query } = request;
  if (method === "PUT" && key !== "") return put(settings, objects, request, body);
  if (method === "GET" && key !== "") return get(objects, request);
  if (method === "GET") return list(settings, objects, query);
  if (method === "DELETE" && key !== "") {
    objects.delete(key);
    return { status: 204 };
  }
  if (method === "POST" && query.has("delete")) {
    return settings.deletesTogether
      ? remove(objects, request, body)
      : errorReply(501, "NotImplemented");
  }
  return errorReply(405, "MethodNotAllowed");
}

function put(
  { conditions, quotaBytes, skewMs }: S3Settings,
  objects: Map<string, S3Object>,
  { key, headers }: S3Request,
  bytes: Uint8Array<ArrayBuffer>,
): Reply {
  const condition = headers["if-none-match"];
  if (condition !== undefined && conditions === "refused") return errorReply(501, "NotImplemented");
  if (condition === "*" && conditions === "kept" && objects.has(key)) {
    return errorReply(412, "PreconditionFailed");
  }
  let used = bytes.length;
  for (const object of objects.values()) used += object.bytes.length;
  if (used > quotaBytes) return errorReply(403, "QuotaExceeded");
  const metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith("x-amz-meta-")) metadata[name] = String(value);
  }
  objects.set(key, { bytes, metadata, modifiedMs: Date.now() + skewMs });
  return { status: 200, headers: { etag: etagOf(bytes) } };
}

function etagOf(bytes: Uint8Array): string {
  return `"${createHash("md5").update(bytes).digest("hex")}"`;
}

function get(objects: Map<string, S3Object>, { key, headers }: S3Request): Reply {
  const object = objects.get(key);
  if (object === undefined) return errorReply(404, "NoSuchKey");
  const { bytes, metadata } = object;
  const common = { ...metadata, etag: etagOf(bytes), "content-type": "binary/octet-stream" };
  const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "");
  if (range === null) return { status: 200, headers: common, body: bytes };
  const first = Number(range[1]), last = Math.min(Number(range[2]), bytes.length - 1);
  if (first >= bytes.length) return errorReply(416, "InvalidRange");
  return {
    status: 206,
    headers: { ...common, "content-range": `bytes ${first}-${last}/${bytes.length}` },
    body: bytes.subarray(first, last + 1),
  };
}

function list(
  { pageEntries }: S3Settings,
  objects: Map<string, S3Object>,
  query: URLSearchParams,
): Reply {
  if (query.get("list-type") !== "2") return errorReply(501, "NotImplemented");
  const prefix = query.get("prefix") ?? "";
  const token = query.get("continuation-token");
  const after = token === null ? query.get("start-after") ?? "" : atob(token);
  const room = Math.min(pageEntries, Number(query.get("max-keys") ?? 1000));
  const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort();
  const page = keys.slice(0, room);
  const isTruncated = page.length < keys.length;
  const contents = page.map((key) => {
    const { bytes, modifiedMs } = objects.get(key) ?? { bytes: new Uint8Array(), modifiedMs: 0 };
    return `<Contents><Key>${escaped(key)}</Key><LastModified>${
      new Date(modifiedMs).toISOString()
    }</LastModified><ETag>${escaped(etagOf(bytes))}</ETag><Size>${bytes.length}</Size></Contents>`;
  });
  const next = isTruncated
    ? `<NextContinuationToken>${btoa(page.at(-1) ?? "")}</NextContinuationToken>`
    : "";
  return {
    status: 200,
    headers: XML,
    body: `<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult ${NAMESPACE}><Prefix>${
      escaped(prefix)
    }</Prefix><KeyCount>${page.length}</KeyCount><IsTruncated>${isTruncated}</IsTruncated>${
      contents.join("")
    }${next}</ListBucketResult>`,
  };
}

function remove(
  objects: Map<string, S3Object>,
  { headers }: S3Request,
  body: Uint8Array,
): Reply {
  const md5 = createHash("md5").update(body).digest("base64");
  if (headers["content-md5"] !== md5) return errorReply(400, "BadDigest");
  const text = new TextDecoder().decode(body);
  const keys = [...text.matchAll(/<Key>([^<]*)<\/Key>/g)].map(([, key = ""]) =>
    key.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&")
  );
  if (keys.length === 0 || keys.length > 1000) return errorReply(400, "MalformedXML");
  for (const key of keys) objects.delete(key);
  return { status: 200, headers: XML, body: `<DeleteResult ${NAMESPACE}></DeleteResult>` };
}
