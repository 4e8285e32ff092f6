/**
 * Contract cases: flush, FUA, opening again, loss of power.
 *
 * @module
 */
import { cornerRanges, fit, type Range, wideRanges } from "../ranges.ts";
import type { CaseDefinition, Trial } from "../trial.ts";

async function flushing(trial: Trial): Promise<void> {
  const { subject } = trial;
  await subject.flush();
  await subject.flush();
  if (!trial.has("write") || !trial.has("bytes")) return;
  for (const range of wideRanges(subject.geometry)) {
    await trial.write(range);
    await subject.flush();
    await trial.verify(range, "write and flush");
  }
  await Promise.all([subject.flush(), subject.flush(), subject.flush()]);
  await trial.verifyAll("three flushes at once");
}

async function forcedWrites(trial: Trial): Promise<void> {
  for (
    const range of [...cornerRanges(trial.subject.geometry), ...wideRanges(trial.subject.geometry)]
  ) {
    const around = trial.around(range);
    await trial.write(around);
    await trial.write(range, true);
    await trial.verify(around, `write with fua (${range.length} bytes at ${range.offset})`);
    if (trial.has("trim")) {
      await trial.trim(range, true);
      await trial.verify(around, "trim with fua");
    }
  }
}

/** Writes, zeroes and trims here and there. */
async function makeHistory(trial: Trial): Promise<void> {
  const { geometry } = trial.subject;
  for (const range of [...cornerRanges(geometry), ...wideRanges(geometry)]) {
    await trial.write(range, trial.random.oneIn(3));
    const inner = fit(geometry, range.offset + range.length / 4, range.length / 2);
    if (inner === null) continue;
    if (trial.has("zero") && trial.random.oneIn(3)) {
      await trial.zero(inner, { mayTrim: trial.random.oneIn(2) });
    } else if (trial.has("trim") && trial.random.oneIn(3)) {
      await trial.trim(inner);
    }
  }
}

async function reopening(trial: Trial): Promise<void> {
  const { reopen } = trial.settings;
  if (reopen === null) return;
  await makeHistory(trial);
  await trial.subject.flush();
  await trial.replace(reopen, true);
  await trial.verifyAll("flush, dispose and opening again");
  await makeHistory(trial);
  await trial.subject.flush();
  await trial.replace(reopen, true);
  await trial.verifyAll("flush, dispose and opening a third time");
}

/** Slots of one size, so that each is written by one kind of write. */
function slots(trial: Trial): Range[] {
  const { geometry } = trial.subject;
  const length = Math.max(geometry.minimum, 4096);
  const count = Math.min(64, Math.floor(geometry.size / length));
  return Array.from({ length: count }, (_, index) => ({ offset: index * length, length }));
}

async function losingPower(trial: Trial): Promise<void> {
  const { crash } = trial.settings;
  if (crash === null) return;
  for (let round = 0; round < 4; round += 1) {
    const all = slots(trial);
    for (const range of all) await trial.write(range);
    if (trial.has("zero")) {
      for (const range of all.filter((_, i) => i % 5 === 0)) {
        await trial.zero(range, { mayTrim: round % 2 === 0 });
      }
    }
    await trial.subject.flush();
    for (const [index, range] of all.entries()) {
      if (index % 3 === 1 && trial.subject.hasFua) {
        await trial.write(range, true);
      } else if (index % 3 === 2) {
        await trial.write(range);
        // Neither old nor new is promised for what was not made durable.
        trial.model.forget(range.offset, range.length);
      }
    }
    await trial.replace(crash, false);
    await trial.verifyAll("loss of power: what was flushed or written with fua has to be there");
  }
}

/** Cases about durability. */
export const durabilityCases: readonly CaseDefinition[] = [
  { name: "flushes", needs: [], run: flushing },
  { name: "takes writes and trims with fua", needs: ["bytes", "write"], run: forcedWrites },
  {
    name: "keeps its content when it is opened again",
    needs: ["bytes", "store", "reopen"],
    run: reopening,
  },
  {
    name: "keeps what is durable through a loss of power",
    needs: ["bytes", "store", "crash"],
    run: losingPower,
  },
];
