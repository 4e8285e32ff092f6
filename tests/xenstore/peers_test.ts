/** The door of a XenStore service: who may come in how often, and how much is told of it. @module */
import assert from "node:assert/strict";
import {
  DOMAIN_CONNECTS_AT_ONCE,
  DOMAIN_CONNECTS_PER_SECOND,
  REFUSALS_TOLD_PER_SECOND,
} from "../../lib/xenstore/limits.ts";
import { Peers } from "../../lib/xenstore/peers.ts";
import { Store } from "../../lib/xenstore/store.ts";

const LISTED = 4_000_001, STRANGER = 4_000_002, DOMAIN = 5;

interface Door {
  /** Lets time pass. */
  readonly pass: (ms: number) => void;
  /** How many of so many were let in. */
  readonly come: (uid: number, count: number) => number;
  /** Reasons that were told. */
  readonly told: string[];
}

function door(): Door {
  let now_ms = 0;
  const told: string[] = [];
  const peers = new Peers({
    store: new Store(),
    domains: new Map([[LISTED, DOMAIN]]),
    events: {
      opened: () => {},
      closed: () => {},
      refused: (_peer, reason) => void told.push(reason),
      control: () => {},
      listening: true,
    },
    now_ms: () => now_ms,
  });
  const one = (uid: number): boolean => peers.admit({ kind: "control", pid: 1, uid }).peer !== null;
  return {
    pass: (ms) => void (now_ms += ms),
    come: (uid, count) => Array.from({ length: count }, () => one(uid)).filter(Boolean).length,
    told,
  };
}

Deno.test("Peers.admit() lets a domain in only so often, and domain 0 always", () => {
  const { pass, come, told } = door();
  assert.equal(come(LISTED, 10_000), DOMAIN_CONNECTS_AT_ONCE);
  assert.equal(told[0], "the domain connects too often");
  pass(1000);
  assert.equal(come(LISTED, 10_000), DOMAIN_CONNECTS_PER_SECOND);
  pass(3_600_000);
  assert.equal(come(LISTED, 10_000), DOMAIN_CONNECTS_AT_ONCE);
  assert.equal(come(0, 10_000), 10_000);
});

Deno.test("Peers.admit() tells of a few refusals a second, and how many there were besides", () => {
  const { pass, come, told } = door();
  assert.equal(come(STRANGER, 5_000), 0);
  assert.deepEqual(told, Array(REFUSALS_TOLD_PER_SECOND).fill("the user is not listed"));
  pass(1000);
  come(STRANGER, 1);
  const untold = 5_000 - REFUSALS_TOLD_PER_SECOND;
  assert.equal(
    told.at(-1),
    `the user is not listed; before that ${untold} refusals were not told`,
  );
  come(STRANGER, 1);
  assert.equal(told.at(-1), "the user is not listed");
});
