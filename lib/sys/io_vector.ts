/**
 * Many pieces of memory that go to a socket with one call: those of this process, and such that are mapped
 * files. See sendmsg(2) and struct iovec.
 *
 * @module
 */
import { addressOf } from "./address.ts";
import { EAGAIN, EINTR, fail, lastErrno } from "./errno.ts";
import { mapCalls } from "./map_calls.ts";
import { hasFaulted, type MemoryMap } from "./memory_map.ts";
import { WOULD_BLOCK } from "./socket.ts";
import { MSG_DONTWAIT, MSG_NOSIGNAL } from "./socket_calls.ts";

/** Most pieces of a vector; the system takes 1024 at once. */
export const VECTOR_PIECES_MAX = 256;
/** Vectors that are kept for later use. */
const VECTORS_KEPT_MAX = 16;
/** struct iovec as words of 32 bits: address and length, the lower half first. */
const PIECE_WORDS = 4, PIECE_BYTES = 16;
const LENGTH_AT = 2;
/** struct msghdr on 64-bit Linux. */
const HEADER_BYTES = 56, HEADER_VECTOR_AT = 16, HEADER_COUNT_AT = 24;
const TWO_32 = 2 ** 32;

/** struct msghdr with a vector of its own. */
class Message {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly #address: number;
  readonly #header = new Uint8Array(HEADER_BYTES);
  readonly #view = new DataView(this.#header.buffer);

  constructor(piecesMax: number) {
    this.words = new Uint32Array(piecesMax * PIECE_WORDS);
    this.#address = addressOf(this.words.buffer);
  }

  setPiece(index: number, address: number, length: number): void {
    const { words } = this, at = index * PIECE_WORDS;
    words[at] = address >>> 0;
    words[at + 1] = Math.floor(address / TWO_32);
    words[at + LENGTH_AT] = length;
  }

  /** The header for the pieces from `first` on. */
  header(first: number, count: number): Uint8Array<ArrayBuffer> {
    const address = this.#address + first * PIECE_BYTES;
    this.#view.setUint32(HEADER_VECTOR_AT, address >>> 0, true);
    this.#view.setUint32(HEADER_VECTOR_AT + 4, Math.floor(address / TWO_32), true);
    this.#view.setUint32(HEADER_COUNT_AT, count, true);
    return this.#header;
  }
}

/**
 * Makes what is sent in place of a message whose data cannot be read, from its head, of which nothing is sent
 * yet.
 */
export type Replace = (head: Uint8Array<ArrayBuffer>, cause: unknown) => Uint8Array<ArrayBuffer>;

/** Pieces to be sent, one behind the other. */
export class IoVector {
  readonly #message = new Message(VECTOR_PIECES_MAX);
  /** What was replaced by a copy. */
  readonly #copies: Uint8Array<ArrayBuffer>[] = [];
  /** The memory that was added last, and where it ends; for pieces of the mapping, that before them. */
  #buffer: ArrayBuffer | null = null;
  #bufferEnd = 0;
  readonly #heads: (ArrayBuffer | null)[] = [];
  readonly #headEnds: number[] = [];
  #map: MemoryMap | null = null;
  #count = 0;
  /** Pieces before it are sent. */
  #first = 0;
  #end = 0;
  #endIsMapped = false;
  /** Bytes that are not sent yet. */
  left = 0;
  /** Bytes of the head before each piece of the mapping, and what replaces both; without it sending fails. */
  headBytes = 0;
  /** See `headBytes`. */
  replace: Replace | null = null;

  /** Pieces for which there is room. */
  get room(): number {
    return VECTOR_PIECES_MAX - this.#count;
  }

  /** Adds memory of this process, which the caller keeps until it is sent. */
  addMemory(buffer: ArrayBuffer, start: number, length: number): void {
    this.#add(addressOf(buffer) + start, length, false);
    this.#buffer = buffer;
    this.#bufferEnd = start + length;
  }

