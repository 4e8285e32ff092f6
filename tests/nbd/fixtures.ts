/**
 * What the tests of the NBD server share: bytes written as hexadecimal text, a disk in memory whose
 * calls can be held back, exports, and ways to drive a session without I/O.
 *
 * @module
 */
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { BufferPool } from "../../lib/block/pool.ts";
import { type Gate, OPEN_GATE } from "../../lib/block/request.ts";
import type { Backend, Extent, Geometry, Maybe } from "../../lib/block/types.ts";
import {
  type ExportInfo,
  exportInfoOf,
  type ExportTable,
  type HandshakeState,
  transmissionFlags,
} from "../../lib/nbd/export_info.ts";
import { NbdServerSession } from "../../lib/nbd/server_session.ts";
import type { VectorPool } from "../../lib/sys/io_vector.ts";
import type { ByteSession } from "../../lib/stream/session.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";

/** Bytes from hexadecimal text: white space and everything from `#` to the end of a line is ignored. */
export function hex(text: string): Uint8Array {
  const digits = text.replace(/#.*$/gm, "").replace(/\s/g, "");
  if (!/^([0-9a-f]{2})*$/i.test(digits)) throw new Error(`not hexadecimal: ${digits}`);
  return Uint8Array.fromHex(digits);
}

/** The hexadecimal text of bytes, in groups of four. */
export function show(bytes: Uint8Array): string {
  return bytes.toHex().replace(/(.{8})(?=.)/g, "$1 ");
}

/** Fails at the first byte that differs, showing what is around it. */
export function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  const end = Math.max(actual.length, expected.length);
  let at = 0;
  while (at < end && actual[at] === expected[at]) at++;
  if (at === end) return;
  const around = (bytes: Uint8Array): string =>
    show(bytes.subarray(Math.max(0, (at & ~3) - 32), at + 32));
  throw new Error(
    `bytes differ at ${at}: ${actual.length} bytes are …${around(actual)}…, ` +
      `expected ${expected.length}: …${around(expected)}…`,
  );
}

/** Text as hexadecimal digits. */
export function ascii(text: string): string {
  return new TextEncoder().encode(text).toHex();
}

/** A number as hexadecimal digits of 16, 32 or 64 bits. */
export function digits(value: number | bigint, bits: 16 | 32 | 64): string {
  return value.toString(16).padStart(bits / 4, "0");
}

/** Pieces of bytes as one. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** All that a session has to send now, copied and released. */
export function outputOf(session: ByteSession): Uint8Array {
  const parts: Uint8Array[] = [];
  for (let out = session.takeOutput(); out !== null; out = session.takeOutput()) {
    parts.push(out.bytes.slice());
    out.release();
  }
  return joined(parts);
}

/** What a disk of the tests is made of. */
export interface RamOptions extends Partial<Geometry> {
  /** Its bytes; zeroes if left out. */
  readonly content?: Uint8Array;
  /** Called before each verb; what it gives is waited for. It may throw. */
  readonly before?: (verb: string, offset: number, length: number) => Maybe<void>;
  /** What `extents` tells; without it the disk has no such verb. */
  readonly extents?: (offset: number, length: number) => Extent[];
  /** Verbs that it shall not have. */
  readonly without?: readonly ("trim" | "zero" | "cache")[];
}

/** A disk of the tests: what was called, and its bytes. */
export interface Ram {
  readonly backend: Backend;
  readonly content: Uint8Array;
  /** "write 0+512 fua" and the like, in the order of the calls. */
  readonly calls: string[];
}

const RAMP = new Uint8Array(1 << 20);
for (let at = 0; at < RAMP.length; at++) RAMP[at] = at;

