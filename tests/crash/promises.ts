/**
 * What a server has promised about a disk: random writes, FUA writes and flushes through a Device, and
 * for each block the content that it must at least have after a crash.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Device } from "../../lib/block/device.ts";
import { FLAG_FUA, makeRequest } from "../../lib/block/request.ts";
import type { SeededRandom } from "../support/context.ts";

/** Unit of the promises: what the page cache takes whole. */
export const BLOCK_BYTES = 4096;
const RUN_BLOCKS_MAX = 64;

/** One block; `durable` and `done` are indexes of `versions`. */
interface Block {
  /** What it may hold, oldest first; the content follows from the number. */
  readonly versions: number[];
  /** The latest version that a finished flush or FUA write covers. */
  durable: number;
  /** The latest version whose write is done. */
  done: number;
  /** A write is in flight: order between two would be open. */
  busy: boolean;
}

/** Fills a block with what follows from `version`: no two versions have a word in common. */
function fillBlock(into: Uint8Array, version: number): void {
  const view = new DataView(into.buffer, into.byteOffset, into.length);
  for (let at = 0; at < into.length; at += 4) view.setUint32(at, version * BLOCK_BYTES + at);
}

/** Whether a block holds `version` whole. */
function holds(bytes: Uint8Array, version: number): boolean {
  if (version === 0) return bytes.every((byte) => byte === 0);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; at += 4) {
    if (view.getUint32(at) !== version * BLOCK_BYTES + at) return false;
  }
  return true;
}

/** The promises of a disk of zeroes, over any number of crashes. */
export class Promises {
  readonly #blocks: Block[];
  readonly #random: SeededRandom;
  #nextVersion = 1;
  /** Writes and flushes that were answered. */
  answered = 0;
  /** Answered FUA writes and flushes. */
  syncs = 0;

  constructor(count: number, random: SeededRandom) {
    this.#random = random;
    this.#blocks = Array.from(
      { length: count },
      () => ({ versions: [0], durable: 0, done: 0, busy: false }),
    );
  }

  /** Sends a random request; rejects if it is not answered with success. */
  async step(device: Device): Promise<void> {
    if (this.#random.below(6) === 0) await this.#flush(device);
    else await this.#write(device, this.#random.below(3) === 0);
    this.answered += 1;
  }

  async #write(device: Device, fua: boolean): Promise<void> {
    const count = 1 + this.#random.below(this.#random.below(4) === 0 ? RUN_BLOCKS_MAX : 4);
    const start = this.#random.below(this.#blocks.length - count + 1);
    const blocks = this.#blocks.slice(start, start + count);
    if (blocks.some(({ busy }) => busy)) return await this.#flush(device);
    const data = new Uint8Array(count * BLOCK_BYTES);
    const changed = blocks.map((block, index) => {
      block.busy = true;
      block.versions.push(this.#nextVersion);
      fillBlock(data.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES), this.#nextVersion);
      this.#nextVersion += 1;
      return { block, version: block.versions.length - 1 };
    });
    const flags = fua ? FLAG_FUA : 0;
    await device.submit(
      makeRequest("write", start * BLOCK_BYTES, data.length, { data, flags }),
    );
    for (const { block, version } of changed) {
      block.busy = false;
      block.done = version;
      if (fua) block.durable = version;
    }
    if (fua) this.syncs += 1;
  }

  async #flush(device: Device): Promise<void> {
    const covered = this.#blocks.map(({ done }) => done);
    await device.submit(makeRequest("flush"));
    this.#blocks.forEach((block, index) => {
      block.durable = Math.max(block.durable, covered[index] ?? 0);
    });
    this.syncs += 1;
  }

  /** After a crash: fails if a promise was broken, and goes on from what there is. */
  check(disk: Uint8Array): void {
    assert.equal(disk.length, this.#blocks.length * BLOCK_BYTES);
    this.#blocks.forEach((block, index) => {
      const found = disk.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES);
      const version = block.versions.findLastIndex((version) => holds(found, version));
      assert.ok(
        version >= block.durable,
        `block ${index}: version ${block.durable} was durable, found ${version}`,
      );
      block.versions.splice(version + 1);
      block.versions.splice(0, version);
      block.durable = block.done = 0;
      block.busy = false;
    });
  }
}
