/**
 * The contract test kit: every verb, edge and failure of the backend contract as a list of cases that
 * any test runner can run. Each case opens the storage, attacks it directly or through a Device, and
 * disposes it.
 *
 * @module
 */
import { REQUEST_BYTES_MAX } from "../block/limits.ts";
import { dataCases } from "./cases/data.ts";
import { durabilityCases } from "./cases/durability.ts";
import { historyCases } from "./cases/history.ts";
import { lifeCases } from "./cases/life.ts";
import { spaceCases } from "./cases/space.ts";
import type { FixedContent } from "./model.ts";
import { hashText, seededRandom } from "./random.ts";
import type { Mode } from "./subject.ts";
import { backendOf, type CaseDefinition, type Openable, type Settings, Trial } from "./trial.ts";

/** How hard to test, and what else can be done with the storage. All can be left out. */
export interface ContractOptions {
  /** Of all chance in the cases; 1 if left out. The same seed does the same. */
  readonly seed?: number;
  /** Steps of the random history; 400 if left out. */
  readonly steps?: number;
  /** Bytes of the part of the device in which the random history goes on; 1 MiB if left out. */
  readonly windowBytes?: number;
  /** Longest read and write that is tried, in bytes; 64 MiB (the longest there is) if left out. */
  readonly largestBytes?: number;
  /** Time after which a case has failed, in ms; 120,000 if left out. */
  readonly timeoutMs?: number;
  /** For storage that does not keep what is written: fills `into` with what is at `offset`. */
  readonly fixedContent?: FixedContent;
  /** Opens again what the last `open` opened and the case has disposed: adds a case about persistence. */
  readonly reopen?: () => Promise<Openable>;
  /**
   * Opens what the last `open` opened, without dispose, as it is after a loss of power: all that was
   * not made durable is gone. Adds a case about durability.
   */
  readonly crash?: () => Promise<Openable>;
  /** Runs after each case, failed or not: removes what `open` made. */
  readonly cleanUp?: () => Promise<void> | void;
}

/** One test. */
export interface ContractCase {
  /** Unique among the cases of one kit. */
  readonly name: string;
  /** Runs it; rejects if the backend breaks the contract. */
  readonly run: () => Promise<void>;
}

/** How one case ended. */
export interface ContractResult {
  /** The case's name. */
  readonly name: string;
  /** What was wrong; null if nothing was. */
  readonly error: unknown;
  /** What the backend lacks, so that the case did not apply; null if it ran. */
  readonly skipped: string | null;
}

const TIMEOUT_MS = 120_000;
const MODES: readonly Mode[] = ["direct", "device"];
const DEFINITIONS: readonly CaseDefinition[] = [
  ...dataCases,
  ...spaceCases,
  ...durabilityCases,
  ...lifeCases,
  ...historyCases,
];

function settingsOf(options: ContractOptions): Settings {
  return {
    seed: options.seed ?? 1,
    steps: options.steps ?? 400,
    windowBytes: options.windowBytes ?? 2 ** 20,
    largestBytes: Math.min(options.largestBytes ?? REQUEST_BYTES_MAX, REQUEST_BYTES_MAX),
    fixedContent: options.fixedContent ?? null,
    reopen: options.reopen ?? null,
    crash: options.crash ?? null,
  };
}

async function withTimeout<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const expiry = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`The case was not done after ${timeoutMs} ms: a call never ended`));
    }, timeoutMs);
  });
  try {
    return await Promise.race([work, expiry]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a case; gives what the storage lacks for it, or null. */
async function runCase(
  definition: CaseDefinition,
  mode: Mode,
  open: () => Promise<Openable>,
  settings: Settings,
): Promise<string | null> {
  const random = seededRandom(settings.seed ^ hashText(definition.name));
  const trial = new Trial(backendOf(await open()), mode, random, settings);
  const missing = definition.needs.find((need) => !trial.has(need)) ?? null;
  try {
    if (missing === null) {
      await definition.run(trial);
      await trial.subject.settle();
    }
  } catch (error) {
    // What a broken backend says at its end must not hide what went wrong before.
    await trial.subject.dispose().catch(() => {});
    throw error;
  }
  await trial.subject.dispose();
  return missing;
}

interface PreparedCase {
  readonly name: string;
  readonly run: () => Promise<string | null>;
}

function prepare(
  name: string,
  open: () => Promise<Openable>,
  options: ContractOptions,
): PreparedCase[] {
  const settings = settingsOf(options);
  return DEFINITIONS.flatMap((definition) =>
    (definition.modes ?? MODES).map((mode) => ({
      name: `${name} ${definition.name}${mode === "device" ? ", through a Device" : ""}`,
      run: async () => {
        try {
          const work = runCase(definition, mode, open, settings);
          return await withTimeout(work, options.timeoutMs ?? TIMEOUT_MS);
        } finally {
          await options.cleanUp?.();
        }
      },
    }))
  );
}

/**
 * The cases for one kind of storage, to be run one after another. `open` gives fresh storage each time
 * it is called, best empty and of at least 1 MiB; its size and whatever it cannot do decide which cases
 * apply, and one that does not passes.
 *
 * @example
 * ```ts
 * import { contractTests, testContext } from "./mod.ts";
 * import { memory } from "../../backends/memory.ts";
 *
 * const open = () => memory.open({ size: 2 ** 22, limit: 2 ** 30 }, testContext());
 * const cases = contractTests("memory", open);
 * // In a test file: for (const { name, run } of cases) Deno.test(name, run);
 * for (const { run } of cases.slice(0, 4)) await run();
 * ```
 */
export function contractTests(
  name: string,
  open: () => Promise<Openable>,
  options: ContractOptions = {},
): readonly ContractCase[] {
  return prepare(name, open, options).map((prepared) => ({
    name: prepared.name,
    run: async () => {
      await prepared.run();
    },
  }));
}

/** Runs all cases without a test runner, and goes on after a failure. */
export async function runContract(
  name: string,
  open: () => Promise<Openable>,
  options: ContractOptions = {},
): Promise<ContractResult[]> {
  const results: ContractResult[] = [];
  for (const prepared of prepare(name, open, options)) {
    try {
      results.push({ name: prepared.name, error: null, skipped: await prepared.run() });
    } catch (error) {
      results.push({ name: prepared.name, error, skipped: null });
    }
  }
  return results;
}
