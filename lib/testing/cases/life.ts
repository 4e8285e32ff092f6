/**
 * Contract cases: resize, requests at the same time, refusals, the end.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DEVICE_BYTES_MAX } from "../../block/limits.ts";
import { cornerRanges, fit, type Range, wideRanges } from "../ranges.ts";
import { expectZero } from "../subject.ts";
import { type CaseDefinition, failureOf, type Trial } from "../trial.ts";

/** Resizes. False if the storage cannot do this one, and then nothing may have changed. */
async function resize(trial: Trial, size: number): Promise<boolean> {
  const before = trial.subject.geometry.size;
  const failure = await failureOf(() => trial.subject.resize(size));
  if (failure === null) {
    if (size < before) trial.model.forget(size, before - size);
    return true;
  }
  assert.equal(trial.subject.geometry.size, before, `geometry.size after resize(${size}) failed`);
  return false;
}

async function expectNewIsZero(trial: Trial, range: Range, after: string): Promise<void> {
  if (trial.settings.fixedContent === null) {
    return await expectZero(trial.subject, range.offset, range.length, after, 2 ** 20);
  }
  const start = fit(trial.subject.geometry, range.offset, Math.min(range.length, 2 ** 20));
  if (start !== null) await trial.verify(start, after);
}

async function growing(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { geometry } = subject;
  const corners = trial.has("bytes") ? cornerRanges(geometry) : [];
  for (const range of corners) await trial.write(range);
  const before = geometry.size;
  const added = Math.max(3 * geometry.preferred, 200_000 - 200_000 % geometry.minimum) +
    geometry.minimum;
  if (before > DEVICE_BYTES_MAX - added || !await resize(trial, before + added)) return;
  await trial.verifyAll("growing");
  await expectNewIsZero(trial, { offset: before, length: added }, "growing");
  const across = fit(subject.geometry, before - geometry.minimum, 2 * geometry.minimum + 1000);
  const last = fit(subject.geometry, before + added - geometry.minimum, geometry.minimum);
  for (const range of [across, last]) {
    if (range === null) continue;
    await trial.write(range);
    await trial.verify(range, "growing and a write into what is new");
  }
  if (trial.has("extents")) await subject.extents(0, subject.geometry.size);
  await trial.verifyAll("growing");
}

async function shrinking(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { size, minimum } = geometry;
  for (const range of [...cornerRanges(geometry), ...wideRanges(geometry)]) {
    await trial.write(range);
  }
  // One unit off everything even, so that a page is cut in two.
  const half = fit(geometry, size / 2, minimum);
  const cut = half === null ? 0 : half.offset + (half.offset + minimum < size ? minimum : 0);
  const beyond = fit(geometry, cut - minimum, 300_000);
  if (beyond !== null) await trial.write(beyond);
  if (cut === size || !await resize(trial, cut)) return;
  await trial.verifyAll("shrinking");
  if (trial.subject.device !== null) {
    const failure = await failureOf(() => trial.subject.read(cut, minimum));
    assert.equal(failure?.errno, "EINVAL", "a read past the new end");
  }
  if (trial.has("extents") && cut > 0) await trial.subject.extents(0, cut);
  if (!await resize(trial, size)) return;
  await expectNewIsZero(trial, { offset: cut, length: size - cut }, "shrinking and growing back");
  await trial.verifyAll("shrinking and growing back");
}

async function resizingToEnds(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  const { size, minimum } = geometry;
  const first = fit(geometry, 0, minimum);
  for (const target of [DEVICE_BYTES_MAX - DEVICE_BYTES_MAX % minimum, minimum, 0]) {
    if (first !== null && trial.subject.geometry.size > 0) await trial.write(first);
    const done = await resize(trial, target);
    if (first !== null && target > 0) await trial.verify(first, `resize(${target})`);
    const last = fit(trial.subject.geometry, target - minimum, minimum);
    if (done && last !== null) await trial.verify(last, `resize(${target})`);
  }
  await resize(trial, size);
}

/** Ranges next to each other that share pages but no byte. */
function neighbours(trial: Trial, count: number): Range[] {
  const { geometry } = trial.subject;
  const ranges: Range[] = [];
  let at = 0;
  while (ranges.length < count && at < geometry.size) {
    const units = 1 + trial.random.below(12);
    const rest = geometry.size - at;
    const length = Math.min(units * Math.max(geometry.minimum, 512), rest, geometry.maximum);
    ranges.push({ offset: at, length });
    at += length;
  }
  return ranges;
}

async function atTheSameTime(trial: Trial): Promise<void> {
  const { subject, random } = trial;
  const ranges = neighbours(trial, 200);
  await Promise.all(ranges.map((range) => trial.write(range)));
  await Promise.all(ranges.map((range) => trial.verify(range, "writes at the same time")));
  await Promise.all(ranges.map(async (range) => {
    const dice = random.below(8);
    if (dice < 3) return await trial.write(range, dice === 0);
    if (dice === 3) return await subject.flush();
    if (dice === 4 && trial.has("trim")) return void await trial.trim(range);
    if (dice === 5 && trial.has("zero")) {
      return void await trial.zero(range, { mayTrim: random.oneIn(2) });
    }
    if (dice === 6 && trial.has("extents")) {
      return void await subject.extents(range.offset, range.length);
    }
    await trial.verify(range, "other requests at the same time");
  }));
  await trial.verifyAll("many requests at the same time");
}