  /** Adds a part of a mapping, behind its head: all that are added are of the same one. */
  addMapped(map: MemoryMap, address: number, length: number): void {
    if (this.#map !== map) {
      if (this.#map !== null) throw new Error("Cannot add a piece: it is of another mapping");
      map.retain();
      this.#map = map;
    }
    this.#heads[this.#count] = this.#buffer;
    this.#headEnds[this.#count] = this.#bufferEnd;
    this.#add(address, length, true);
  }

  /** True if pieces of a mapping can be added. */
  takes(map: MemoryMap): boolean {
    return this.#map === null || this.#map === map;
  }

  #add(address: number, length: number, isMapped: boolean): void {
    const { words } = this.#message;
    this.left += length;
    // What follows on is one piece.
    if (address === this.#end && isMapped === this.#endIsMapped && this.#count > this.#first) {
      const at = (this.#count - 1) * PIECE_WORDS + LENGTH_AT;
      words[at] = (words[at] ?? 0) + length;
    } else {
      this.#message.setPiece(this.#count, address, length);
      this.#count += 1;
    }
    this.#end = address + length;
    this.#endIsMapped = isMapped;
  }

  /**
   * Sends what fits; bytes, WOULD_BLOCK if none fit now. Throws EPIPE, ECONNRESET …, and what reading the file
   * gives where its mapping cannot be read.
   */
  sendTo(socketFd: number): number {
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    for (;;) {
      const header = this.#message.header(this.#first, this.#count - this.#first);
      const count = mapCalls().sendmsg(socketFd, header, flags);
      if (count > 0) {
        this.#sent(count);
        return count;
      }
      const number = lastErrno();
      if (number === EAGAIN) return WOULD_BLOCK;
      if (hasFaulted() && this.#map !== null) this.#copyFirst(this.#map);
      else if (number !== EINTR) fail("send to", `socket ${socketFd}`);
    }
  }

  #sent(count: number): void {
    this.left -= count;
    if (this.left === 0) {
      this.#first = this.#count;
      return;
    }
    const { words } = this.#message;
    for (let rest = count; rest > 0;) {
      const at = this.#first * PIECE_WORDS;
      const length = words[at + LENGTH_AT] ?? 0;
      if (rest < length) {
        const address = (words[at] ?? 0) + (words[at + 1] ?? 0) * TWO_32 + rest;
        this.#message.setPiece(this.#first, address, length - rest);
        return;
      }
      rest -= length;
      this.#first += 1;
    }
  }

  /** The next piece of the mapping, which cannot be sent from there, is read from the file. */
  #copyFirst(map: MemoryMap): void {
    const { words } = this.#message;
    for (let index = this.#first; index < this.#count; index += 1) {
      const at = index * PIECE_WORDS;
      const address = (words[at] ?? 0) + (words[at + 1] ?? 0) * TWO_32;
      if (address < map.address || address >= map.address + map.length) continue;
      const bytes = this.#copyOrReplace(map, index, address, words[at + LENGTH_AT] ?? 0);
      this.#copies.push(bytes);
      this.#message.setPiece(index, addressOf(bytes.buffer), bytes.length);
      return;
    }
    throw new Error("Cannot send: an address is wrong");
  }

  #copyOrReplace(
    map: MemoryMap,
    index: number,
    address: number,
    length: number,
  ): Uint8Array<ArrayBuffer> {
    try {
      return map.copy(address, length);
    } catch (error) {
      const { headBytes, replace } = this, buffer = this.#heads[index] ?? null;
      // What is sent of a message in part has to be sent whole.
      const before = index - 1, at = before * PIECE_WORDS + LENGTH_AT;
      const rest = (this.#message.words[at] ?? 0) - headBytes;
      if (replace === null || buffer === null || before < this.#first || rest < 0) throw error;
      const start = (this.#headEnds[index] ?? 0) - headBytes;
      const bytes = replace(new Uint8Array(buffer, start, headBytes), error);
      this.#message.words[at] = rest;
      this.left += bytes.length - length - headBytes;
      return bytes;
    }
  }

  /** Forgets all pieces. */
  clear(): void {
    this.#map?.release();
    this.#map = null;
    this.#copies.length = this.#heads.length = this.#headEnds.length = 0;
    this.#buffer = this.replace = null;
    this.#count =
      this.#first =
      this.#end =
      this.left =
        0;
  }
}

/** Vectors for the replies of one thread. */
export class VectorPool {
  readonly #free: IoVector[] = [];

  /** An empty vector. */
  take(): IoVector {
    return this.#free.pop() ?? new IoVector();
  }

  /** Gives a vector back, also one that is not sent. */
  give(vector: IoVector): void {
    vector.clear();
    if (this.#free.length < VECTORS_KEPT_MAX) this.#free.push(vector);
  }
}

/** Most pieces that are received into at once. */
export const RECEIVE_PIECES_MAX = 16;

const receiving = new Message(RECEIVE_PIECES_MAX);

/**
 * Receives what is there into pieces of memory, one after the other: bytes, 0 at the end of the stream,
 * WOULD_BLOCK if nothing is there now.
 */
export function receivePieces(fd: number, pieces: readonly Uint8Array<ArrayBuffer>[]): number {
  const number = Math.min(pieces.length, RECEIVE_PIECES_MAX);
  for (let index = 0; index < number; index++) {
    const piece = pieces[index];
    if (piece === undefined) break;
    receiving.setPiece(index, addressOf(piece.buffer) + piece.byteOffset, piece.length);
  }
  for (;;) {
    const count = mapCalls().recvmsg(fd, receiving.header(0, number), MSG_DONTWAIT);
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === EAGAIN) return WOULD_BLOCK;
    if (errno !== EINTR) fail("receive from", `socket ${fd}`);
  }
}
