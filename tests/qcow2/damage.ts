/**
 * Damage done to images on purpose: each kind changes one or a few places, chosen by a random source.
 *
 * @module
 */
import { entryOffset } from "../../backends/qcow2/format/entries.ts";
import { clusterBytes, type QcowHeader } from "../../backends/qcow2/format/header.ts";
import { readHeader } from "../../backends/qcow2/read_tables.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import type { SeededRandom } from "../support/context.ts";

/** An image that is open for damage. */
class Victim {
  readonly file: RawFile;
  readonly header: QcowHeader;
  readonly cluster: number;
  readonly random: SeededRandom;

  constructor(file: RawFile, random: SeededRandom) {
    this.file = file;
    this.header = readHeader(file, "check");
    this.cluster = clusterBytes(this.header);
    this.random = random;
  }

  entry(at: number): bigint {
    const bytes = new Uint8Array(8);
    this.file.read(bytes, at);
    return new DataView(bytes.buffer).getBigUint64(0);
  }

  set(at: number, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, value));
    this.file.write(bytes, at);
  }

  /** Places of the entries of a table that are not 0. */
  used(offset: number, entries: number, step = 8): number[] {
    const found: number[] = [];
    for (let index = 0; index < entries; index += 1) {
      if (this.entry(offset + index * step) !== 0n) found.push(offset + index * step);
    }
    return found;
  }

  pick(places: readonly number[]): number {
    const place = places[this.random.below(places.length)];
    if (place === undefined) throw new Error("There is nothing to damage");
    return place;
  }

  l1Entry(): number {
    return this.pick(this.used(this.header.l1Offset, this.header.l1Size));
  }

  l2Entry(): number {
    const step = (this.header.incompatible & 16n) === 0n ? 8 : 16;
    const entry = this.entry(this.l1Entry());
    const table = entryOffset(Number(entry >> 32n), Number(entry & 0xffff_ffffn));
    return this.pick(this.used(table, this.cluster / step, step));
  }

  refcountTableEntry(): number {
    const { refcountTableOffset, refcountTableClusters } = this.header;
    return this.pick(this.used(refcountTableOffset, refcountTableClusters * this.cluster / 8));
  }

  /** A cluster of the file, as an offset. */
  somewhere(): bigint {
    const clusters = Math.floor(this.file.size() / this.cluster);
    return BigInt(this.cluster) * BigInt(1 + this.random.below(clusters - 1));
  }

  /** A cluster past the end of the file, as an offset. */
  outside(): bigint {
    const clusters = Math.ceil(this.file.size() / this.cluster);
    return BigInt(this.cluster) * BigInt(clusters + 3 + this.random.below(1000));
  }
}

const OFFSET = 0x00ff_ffff_ffff_fe00n, COPIED = 1n << 63n;

/** Puts another offset into an entry. */
function redirect(victim: Victim, at: number, offset: bigint): void {
  victim.set(at, (victim.entry(at) & ~OFFSET) | offset);
}

/** Every kind of damage. */
export const DAMAGES = {
  "a refcount": (victim) => {
    const block = Number(victim.entry(victim.refcountTableEntry()));
    const used = victim.used(block, victim.cluster / 8);
    const byte = new Uint8Array([victim.random.below(4)]);
    victim.file.write(byte, victim.pick(used) + victim.random.below(8));
  },
  "a refcount block that is gone": (victim) => victim.set(victim.refcountTableEntry(), 0n),
  "a refcount block elsewhere": (victim) =>
    victim.set(victim.refcountTableEntry(), victim.somewhere()),
  "a refcount block past the end": (victim) =>
    victim.set(victim.refcountTableEntry(), victim.outside()),
  "a refcount block within a cluster": (victim) => {
    const at = victim.refcountTableEntry();
    victim.set(at, victim.entry(at) + 512n);
  },
  "reserved bits in the refcount table": (victim) => {
    const at = victim.refcountTableEntry();
    victim.set(at, victim.entry(at) | 5n);
  },
  "a refcount table elsewhere": (victim) => victim.set(48, victim.somewhere()),
  "no refcount table": (victim) => victim.set(56, BigInt(victim.header.snapshotCount)),
  "an L1 entry elsewhere": (victim) => redirect(victim, victim.l1Entry(), victim.somewhere()),
  "an L1 entry past the end": (victim) => redirect(victim, victim.l1Entry(), victim.outside()),
  "an L1 entry that is gone": (victim) => victim.set(victim.l1Entry(), 0n),
  "reserved bits in an L1 entry": (victim) => {
    const at = victim.l1Entry();
    victim.set(at, victim.entry(at) | (1n << 57n) | 4n);
  },
  "the flag of an L1 entry": (victim) => {
    const at = victim.l1Entry();
    victim.set(at, victim.entry(at) ^ COPIED);
  },
  "an L1 entry within a cluster": (victim) => {
    const at = victim.l1Entry();
    victim.set(at, victim.entry(at) ^ 0x200n);
  },
  "an L2 entry elsewhere": (victim) => redirect(victim, victim.l2Entry(), victim.somewhere()),
  "an L2 entry past the end": (victim) => redirect(victim, victim.l2Entry(), victim.outside()),
  "an L2 entry that is gone": (victim) => victim.set(victim.l2Entry(), 0n),
  "the flag of an L2 entry": (victim) => {
    const at = victim.l2Entry();
    victim.set(at, victim.entry(at) ^ COPIED);
  },
  "an L2 entry within a cluster": (victim) => {
    const at = victim.l2Entry();
    victim.set(at, victim.entry(at) ^ 0x200n);
  },
  "reserved bits in an L2 entry": (victim) => {
    const at = victim.l2Entry();
    victim.set(at, victim.entry(at) | (1n << 57n) | 4n);
  },
  "an L2 entry that is random": (victim) => {
    const at = victim.l2Entry();
    const { random } = victim;
    victim.set(at, (BigInt(random.uint32()) << 32n) | BigInt(random.uint32()));
  },
  "a bit of an L2 entry": (victim) => {
    const at = victim.l2Entry();
    victim.set(at, victim.entry(at) ^ (1n << BigInt(victim.random.below(64))));
  },
  "a bit of an L1 entry": (victim) => {
    const at = victim.l1Entry();
    victim.set(at, victim.entry(at) ^ (1n << BigInt(victim.random.below(64))));
  },
  "the end cut off": (victim) => {
    const size = victim.file.size();
    victim.file.truncate(size - victim.random.below(Math.floor(size / 3)));
  },
  "the dirty bit": (victim) => {
    if (victim.header.version === 3) victim.set(72, victim.header.incompatible | 1n);
  },
  "the corrupt bit": (victim) => {
    if (victim.header.version === 3) victim.set(72, victim.header.incompatible | 2n);
  },
} as const satisfies Record<string, (victim: Victim) => void>;

/** A kind of damage. */
export type Damage = keyof typeof DAMAGES;

/** All kinds of damage. */
export const DAMAGE_NAMES: readonly Damage[] = Object.keys(DAMAGES).filter((name): name is Damage =>
  Object.hasOwn(DAMAGES, name)
);

/** Damages an image in one way. */
export function doDamage(path: string, damage: Damage, random: SeededRandom): void {
  const file = systemFiles.open(path, { readOnly: false, direct: false, lock: false });
  try {
    DAMAGES[damage](new Victim(file, random));
  } finally {
    file.close();
  }
}
