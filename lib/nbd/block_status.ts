/**
 * Block status: from the extents of a device, or the runs of its dirty bitmaps, to the descriptors of a
 * metadata context, and those to bytes. Implements the chunk types BLOCK_STATUS and BLOCK_STATUS_EXT, and the payload form of the
 * request. Pure.
 *
 * @module
 */
import type { BitmapRun } from "../block/bitmaps.ts";
import type { Extent } from "../block/types.ts";
import {
  BASE_ALLOCATION,
  CHUNK,
  DIRTY_BITMAP_PREFIX,
  REPLY_FLAG_DONE,
  STATE,
  STATE_DIRTY,
} from "./constants.ts";
import type { MetaContext } from "./export_info.ts";
import { COMPACT_EXTENT_BYTES_MAX, DESCRIPTORS_PER_CHUNK_MAX } from "./limits.ts";
import type { ReplyEncoder } from "./replies.ts";
import type { ReplyTo } from "./requests.ts";

/** A run of bytes with the same status. */
export interface Descriptor {
  /** Bytes, at least 1. */
  length: number;
  /** Flags, as the context defines them. */
  readonly status: number;
}

/** A context of a connection, ready for use. */
export interface StatusContext {
  /** As the handshake gave it out. */
  readonly id: number;
  /** The dirty bitmap that it tells; undefined for the allocation of storage. */
  readonly bitmap: string | undefined;
}

/** The selected contexts that this server can tell. */
export function statusContexts(selected: readonly MetaContext[]): StatusContext[] {
  const contexts: StatusContext[] = [];
  for (const { id, name } of selected) {
    if (name === BASE_ALLOCATION) contexts.push({ id, bitmap: undefined });
    else if (name.startsWith(DIRTY_BITMAP_PREFIX)) {
      contexts.push({ id, bitmap: name.slice(DIRTY_BITMAP_PREFIX.length) });
    }
  }
  return contexts;
}

/** The state of an extent in base:allocation. */
export function allocationOf({ allocated, zero }: Extent): number {
  return (allocated ? 0 : STATE.HOLE) | (zero ? STATE.ZERO : 0);
}

/** The state of a run of a dirty bitmap. */
export function dirtinessOf({ dirty }: BitmapRun): number {
  return dirty ? STATE_DIRTY : 0;
}

/** What limits an answer. */
export interface StatusLimits {
  /** Bytes that were asked for. */
  readonly length: number;
  /** One descriptor, within `length`. */
  readonly one: boolean;
  /** Lengths have 64 bits instead of 32. */
  readonly wide: boolean;
}

/**
 * The descriptors of an answer: neighbours of the same status are one. All but the last lie within
 * what was asked for; the last may reach further, unless only one is wanted.
 */
export function describe<R extends { readonly length: number }>(
  extents: readonly R[],
  statusOf: (extent: R) => number,
  limits: StatusLimits,
): Descriptor[] {
  const descriptors: Descriptor[] = [];
  let last: Descriptor | null = null;
  let total = 0;
  for (const extent of extents) {
    const status = statusOf(extent);
    if (last !== null && last.status === status) {
      last.length += extent.length;
    } else {
      if (total >= limits.length || descriptors.length === descriptorsMax(limits)) break;
      last = { length: extent.length, status };
      descriptors.push(last);
    }
    total += extent.length;
  }
  if (last === null) return descriptors;
  if (limits.one) last.length = Math.min(last.length, limits.length);
  if (!limits.wide) last.length = Math.min(last.length, COMPACT_EXTENT_BYTES_MAX);
  return descriptors;
}

function descriptorsMax(limits: StatusLimits): number {
  return limits.one ? 1 : DESCRIPTORS_PER_CHUNK_MAX;
}

/** Bytes of one status chunk. */
export function statusChunkBytes(encoder: ReplyEncoder, count: number): number {
  return encoder.chunkBytes + payloadBytes(encoder, count);
}

function payloadBytes(encoder: ReplyEncoder, count: number): number {
  return encoder.style === "extended" ? 8 + count * 16 : 4 + count * 8;
}

/** The content of one status chunk. */
export interface StatusChunk {
  /** The context's. */
  readonly id: number;
  /** At least one. */
  readonly descriptors: readonly Descriptor[];
  /** No other chunk of the reply follows. */
  readonly last: boolean;
}

/** Writes one status chunk. */
export function encodeStatus(
  encoder: ReplyEncoder,
  view: DataView,
  start: number,
  to: ReplyTo,
  status: StatusChunk,
): void {
  const { id, descriptors, last } = status;
  const flags = last ? REPLY_FLAG_DONE : 0;
  const length = payloadBytes(encoder, descriptors.length);
  if (encoder.style === "extended") {
    encoder.chunk(view, start, to, flags, CHUNK.BLOCK_STATUS_EXT, length);
    encodeWide(view, start + encoder.chunkBytes, id, descriptors);
  } else {
    encoder.chunk(view, start, to, flags, CHUNK.BLOCK_STATUS, length);
    encodeCompact(view, start + encoder.chunkBytes, id, descriptors);
  }
}

function encodeCompact(
  view: DataView,
  start: number,
  id: number,
  descriptors: readonly Descriptor[],
): void {
  view.setUint32(start, id);
  let at = start + 4;
  for (const { length, status } of descriptors) {
    view.setUint32(at, length);
    view.setUint32(at + 4, status);
    at += 8;
  }
}

function encodeWide(
  view: DataView,
  start: number,
  id: number,
  descriptors: readonly Descriptor[],
): void {
  view.setUint32(start, id);
  view.setUint32(start + 4, descriptors.length);
  let at = start + 8;
  for (const { length, status } of descriptors) {
    view.setUint32(at, Math.floor(length / 2 ** 32));
    view.setUint32(at + 4, length % 2 ** 32);
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, status);
    at += 16;
  }
}

/** What the payload form of BLOCK_STATUS asks for. */
export interface StatusFilter {
  /** Bytes; null if it is 2^53 or more. */
  readonly length: number | null;
  /** At least one. */
  readonly contexts: readonly StatusContext[];
}

/** Decodes that payload; null if it is malformed or names a context twice, or one that was not selected. */
export function decodeFilter(
  payload: Uint8Array,
  available: readonly StatusContext[],
): StatusFilter | null {
  if (payload.length < 12 || payload.length % 4 !== 0) return null;
  const count = (payload.length - 8) / 4;
  if (count > available.length) return null;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const high = view.getUint32(0);
  const contexts: StatusContext[] = [];
  for (let index = 0; index < count; index++) {
    const id = view.getUint32(8 + index * 4);
    const context = available.find((candidate) => candidate.id === id);
    if (context === undefined || contexts.includes(context)) return null;
    contexts.push(context);
  }
  const length = high < 2 ** 21 ? high * 2 ** 32 + view.getUint32(4) : null;
  return { length, contexts };
}
