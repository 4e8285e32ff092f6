/**
 * A bitmap over the regions of a mirror: bit r of byte r/8 first, as disk logs have it. Bits past the
 * last region are always 0, and the number of bits that are set is known.
 *
 * @module
 */

/** A run of regions that have the same bit. */
export interface RegionRun {
  /** The first region. */
  readonly start: number;
  /** How many, at least 1. */
  readonly count: number;
}

function bitCount(byte: number): number {
  let bits = byte - ((byte >> 1) & 0x55);
  bits = (bits & 0x33) + ((bits >> 2) & 0x33);
  return (bits + (bits >> 4)) & 0x0f;
}

const BITS: Uint8Array = Uint8Array.from({ length: 256 }, (_, byte) => bitCount(byte));

/** Bytes of a bitmap over `regions`. */
export function bitmapBytes(regions: number): number {
  return Math.ceil(regions / 8);
}

/** A bitmap of fixed size. Regions are 0 to `regions` - 1; whoever calls has looked. */
export class RegionBitmap {
  /** Number of regions. */
  readonly regions: number;
  /** The bits. Changing them here makes `count` wrong: `load` is for that. */
  readonly bytes: Uint8Array;
  #count = 0;

  /** A bitmap of zeroes. */
  constructor(regions: number) {
    this.regions = regions;
    this.bytes = new Uint8Array(bitmapBytes(regions));
  }

  /** Bits that are set. */
  get count(): number {
    return this.#count;
  }

  /** True if the bit is set. */
  has(region: number): boolean {
    return ((this.bytes[region >> 3] ?? 0) >> (region & 7) & 1) === 1;
  }

  /** Sets a bit; true if it was clear. */
  add(region: number): boolean {
    if (this.has(region)) return false;
    this.bytes[region >> 3] = (this.bytes[region >> 3] ?? 0) | 1 << (region & 7);
    this.#count += 1;
    return true;
  }

  /** Clears a bit; true if it was set. */
  delete(region: number): boolean {
    if (!this.has(region)) return false;
    this.bytes[region >> 3] = (this.bytes[region >> 3] ?? 0) & ~(1 << (region & 7));
    this.#count -= 1;
    return true;
  }

  /** Sets or clears all bits from `start` to the last one. */
  fill(value: boolean, start = 0): void {
    let region = start;
    for (; region < this.regions && (region & 7) !== 0; region += 1) this.#put(region, value);
    this.bytes.fill(value ? 0xff : 0, Math.ceil(region / 8));
    this.#trim();
  }

  /** Takes over the bits of another bitmap as far as both go; the rest stays. */
  load(bytes: Uint8Array, regions: number): void {
    const common = Math.min(regions, this.regions);
    this.bytes.set(bytes.subarray(0, common >> 3));
    for (let region = common & ~7; region < common; region += 1) {
      this.#put(region, ((bytes[region >> 3] ?? 0) >> (region & 7) & 1) === 1);
    }
    this.#trim();
  }

  /** Clears the bits from `start` to before `end`; gives how many of them were set. */
  deleteRange(start: number, end: number): number {
    const before = this.#count, { bytes } = this;
    let region = start;
    for (; region < end && (region & 7) !== 0; region += 1) this.delete(region);
    for (; region + 8 <= end; region += 8) {
      this.#count -= BITS[bytes[region >> 3] ?? 0] ?? 0;
      bytes[region >> 3] = 0;
    }
    for (; region < end; region += 1) this.delete(region);
    return before - this.#count;
  }

  /** Clears the bits that are clear in another bitmap of as many regions. */
  intersect({ bytes: others }: RegionBitmap): void {
    const { bytes } = this;
    for (let at = 0; at < bytes.length; at += 1) bytes[at] = (bytes[at] ?? 0) & (others[at] ?? 0);
    this.#trim();
  }

  /** The first region from `start` on whose bit is clear, or `regions` if there is none. */
  nextClear(start: number): number {
    return this.next(false, start, this.regions);
  }

  /** The first region from `start` to before `end` whose bit is `value`, or `end` if there is none. */
  next(value: boolean, start: number, end: number): number {
    const skipped = value ? 0 : 0xff, { bytes } = this;
    let region = start;
    while (region < end) {
      if ((region & 7) === 0 && bytes[region >> 3] === skipped) region += 8;
      else if (this.has(region) !== value) region += 1;
      else return region;
    }
    return end;
  }

  /** Runs of regions whose bit is `value`, in order. */
  *runs(value: boolean): Generator<RegionRun> {
    const skipped = value ? 0 : 0xff, taken = value ? 0xff : 0;
    for (let region = 0; region < this.regions;) {
      if ((region & 7) === 0 && this.bytes[region >> 3] === skipped) {
        region += 8;
      } else if (this.has(region) !== value) {
        region += 1;
      } else {
        const start = region;
        while (region < this.regions) {
          if ((region & 7) === 0 && this.bytes[region >> 3] === taken) region += 8;
          else if (this.has(region) === value) region += 1;
          else break;
        }
        region = Math.min(region, this.regions);
        yield { start, count: region - start };
      }
    }
  }

  #put(region: number, value: boolean): void {
    const bit = 1 << (region & 7), byte = this.bytes[region >> 3] ?? 0;
    this.bytes[region >> 3] = value ? byte | bit : byte & ~bit;
  }

  /** Clears what is past the last region, and counts. */
  #trim(): void {
    const rest = this.regions & 7, last = this.bytes.length - 1;
    if (rest !== 0) this.bytes[last] = (this.bytes[last] ?? 0) & (1 << rest) - 1;
    let count = 0;
    for (const byte of this.bytes) count += BITS[byte] ?? 0;
    this.#count = count;
  }
}
