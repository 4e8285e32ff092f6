/**
 * A backend that takes its time: every call is done some turns later, by seeded chance, in no order,
 * and touches its buffer only then. Also counts what is in flight, so that a test can tell whether
 * calls were made at the same time.
 *
 * @module
 */
import type { Backend, Maybe } from "../../lib/block/types.ts";
import { SeededRandom } from "./context.ts";

/** Turns of the event loop's microtasks that a call takes at most. */
const TURNS_MAX = 12;

/** A backend that is asynchronous, and who looks at it. */
export interface AsyncBackend extends Backend {
  /** Most calls that were in flight at a time. */
  readonly inFlightMax: number;
}

/** Makes `backend`, whose calls are done at once, asynchronous. */
export function makeAsync(backend: Backend, seed = 1): AsyncBackend {
  const random = new SeededRandom(seed);
  let inFlight = 0, inFlightMax = 0;
  async function later<T>(call: () => Maybe<T>): Promise<T> {
    inFlight += 1;
    inFlightMax = Math.max(inFlightMax, inFlight);
    try {
      for (let turns = random.below(TURNS_MAX); turns >= 0; turns -= 1) await Promise.resolve();
      return await call();
    } finally {
      inFlight -= 1;
    }
  }
  const { trim, zero, cache, extents, resize } = backend;
  return {
    get geometry() {
      return backend.geometry;
    },
    get inFlightMax() {
      return inFlightMax;
    },
    capabilities: { ...backend.capabilities, synchronous: false },
    read: (into, offset) => later(() => backend.read(into, offset)),
    write: (from, offset, options) => later(() => backend.write(from, offset, options)),
    flush: () => later(() => backend.flush()),
    ...(trim === undefined
      ? {}
      : { trim: (offset, length, options) => later(() => trim(offset, length, options)) }),
    ...(zero === undefined
      ? {}
      : { zero: (offset, length, options) => later(() => zero(offset, length, options)) }),
    ...(cache === undefined
      ? {}
      : { cache: (offset, length) => later(() => cache(offset, length)) }),
    ...(extents === undefined
      ? {}
      : { extents: (offset, length) => later(() => extents(offset, length)) }),
    ...(resize === undefined ? {} : { resize: (size) => later(() => resize(size)) }),
    [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
  };
}
