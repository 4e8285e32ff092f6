/**
 * Objects in a bucket: PutObject with `If-None-Match: *`, GetObject with ranges, ListObjectsV2,
 * DeleteObjects (DeleteObject where a server has not got it), as the Amazon S3 API reference describes
 * them. A body is signed with its SHA-256, so that the server refuses one that was damaged on its way;
 * its CRC-32 is kept beside it (`x-amz-meta-crc32`), so that one read whole is checked as well.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { bodyBytes, type StoreCounter, storeCounter } from "../counter.ts";
import {
  type ByteRange,
  checkKey,
  type ObjectEntry,
  type ObjectStore,
  type StoreCallOptions,
  type StoreCounts,
  StoreError,
} from "../types.ts";
import {
  deleteBody,
  type Listed,
  type ListPage,
  type NotDeleted,
  readError,
  readListPage,
  readNotDeleted,
} from "./answers.ts";
import { type CallerContext, S3Caller } from "./caller.ts";
import { meaningOf, serverError } from "./errors.ts";
import type { HttpAnswer } from "./http.ts";
import { DELETE_KEYS_MAX, PAGE_ENTRIES_MAX } from "./limits.ts";
import { placeName, type S3Place } from "./place.ts";

/** What a store works with: all that a caller does but the counts, which are the store's. */
export type S3StoreContext = Omit<CallerContext, "counts">;

const CRC_HEADER = "x-amz-meta-crc32";

function joined(body: readonly Uint8Array<ArrayBuffer>[]): Uint8Array<ArrayBuffer> {
  const [only] = body;
  if (body.length === 1 && only !== undefined) return only;
  const whole = new Uint8Array(bodyBytes(body));
  let at = 0;
  for (const part of body) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function crcText(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, "0");
}

/** What is wrong with the answer to a whole read, or null. */
function damageOfWhole({ status, headers, body }: HttpAnswer): string | null {
  const expected = headers.get(CRC_HEADER);
  if (status !== 200 || expected === null) return null;
  const found = crcText(body);
  return found === expected ? null : `its CRC-32 is ${found}, and ${expected} when it was stored`;
}

/** What is wrong with the answer to a read of a range, or null. */
function damageOfRange({ status, headers, body }: HttpAnswer, range: ByteRange): string | null {
  if (status !== 206) return null;
  const said = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers.get("content-range") ?? "");
  if (said === null) return "the answer does not say which bytes it has";
  const first = Number(said[1]), last = Number(said[2]), size = Number(said[3]);
  const isShort = body.length < range.length && last + 1 !== size;
  if (first === range.offset && last - first + 1 === body.length && !isShort) return null;
  return `bytes ${first} to ${last} came for ${range.length} from ${range.offset}`;
}

class S3Store implements ObjectStore {
  readonly name: string;
  readonly #place: S3Place;
  readonly #caller: S3Caller;
  readonly #close: () => void;
  readonly #counts: StoreCounter = storeCounter();
  /** The server has no DeleteObjects. */
  #deletesSingly = false;

  constructor(place: S3Place, context: S3StoreContext) {
    this.name = placeName(place);
    this.#place = place;
    this.#caller = new S3Caller(this.name, place, { ...context, counts: this.#counts });
    this.#close = () => context.http.close();
  }

