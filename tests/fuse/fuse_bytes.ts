/**
 * The kernel's side of FUSE for tests: requests as bytes, and a session that answers them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BufferPool } from "../../lib/block/pool.ts";
import { FuseSession } from "../../lib/fuse/session.ts";
import type { FuseNode } from "../../lib/fuse/tree.ts";
import { MemoryLog } from "../support/context.ts";

/** A field: bytes that it takes, and its value. */
export type Field = readonly [width: 2 | 4 | 8, value: number];

/** Little-endian fields, one after another. */
export function fields(...list: readonly Field[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(list.reduce((sum, [width]) => sum + width, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [width, value] of list) {
    if (width === 2) view.setUint16(at, value, true);
    else if (width === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value), true);
    at += width;
  }
  return bytes;
}

/** A request as the kernel sends it, from user 10, group 20, process 30. */
export function request(
  opcode: number,
  unique: number,
  node: number,
  ...parts: readonly (Uint8Array | string)[]
): Uint8Array<ArrayBuffer> {
  const bodies = parts.map((part) =>
    typeof part === "string" ? new TextEncoder().encode(`${part}\0`) : part
  );
  const length = bodies.reduce((sum, each) => sum + each.length, 40);
  const header = fields(
    [4, length],
    [4, opcode],
    [8, unique],
    [8, node],
    [4, 10],
    [4, 20],
    [4, 30],
    [4, 0],
  );
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of [header, ...bodies]) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** The arguments of a READ or READDIR. */
export function readArguments(
  handle: number,
  offset: number,
  size: number,
  flags = 0,
): Uint8Array<ArrayBuffer> {
  return fields([8, handle], [8, offset], [4, size], [4, 0], [8, 0], [4, flags], [4, 0]);
}

/** The arguments of a WRITE. */
export function writeArguments(
  handle: number,
  offset: number,
  size: number,
  flags = 0,
): Uint8Array {
  return readArguments(handle, offset, size, flags);
}

/** A reply. */
export interface Reply {
  /** 0, or minus an errno. */
  readonly error: number;
  readonly data: Uint8Array;
}

/** A session under test. */
export class Mount {
  readonly session: FuseSession;
  readonly #replies = new Map<number, Reply>();
  /** Whom the session has told to poll again. */
  readonly wakeups: number[] = [];
  readonly log = new MemoryLog();
  #unique = 0;

  constructor(root: FuseNode) {
    this.session = new FuseSession({
      root,
      pool: new BufferPool({ poison: true }),
      log: this.log,
      ownership: { time: 1_000, uid: 1, gid: 2 },
      send: (reply) => this.#take(reply),
    });
  }

  /** Sends a request and gives its number. */
  send(opcode: number, node: number, ...parts: readonly (Uint8Array | string)[]): number {
    this.#unique += 2;
    this.session.receive(request(opcode, this.#unique, node, ...parts));
    return this.#unique;
  }

  /** The reply to a request if it is there. */
  replyTo(unique: number): Reply | null {
    return this.#replies.get(unique) ?? null;
  }

  /** Sends a request that is answered at once. */
  ask(opcode: number, node: number, ...parts: readonly (Uint8Array | string)[]): Reply {
    const reply = this.replyTo(this.send(opcode, node, ...parts));
    assert.ok(reply !== null, "there is no reply");
    return reply;
  }

  /** Looks a path up and gives its node. */
  node(...names: readonly string[]): number {
    let node = 1;
    for (const name of names) {
      const { error, data } = this.ask(1, node, name);
      assert.equal(error, 0, name);
      node = Number(u64(data, 0));
    }
    return node;
  }

  /** Opens a node and gives its handle. */
  open(node: number): number {
    const { error, data } = this.ask(14, node, fields([4, 2], [4, 0]));
    assert.equal(error, 0);
    return u64(data, 0);
  }

  #take(bytes: Uint8Array<ArrayBuffer>): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    assert.equal(view.getUint32(0, true), bytes.length, "the length of a reply");
    const unique = Number(view.getBigUint64(8, true));
    if (unique === 0) return void this.wakeups.push(u64(bytes, 16));
    assert.ok(!this.#replies.has(unique), `request ${unique} is answered twice`);
    this.#replies.set(unique, { error: view.getInt32(4, true), data: bytes.slice(16) });
  }
}

/** A u64 as a number. */
export function u64(bytes: Uint8Array, at: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Number(view.getBigUint64(at, true));
}

/** A u32. */
export function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(at, true);
}
