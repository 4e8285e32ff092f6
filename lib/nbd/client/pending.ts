/**
 * A request of the client that is on its way, and what its reply has brought so far. Everything that
 * a reply claims is checked here: ranges, overlap, completeness, kind. Implements the sections
 * "Structured reply types" and "Request types" of the NBD protocol document.
 *
 * @module
 */
import { BlockError, type Errno, errnoFromNbd, errnoText } from "../../block/errors.ts";
import { EXTENTS_PER_CALL_MAX } from "../../block/limits.ts";
import type { Extent } from "../../block/types.ts";
import { ProtocolError } from "../../stream/frame.ts";
import { COMMAND, COMMAND_FLAG, commandName, STATE } from "../constants.ts";
import { ERROR_CHUNKS_MAX, READ_FRAGMENTS_MAX } from "./limits.ts";

/** One request. Offset and length are bytes. */
export interface ClientRequest {
  /** A value of COMMAND. */
  readonly command: number;
  /** COMMAND_FLAG bits, PAYLOAD_LEN aside. */
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** READ: filled with the data. WRITE: the data. Otherwise empty. It may be used until `done` is called. */
  readonly data: Uint8Array;
  /** Called once. `extents` are those of a BLOCK_STATUS, from `offset`, at least one. */
  done(error: BlockError | null, extents: Extent[]): void;
}

/** A run of bytes of a read that has come, relative to the read. */
interface Fragment {
  start: number;
  end: number;
}

/** What most requests have of both: no list is made for them. Never changed. */
const NO_FRAGMENTS: Fragment[] = [], NO_EXTENTS: Extent[] = [];
Object.freeze(NO_FRAGMENTS);
Object.freeze(NO_EXTENTS);

/** A request in flight. Its methods throw ProtocolError for what a server must not send. */
export class Pending {
  readonly request: ClientRequest;
  /** Pieces of the payload that the transport still holds; the request is not done before they are back. */
  unsent = 0;
  /** The whole reply has come. */
  replied = false;
  /** The first error of the reply. */
  error: BlockError | null = null;

  readonly #deviceBytes: number;
  /** Bytes from the start of a read that have come without a gap. */
  #covered = 0;
  /** What has come behind a gap: sorted, disjoint, not adjacent. */
  #fragments: Fragment[] = NO_FRAGMENTS;
  #errorChunks = 0;
  #statusSeen = false;
  #statusBytes = 0;
  #extents: Extent[] = NO_EXTENTS;

  /** `deviceBytes` is the size of the export. */
  constructor(request: ClientRequest, deviceBytes: number) {
    this.request = request;
    this.#deviceBytes = deviceBytes;
  }

  /** Where `length` bytes at the export's `offset` belong in the data of a read; each byte comes once. */
  content(offset: number, length: number): number {
    const { request } = this;
    if (request.command !== COMMAND.READ) this.#refuse("data came for it");
    const start = offset - request.offset;
    if (length < 1 || start < 0 || length > request.length || start > request.length - length) {
      this.#refuse(`${length} bytes at ${offset} came for it`);
    }
    this.#cover(start, start + length);
    return start;
  }