/** Reads of one range at once: a backend with one buffer for all mixes them up. */
async function readsAtTheSameTime(trial: Trial): Promise<void> {
  const ranges = [...neighbours(trial, 60), ...cornerRanges(trial.subject.geometry)];
  if (trial.has("write")) { for (const range of ranges) await trial.write(range); }
  else for (const range of ranges) trial.model.write(await readAll(trial, range), range.offset);
  const twice = [...ranges, ...ranges.toReversed()];
  await Promise.all(twice.map((range) => trial.verify(range, "reads at the same time")));
}

async function readAll(trial: Trial, range: Range): Promise<Uint8Array> {
  return await trial.subject.read(
    range.offset,
    Math.min(range.length, trial.subject.geometry.maximum),
  );
}

async function pastTheEnd(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { size, minimum } = subject.geometry;
  const refused = async (
    what: string,
    errno: string,
    call: () => Promise<unknown>,
  ): Promise<void> => {
    const failure = await failureOf(call);
    assert.equal(failure?.errno, errno, what);
  };
  await refused("a read at the end", "EINVAL", () => subject.read(size, minimum));
  if (!trial.has("write")) return;
  const bytes = new Uint8Array(2 * minimum);
  await refused("a write across the end", "ENOSPC", () => subject.write(bytes, size - minimum));
  await refused("a zero across the end", "ENOSPC", () => subject.zero(size - minimum, 2 * minimum));
  await trial.verifyAll("requests past the end");
}

async function readOnlyRefuses(trial: Trial): Promise<void> {
  const { subject } = trial;
  const { minimum, size } = subject.geometry;
  const before = await subject.read(0, minimum);
  const calls: Record<string, () => Promise<void>> = {
    write: () => subject.write(new Uint8Array(minimum), 0),
    "write with fua": () => subject.write(new Uint8Array(minimum), 0, true),
    trim: () => subject.trim(0, minimum),
    zero: () => subject.zero(0, minimum),
  };
  for (const [name, call] of Object.entries(calls)) {
    const failure = await failureOf(call);
    assert.equal(failure?.errno, "EROFS", `${name} of a read-only device`);
  }
  const failure = await failureOf(() => subject.resize(size + minimum));
  assert.ok(failure?.errno === "EROFS" || failure?.errno === "EOPNOTSUPP", "resize");
  await subject.flush();
  assert.deepEqual(await subject.read(0, minimum), before);
}

/** All verbs once: if it is synchronous by its own word the watch fails on the first promise. */
async function synchronousIsTrue(trial: Trial): Promise<void> {
  const { subject } = trial;
  for (const range of trial.has("bytes") ? wideRanges(subject.geometry) : []) {
    if (trial.has("write")) await trial.write(range);
    await trial.verify(range, "write");
    if (trial.has("extents")) await subject.extents(range.offset, range.length);
    if (trial.has("cache")) await subject.cache(range.offset, range.length);
    if (trial.has("zero")) await trial.zero(range);
    if (trial.has("trim")) await trial.trim(range);
  }
  await subject.flush();
  if (trial.has("resize")) await resize(trial, subject.geometry.size);
}

async function disposedTwice(trial: Trial): Promise<void> {
  const { backend } = trial.subject;
  if (trial.has("bytes") && trial.has("write")) {
    for (const range of cornerRanges(trial.subject.geometry)) await trial.write(range);
  }
  await trial.subject.flush();
  await backend[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
}

async function disposedInFlight(trial: Trial): Promise<void> {
  const { subject } = trial;
  const ranges = neighbours(trial, 40);
  // Each promise is watched from the start: none may be rejected while another is waited for.
  const writes = Promise.allSettled(ranges.map((range) => trial.write(range)));
  const ends = Promise.allSettled([subject.dispose(), subject.dispose()]);
  const late = await failureOf(() => subject.read(0, subject.geometry.minimum));
  for (const result of [...await writes, ...await ends]) {
    if (result.status === "rejected") throw result.reason;
  }
  assert.equal(late?.errno, "ESHUTDOWN", "a read after the end");
  const { reopen } = trial.settings;
  if (reopen === null) return;
  await trial.replace(reopen, false);
  await trial.verifyAll("dispose with writes in flight, and opening again");
}

/** Cases about resize, concurrency, refusals and the end. */
export const lifeCases: readonly CaseDefinition[] = [
  { name: "grows, and what is new is zero", needs: ["write", "resize"], run: growing },
  { name: "shrinks, and forgets what is cut off", needs: ["bytes", "resize"], run: shrinking },
  {
    name: "resizes to the largest and smallest sizes or refuses",
    needs: ["resize"],
    run: resizingToEnds,
  },
  { name: "serves requests at the same time", needs: ["bytes", "write"], run: atTheSameTime },
  { name: "serves reads at the same time", needs: ["bytes"], run: readsAtTheSameTime },
  {
    name: "is protected from requests past its end",
    modes: ["device"],
    needs: ["bytes"],
    run: pastTheEnd,
  },
  {
    name: "refuses changes if it is read-only",
    modes: ["device"],
    needs: ["bytes", "read-only"],
    run: readOnlyRefuses,
  },
  { name: "returns no promise if it is synchronous", needs: [], run: synchronousIsTrue },
  { name: "can be disposed twice", modes: ["direct"], needs: [], run: disposedTwice },
  {
    name: "is disposed after what is in flight",
    modes: ["device"],
    needs: ["bytes", "write"],
    run: disposedInFlight,
  },
];
