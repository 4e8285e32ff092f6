/**
 * What S3 answers in XML: errors, pages of listings, and which keys could not be deleted. The elements
 * are those of the Amazon S3 API reference (Error, ListBucketResult of ListObjectsV2, DeleteResult).
 *
 * @module
 */
import { parseXml, XmlElement } from "@rgrove/parse-xml";
import { MESSAGE_CHARS_MAX } from "./limits.ts";

/** An error as the server tells it. */
export interface ServerError {
  /** HTTP status. */
  readonly status: number;
  /** S3's code: "NoSuchKey", "SlowDown" …; empty if the answer has none. */
  readonly code: string;
  /** Its words, shortened; empty if there are none. */
  readonly message: string;
  /** The region that the server wants, if it says so. */
  readonly region: string | null;
}

/** One object of a listing. */
export interface Listed {
  /** The whole key. */
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  /** In ms since 1970, or null. */
  readonly modifiedMs: number | null;
}

/** A page of a listing. */
export interface ListPage {
  /** In the server's order. */
  readonly entries: readonly Listed[];
  /** What asks for the next page; null at the end. */
  readonly next: string | null;
}

/** A key that was not deleted. */
export interface NotDeleted {
  /** The whole key. */
  readonly key: string;
  /** Why. */
  readonly error: ServerError;
}

function root(body: Uint8Array): XmlElement | null {
  try {
    return parseXml(new TextDecoder().decode(body)).root;
  } catch {
    return null;
  }
}

function* children(element: XmlElement, name: string): Generator<XmlElement> {
  for (const child of element.children) {
    if (child instanceof XmlElement && child.name === name) yield child;
  }
}

function text(element: XmlElement | null, name: string): string {
  if (element === null) return "";
  for (const child of children(element, name)) return child.text;
  return "";
}

/** Lines and control characters of a server's words would break the line that shows them. */
function shown(message: string): string {
  const line = message.replace(/[\p{Cc}\s]+/gu, " ").trim().replace(/\.$/, "");
  return line.length > MESSAGE_CHARS_MAX ? `${line.slice(0, MESSAGE_CHARS_MAX)}…` : line;
}

/** Reads an answer that is no success. Whatever the body is, this gives what can be told. */
export function readError(status: number, headers: Headers, body: Uint8Array): ServerError {
  const error = root(body);
  const region = text(error, "Region") || headers.get("x-amz-bucket-region");
  return {
    status,
    code: shown(text(error, "Code")),
    message: shown(text(error, "Message")),
    region: region === "" || region === null ? null : shown(region),
  };
}

/** Reads a page of a listing; null if it is none. */
export function readListPage(body: Uint8Array): ListPage | null {
  const result = root(body);
  if (result?.name !== "ListBucketResult") return null;
  const entries: Listed[] = [];
  for (const each of children(result, "Contents")) {
    const size = text(each, "Size");
    if (!/^\d+$/.test(size)) return null;
    const modifiedMs = Date.parse(text(each, "LastModified"));
    entries.push({
      key: text(each, "Key"),
      size: Number(size),
      modifiedMs: Number.isNaN(modifiedMs) ? null : modifiedMs,
    });
  }
  if (text(result, "IsTruncated") !== "true") return { entries, next: null };
  const next = text(result, "NextContinuationToken");
  return next === "" ? null : { entries, next };
}

/** The body that asks to delete keys; the answer names only those that failed. */
export function deleteBody(keys: readonly string[]): Uint8Array<ArrayBuffer> {
  // Keys have no character that XML would take for its own: the prefix may.
  const escaped = keys.map((key) =>
    key.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
  );
  const objects = escaped.map((key) => `<Object><Key>${key}</Key></Object>`).join("");
  return new TextEncoder().encode(
    `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${objects}</Delete>`,
  );
}

/** Reads which keys were not deleted; null if the answer is not one to that question. */
export function readNotDeleted(body: Uint8Array): NotDeleted[] | null {
  const result = root(body);
  if (result?.name !== "DeleteResult") return null;
  return [...children(result, "Error")].map((each) => ({
    key: text(each, "Key"),
    error: {
      status: 200,
      code: shown(text(each, "Code")),
      message: shown(text(each, "Message")),
      region: null,
    },
  }));
}
