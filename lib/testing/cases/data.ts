/**
 * Contract cases: geometry, reading and writing.
 *
 * @module
 */
import assert from "node:assert/strict";
import { firstDifference } from "../../block/compare.ts";
import { validateGeometry } from "../../block/validate.ts";
import { boundaryRanges, cornerRanges, fit, type Range, wideRanges } from "../ranges.ts";
import type { CaseDefinition, Trial } from "../trial.ts";

async function geometryIsPossible(trial: Trial): Promise<void> {
  const { backend } = trial.subject;
  validateGeometry(backend.geometry, "contract");
  assert.deepEqual({ ...backend.geometry }, { ...backend.geometry }, "geometry changes by itself");
  for (const key of ["synchronous", "fua"] as const) {
    assert.equal(typeof backend.capabilities[key], "boolean", `capabilities.${key}`);
  }
  assert.equal(typeof backend.geometry.readOnly, "boolean", "geometry.readOnly");
  await trial.subject.flush();
}

/** Fills a range and its surroundings, overwrites the range, and compares all of it. */
async function overwrite(trial: Trial, range: Range): Promise<void> {
  const around = trial.around(range);
  await trial.write(around);
  await trial.write(range);
  await trial.verify(around, `write(${range.length} bytes at ${range.offset}) into other data`);
}

async function eachOverwritten(trial: Trial, ranges: readonly Range[]): Promise<void> {
  for (const range of ranges) await overwrite(trial, range);
  await trial.verifyAll("all writes of this case");
}

async function lengths(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { minimum, size } = geometry;
  const longest = Math.min(geometry.maximum, size, trial.settings.largestBytes);
  // Both sides of each power up to some pages; beyond that it is the longest that matters.
  for (let length = minimum; length <= Math.min(longest, 2 ** 20); length *= 2) {
    for (const odd of [length - minimum, length, length + minimum]) {
      const range = odd > 0 && odd <= longest ? fit(geometry, minimum, odd) : null;
      if (range === null) continue;
      await trial.write(range);
      await trial.verify(range, `write(${range.length} bytes at ${range.offset})`);
    }
  }
  const range = fit(geometry, 0, longest);
  if (range === null) return;
  await trial.write(range);
  await trial.verify(range, `write(${range.length} bytes, the longest, at 0)`);
}

async function unitByUnit(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { minimum, preferred } = geometry;
  const units = Math.max(64, 2 * preferred / minimum > 512 ? 64 : 2 * preferred / minimum);
  const whole = fit(geometry, preferred - 32 * minimum, units * minimum) ??
    fit(geometry, 0, units * minimum);
  if (whole === null) return;
  for (let at = 0; at < whole.length; at += minimum) {
    await trial.write({ offset: whole.offset + at, length: minimum });
  }
  await trial.verify(whole, "writes of its units one by one");
}

async function overlapping(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { minimum } = geometry;
  const whole = fit(geometry, 0, 256 * 1024);
  if (whole === null) return;
  await trial.write(whole);
  for (let round = 0; round < 64; round += 1) {
    const offset = trial.random.below(whole.length);
    const length = 1 + trial.random.below(16 * Math.max(minimum, 512));
    const range = fit(geometry, offset, Math.min(length, whole.length - offset));
    if (range === null) continue;
    await trial.write(range);
    await trial.verify(trial.around(range), `the write number ${round} of some that overlap`);
  }
  await trial.verify(whole, "64 writes that overlap");
}

/** Ranges far apart that fall together if an offset loses its upper bits. */
async function farApart(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const ranges: Range[] = [];
  const first = fit(geometry, 0, 512);
  if (first !== null) ranges.push(first);
  for (let power = 12; power < 53; power += 1) {
    const range = fit(geometry, 2 ** power, 512);
    if (range !== null) ranges.push(range);
  }
  const last = fit(geometry, geometry.size - geometry.minimum, geometry.minimum);
  if (last !== null && geometry.size > 4096) ranges.push(last);
  for (const range of ranges) await trial.write(range);
  for (const range of ranges) await trial.verify(range, "writes at all powers of two");
}

