/**
 * The tables of the protocol, row by row: what a client sends and what xenstored (C) answers. Rows are
 * named by what they are about; "|" stands for NUL.
 *
 * @module
 */
import assert from "node:assert/strict";
import { FEATURE, limits, type OperationName, Store } from "../../lib/xenstore/mod.ts";
import { Peer } from "./wire.ts";

type Step = readonly [name: OperationName | number, payload: string, ...answers: string[]];

interface Row {
  readonly row: string;
  readonly steps: readonly Step[];
  /** The domain of the client, 0 if not told. */
  readonly domid?: number;
  /** What domain 0 does before. */
  readonly before?: readonly (readonly [name: OperationName, payload: string])[];
}

const OWN: Row["before"] = [
  ["INTRODUCE", "5|1|1|"],
  ["INTRODUCE", "6|1|1|"],
  ["MKDIR", "/local/domain/5|"],
  ["SET_PERMS", "/local/domain/5|n5|"],
  ["WRITE", "/secret/x|1"],
  ["WRITE", "/open|1"],
  ["SET_PERMS", "/open|r0|"],
];

const ROWS: readonly Row[] = [
  { row: "READ of a missing node: ENOENT", steps: [["READ", "/n|", "ERROR ENOENT|"]] },
  { row: "DIRECTORY of a missing node: ENOENT", steps: [["DIRECTORY", "/n|", "ERROR ENOENT|"]] },
  ...(["READ", "DIRECTORY", "GET_PERMS", "MKDIR", "RM", "WRITE", "SET_PERMS"] as const).map((
    name,
  ): Row => ({ row: `${name} without NUL: EINVAL`, steps: [[name, "/n", "ERROR EINVAL|"]] })),
  ...(["READ", "DIRECTORY", "GET_PERMS", "MKDIR", "RM", "WATCH", "WRITE"] as const).map((
    name,
  ): Row => ({ row: `${name} with nothing: EINVAL`, steps: [[name, "", "ERROR EINVAL|"]] })),
  { row: "bytes after a one-string argument: EINVAL", steps: [["READ", "/|x", "ERROR EINVAL|"]] },
  {
    row: "RM missing, parent exists / parent missing",
    steps: [["MKDIR", "/p|", "MKDIR OK|"], ["RM", "/p/x|", "RM OK|"], [
      "RM",
      "/q/x|",
      "ERROR ENOENT|",
    ]],
  },
  { row: "RM of the root: EINVAL", steps: [["RM", "/|", "ERROR EINVAL|"]] },
  {
    row: "MKDIR of what exists keeps the value, no event",
    steps: [
      ["WRITE", "/x|v", "WRITE OK|"],
      ["WATCH", "/x|t|", "WATCH OK|", "WATCH_EVENT /x|t|"],
      ["MKDIR", "/x|", "MKDIR OK|"],
      ["READ", "/x|", "READ v"],
    ],
  },
  {
    row: "children are in the order of creation",
    steps: [
      ["MKDIR", "/d/z|", "MKDIR OK|"],
      ["MKDIR", "/d/a|", "MKDIR OK|"],
      ["DIRECTORY", "/d|", "DIRECTORY z|a|"],
    ],
  },
  {
    row: "SET_PERMS with no permission, bad letter, no digits, no NUL: EINVAL",
    steps: ["/x|", "/x|x0|", "/x|n|", "/x|nn|", "/x|n0"].map((
      payload,
    ): Step => ["SET_PERMS", payload, "ERROR EINVAL|"]),
    before: [["MKDIR", "/x"], ["WRITE", "/x|"]],
  },
  {
    row: "SET_PERMS naming an unknown domain: ENOENT for the owner, without effect behind it",
    steps: [["SET_PERMS", "/x|n9|", "ERROR ENOENT|"], ["SET_PERMS", "/x|n0|r9|", "SET_PERMS OK|"]],
    before: [["WRITE", "/x|"]],
  },
  {
    row: "SET_PERMS @releaseDomain OK, GET_PERMS EINVAL",
    steps: [
      ["SET_PERMS", "@releaseDomain|n0|r5|", "SET_PERMS OK|"],
      ["GET_PERMS", "@releaseDomain|", "ERROR EINVAL|"],
      ["SET_PERMS", "@foo|n0|", "ERROR EINVAL|"],
    ],
    before: OWN,
  },
  {
    row: "WATCH of the same path and token: EEXIST",
    steps: [
      ["WATCH", "/x|t|", "WATCH OK|", "WATCH_EVENT /x|t|"],
      ["WATCH", "/x|t|", "ERROR EEXIST|"],
    ],
  },
  { row: "UNWATCH of an unknown watch: ENOENT", steps: [["UNWATCH", "/x|t|", "ERROR ENOENT|"]] },
  {
    row: "WATCH of @anything: one event",
    steps: [["WATCH", "@any|t|", "WATCH OK|", "WATCH_EVENT @any|t|"]],
  },
  ...([20, 15, 16, 27, 99, 65_535] as const).map((type): Row => ({
    row: `type ${type}: ENOSYS`,
    steps: [[type, "x|", "ERROR ENOSYS|"]],
  })),
  {
    row: "paths that are not valid: EINVAL",
    steps: ["/a//b|", "/a/|", "|", "/a b|", "/a.b|", "/a\u00e9|", `/${"a".repeat(2048)}|`].map((
      payload,
    ): Step => ["READ", payload, "ERROR EINVAL|"]),
  },
  {
    row: "a path of 2048 characters behind the home of a domain is valid",
    steps: [["READ", `/local/domain/5/${"a".repeat(2048)}|`, "ERROR ENOENT|"]],
  },
  {
    row: "a relative path begins at the home of the caller",
    steps: [["WRITE", "r/x|1", "WRITE OK|"], ["READ", "/local/domain/0/r/x|", "READ 1"]],
  },
  {
    row: "RM fires exact watches below, then the node's own and those above",
    steps: [
      ["WRITE", "/a/b/c|1", "WRITE OK|"],
      ["WATCH", "/|r|", "WATCH OK|", "WATCH_EVENT /|r|"],
      ["WATCH", "/a/b/c|c|", "WATCH OK|", "WATCH_EVENT /a/b/c|c|"],
      ["WATCH", "/a/b|b|", "WATCH OK|", "WATCH_EVENT /a/b|b|"],
      [
        "RM",
        "/a/b|",
        "WATCH_EVENT /a/b/c|c|",
        "WATCH_EVENT /a/b|r|",
        "WATCH_EVENT /a/b|b|",
        "RM OK|",
      ],
    ],
  },
  {
    row: "parents that are created on the way do not fire",
    steps: [
      ["WATCH", "/|r|", "WATCH OK|", "WATCH_EVENT /|r|"],
      ["WRITE", "/a/b/c|1", "WATCH_EVENT /a/b/c|r|", "WRITE OK|"],
    ],
  },
  {
    row: "RESET_WATCHES drops watches and transactions",
    steps: [
      ["WATCH", "/x|t|", "WATCH OK|", "WATCH_EVENT /x|t|"],
      ["TRANSACTION_START", "|", "TRANSACTION_START 1|"],
      ["RESET_WATCHES", "|", "RESET_WATCHES OK|"],
      ["WRITE", "/x|1", "WRITE OK|"],
      ["UNWATCH", "/x|t|", "ERROR ENOENT|"],
    ],
  },
  {
    row: "features can be asked for, and then a watch may have a depth",
    steps: [
      ["WATCH", "/a|t|1|", "ERROR EINVAL|"],
      ["GET_FEATURE", "", `GET_FEATURE ${FEATURE.WATCH_DEPTH}|`],
      ["WATCH", "/a|t0|0|", "WATCH OK|", "WATCH_EVENT /a|t0|"],
      ["WATCH", "/a|t1|1|", "WATCH OK|", "WATCH_EVENT /a|t1|"],
      ["WRITE", "/a|", "WATCH_EVENT /a|t0|", "WATCH_EVENT /a|t1|", "WRITE OK|"],
      ["WRITE", "/a/b|", "WATCH_EVENT /a/b|t1|", "WRITE OK|"],
      ["WRITE", "/a/b/c|", "WRITE OK|"],
    ],
  },
  {
    row: "@releaseDomain with depth 1 names the domain",
    steps: [
      ["GET_FEATURE", "", `GET_FEATURE ${FEATURE.WATCH_DEPTH}|`],
      ["WATCH", "@releaseDomain|t|1|", "WATCH OK|", "WATCH_EVENT @releaseDomain|t|"],
      ["RELEASE", "5|", "WATCH_EVENT @releaseDomain/5|t|", "RELEASE OK|"],
    ],
    before: OWN,
  },
  {
    row: "quotas can be read and set",
    steps: [
      ["GET_QUOTA", "watches|", `GET_QUOTA ${limits.QUOTA_WATCHES}|`],
      ["SET_QUOTA", "5|watches|3|", "SET_QUOTA OK|"],
      ["GET_QUOTA", "5|watches|", "GET_QUOTA 3|"],
      ["GET_QUOTA", "watches|", `GET_QUOTA ${limits.QUOTA_WATCHES}|`],
    ],
    before: OWN,
  },
  {
    row: "CONTROL knows check and help",
    steps: [
      ["CONTROL", "check|", "CONTROL OK|"],
      ["CONTROL", "nonsense|", "ERROR EINVAL|"],
      ["CONTROL", "", "ERROR EINVAL|"],
    ],
  },
  {
    row: "RELEASE removes what the domain owns, then fires @releaseDomain",
    steps: [
      ["WRITE", "/local/domain/5/x/y|1", "WRITE OK|"],
      ["WATCH", "/local|w|", "WATCH OK|", "WATCH_EVENT /local|w|"],
      ["WATCH", "@releaseDomain|r|", "WATCH OK|", "WATCH_EVENT @releaseDomain|r|"],
      [
        "RELEASE",
        "5|",
        "WATCH_EVENT /local/domain/5|w|",
        "WATCH_EVENT @releaseDomain|r|",
        "RELEASE OK|",
      ],
      ["READ", "/local/domain/5|", "ERROR ENOENT|"],
      ["IS_DOMAIN_INTRODUCED", "5|", "IS_DOMAIN_INTRODUCED F|"],
    ],
    before: OWN,
  },
  {
    row: "an unprivileged domain may not: EACCES",
    steps:
      (["CONTROL", "INTRODUCE", "RELEASE", "IS_DOMAIN_INTRODUCED", "RESUME", "SET_TARGET"] as const)
        .map((name): Step => [name, "1|", "ERROR EACCES|"]),
    domid: 5,
    before: OWN,
  },
  {
    row: "EACCES instead of ENOENT where the nearest ancestor does not let one look",
    steps: [
      ["READ", "/secret/x|", "ERROR EACCES|"],
      ["READ", "/secret/none/deep|", "ERROR EACCES|"],
      ["READ", "/open|", "READ 1"],
      ["READ", "/open/none|", "ERROR ENOENT|"],
      ["WRITE", "/open|2", "ERROR EACCES|"],
      ["WRITE", "/open/new|2", "ERROR EACCES|"],
      ["RM", "/open|", "ERROR EACCES|"],
    ],
    domid: 5,
    before: OWN,
  },
  {
    row: "a domain owns what it creates, and may not give it away: EPERM",
    steps: [
      ["WRITE", "x|1", "WRITE OK|"],
      ["GET_PERMS", "x|", "GET_PERMS n5|"],
      ["SET_PERMS", "x|n6|", "ERROR EPERM|"],
      ["SET_PERMS", "x|n5|r6|", "SET_PERMS OK|"],
      ["GET_PERMS", "x|", "GET_PERMS n5|r6|"],
      ["SET_PERMS", "/open|r5|", "ERROR EACCES|"],
    ],
    domid: 5,
    before: OWN,
  },
  {
    row: "a creator that is not the owner of the parent owns the node",
    steps: [["WRITE", "/shared/x|1", "WRITE OK|"], ["GET_PERMS", "/shared/x|", "GET_PERMS b5|r6|"]],
    domid: 5,
    before: [...OWN, ["MKDIR", "/shared|"], ["SET_PERMS", "/shared|b0|r6|"]],
  },
  {
    row: "SET_TARGET gives the rights of the target",
    steps: [["WRITE", "/local/domain/5/x|1", "WRITE OK|"]],
    domid: 6,
    before: [...OWN, ["SET_TARGET", "6|5|"]],
  },
  {
    row: "more than 5 permissions by a domain: ENOSPC",
    steps: [["SET_PERMS", "x|n5|r0|r6|r0|r6|r0|", "ERROR ENOSPC|"]],
    domid: 5,
    before: [...OWN, ["WRITE", "/local/domain/5/x|"]],
  },
  {
    row: "a node of 2048 bytes by a domain: ENOSPC, by domain 0: fine",
    steps: [
      ["WRITE", `x|${"v".repeat(2015)}`, "WRITE OK|"],
      ["WRITE", `x|${"v".repeat(2016)}`, "ERROR ENOSPC|"],
      ["READ", "x|", `READ ${"v".repeat(2015)}`],
    ],
    domid: 5,
    before: OWN,
  },
];

