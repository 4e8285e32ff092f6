/**
 * Damaged and hostile images: a sound image with clusters of all kinds, some bytes of which are
 * changed, is opened, read and written. Whatever it says, the outcome is a result or a clear error,
 * soon, in bounded memory, and never a write to another file, far behind the end, or to the header.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { hasErrno } from "../../lib/block/errors.ts";
import { FLAG_MAY_TRIM, makeRequest, type Request } from "../../lib/block/request.ts";
import { type SeededRandom, seededRandom } from "../../lib/testing/random.ts";
import { qemuCreate, qemuImg, qemuIo } from "../support/qemu_image.ts";
import { withTempDir } from "../support/tools.ts";
import { GuardedFiles } from "./guarded_file.ts";
import { openImage } from "./sides.ts";

const KIB = 1024, MIB = 1024 * KIB;
const PATH = "image";
/** Bytes that a file may grow by: a few requests need no more. */
const GROWTH_BYTES_MAX = 8 * MIB;
/** Time that one image may take, in ms. */
const CASE_MS_MAX = 5_000;
/** Byte that is written to the disk; the header must never have a run of it. */
const WRITTEN = 0xa5;
const DISK_BYTES = 1 * MIB;

/** An image to be damaged. */
export interface Victim {
  readonly name: string;
  readonly content: Uint8Array;
  /** Bytes of a cluster. */
  readonly cluster: number;
}

/** Sound images with data, zeroes, compressed clusters, a snapshot and subclusters. */
export async function makeVictims(): Promise<Victim[]> {
  return await withTempDir(async (folder) => {
    const victims: Victim[] = [];
    const kinds = [
      { cluster: 4 * KIB, options: { refcount_bits: 16 } },
      { cluster: 4 * KIB, options: { refcount_bits: 1, compression_type: "zstd" } },
      { cluster: 64 * KIB, options: { extended_l2: "on", lazy_refcounts: "on" } },
      { cluster: 512, options: { compat: "0.10" } },
    ] as const;
    for (const { cluster, options } of kinds) {
      const path = join(folder, "victim");
      await qemuCreate(path, DISK_BYTES, { cluster_size: cluster, ...options });
      const unit = Math.max(cluster, 4 * KIB);
      await qemuIo(path, [
        `write -P 1 0 ${unit * 3}`,
        `write -c -P 2 ${unit * 4} ${cluster}`,
        `write -z -u ${unit * 6} ${unit}`,
      ]);
      if (!("refcount_bits" in options) || options.refcount_bits !== 1) {
        await qemuImg("snapshot", "-c", "kept", path);
      }
      await qemuIo(path, [`write -P 3 ${unit} ${unit}`, `discard ${unit * 2} ${unit}`]);
      victims.push({
        name: JSON.stringify({ cluster, ...options }),
        content: await Deno.readFile(path),
        cluster,
      });
      await Deno.remove(path);
    }
    return victims;
  });
}

/** Values that numbers in a format are wrong with. */
const NASTY: readonly bigint[] = [
  ...[0n, 1n, 511n, 512n, 4095n, 65_536n, 1n << 20n, (1n << 31n) - 1n, 1n << 32n],
  ...[
    (1n << 40n) + 512n,
    1n << 56n,
    (1n << 62n) | 1n,
    1n << 63n,
    (1n << 63n) | 512n,
    (1n << 64n) - 1n,
  ],
  0xffff_ffff_ffff_fe00n,
];

