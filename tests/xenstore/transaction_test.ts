/**
 * Transactions: the table of conflicts row by row, and seeded runs of several connections against a
 * plain model (maps that are copied whole).
 *
 * @module
 */
import assert from "node:assert/strict";
import { Store, type StoreConnection, XenstoreError } from "../../lib/xenstore/mod.ts";

type Act = (connection: StoreConnection, id: number) => void;

const read = (path: string): Act => (c, id) => void c.read(path, id);
const write = (path: string, value = "new"): Act => (c, id) => c.write(path, value, id);
const remove = (path: string): Act => (c, id) => c.remove(path, id);
const list = (path: string): Act => (c, id) => void c.directory(path, id);
const look = (path: string): Act => (c, id) => void c.exists(path, id);

/** What the transaction does, what another connection does meanwhile, and how it ends. */
const CONFLICTS: readonly (readonly [string, readonly Act[], readonly Act[], boolean])[] = [
  ["nothing / write x", [], [write("/p/x")], true],
  ["read x / write x", [read("/p/x")], [write("/p/x")], false],
  ["read x, write y / write x", [read("/p/x"), write("/y")], [write("/p/x")], false],
  ["write x / write x", [write("/p/x")], [write("/p/x")], false],
  ["create n / create n", [write("/p/n")], [write("/p/n")], false],
  ["rm x / write x", [remove("/p/x")], [write("/p/x")], false],
  ["write x / rm x", [write("/p/x")], [remove("/p/x")], false],
  ["create n / create m", [write("/p/n")], [write("/p/m")], false],
  ["dir p, write y / create p/m", [list("/p"), write("/y")], [write("/p/m")], false],
  ["dir p, write y / write p/x", [list("/p"), write("/y")], [write("/p/x")], true],
  ["read missing n, write y / create n", [look("/p/n"), write("/y")], [write("/p/n")], false],
  [
    "read x, write y / write x then restore",
    [read("/p/x"), write("/y")],
    [write("/p/x"), write("/p/x", "old")],
    false,
  ],
  ["write x / write y", [write("/p/x")], [write("/y")], true],
];

for (const [row, mine, theirs, commits] of CONFLICTS) {
  Deno.test(`endTransaction() ${commits ? "commits" : "gives EAGAIN"} when: ${row}`, () => {
    const store = new Store();
    const [a, b] = [store.connect(0), store.connect(0)];
    a.write("/p/x", "old");
    a.write("/y", "old");
    const id = a.startTransaction();
    for (const act of mine) act(a, id);
    for (const act of theirs) act(b, 0);
    const end = (): void => a.endTransaction(id, true);
    if (commits) end();
    else assert.throws(end, { code: "EAGAIN" });
    assert.throws(() => a.endTransaction(id, false), { code: "ENOENT" }, "it is over");
  });
}

Deno.test("a transaction sees the store as it was at its start, and its own changes", () => {
  const store = new Store();
  const [a, b] = [store.connect(0), store.connect(0)];
  a.write("/x", "1");
  const id = a.startTransaction();
  b.write("/x", "2");
  b.write("/z", "2");
  assert.equal(a.readText("/x", id), "1");
  assert.equal(a.exists("/z", id), false);
  a.write("/own", "1", id);
  assert.equal(a.readText("/own", id), "1");
  assert.equal(b.exists("/own"), false);
  a.endTransaction(id, false);
  assert.equal(b.exists("/own"), false);
});

Deno.test("a transaction that removes and makes a node again leaves what it made", () => {
  const store = new Store();
  const [a, b] = [store.connect(0), store.connect(0)];
  a.write("/p/x/old", "1");
  a.write("/p/x/kept", "1");
  const id = a.startTransaction();
  a.remove("/p/x", id);
  a.write("/p/x/kept", "2", id);
  b.write("/elsewhere", "1");
  a.endTransaction(id, true);
  assert.deepEqual(a.directory("/p/x"), ["kept"]);
  assert.equal(a.readText("/p/x/kept"), "2");
});

/** The model: values by path, and numbers that change whenever value or children do. */
class Model {
  values = new Map<string, string>([["/", ""]]);
  versions = new Map<string, number>();
  static count = 0;

  copy(): Model {
    const model = new Model();
    model.values = new Map(this.values);
    model.versions = new Map(this.versions);
    return model;
  }
}