for (const { row, steps, domid = 0, before = [] } of ROWS) {
  Deno.test(`XenstoreSession does as xenstored: ${row}`, () => {
    const store = new Store();
    const root = new Peer(store);
    for (const [name, payload] of before) root.ask(name, payload);
    const peer = new Peer(store, domid);
    for (const [name, payload, ...answers] of steps) {
      assert.deepEqual(peer.ask(name, payload), answers, `${name} ${payload.slice(0, 40)}`);
    }
  });
}

Deno.test("XenstoreSession accepts one watch and one transaction beyond the quota of a domain", () => {
  const store = new Store();
  store.introduce(5);
  const peer = new Peer(store, 5);
  for (let i = 0; i <= limits.QUOTA_WATCHES; i++) {
    assert.equal(peer.ask("WATCH", `w|${i}|`)[0], "WATCH OK|");
  }
  assert.deepEqual(peer.ask("WATCH", "w|more|"), ["ERROR E2BIG|"]);
  for (let i = 0; i <= limits.QUOTA_TRANSACTIONS; i++) assert.equal(peer.start(), i + 1);
  assert.deepEqual(peer.ask("TRANSACTION_START", "|"), ["ERROR ENOSPC|"]);
});

Deno.test("XenstoreSession lets a domain own 1000 nodes", () => {
  const store = new Store();
  const root = new Peer(store);
  root.ask("INTRODUCE", "5|1|1|");
  root.ask("MKDIR", "/d|");
  root.ask("SET_PERMS", "/d|b0|");
  const peer = new Peer(store, 5);
  const wide = ["a", "b", "c", "d"];
  for (let i = 0; i < limits.QUOTA_NODES - wide.length; i++) {
    const made = peer.ask("MKDIR", `/d/${wide[i % wide.length]}/${i}|`);
    assert.deepEqual(made, ["MKDIR OK|"], String(i));
  }
  assert.deepEqual(peer.ask("MKDIR", "/d/a/more|"), ["ERROR ENOSPC|"]);
  peer.ask("RM", "/d/a/0|");
  assert.deepEqual(peer.ask("MKDIR", "/d/a/more|"), ["MKDIR OK|"]);
});

