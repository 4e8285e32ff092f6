/**
 * The same requests to the real xenstored (C, 4.17) and to the store of this project: replies and
 * events are compared byte for byte, first for a list of edge cases, then for seeded random
 * sequences of several connections. Differences that are meant are in MEANT, each with its reason.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/mod.ts";
import { OPERATION, operationName } from "../../lib/xenstore/mod.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { startXenstored } from "../support/xenstored.ts";
import { EDGES } from "./xenstored_edges.ts";
import { type Answers, Pair, type Step } from "./xenstored_pair.ts";
import { RandomRequests } from "./xenstored_random.ts";

/** Differences that are meant: why, and how they are told. */
const MEANT: readonly (readonly [reason: string, is: (step: Step, answers: Answers) => boolean])[] =
  [
    [
      "a payload that is not one string gives EINVAL here and whatever errno was left there",
      ({ payload }, { theirs, ours }) =>
        payload.indexOf("|") !== payload.length - 1 && isError(theirs) &&
        ours[0]?.endsWith('"EINVAL|"') === true,
    ],
    [
      "so do the permissions of a special path that cannot be set",
      ({ type, payload }, { theirs, ours }) =>
        type === OPERATION.SET_PERMS && payload.startsWith("@") && isError(theirs) && isError(ours),
    ],
    [
      "CONTROL tells of this server",
      ({ type, payload }) =>
        type === OPERATION.CONTROL && /^(log|help|quota|quota-soft)\|/.test(payload),
    ],
    [
      "operations of later versions are here",
      ({ type }) => type >= OPERATION.GET_FEATURE && type <= OPERATION.SET_QUOTA,
    ],
  ];

function isError(answers: readonly string[]): boolean {
  return answers.length === 1 && answers[0]?.includes(" ERROR ") === true;
}

/** Sends a request to both; false if they differ and that is meant. */
async function same(pair: Pair, step: Step, before: readonly Step[] = []): Promise<Answers> {
  let answers: Answers;
  try {
    answers = await pair.run(step);
  } catch (cause) {
    throw new Error(`Cannot compare: ${[...before.slice(-40), step].map(tell).join("\n")}`, {
      cause,
    });
  }
  const { theirs, ours } = answers;
  if (theirs.join("\n") !== ours.join("\n") && !MEANT.some(([, is]) => is(step, answers))) {
    const lines = [...before.slice(-40), step].map(tell);
    assert.deepEqual(ours, theirs, lines.join("\n"));
  }
  return answers;
}

function tell({ peer, type, transactionId, payload }: Step): string {
  return `${peer}> ${operationName(type)} ${transactionId} ${
    JSON.stringify(payload.slice(0, 200))
  }`;
}

interopTest(
  "XenstoreSession answers edge cases as xenstored does",
  ["xenstored", "gcc"],
  () =>
    withTempDir(async (folder) => {
      await using oracle = await startXenstored(folder);
      using pair = new Pair(oracle);
      await pair.open("a", "b");
      for (const [name, payload, transactionId = 0] of EDGES) {
        const type = typeof name === "number" ? name : OPERATION[name];
        await same(pair, { peer: "a", type, transactionId, payload });
      }
    }),
);

/** Random requests of some connections. */
async function compareRandom(
  pair: Pair,
  seed: number,
  peers: readonly string[],
  count: number,
): Promise<void> {
  const requests = new RandomRequests(seededRandom(seed), peers);
  const before: Step[] = [];
  for (let at = 0; at < count; at++) {
    const step = requests.next();
    requests.learn(step, await same(pair, step, before));
    before.push(step);
  }
}

/** Runs of each kind, and the requests of one. */
const SEEDS = Number(Deno.env.get("SEEDS") ?? 10),
  REQUESTS = Number(Deno.env.get("REQUESTS") ?? 400);

for (let seed = Number(Deno.env.get("FIRST") ?? 1); seed <= SEEDS; seed++) {
  interopTest(
    `random requests of domain 0 are answered alike, seed ${seed}`,
    ["xenstored", "gcc"],
    () =>
      withTempDir(async (folder) => {
        await using oracle = await startXenstored(folder);
        using pair = new Pair(oracle);
        await pair.open("a", "b", "c");
        await compareRandom(pair, seed, ["a", "b", "c"], REQUESTS);
      }),
  );
}