function parent(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

interface Open {
  readonly id: number;
  readonly base: Model;
  readonly view: Model;
  readonly touched: Set<string>;
  readonly changed: Set<string>;
}

/** One operation on a model; what is looked at goes to `touched`, what changes to `changed`. */
function modelWrite(model: Model, path: string, value: string, open: Open | null): void {
  const note = (each: string): void => {
    open?.changed.add(each);
    model.versions.set(each, ++Model.count);
  };
  open?.touched.add(path);
  let above = path;
  while (!model.values.has(above)) {
    note(above);
    above = parent(above);
    open?.touched.add(above);
    if (!model.values.has(above)) model.versions.set(above, ++Model.count);
    else note(above);
  }
  for (let each = parent(path); !model.values.has(each); each = parent(each)) {
    model.values.set(each, "");
  }
  note(path);
  model.values.set(path, value);
}

function modelRemove(model: Model, path: string, open: Open | null): boolean {
  open?.touched.add(path).add(parent(path));
  const there = model.values.has(path);
  if (!there) {
    let above = parent(path);
    open?.touched.add(above);
    const parentThere = model.values.has(above);
    while (!model.values.has(above)) {
      above = parent(above);
      open?.touched.add(above);
    }
    return parentThere;
  }
  for (const each of [...model.values.keys()]) {
    if (each !== path && !each.startsWith(`${path}/`)) continue;
    open?.touched.add(each);
    open?.changed.add(each);
    model.values.delete(each);
    model.versions.set(each, ++Model.count);
  }
  open?.changed.add(parent(path));
  model.versions.set(parent(path), ++Model.count);
  return true;
}

function modelCommit(model: Model, open: Open): boolean {
  for (const path of open.touched) {
    const before = open.base.values.has(path) ? open.base.versions.get(path) : undefined;
    const now = model.values.has(path) ? model.versions.get(path) : undefined;
    if (before !== now) return false;
  }
  for (const path of open.changed) {
    const value = open.view.values.get(path);
    if (value === undefined) model.values.delete(path);
    else model.values.set(path, value);
    model.versions.set(path, ++Model.count);
  }
  return true;
}

function outcome(act: () => void): string {
  try {
    act();
    return "OK";
  } catch (error) {
    if (error instanceof XenstoreError) return error.code;
    throw error;
  }
}

function dump(connection: StoreConnection, path = "/"): [string, string][] {
  const own: [string, string][] = [[path, connection.readText(path)]];
  return own.concat(
    connection.directory(path).filter((name) => name !== "tool").flatMap((name) =>
      dump(connection, path === "/" ? `/${name}` : `${path}/${name}`)
    ),
  );
}

/** Numbers below `max`, the same for the same seed. */
function numbers(seed: number): (max: number) => number {
  let state = seed;
  return (max) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor(state / 2 ** 32 * max);
  };
}

for (let seed = 1; seed <= 20; seed++) {
  Deno.test(`transactions do as the plain model in a seeded run, seed ${seed}`, () => {
    const below = numbers(seed);
    const store = new Store();
    const connections = [store.connect(0), store.connect(0), store.connect(0)];
    const model = new Model();
    const opens: Open[][] = connections.map(() => []);
    const paths = ["/a", "/b", "/a/x", "/a/y", "/a/x/1", "/a/x/2", "/b/x", "/b/x/1"];
    const ends = { OK: 0, EAGAIN: 0 };
    for (let step = 0; step < 1500; step++) {
      const at = below(connections.length);
      const connection = connections[at];
      const mine = opens[at];
      assert.ok(connection !== undefined && mine !== undefined);
      const open = below(3) === 0 ? null : mine[below(mine.length)] ?? null;
      const view = open?.view ?? model;
      const id = open?.id ?? 0;
      const path = paths[below(paths.length)] ?? "/a";
      switch (below(9)) {
        case 0:
        case 1: {
          const value = String(step);
          connection.write(path, value, id);
          modelWrite(view, path, value, open);
          break;
        }
        case 2: {
          const done = outcome(() => connection.remove(path, id));
          assert.equal(done, modelRemove(view, path, open) ? "OK" : "ENOENT");
          break;
        }
        case 3:
        case 4:
        case 5: {
          let value = "";
          const done = outcome(() => value = connection.readText(path, id));
          assert.equal(done === "OK" ? value : undefined, view.values.get(path));
          open?.touched.add(path);
          for (let each = path; !view.values.has(each);) {
            each = parent(each);
            open?.touched.add(each);
          }
          break;
        }
        case 6:
          if (mine.length >= 3) break;
          mine.push({
            id: connection.startTransaction(),
            base: model.copy(),
            view: model.copy(),
            touched: new Set(),
            changed: new Set(),
          });
          break;
        default: {
          if (open === null) break;
          mine.splice(mine.indexOf(open), 1);
          const commit = below(4) > 0;
          const done = outcome(() => connection.endTransaction(open.id, commit));
          const expected = !commit || modelCommit(model, open) ? "OK" : "EAGAIN";
          assert.equal(done, expected, `step ${step}`);
          ends[expected] += 1;
        }
      }
    }
    assert.ok(ends.OK > 0 && ends.EAGAIN > 0, JSON.stringify(ends));
    const kept = dump(store.connect(0)).sort();
    assert.deepEqual(kept, [...model.values].sort());
    assert.equal(store.ledger.nodes, kept.length + 2, "with /tool/xenstored");
  });
}