Deno.test("XenstoreSession refuses a transaction of a domain that touches more than 1024 nodes", () => {
  const store = new Store();
  const root = new Peer(store);
  root.ask("INTRODUCE", "5|1|1|");
  root.ask("SET_PERMS", "/|r0|");
  const peer = new Peer(store, 5);
  const id = peer.start();
  let answers: string[] = [];
  for (let i = 0; i < limits.QUOTA_TRANSACTION_NODES; i++) answers = peer.ask("READ", `/${i}|`, id);
  assert.deepEqual(answers, ["ERROR ENOSPC|"]);
  assert.deepEqual(peer.ask("TRANSACTION_END", "T|", id), ["ERROR ENOMEM|"]);
});

Deno.test("XenstoreSession sends events of a domain only where it may read", () => {
  const store = new Store();
  const root = new Peer(store);
  for (const [name, payload] of OWN) root.ask(name, payload);
  const peer = new Peer(store, 5);
  peer.ask("WATCH", "/secret|s|");
  peer.ask("WATCH", "/open|o|");
  peer.ask("WATCH", "@releaseDomain|r|");
  root.ask("WRITE", "/secret/x|2");
  root.ask("WRITE", "/open|2");
  root.ask("RELEASE", "6|");
  assert.deepEqual(peer.take(), ["WATCH_EVENT /open|o|"]);
  root.ask("SET_PERMS", "/open|n0|");
  assert.deepEqual(peer.take(), ["WATCH_EVENT /open|o|"], "the old permissions let it");
});

