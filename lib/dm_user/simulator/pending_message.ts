/**
 * A message inside the simulated kernel: one BIO from the moment it was mapped until it is completed.
 *
 * @module
 */
import { HEADER_BYTES, HEADER_OFFSETS, REQUEST_TYPES } from "../constants.ts";
import { decodeHeader, describeMessage, putU64 } from "../message.ts";
import type { MappedBio } from "./bio.ts";

/** A message and how much of it a daemon has read. */
export class PendingMessage {
  /** Number within its target, from 0. */
  readonly seq: number;
  /** What it carries. */
  readonly bio: MappedBio;
  /** When it was mapped, µs. */
  readonly mappedAtUs: number;
  readonly #header = new Uint8Array(HEADER_BYTES);
  readonly #total: number;
  #position = 0;
  #completed = false;

  /** Gives `bio` its number. */
  constructor(seq: number, bio: MappedBio, mappedAtUs: number) {
    this.seq = seq;
    this.bio = bio;
    this.mappedAtUs = mappedAtUs;
    this.#total = HEADER_BYTES + (bio.type === REQUEST_TYPES.WRITE ? bio.length : 0);
    putU64(this.#header, HEADER_OFFSETS.seq, seq);
    putU64(this.#header, HEADER_OFFSETS.type, bio.type);
    putU64(this.#header, HEADER_OFFSETS.flags, bio.flags);
    putU64(this.#header, HEADER_OFFSETS.sector, bio.sector);
    putU64(this.#header, HEADER_OFFSETS.length, bio.length);
  }

  /** Bytes of data that a successful answer carries: those of a READ. */
  get answerBytes(): number {
    return this.bio.type === REQUEST_TYPES.READ ? this.bio.length : 0;
  }

  /** Bytes that one more read can give: what is left of the header, else of the payload. */
  get remaining(): number {
    return (this.#position < HEADER_BYTES ? HEADER_BYTES : this.#total) - this.#position;
  }

  /** Gives bytes of the header **or** of the payload, never of both. */
  copyOut(into: Uint8Array): number {
    const count = Math.min(into.length, this.remaining);
    const inHeader = this.#position < HEADER_BYTES;
    const source = inHeader ? this.#header : this.bio.data;
    const from = inHeader ? this.#position : this.#position - HEADER_BYTES;
    into.set(source.subarray(from, from + count));
    this.#position += count;
    return count;
  }

  /** Ends it: 0, or minus an errno. A second time is a bug of the simulator. */
  complete(status: number): void {
    if (this.#completed) throw new Error(`Cannot complete message ${this.seq}: it was before`);
    this.#completed = true;
    this.bio.done(status);
  }

  /** In words. */
  describe(): string {
    return describeMessage(decodeHeader(this.#header));
  }
}