  /** An error chunk: NBD's error value and the server's words. */
  fail(value: number, words: string): void {
    this.#errorChunks += 1;
    if (this.#errorChunks > ERROR_CHUNKS_MAX) this.#refuse("its reply has too many errors");
    if (this.error !== null) return;
    const errno: Errno = value === 0 ? "EINVAL" : errnoFromNbd(value);
    const meaning = errnoText(errno);
    const reason = words === "" || words === meaning ? meaning : `${meaning}: ${words}`;
    this.error = new BlockError(errno, `Cannot ${this.#describe()}: the server answers ${reason}`);
  }

  /** The offset of an error has to be inside the request. */
  failedAt(offset: number): void {
    const { request } = this;
    if (offset < request.offset || offset >= request.offset + Math.max(1, request.length)) {
      this.#refuse(`an error at ${offset} came for it`);
    }
  }

  /** A block status chunk begins. */
  beginStatus(): void {
    if (this.request.command !== COMMAND.BLOCK_STATUS) this.#refuse("block status came for it");
    if (this.#statusSeen) this.#refuse("block status came twice for it");
    this.#statusSeen = true;
  }

  /** A descriptor of block status. `length` may be inexact above 2^53; `flags` are STATE bits and others. */
  extent(length: number, flags: number): void {
    const { request } = this;
    if (length < 1) this.#refuse("an extent without length came for it");
    if (this.#statusBytes >= request.length) this.#refuse("extents past its end came for it");
    const one = (request.flags & COMMAND_FLAG.REQ_ONE) !== 0;
    if (one && (this.#statusBytes > 0 || length > request.length)) {
      this.#refuse("more than the one extent came for it");
    }
    const rest = this.#deviceBytes - request.offset - this.#statusBytes;
    const inside = Math.min(length, rest);
    this.#statusBytes += inside;
    if (this.#extents.length < EXTENTS_PER_CALL_MAX) this.#keep(inside, flags);
  }

  /** The reply is whole. */
  finish(): void {
    const { request } = this;
    if (this.error === null) {
      if (request.command === COMMAND.READ && this.#covered < request.length) {
        this.#refuse(`its reply ends without the data at ${request.offset + this.#covered}`);
      }
      if (request.command === COMMAND.BLOCK_STATUS && this.#statusBytes === 0) {
        this.#refuse("its reply ends without block status");
      }
    }
    this.replied = true;
  }

  /** Hands the outcome over. */
  settle(): void {
    this.request.done(this.error, this.#extents);
  }

  #keep(length: number, flags: number): void {
    if (this.#extents === NO_EXTENTS) this.#extents = [];
    const allocated = (flags & STATE.HOLE) === 0, zero = (flags & STATE.ZERO) !== 0;
    const last = this.#extents.at(-1);
    if (last !== undefined && last.allocated === allocated && last.zero === zero) {
      this.#extents[this.#extents.length - 1] = { ...last, length: last.length + length };
    } else {
      this.#extents.push({ length, allocated, zero });
    }
  }

  #cover(start: number, end: number): void {
    const list = this.#fragments;
    if (start === this.#covered && (list.length === 0 || end <= (list[0]?.start ?? 0))) {
      this.#covered = end;
      if (list[0]?.start === end) this.#covered = list.shift()?.end ?? end;
      return;
    }
    const at = this.#placeOf(start);
    const before = list[at - 1], after = list[at];
    if (
      start < this.#covered || (before !== undefined && before.end > start) ||
      (after !== undefined && after.start < end)
    ) {
      this.#refuse(`the bytes at ${this.request.offset + start} came twice for it`);
    }
    if (before?.end === start) {
      before.end = after?.start === end ? after.end : end;
      if (after?.start === end) list.splice(at, 1);
    } else if (after?.start === end) {
      after.start = start;
    } else {
      if (list.length >= READ_FRAGMENTS_MAX) this.#refuse("its reply comes in too many fragments");
      if (list === NO_FRAGMENTS) this.#fragments = [{ start, end }];
      else list.splice(at, 0, { start, end });
    }
  }

  /** Index of the first fragment that begins after `start`. */
  #placeOf(start: number): number {
    let low = 0, high = this.#fragments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#fragments[middle]?.start ?? 0) <= start) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #describe(): string {
    const { command, offset, length } = this.request;
    const name = commandName(command).toLowerCase().replaceAll("_", " ");
    return command === COMMAND.FLUSH ? name : `${name} ${length} bytes at ${offset}`;
  }

  #refuse(reason: string): never {
    throw new ProtocolError(`Cannot go on after ${this.#describe()}: ${reason}`);
  }
}