Deno.test("XenstoreSession takes messages cut anywhere", () => {
  const whole = new Peer(new Store());
  const bytes = new Uint8Array(40);
  new DataView(bytes.buffer).setUint32(0, 11, true);
  new DataView(bytes.buffer).setUint32(12, 24, true);
  bytes.set(new TextEncoder().encode("/some/path\0"), 16);
  for (const byte of bytes) whole.session.receive(new Uint8Array([byte]));
  assert.deepEqual(whole.take(), ["WRITE OK|"]);
});

Deno.test("XenstoreSession closes a client that reads no events, and nobody else notices", () => {
  const store = new Store();
  store.introduce(5);
  const root = new Peer(store);
  root.ask("SET_PERMS", "/|b0|");
  const slow = new Peer(store, 5);
  slow.ask("WATCH", `/|${"t".repeat(3000)}|`);
  for (let i = 0; i < 2000 && !slow.session.finished; i++) root.ask("WRITE", `/n${i}|1`);
  assert.match(String(slow.session.failure), /unsent/);
  assert.deepEqual(root.ask("READ", "/n1|"), ["READ 1"]);
});

Deno.test("XenstoreSession merges events that are queued already once the queue is long", () => {
  const store = new Store();
  const root = new Peer(store);
  const slow = new Peer(store);
  slow.ask("WATCH", "/x|t|");
  for (let i = 0; i < 100_000; i++) root.session.connection.write("/x", "1");
  const events = slow.take().length;
  assert.ok(events * 22 < 2 * limits.EVENT_MERGE_BYTES, `${events} events`);
  root.ask("WRITE", "/x|2");
  assert.deepEqual(slow.take(), ["WATCH_EVENT /x|t|"]);
});
