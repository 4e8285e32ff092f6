/**
 * Working with values that are there now or later: what is done at once stays without a promise, so
 * that storage in memory pays for none.
 *
 * @module
 */
import type { Maybe } from "./types.ts";

/** Runs `next` with what `first` gives: at once if that is there. */
export function chain<T, U>(first: Maybe<T>, next: (value: T) => Maybe<U>): Maybe<U> {
  return first instanceof Promise ? first.then(next) : next(first);
}

/** Runs `attempt`; if it fails, now or later, gives what `failed` makes of the error, or throws. */
export function rescue<T>(attempt: () => Maybe<T>, failed: (error: unknown) => Maybe<T>): Maybe<T> {
  try {
    const outcome = attempt();
    return outcome instanceof Promise ? outcome.catch(failed) : outcome;
  } catch (error) {
    return failed(error);
  }
}

/** Runs `attempt` and then, however that ended, `end`, which must not fail. */
export function ensure<T>(attempt: () => Maybe<T>, end: () => void): Maybe<T> {
  let outcome: Maybe<T>;
  try {
    outcome = attempt();
  } catch (error) {
    end();
    throw error;
  }
  if (outcome instanceof Promise) return outcome.finally(end);
  end();
  return outcome;
}

/** Does `step` on each item, one after another; the next item is asked for when a step is done. */
export function oneByOne<T>(items: Iterable<T>, step: (item: T) => Maybe<void>): Maybe<void> {
  const iterator = items[Symbol.iterator]();
  for (let item = iterator.next(); item.done !== true; item = iterator.next()) {
    const pending = step(item.value);
    if (pending !== undefined) return restOneByOne(pending, iterator, step);
  }
  return undefined;
}

async function restOneByOne<T>(
  first: Promise<void>,
  iterator: Iterator<T>,
  step: (item: T) => Maybe<void>,
): Promise<void> {
  await first;
  for (let item = iterator.next(); item.done !== true; item = iterator.next()) {
    await step(item.value);
  }
}

/**
 * Does `step` on each item, up to `depth` of them at a time. After a failure no further item is begun;
 * throws, or rejects with, the first failure once nothing is in flight.
 */
export function inLanes<T>(
  items: Iterable<T>,
  depth: number,
  step: (item: T) => Maybe<void>,
): Maybe<void> {
  const iterator = items[Symbol.iterator]();
  for (let item = iterator.next(); item.done !== true; item = iterator.next()) {
    const pending = step(item.value);
    if (pending !== undefined) return moreLanes(pending, iterator, depth, step);
  }
  return undefined;
}

async function moreLanes<T>(
  first: Promise<void>,
  iterator: Iterator<T>,
  depth: number,
  step: (item: T) => Maybe<void>,
): Promise<void> {
  const failures: unknown[] = [];
  const lane = async (begun: Promise<void> | undefined): Promise<void> => {
    try {
      await begun;
      while (failures.length === 0) {
        const item = iterator.next();
        if (item.done === true) return;
        await step(item.value);
      }
    } catch (error) {
      failures.push(error);
    }
  };
  await Promise.all(
    Array.from({ length: depth }, (_, index) => lane(index === 0 ? first : undefined)),
  );
  if (failures.length > 0) throw failures[0];
}
