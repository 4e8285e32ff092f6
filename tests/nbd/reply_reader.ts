/**
 * Reads replies of the transmission phase the way a strict client does: an implementation of its own,
 * against which the server's encoder is tested.
 *
 * @module
 */
import assert from "node:assert/strict";

/** A request, as far as its reply depends on it. */
export interface Asked {
  readonly read: boolean;
  readonly offset: bigint;
  readonly length: bigint;
}

/** A whole reply. */
export interface Answer {
  /** An NBD error value; 0 for success. */
  readonly error: number;
  /** The data of a read that succeeded, its holes filled with zeroes. */
  readonly data: Uint8Array | null;
  /** Descriptors of a block status, by context. */
  readonly status: ReadonlyMap<number, readonly { length: number; flags: number }[]>;
}

interface Open {
  error: number;
  data: Uint8Array | null;
  covered: [start: number, end: number][];
  status: Map<number, { length: number; flags: number }[]>;
}

/** Reads whole replies from `bytes`; fails for whatever the protocol does not allow. */
export function readReplies(
  bytes: Uint8Array,
  style: "simple" | "structured" | "extended",
  askedOf: (cookie: bigint) => Asked,
): Map<bigint, Answer> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const answers = new Map<bigint, Answer>();
  const open = new Map<bigint, Open>();
  const finish = (cookie: bigint, answer: Answer): void => {
    assert.ok(!answers.has(cookie), `cookie ${cookie} was answered twice`);
    answers.set(cookie, answer);
  };
  let at = 0;
  while (at < bytes.length) {
    const magic = view.getUint32(at);
    if (magic === 0x67446698) {
      assert.notEqual(style, "extended", "extended headers forbid simple replies");
      const error = view.getUint32(at + 4);
      const cookie = view.getBigUint64(at + 8);
      const asked = askedOf(cookie);
      at += 16;
      assert.ok(style === "simple" || !asked.read, "a read needs a structured reply");
      const length = asked.read && error === 0 ? Number(asked.length) : 0;
      assert.ok(at + length <= bytes.length);
      const data = asked.read && error === 0 ? bytes.slice(at, at + length) : null;
      at += length;
      finish(cookie, { error, data, status: new Map() });
      continue;
    }
    const wide = style === "extended";
    assert.equal(magic, wide ? 0x6e8a278c : 0x668e33ef);
    assert.notEqual(style, "simple");
    const flags = view.getUint16(at + 4);
    const type = view.getUint16(at + 6);
    const cookie = view.getBigUint64(at + 8);
    const asked = askedOf(cookie);
    if (wide) assert.equal(view.getBigUint64(at + 16), asked.offset);
    const length = wide ? Number(view.getBigUint64(at + 24)) : view.getUint32(at + 16);
    at += wide ? 32 : 20;
    assert.ok(at + length <= bytes.length, "a chunk is cut short");
    const state = open.get(cookie) ?? { error: 0, data: null, covered: [], status: new Map() };
    open.set(cookie, state);
    readChunk(new DataView(view.buffer, view.byteOffset + at, length), type, asked, state, wide);
    at += length;
    assert.ok(flags <= 1, "unknown flags");
    if (flags === 0) {
      assert.notEqual(type, 0, "NONE is always the last chunk");
      continue;
    }
    open.delete(cookie);
    if (asked.read && state.error === 0) checkCovered(state.covered, asked);
    finish(cookie, { error: state.error, data: state.data, status: state.status });
  }
  assert.equal(open.size, 0, "a reply has no last chunk");
  return answers;
}

function readChunk(
  payload: DataView,
  type: number,
  asked: Asked,
  state: Open,
  wide: boolean,
): void {
  const length = payload.byteLength;
  switch (type) {
    case 0:
      assert.equal(length, 0);
      return;
    case 1:
    case 2: {
      assert.ok(asked.read && length >= 9 && (type === 1 || length === 12));
      const start = Number(payload.getBigUint64(0) - asked.offset);
      const count = type === 1 ? length - 8 : payload.getUint32(8);
      assert.ok(count > 0 && start >= 0 && BigInt(start + count) <= asked.length);
      state.data ??= new Uint8Array(Number(asked.length));
      if (type === 1) {
        state.data.set(new Uint8Array(payload.buffer, payload.byteOffset + 8, count), start);
      }
      state.covered.push([start, start + count]);
      return;
    }
    case 5:
    case 6: {
      assert.equal(type, wide ? 6 : 5);
      const size = wide ? 16 : 8;
      const head = wide ? 8 : 4;
      const count = (length - head) / size;
      assert.ok(Number.isInteger(count) && count > 0);
      if (wide) assert.equal(payload.getUint32(4), count);
      const id = payload.getUint32(0);
      assert.ok(!state.status.has(id), "one chunk for each context");
      const descriptors = Array.from({ length: count }, (_, index) => {
        const at = head + index * size;
        return wide
          ? {
            length: Number(payload.getBigUint64(at)),
            flags: Number(payload.getBigUint64(at + 8)),
          }
          : { length: payload.getUint32(at), flags: payload.getUint32(at + 4) };
      });
      assert.ok(descriptors.every((each) => each.length > 0));
      state.status.set(id, descriptors);
      return;
    }
    case 0x8001: {
      state.error = payload.getUint32(0);
      assert.notEqual(state.error, 0);
      const count = payload.getUint16(4);
      assert.ok(count <= 4096 && length === 6 + count);
      const text = new Uint8Array(payload.buffer, payload.byteOffset + 6, count);
      assert.ok(new TextDecoder("utf-8", { fatal: true }).decode(text).length > 0);
      return;
    }
    default:
      assert.fail(`an unknown chunk, type ${type}`);
  }
}

function checkCovered(covered: [number, number][], asked: Asked): void {
  let end = 0;
  for (const [from, to] of covered.toSorted(([a], [b]) => a - b)) {
    assert.equal(from, end, "chunks overlap or leave a gap");
    end = to;
  }
  assert.equal(BigInt(end), asked.length);
}