/** Needs no writing: whatever is there reads the same in pieces, again, and from wherever it is read. */
async function readsAgree(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { geometry } = subject;
  for (const range of [...cornerRanges(geometry), ...wideRanges(geometry)]) {
    const length = Math.min(range.length, geometry.maximum);
    const whole = await subject.read(range.offset, length);
    const again = await subject.read(range.offset, length);
    assert.equal(firstDifference(whole, again), -1, `two reads at ${range.offset} differ`);
    const middle = Math.floor(length / geometry.minimum / 2) * geometry.minimum;
    if (middle === 0) continue;
    const head = await subject.read(range.offset, middle);
    const tail = await subject.read(range.offset + middle, length - middle);
    const glued = new Uint8Array(length);
    glued.set(head);
    glued.set(tail, middle);
    assert.equal(
      firstDifference(whole, glued),
      -1,
      `${length} bytes at ${range.offset} read otherwise in two pieces`,
    );
    trial.model.compare(whole, range.offset, "nothing");
  }
}

/** The watch on buffers is on in every case; this one makes what was kept instead of stored visible. */
async function buffersAreReturned(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const ranges = [...cornerRanges(geometry), ...wideRanges(geometry)];
  for (const range of ranges) await trial.write(range);
  await trial.subject.settle();
  await trial.verifyAll("writes whose buffers were overwritten when they were done");
  for (const range of ranges) await trial.write(range);
  await trial.subject.flush();
  await trial.subject.settle();
  await trial.verifyAll("writes and a flush; the buffers were overwritten before the flush");
}

/** The Device splits what is longer than the backend takes. */
async function longerThanMaximum(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { maximum, minimum } = geometry;
  for (const length of [maximum + minimum, 2 * maximum, 3 * maximum + minimum]) {
    const range = fit(geometry, minimum, Math.min(length, trial.settings.largestBytes));
    if (range === null) continue;
    const bytes = trial.bytes(range.length);
    await trial.subject.write(bytes, range.offset);
    trial.model.write(bytes, range.offset);
    const actual = await trial.subject.read(range.offset, range.length);
    trial.model.compare(actual, range.offset, "one write of it");
  }
}

/** Cases about geometry, reading and writing. */
export const dataCases: readonly CaseDefinition[] = [
  { name: "has a possible geometry", needs: [], run: geometryIsPossible },
  { name: "reads the same every time and in pieces", needs: ["bytes"], run: readsAgree },
  {
    name: "keeps first, middle and last bytes",
    needs: ["bytes", "write"],
    run: (trial) => eachOverwritten(trial, cornerRanges(trial.subject.geometry)),
  },
  {
    name: "keeps data on both sides of boundaries",
    needs: ["bytes", "write"],
    run: (trial) => eachOverwritten(trial, boundaryRanges(trial.subject.geometry)),
  },
  {
    name: "keeps data over several pages",
    needs: ["bytes", "write"],
    run: (trial) => eachOverwritten(trial, wideRanges(trial.subject.geometry)),
  },
  { name: "takes every length up to the maximum", needs: ["bytes", "write"], run: lengths },
  { name: "takes writes of the smallest unit", needs: ["bytes", "write"], run: unitByUnit },
  { name: "lets the last of overlapping writes win", needs: ["bytes", "write"], run: overlapping },
  { name: "keeps offsets that are far apart, apart", needs: ["bytes", "write"], run: farApart },
  { name: "leaves buffers alone after a call", needs: ["bytes", "write"], run: buffersAreReturned },
  {
    name: "takes requests longer than its maximum",
    modes: ["device"],
    needs: ["bytes", "write", "small maximum"],
    run: longerThanMaximum,
  },
];