  get counts(): StoreCounts {
    return { ...this.#counts };
  }

  async create(
    key: string,
    body: readonly Uint8Array<ArrayBuffer>[],
    { signal }: StoreCallOptions = {},
  ): Promise<"created" | "exists"> {
    checkKey(key);
    const whole = joined(body);
    const { status } = await this.#caller.call({
      action: `create ${key}`,
      method: "PUT",
      key,
      headers: { "if-none-match": "*", [CRC_HEADER]: crcText(whole) },
      body: whole,
      mayRepeat: false,
      count: "puts",
      expected: [200, 412],
    }, signal);
    return status === 412 ? "exists" : "created";
  }

  async get(
    key: string,
    range?: ByteRange,
    { signal }: StoreCallOptions = {},
  ): Promise<Uint8Array<ArrayBuffer> | null> {
    checkKey(key);
    const last = range === undefined ? 0 : range.offset + range.length - 1;
    const answer = await this.#caller.call({
      action: `read ${key}`,
      method: "GET",
      key,
      ...(range !== undefined && { headers: { range: `bytes=${range.offset}-${last}` } }),
      bytesIn: range?.length ?? 0,
      mayRepeat: true,
      count: "gets",
      expected: [200, 206, 404, 416],
      damage: (answer) => {
        if (range !== undefined) return damageOfRange(answer, range);
        return answer.status === 206 ? "a part of it came" : damageOfWhole(answer);
      },
    }, signal);
    if (answer.status === 404) return this.#absent(key, answer);
    const bytes = contentOf(answer, range);
    this.#counts.bytesIn += bytes.length;
    return bytes;
  }

  /** Null, if the server says that there is no such object, and not something else of the same status. */
  #absent(key: string, { status, headers, body }: HttpAnswer): null {
    const error = readError(status, headers, body);
    if (error.code === "NoSuchKey") return null;
    throw serverError(`read ${key} of ${this.name}`, error);
  }

  async *list(
    prefix: string,
    { signal, after }: StoreCallOptions & { readonly after?: string } = {},
  ): AsyncGenerator<ObjectEntry> {
    let token: string | null = null, last: string | null = null;
    do {
      const page: ListPage = await this.#page(prefix, after, token, signal);
      for (const entry of page.entries) {
        const key = entry.key.slice(this.#place.prefix.length);
        if (last !== null && key <= last) throw this.#outOfOrder(prefix);
        last = key;
        if (isKey(key) && (after === undefined || key > after)) yield { ...entry, key };
      }
      token = page.next;
    } while (token !== null);
  }

  #outOfOrder(prefix: string): StoreError {
    const message = `Cannot list ${prefix} of ${this.name}: the server does not list keys in order`;
    return new StoreError("unsupported", message);
  }

  async #page(
    prefix: string,
    after: string | undefined,
    token: string | null,
    signal: AbortSignal | undefined,
  ): Promise<ListPage> {
    const inBucket = this.#place.prefix;
    const query: [string, string][] = [
      ["list-type", "2"],
      ["prefix", inBucket + prefix],
      ["max-keys", String(PAGE_ENTRIES_MAX)],
    ];
    if (token !== null) query.push(["continuation-token", token]);
    else if (after !== undefined && after !== "") query.push(["start-after", inBucket + after]);
    const isForeign = ({ key }: Listed): boolean => !key.startsWith(inBucket + prefix);
    const answer = await this.#caller.call({
      action: `list ${prefix}`,
      method: "GET",
      key: null,
      query,
      mayRepeat: true,
      count: "lists",
      expected: [200],
      damage: ({ body }) => {
        const page = readListPage(body);
        if (page === null) return "the answer is no listing";
        return page.entries.some(isForeign) ? "other keys came than were asked for" : null;
      },
    }, signal);
    return readListPage(answer.body) ?? { entries: [], next: null };
  }

  async delete(keys: readonly string[], { signal }: StoreCallOptions = {}): Promise<void> {
    for (const key of keys) checkKey(key);
    for (let at = 0; at < keys.length; at += DELETE_KEYS_MAX) {
      const some = keys.slice(at, at + DELETE_KEYS_MAX);
      if (some.length === 1 || this.#deletesSingly) await this.#deleteSingly(some, signal);
      else await this.#deleteTogether(some, signal);
    }
  }

  async #deleteSingly(keys: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    for (const key of keys) {
      const answer = await this.#caller.call({
        action: `delete ${key}`,
        method: "DELETE",
        key,
        mayRepeat: true,
        count: "deletes",
        expected: [200, 204, 404],
      }, signal);
      if (answer.status === 404) this.#absent(key, answer);
    }
  }

  async #deleteTogether(keys: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    const body = deleteBody(keys.map((key) => this.#place.prefix + key));
    const md5 = createHash("md5").update(body).digest("base64");
    try {
      const answer = await this.#caller.call({
        action: `delete ${keys[0]} and ${keys.length - 1} more`,
        method: "POST",
        key: null,
        query: [["delete", ""]],
        headers: { "content-md5": md5, "content-type": "application/xml" },
        body,
        mayRepeat: true,
        count: "deletes",
        expected: [200],
        damage: ({ body }) =>
          readNotDeleted(body) === null ? "the answer does not say what was deleted" : null,
      }, signal);
      const [first] = (readNotDeleted(answer.body) ?? []).filter(({ error }) => !isGone(error));
      if (first !== undefined) throw this.#notDeleted(first);
    } catch (error) {
      if (!(error instanceof StoreError) || error.kind !== "unsupported") throw error;
      this.#deletesSingly = true;
      await this.#deleteSingly(keys, signal);
    }
  }

  #notDeleted({ key, error }: NotDeleted): StoreError {
    const relative = key.slice(this.#place.prefix.length);
    return serverError(`delete ${relative} of ${this.name}`, error, meaningOf(error).kind);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    return Promise.resolve();
  }
}

function isGone({ code }: { readonly code: string }): boolean {
  return code === "NoSuchKey";
}

/** Others may have put something under the prefix. */
function isKey(key: string): boolean {
  try {
    checkKey(key);
    return true;
  } catch {
    return false;
  }
}

function contentOf(
  { status, body }: HttpAnswer,
  range: ByteRange | undefined,
): Uint8Array<ArrayBuffer> {
  if (status === 416) return new Uint8Array();
  // A server may give all where a part was asked for.
  if (status === 200 && range !== undefined) {
    return body.slice(range.offset, range.offset + range.length);
  }
  return body;
}

/** Opens a bucket as an object store; nothing is asked of the server. Closing it closes `context.http`. */
export function openS3Store(place: S3Place, context: S3StoreContext): ObjectStore {
  return new S3Store(place, context);
}
