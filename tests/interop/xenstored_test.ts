/**
 * The same requests to the real xenstored (C, 4.17) and to the store of this project: replies and
 * events are compared byte for byte, first for a list of edge cases, then for seeded random
 * sequences of several connections. Differences that are meant are in xenstored_meant.ts, each with its reason.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/mod.ts";
import { OPERATION, type OperationName, operationName } from "../../lib/xenstore/mod.ts";
import { interopTest, withTempDir } from "../support/tools.ts";
import { startXenstored } from "../support/xenstored.ts";
import { EDGES } from "./xenstored_edges.ts";
import { MEANT } from "./xenstored_meant.ts";
import { type Answers, Pair, type Step } from "./xenstored_pair.ts";
import { RandomRequests } from "./xenstored_random.ts";

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

/** Where domains may write at first. */
const GIVEN = [["/t", "n0|b1|r2|"], ["/local/domain/1", "n1|r2|"], ["/t/a", "b2|n1|"], [
  "/t/c",
  "w3|",
]];

/** Runs of each kind, and the requests of one. */
const SEEDS = 5, REQUESTS = 400;

for (let seed = 1; seed <= SEEDS; seed++) {
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

for (let seed = 1; seed <= SEEDS; seed++) {
  interopTest(
    `random requests of domains are answered alike, seed ${seed}`,
    ["xenstored", "gcc"],
    () =>
      withTempDir(async (folder) => {
        await using oracle = await startXenstored(folder);
        using pair = new Pair(oracle);
        await pair.open("a", "b");
        for (const domid of [1, 2, 3]) await pair.introduce(domid);
        for (const [path, permissions] of GIVEN) {
          await same(pair, {
            peer: "a",
            type: OPERATION.MKDIR,
            transactionId: 0,
            payload: `${path}|`,
          });
          const payload = `${path}|${permissions}`;
          await same(pair, { peer: "a", type: OPERATION.SET_PERMS, transactionId: 0, payload });
        }
        await compareRandom(pair, seed, ["a", "b", "d1", "d2", "d3", "d1"], REQUESTS);
      }),
  );
}

/** Requests of domain 1, in order, that come to the limits of a domain. */
function* limitsOfDomain(): Generator<
  readonly [name: OperationName, payload: string, id?: number]
> {
  for (let at = 0; at < 131; at++) yield ["WATCH", `/w|${at}|`];
  yield ["UNWATCH", "/w|7|"];
  yield ["WATCH", "/w|again|"];
  yield ["WATCH", "/w|more|"];
  yield ["RESET_WATCHES", "|"];
  for (let id = 1; id <= 13; id++) yield ["TRANSACTION_START", "|"];
  for (let id = 13; id > 0; id--) yield ["TRANSACTION_END", "F|", id];
  for (const size of [2014, 2015, 2016, 2017, 2024]) yield ["WRITE", `a|${"v".repeat(size)}`];
  yield ["SET_PERMS", "a|n1|r2|"];
  yield ["SET_PERMS", "a|n1|r2|r3|r5|r7|"];
  yield ["SET_PERMS", "a|n1|r2|r3|r5|r7|r0|"];
  for (let at = 0; at < 40; at++) yield ["MKDIR", `b/${"n".repeat(50)}${at}|`];
  yield ["DIRECTORY", "b|"];
  yield ["MKDIR", `c/${"n".repeat(2010)}|`];
  yield ["MKDIR", `c/${"n".repeat(1990)}/d|`];
  yield ["DIRECTORY", "c|"];
  yield ["RM", "a|"];
  yield ["RM", "b|"];
  yield ["RM", "c|"];
  yield ["TRANSACTION_START", "|"];
  for (let at = 0; at < 1030; at++) yield ["READ", `x${at % 1026}|`, 12];
  yield ["WRITE", "y|1", 12];
  yield ["READ", "x3|", 12];
  yield ["TRANSACTION_END", "T|", 12];
  yield ["TRANSACTION_START", "|"];
  for (let at = 0; at < 990; at++) yield ["MKDIR", `n/${at % 40}/${at}|`, 13];
  yield ["TRANSACTION_END", "T|", 13];
  for (let at = 0; at < 60; at++) yield ["MKDIR", `m/${at}|`];
  yield ["MKDIR", "p/q/r/s|"];
  yield ["WRITE", "m/1|v"];
  yield ["TRANSACTION_START", "|"];
  yield ["WRITE", "q|1", 14];
  yield ["TRANSACTION_END", "T|", 14];
  yield ["RM", "m/1|"];
  yield ["MKDIR", "m/1|"];
  yield ["MKDIR", "m/none|"];
  yield ["RM", "n/1|"];
  for (let at = 0; at < 30; at++) yield ["MKDIR", `o/${at}|`];
  yield ["RM", "n/2|"];
  for (const [id, count] of [[15, 3], [16, 60]] as const) {
    yield ["TRANSACTION_START", "|"];
    for (let at = 0; at < count; at++) yield ["MKDIR", `r/${at}|`, id];
    yield ["TRANSACTION_END", "T|", id];
  }
  yield ["RM", "n|"];
  const big = "v".repeat(2030), long = "n".repeat(2010);
  yield ["WRITE", "s/full|"];
  for (let at = 0; at < 40; at++) yield ["MKDIR", `s/full/${"n".repeat(45)}${at}|`];
  const refused: readonly (readonly [OperationName, string])[] = [
    ["WRITE", `s/full|${big}`],
    ["WRITE", `s/new|${big}`],
    ["MKDIR", `s/${long}/x|`],
    ["MKDIR", `s/full/${"m".repeat(200)}|`],
    ["MKDIR", `s/full/${"m".repeat(200)}/a/b|`],
    ["SET_PERMS", "s/full|n1|r2|r2|r2|r2|"],
    ["SET_PERMS", "s/full|n1|r2|r2|r2|r2|r2|"],
    ["SET_PERMS", "s/full|n2|"],
    ["RM", "s/full/none/none|"],
  ];
  for (const [index, [name, payload]] of refused.entries()) {
    yield [name, payload];
    yield ["TRANSACTION_START", "|"];
    yield ["WRITE", "s/other|1", 17 + index];
    yield [name, payload, 17 + index];
    yield ["READ", "s/other|", 17 + index];
    yield ["TRANSACTION_END", "T|", 17 + index];
  }
}

interopTest(
  "XenstoreSession limits a domain as xenstored does",
  ["xenstored", "gcc"],
  () =>
    withTempDir(async (folder) => {
      await using oracle = await startXenstored(folder);
      using pair = new Pair(oracle);
      await pair.open("a");
      await pair.introduce(1);
      const mine = { peer: "a", transactionId: 0 };
      await same(pair, { ...mine, type: OPERATION.MKDIR, payload: "/local/domain/1|" });
      await same(pair, { ...mine, type: OPERATION.SET_PERMS, payload: "/local/domain/1|n1|" });
      const before: Step[] = [];
      const errors = new Set<string>();
      for (const [name, payload, transactionId = 0] of limitsOfDomain()) {
        const step = { peer: "d1", type: OPERATION[name], transactionId, payload };
        const { theirs } = await same(pair, step, before);
        for (const each of theirs) errors.add(/ ERROR .*"(\w+)\|"$/.exec(each)?.[1] ?? "none");
        before.push(step);
      }
      assert.deepEqual([...errors].sort(), [
        "E2BIG",
        "ENOENT",
        "ENOMEM",
        "ENOSPC",
        "EPERM",
        "none",
      ]);
    }),
);