/** Changes a copy of an image in one to four places; says how. */
export function damaged(
  victim: Victim,
  random: SeededRandom,
): { content: Uint8Array; what: string } {
  const content = victim.content.slice();
  const view = new DataView(content.buffer);
  const done: string[] = [];
  for (let count = 1 + random.below(4); count > 0; count -= 1) {
    // Half of the time the header; else an entry of a table, in the clusters that hold no data.
    const end = random.oneIn(2) ? 112 : content.length;
    const turn = random.below(8);
    if (turn === 0) {
      const length = random.below(content.length);
      content.fill(0, length);
      done.push(`zeroes from ${length}`);
    } else if (turn < 4) {
      const at = random.below(Math.floor(end / 4)) * 4;
      const value = Number(random.pick(NASTY) & 0xffff_ffffn);
      view.setUint32(at, value);
      done.push(`u32 at ${at} = ${value}`);
    } else if (turn < 7) {
      const at = random.below(Math.floor(end / 8)) * 8;
      const near = BigInt(random.below(content.length / victim.cluster) * victim.cluster);
      const value = random.oneIn(2)
        ? random.pick(NASTY)
        : near | (random.pick([0n, 1n, 2n, 3n]) << 62n);
      view.setBigUint64(at, value);
      done.push(`u64 at ${at} = ${value.toString(16)}`);
    } else {
      const at = random.below(end);
      content[at] = random.below(256);
      done.push(`byte ${at} = ${content[at]}`);
    }
  }
  return { content, what: done.join(", ") };
}

function requests(random: SeededRandom, size: number): Request[] {
  const place = (length: number): number =>
    random.below(Math.max(1, Math.floor((size - length) / 512))) * 512;
  const list: Request[] = [];
  for (let count = 0; count < 6; count += 1) {
    const length = Math.min(size, 512 * (1 + random.below(128)));
    const offset = random.oneIn(2) ? Math.min(count * 4 * KIB, size - length) : place(length);
    const data = new Uint8Array(length);
    list.push(makeRequest("read", offset, length, { data }));
    const bytes = new Uint8Array(length).fill(WRITTEN);
    list.push(makeRequest("write", offset, length, { data: bytes }));
    if (count % 3 === 0) list.push(makeRequest("zero", offset, length, { flags: FLAG_MAY_TRIM }));
    if (count % 3 === 1) list.push(makeRequest("trim", offset, length));
    if (count % 3 === 2) list.push(makeRequest("extents", offset, length));
  }
  list.push(makeRequest("flush"));
  return list;
}

/** An error that a user can do something with: it has an errno and words, and is no bug. */
function assertClear(error: unknown, what: string): void {
  // What has no errno of its own was made EIO at the edge, with its own message: a bug.
  const isClear = hasErrno(error) && error instanceof Error && error.message.length > 10 &&
    !(error.cause instanceof Error && !hasErrno(error.cause) &&
      error.cause.message === error.message);
  if (isClear) return;
  const cause = error instanceof Error ? error.stack ?? error.message : String(error);
  assert.fail(`${what} gives no clear error: ${cause}`);
}

/** True if the header's cluster holds what was written to the disk. */
function headerIsHit(content: Uint8Array): boolean {
  return content.subarray(0, 104).every((byte) => byte === WRITTEN);
}

/** What came of one image. */
export type Outcome = "refused" | "failed" | "served";

/** Opens, reads and writes one image. Throws if it fares as no image may. */
export async function attack(victim: Victim, seed: number): Promise<Outcome> {
  const random = seededRandom(seed);
  const { content, what } = damaged(victim, random);
  const files = new GuardedFiles(PATH, content, GROWTH_BYTES_MAX);
  const label = `${victim.name}, seed ${seed} (${what})`;
  const startMs = performance.now();
  let outcome: Outcome = "served";
  try {
    await using image = await openImage(PATH, "qcow2", { files });
    const { size } = image.device.geometry;
    for (const request of size < 512 ? [] : requests(random, size)) {
      try {
        await image.device.submit(request);
      } catch (error) {
        assertClear(error, `${request.operation} of ${label}`);
        outcome = "failed";
      }
    }
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error;
    assertClear(error, `opening ${label}`);
    if (outcome === "served") outcome = "refused";
  }
  assert.deepEqual(files.violations, [], `${label} was written outside`);
  assert.ok(!headerIsHit(files.bytes), `${label}: the header was written over`);
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs < CASE_MS_MAX, `${label} took ${Math.round(tookMs)} ms`);
  return outcome;
}
