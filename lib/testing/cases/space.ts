/**
 * Contract cases: trim, zero, extents and cache.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Extent, ZeroOptions } from "../../block/types.ts";
import { boundaryRanges, cornerRanges, fit, type Range, wideRanges } from "../ranges.ts";
import { expectZero } from "../subject.ts";
import type { CaseDefinition, Trial } from "../trial.ts";

const BOTH: readonly boolean[] = [false, true];
const ZERO_OPTIONS: readonly ZeroOptions[] = BOTH.flatMap((mayTrim) =>
  BOTH.flatMap((fastOnly) => BOTH.map((fua) => ({ mayTrim, fastOnly, fua })))
);

/** Bytes of an extent that are read to see whether it is zero. */
const PROBE_BYTES = 256 * 1024;

function show(options: ZeroOptions): string {
  return Object.entries(options).filter(([, on]) => on).map(([name]) => name).join(" ") || "plain";
}

function someRanges(trial: Trial): Range[] {
  const { geometry } = trial.subject;
  return [...cornerRanges(geometry), ...boundaryRanges(geometry), ...wideRanges(geometry)];
}

async function trimming(trial: Trial): Promise<void> {
  for (const range of someRanges(trial)) {
    const around = trial.around(range);
    await trial.write(around);
    await trial.trim(range);
    const after = `trim(${range.length} bytes at ${range.offset})`;
    await trial.verify(around, after);
    await trial.write(range);
    await trial.verify(around, `${after} and a write of it`);
  }
  await trial.verifyAll("all trims of this case");
}

async function trimmingAll(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const ranges = [...cornerRanges(geometry), ...wideRanges(geometry)];
  for (const range of ranges) await trial.write(range);
  if (!await trial.trim({ offset: 0, length: geometry.size }, true)) return;
  for (const range of ranges) await trial.verify(range, "trim of the whole device");
  for (const range of ranges) await trial.write(range);
  await trial.verifyAll("trim of the whole device and writes");
}

async function zeroing(trial: Trial, options: ZeroOptions): Promise<void> {
  for (const range of someRanges(trial)) {
    const around = trial.around(range);
    await trial.write(around);
    const done = await trial.zero(range, options);
    const after = `${done ? "" : "refused "}zero(${range.length} bytes at ${range.offset}, ${
      show(options)
    })`;
    await trial.verify(around, after);
    // Again, now that it may be a hole, and over an edge of it.
    await trial.zero(range, { ...options, mayTrim: !options.mayTrim });
    await trial.verify(around, `${after}, and again`);
    const inner = fit(trial.subject.geometry, range.offset, Math.ceil(range.length / 2));
    if (inner !== null) await trial.write(inner);
    await trial.verify(around, `${after}, and a write into it`);
  }
  await trial.verifyAll(`zeroing, ${show(options)}`);
}

async function zeroingAll(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  for (const range of [...cornerRanges(geometry), ...wideRanges(geometry)]) {
    await trial.write(range);
  }
  // Only what the storage can do fast is asked of it for a device of any size.
  const fastOnly = geometry.size > trial.settings.largestBytes;
  const done = await trial.zero({ offset: 0, length: geometry.size }, { mayTrim: true, fastOnly });
  await trial.verifyAll(`${done ? "" : "refused "}zero of the whole device`);
}

/** Islands of data, of zeroes and of trimmed bytes with gaps between them. */
async function makeIslands(trial: Trial): Promise<Range[]> {
  const { geometry } = trial.subject;
  const ranges: Range[] = [];
  const step = Math.max(3 * geometry.preferred, 100_000);
  const count = Math.min(24, Math.floor(geometry.size / step));
  for (let index = 0; index < count; index += 1) {
    const range = fit(geometry, index * step, 1 + trial.random.below(step - geometry.minimum));
    if (range === null) continue;
    ranges.push(range);
    await trial.write(range);
    const inner = fit(geometry, range.offset + trial.random.below(range.length), range.length / 2);
    if (inner === null || inner.offset + inner.length > range.offset + range.length) continue;
    if (index % 3 === 1 && trial.has("zero")) {
      await trial.zero(inner, { mayTrim: trial.random.oneIn(2) });
    }
    if (index % 3 === 2 && trial.has("trim")) await trial.trim(inner);
  }
  return ranges;
}

