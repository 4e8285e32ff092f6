/**
 * The contract case that finds what nobody thought of: a long random history of all verbs, the same
 * for the same seed, compared with a plain model after each step that could show a difference.
 *
 * @module
 */
import { AssertionError } from "node:assert/strict";
import { alignDown, fit, type Range } from "../ranges.ts";
import type { CaseDefinition, Trial } from "../trial.ts";

/** Steps that a failure shows. */
const SHOWN_STEPS = 12;
/** Distances at which ranges like to begin or end. */
const EDGES: readonly number[] = [512, 4096, 2 ** 15, 2 ** 16, 2 ** 18];

/** A range within `window`, often at an edge, mostly short. */
function randomRange(trial: Trial, window: Range): Range {
  const { random } = trial;
  const { geometry } = trial.subject;
  const edge = random.pick(EDGES);
  let offset = random.below(window.length);
  if (random.oneIn(2)) offset -= offset % edge;
  if (random.oneIn(4)) offset -= geometry.minimum;
  const length = random.oneIn(8)
    ? 1 + random.below(window.length)
    : random.oneIn(2)
    ? edge
    : 1 + random.below(edge);
  const start = Math.max(offset, 0);
  return fit(geometry, window.offset + start, Math.min(length, window.length - start)) ?? window;
}

/** Does one step; gives its description. */
type Step = (range: Range) => Promise<string>;

function possibleSteps(trial: Trial): Step[] {
  const { subject, random } = trial;
  const at = ({ offset, length }: Range): string => `${length} bytes at ${offset}`;
  const read: Step = async (range) => {
    await trial.verify(range, "this history");
    return `read(${at(range)})`;
  };
  const write: Step = async (range) => {
    const fua = random.oneIn(4);
    await trial.write(range, fua);
    return `write(${at(range)}${fua ? ", fua" : ""})`;
  };
  const flush: Step = async () => {
    await subject.flush();
    return "flush()";
  };
  const trim: Step = async (range) => {
    await trial.trim(range, random.oneIn(4));
    return `trim(${at(range)})`;
  };
  const zero: Step = async (range) => {
    const options = { mayTrim: random.oneIn(2), fastOnly: random.oneIn(3), fua: random.oneIn(4) };
    const done = await trial.zero(range, options);
    return `zero(${at(range)}, ${JSON.stringify(options)})${done ? "" : " refused"}`;
  };
  const cache: Step = async (range) => {
    await subject.cache(range.offset, range.length);
    return `cache(${at(range)})`;
  };
  const extents: Step = async (range) => {
    let offset = range.offset;
    for (const extent of await subject.extents(range.offset, range.length)) {
      if (extent.zero) trial.model.compareZero(offset, extent.length);
      offset += extent.length;
    }
    return `extents(${at(range)})`;
  };
  const steps = [read, read, read, flush];
  if (trial.has("write")) steps.push(write, write, write, write);
  if (trial.has("zero")) steps.push(zero, zero);
  if (trial.has("trim")) steps.push(trim);
  if (trial.has("cache")) steps.push(cache);
  if (trial.has("extents")) steps.push(extents);
  return steps;
}

async function history(trial: Trial): Promise<void> {
  const { random, settings, subject } = trial;
  const { geometry } = subject;
  const length = Math.min(settings.windowBytes, geometry.size);
  const places = [0, alignDown(Math.floor((geometry.size - length) / 2), geometry.minimum)];
  const window = fit(geometry, random.pick([...places, geometry.size - length]), length);
  if (window === null) return;
  const steps = possibleSteps(trial);
  const done: string[] = [];
  for (let count = 1; count <= settings.steps; count += 1) {
    const range = randomRange(trial, window);
    try {
      done.push(await random.pick(steps)(range));
      if (done.length > SHOWN_STEPS) done.shift();
      if (count % 100 === 0) await trial.verifyAll("this history");
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      const error = new AssertionError({
        message: `Step ${count} of ${settings.steps} with seed ${settings.seed} failed, at ` +
          `${range.length} bytes at ${range.offset}: ${reason}\nSteps before it:\n  ` +
          done.join("\n  "),
        operator: "history",
      });
      error.cause = cause;
      throw error;
    }
  }
  await trial.verifyAll("this history");
  await subject.settle();
}

/** The case with a random history. */
export const historyCases: readonly CaseDefinition[] = [
  { name: "agrees with a model over a random history", needs: ["bytes"], run: history },
];