/** Makes a disk in memory; a size without content reads as the offset's low byte. */
export function ram(options: RamOptions = {}): Ram {
  const { before = (): void => {}, without = [] } = options;
  const size = options.size ?? options.content?.length ?? 1 << 20;
  const content = options.content ?? RAMP.slice(0, size);
  const calls: string[] = [];
  const run = (
    verb: string,
    offset: number,
    length: number,
    flags: Record<string, boolean>,
    work: () => void,
  ): Maybe<void> => {
    const words = Object.keys(flags).filter((flag) => flags[flag]);
    calls.push([verb, `${offset}+${length}`, ...words].join(" "));
    const wait = before(verb, offset, length);
    return wait === undefined ? work() : wait.then(work);
  };
  const { extents } = options;
  const backend: Backend = {
    geometry: {
      size,
      minimum: options.minimum ?? 1,
      preferred: options.preferred ?? 4096,
      maximum: options.maximum ?? 64 << 20,
      readOnly: options.readOnly ?? false,
    },
    capabilities: { synchronous: options.before === undefined, fua: true },
    read: (into, offset) =>
      run("read", offset, into.length, {}, () => {
        into.fill(0);
        into.set(content.subarray(offset, offset + into.length));
      }),
    write: (from, offset, { fua }) =>
      run("write", offset, from.length, { fua }, () => content.set(from, offset)),
    flush: () => run("flush", 0, 0, {}, () => {}),
    trim: (offset, length, { fua }) => run("trim", offset, length, { fua }, () => {}),
    zero: (offset, length, { fua, mayTrim, fastOnly }) =>
      run("zero", offset, length, { fua, mayTrim, fastOnly }, () => {
        if (fastOnly && length === 4096) throw new BlockError("EOPNOTSUPP", "Cannot zero fast");
        content.fill(0, offset, offset + length);
      }),
    cache: (offset, length) => run("cache", offset, length, {}, () => {}),
    ...(extents === undefined ? {} : {
      extents: (offset: number, length: number): Maybe<Extent[]> => {
        const wait = run("extents", offset, length, {}, () => {});
        return wait === undefined
          ? extents(offset, length)
          : wait.then(() => extents(offset, length));
      },
    }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  for (const verb of without) delete backend[verb];
  return { backend, content, calls };
}

/** Extents of a device as text: "d" data, "h" a hole, "z" allocated zeroes, each with its bytes. */
export function extentsFrom(
  layout: readonly (readonly ["d" | "h" | "z", number])[],
): (offset: number, length: number) => Extent[] {
  return (offset, length) => {
    const found: Extent[] = [];
    let at = 0;
    for (const [kind, bytes] of layout) {
      const end = at + bytes;
      if (end > offset && at < offset + length) {
        found.push({
          length: end - Math.max(at, offset),
          allocated: kind !== "h",
          zero: kind !== "d",
        });
      }
      at = end;
    }
    return found;
  };
}

/** A Device over a disk of the tests; its pool overwrites what is released. */
export function deviceOver(backend: Backend, poison = true): Device {
  return new Device(backend, {
    name: "disk",
    clock: new ManualClock(),
    log: new MemoryLog(),
    pool: new BufferPool({ poison }),
  });
}

/** An export as plain data. */
export function makeExport(name: string, different: Partial<ExportInfo> = {}): ExportInfo {
  return {
    name,
    description: "",
    size: 1 << 20,
    readOnly: false,
    minimum: 1,
    preferred: 4096,
    maximum: 64 << 20,
    canTrim: true,
    canZero: true,
    canCache: true,
    multiConn: true,
    rotational: false,
    tlsRequired: false,
    contexts: ["base:allocation"],
    ...different,
  };
}

/** A table of these exports; the first is the default one. */
export function tableOf(...exports: ExportInfo[]): ExportTable & { stopping: boolean } {
  return {
    exports: new Map(exports.map((info) => [info.name, info])),
    defaultExport: exports[0]?.name ?? null,
    stopping: false,
  };
}

/** What a handshake for this device would have settled. */
export function stateFor(
  device: Device,
  style: "simple" | "structured" | "extended",
  different: Partial<HandshakeState> = {},
): HandshakeState {
  const info = exportInfoOf(device);
  const extended = style === "extended";
  const structured = style !== "simple";
  const contexts = structured ? info.contexts.map((name, index) => ({ id: index + 1, name })) : [];
  return {
    exportName: info.name,
    structured,
    extended,
    contexts,
    flags: transmissionFlags(info, { structured, extended, contexts }),
    blockSizeAgreed: true,
    secured: false,
    ...different,
  };
}

/** A session for a device. */
export function sessionFor(
  device: Device,
  style: "simple" | "structured" | "extended",
  different: Partial<HandshakeState> = {},
  gate: Gate = OPEN_GATE,
  vectors: VectorPool | null = null,
  polls = false,
): NbdServerSession {
  const state = stateFor(device, style, different);
  return new NbdServerSession({
    device,
    gate,
    state,
    ...(polls ? { polls } : {}),
    ...(vectors === null ? {} : { vectors }),
  });
}

/** The bytes of a compact request. */
export function compact(
  type: number,
  cookie: number | bigint,
  offset: number | bigint,
  length: number,
  rest: { flags?: number; payload?: Uint8Array } = {},
): Uint8Array {
  const { flags = 0, payload = new Uint8Array(0) } = rest;
  const header = hex(
    "25609513" + digits(flags, 16) + digits(type, 16) + digits(cookie, 64) + digits(offset, 64) +
      digits(length, 32),
  );
  return joined([header, payload]);
}

/** The bytes of an extended request. */
export function extended(
  type: number,
  cookie: number | bigint,
  offset: number | bigint,
  length: number | bigint,
  rest: { flags?: number; payload?: Uint8Array } = {},
): Uint8Array {
  const { flags = 0, payload = new Uint8Array(0) } = rest;
  const header = hex(
    "21e41c71" + digits(flags, 16) + digits(type, 16) + digits(cookie, 64) + digits(offset, 64) +
      digits(length, 64),
  );
  return joined([header, payload]);
}