/** Reads what is said to be zero. */
async function checkZeroes(
  trial: Trial,
  extents: readonly Extent[],
  start: number,
): Promise<void> {
  let at = start;
  for (const extent of extents) {
    if (extent.zero && trial.settings.fixedContent === null) {
      await expectZero(trial.subject, at, extent.length, "extents that say so", PROBE_BYTES);
    }
    at += extent.length;
  }
}

async function extentsAreTrue(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { size, minimum } = subject.geometry;
  if (trial.has("write")) await makeIslands(trial);
  await checkZeroes(trial, await subject.extents(0, size), 0);
  const end = size - minimum;
  await checkZeroes(trial, await subject.extents(end, minimum), end);
  for (const range of someRanges(trial)) {
    await checkZeroes(trial, await subject.extents(range.offset, range.length), range.offset);
  }
}

/** A second call from where an extent ends goes on from there: nothing is skipped or told twice. */
async function extentsContinue(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { size, minimum } = subject.geometry;
  if (trial.has("write")) await makeIslands(trial);
  const whole = await subject.extents(0, Math.min(size, 2 ** 22 - 2 ** 22 % minimum || minimum));
  let at = 0;
  for (const extent of whole.slice(0, 64)) {
    const [first] = await subject.extentsOnce(at, minimum);
    assert.ok(first !== undefined);
    assert.deepEqual(
      { allocated: first.allocated, zero: first.zero },
      { allocated: extent.allocated, zero: extent.zero },
      `extents of ${minimum} bytes at ${at} and of the whole device disagree`,
    );
    at += extent.length;
  }
}

async function expectAllocated(trial: Trial, range: Range, after: string): Promise<void> {
  let at = range.offset;
  for (const extent of await trial.subject.extents(range.offset, range.length)) {
    assert.ok(extent.allocated, `offset ${at} is not allocated after ${after}`);
    at += extent.length;
  }
}

async function writtenIsAllocated(trial: Trial): Promise<void> {
  for (const range of someRanges(trial)) {
    await trial.write(range);
    await expectAllocated(trial, range, `write(${range.length} bytes at ${range.offset})`);
    if (!trial.has("native zero")) continue;
    const zeroed = await trial.zero(range, { mayTrim: false });
    if (zeroed) await expectAllocated(trial, range, "zero without mayTrim");
    await trial.zero(range, { mayTrim: true });
    const again = await trial.zero(range, { mayTrim: false });
    if (again) await expectAllocated(trial, range, "zero with, then without mayTrim");
  }
}

async function caching(trial: Trial): Promise<void> {
  const ranges = someRanges(trial);
  if (trial.has("write")) { for (const range of ranges) await trial.write(range); }
  for (const { offset, length } of ranges) await trial.subject.cache(offset, length);
  await trial.subject.cache(0, trial.subject.geometry.size);
  await trial.verifyAll("cache");
}

/** Cases about trim, zero, extents and cache. */
export const spaceCases: readonly CaseDefinition[] = [
  { name: "trims a range and nothing beside it", needs: ["bytes", "write", "trim"], run: trimming },
  { name: "trims the whole device", needs: ["bytes", "write", "trim"], run: trimmingAll },
  ...ZERO_OPTIONS.map((options): CaseDefinition => ({
    name: `zeroes a range and nothing beside it (${show(options)})`,
    needs: ["bytes", "write", "zero"],
    run: (trial) => zeroing(trial, options),
  })),
  { name: "zeroes the whole device", needs: ["bytes", "write", "native zero"], run: zeroingAll },
  { name: "gives extents that are true", needs: ["bytes", "extents"], run: extentsAreTrue },
  {
    name: "gives the same extents piece by piece",
    needs: ["bytes", "extents"],
    run: extentsContinue,
  },
  {
    name: "shows what was written as allocated",
    needs: ["bytes", "store", "extents"],
    run: writtenIsAllocated,
  },
  { name: "caches without changing anything", needs: ["bytes", "cache"], run: caching },
];
