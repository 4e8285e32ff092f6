/** The control plane in one thread: wishes, races, lies, ephemeral targets, what the tree shows. @module */
import assert from "node:assert/strict";
import { FLAG_FUA, makeRequest } from "../../../lib/block/request.ts";
import type { Store } from "../../../lib/xenstore/mod.ts";
import { SeededRandom } from "../../support/context.ts";
import { untilState, untilValue, valueOf, wish } from "../../support/control.ts";
import { type PlaneUnderTest, withPlane } from "../../support/control_plane.ts";

/** Names of targets that the tree shows as connected. */
function connected(store: Store): string[] {
  const root = store.connect(0);
  try {
    const names = root.exists("/dmu/target") ? root.directory("/dmu/target") : [];
    const isConnected = (path: string): boolean => root.exists(path) && root.readText(path) === "4";
    return names.filter((name) => isConnected(`/dmu/target/${name}/state`));
  } finally {
    root.close();
  }
}

/** Whoever is shown as connected is let in, at every moment at which that could change. */
function checkTruth(admitted: ReadonlySet<string>, store: Store): void {
  for (const node of connected(store)) {
    assert.ok(admitted.has(node.replaceAll("@", ".")), `${node} is shown, and is not let in`);
  }
}

Deno.test("ControlPlane takes a wish through its states, and shows what came of it", () =>
  withPlane(async ({ client, targets, admitted }) => {
    const seen: string[] = [];
    const events = await client.watch("/dmu/target/a@b/state");
    const watching = (async (): Promise<void> => {
      for await (const _ of events) {
        const state = await valueOf(client, "/dmu/target/a@b/state");
        if (state !== null && state !== seen.at(-1)) seen.push(state);
        if (state === "6") return;
      }
    })();
    await wish(client, "a@b", { backend: "memory:", size: "1048576", description: "a disk" });
    await untilState(client, "a@b", "4");
    assert.equal(targets.get("a.b")?.target?.device.geometry.size, 1 << 20);
    assert.deepEqual([...admitted()], ["a.b"]);
    const nodes = ["backend", "size", "read-only", "description", "ephemeral", "error"];
    const values = await Promise.all(
      nodes.map((each) => valueOf(client, `/dmu/target/a@b/${each}`)),
    );
    assert.deepEqual(values, ["memory:", "1048576", "0", "a disk", "0", null]);
    await client.write("/dmu/target/a@b/state", "5");
    await untilState(client, "a@b", "6");
    assert.deepEqual([...admitted()], []);
    assert.equal(targets.get("a.b"), null);
    await watching;
    // A watcher may miss a state that lasted for a moment, but sees no other order.
    assert.deepEqual(seen, ["1", "2", "4", "5", "6"].filter((state) => seen.includes(state)));
    assert.ok(seen.includes("4") && seen.includes("6"));
  }));

Deno.test("ControlPlane refuses wrong wishes with an error and state 6, and tries again when told", () =>
  withPlane(async ({ client }) => {
    const rows: readonly (readonly [Record<string, string>, RegExp])[] = [
      [{}, /its backend is missing/],
      [{ backend: "memory" }, /a colon is missing/],
      [{ backend: "file:/nonexistent/disk" }, /Cannot open target bad: /],
      [{ backend: "memory:1M", size: "-1" }, /a size: it must not be negative/],
      [{ backend: "memory:1M", size: "1024" }, /has 1 MiB already/],
      [{ backend: "memory:1M", "read-only": "yes" }, /its read-only "yes" is neither 0 nor 1/],
      [{ backend: "memory:1M", "filters/0": "nosuch" }, /there is no such filter/],
      [{ backend: "memory:1M", "filters/x": "nosuch" }, /filters\/x is not called by a number/],
      [{ backend: "memory:1M", "endpoints/0": "/run/d" }, /write unix:\/run\/d/],
      [{ backend: "memory:1M", onexit: "60000" }, /Cannot find open file 60000/],
      [{ backend: "memory:1M", onexit: "x" }, /its onexit "x" is no minor/],
    ];
    for (const [nodes, message] of rows) {
      await wish(client, "bad", nodes);
      await untilState(client, "bad", "6");
      assert.match(await valueOf(client, "/dmu/target/bad/error") ?? "", message);
      await client.remove("/dmu/target/bad");
    }
    await wish(client, "bad", { backend: "memory:1M", size: "7x" });
    await untilState(client, "bad", "6");
    await client.write("/dmu/target/bad/size", "2M");
    await client.write("/dmu/target/bad/state", "1");
    await untilState(client, "bad", "4");
    assert.equal(await valueOf(client, "/dmu/target/bad/error"), null);
    assert.equal(await valueOf(client, "/dmu/target/bad/size"), "2097152");
  }));

Deno.test("ControlPlane lets clients in again for 1 in state 2, and puts any other claim back", () =>
  withPlane(async ({ client, ask, admitted, targets }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    const served = targets.get("d");
    for (const claim of ["4", "6", "0", "3", "", "nonsense"]) {
      await ask({ verb: "revoke", target: "d" });
      await client.write("/dmu/target/d/state", claim);
      await untilState(client, "d", "2");
      assert.deepEqual([...admitted()], [], claim);
    }
    await client.write("/dmu/target/d/state", "1");
    await untilState(client, "d", "4");
    assert.deepEqual([...admitted()], ["d"]);
    assert.equal(targets.get("d"), served);
  }));

Deno.test("ControlPlane puts right what clients write into a target's nodes, and loses nothing", () =>
  withPlane(async ({ client, targets }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    const served = targets.get("d");
    const top = "/dmu/target/d";
    const lies: Record<string, string> = {
      state: "1",
      backend: "null:1T",
      "read-only": "1",
      description: "lies",
      error: "lies",
      "uris/7": "lies",
      "filters/0": "lies",
      onexit: "9",
    };
    for (const [name, value] of Object.entries(lies)) {
      const before = await valueOf(client, `${top}/${name}`);
      await client.write(`${top}/${name}`, value);
      await untilValue(client, `${top}/${name}`, (now) => now === before);
    }
    await client.remove(`${top}/backend`);
    await untilValue(client, `${top}/backend`, (now) => now === "memory:1M");
    await client.remove(`${top}/state`);
    await untilState(client, "d", "4");
    await client.remove(`${top}/statistics`);
    await untilValue(client, `${top}/statistics/in-flight`, (now) => now === "0");
    assert.equal(targets.get("d"), served);
    for (let n = 0; n < 70; n += 1) await client.write(`${top}/uris/${n}`, "lies");
    while ((await valueOf(client, `${top}/uris`)) !== null) {
      await new Promise<void>((resolve) => setTimeout(resolve, 0));
    }
    // Nodes that are nobody's stay.
    await client.write(`${top}/note`, "mine");
    await client.write("/dmu/target/other/state", "4");
    await untilState(client, "other", "6");
    assert.equal(await valueOf(client, `${top}/note`), "mine");
  }));

Deno.test("ControlPlane gives a target the size that was written last, whenever that was", () =>
  withPlane(async ({ client, targets }) => {
    for (let round = 0; round < 8; round += 1) {
      await wish(client, "d", { backend: "memory:", size: "1048576" });
      if (round % 2 === 0) await untilState(client, "d", "4");
      const last = (9 + round) << 20;
      for (let n = 2; n < 5; n += 1) await client.write("/dmu/target/d/size", String(n << 20));
      await client.write("/dmu/target/d/size", String(last));
      const size = (): number | undefined => targets.get("d")?.target?.device.geometry.size;
      while (size() !== last) await new Promise<void>((resolve) => setTimeout(resolve, 0));
      await untilState(client, "d", "4");
      await client.write("/dmu/target/d/state", "5");
      await untilState(client, "d", "6");
    }
  }));

Deno.test("ControlPlane closes a target whose nodes were removed, and makes the one that took its place", () =>
  withPlane(async ({ client, targets }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    const first = targets.get("d");
    await client.transaction(async (store) => {
      await store.remove("/dmu/target/d");
      await store.write("/dmu/target/d/backend", "memory:2M");
      await store.write("/dmu/target/d/state", "1");
    });
    await untilValue(client, "/dmu/target/d/size", (value) => value === "2097152");
    await untilState(client, "d", "4");
    assert.notEqual(targets.get("d"), first);
    assert.equal(first?.state, "closed");
    await client.remove("/dmu/target");
    await untilValue(client, "/dmu/target", (value) => value === "");
    while (targets.get("d") !== null) await new Promise<void>((resolve) => setTimeout(resolve, 0));
    await wish(client, "d", { backend: "memory:3M" });
    await untilState(client, "d", "4");
  }));

Deno.test("ControlPlane removes ephemeral targets with the open file that they are bound to", () =>
  withPlane(async ({ client, targets, files, minor, hangUp, store, plane }) => {
    await wish(client, "e", { backend: "memory:1M", onexit: String(minor) });
    await wish(client, "f", { backend: "memory:1M", onexit: String(minor) });
    await wish(client, "g", { backend: "memory:1M", ephemeral: "1" });
    for (const name of ["e", "f", "g"]) await untilState(client, name, "4");
    assert.equal(await valueOf(client, "/dmu/target/e/ephemeral"), "1");
    const actions = files.get(minor).onexit.list().map(({ name }) => name);
    assert.deepEqual(actions, ["remove e", "remove f"]);
    await client.write("/dmu/target/f/state", "5");
    await untilState(client, "f", "6");
    assert.deepEqual(files.get(minor).onexit.list().map(({ name }) => name), ["remove e"]);
    hangUp();
    while (targets.get("e") !== null || connected(store).includes("e")) {
      await new Promise<void>((resolve) => setTimeout(resolve, 0));
    }
    while (files.size > 0) await new Promise<void>((resolve) => setTimeout(resolve, 0));
    await plane.idle();
    assert.deepEqual([...targets].map(({ wish: { name } }) => name), ["g"]);
    assert.deepEqual(connected(store), ["g"]);
  }));

Deno.test("ControlPlane shows statistics of what was used, and open files until they end", () =>
  withPlane(async ({ client, targets, files, minor }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    assert.deepEqual(await client.directory("/dmu/target/d/statistics"), ["in-flight"]);
    const data = new Uint8Array(4096);
    await targets.opened("d").device.submit(
      makeRequest("write", 0, 4096, { data, flags: FLAG_FUA }),
    );
    const top = "/dmu/target/d/statistics/write";
    await untilValue(client, `${top}/bytes`, (value) => value === "4096");
    assert.equal(await valueOf(client, `${top}/count`), "1");
    assert.equal(await valueOf(client, `${top}/errors`), "0");
    assert.deepEqual(
      (await client.directory("/dmu/target/d/statistics")).sort(),
      ["in-flight", "write"],
    );

    const file = files.open({ kind: "nbd", peer: "somebody", target: "d" });
    const path = `/dmu/file/${file.minor}`;
    await untilValue(client, `${path}/state`, (value) => value === "new");
    file.activate();
    const handle = file.onexit.add({ name: "say so", run: () => {} });
    await untilValue(client, `${path}/onexit/${handle}`, (value) => value === "say so");
    assert.equal(await valueOf(client, `${path}/target`), "d");
    assert.ok(file.enter());
    await untilValue(client, `${path}/active`, (value) => value === "1");
    await client.write(`${path}/kind`, "lies");
    await client.remove(`${path}/peer`);
    await untilValue(client, `${path}/kind`, (value) => value === "nbd");
    await untilValue(client, `${path}/peer`, (value) => value === "somebody");
    await client.write("/dmu/file/777/kind", "lies");
    await untilValue(client, "/dmu/file/777", (value) => value === null);
    file.revoke();
    await untilValue(client, `${path}/state`, (value) => value === "draining");
    file.leave();
    await untilValue(client, path, (value) => value === null);
    assert.equal(await valueOf(client, `/dmu/file/${minor}/kind`), "control");
  }));

Deno.test("ControlPlane shows what is, whoever keeps writing in between", () =>
  withPlane(async ({ client, targets, store, log }) => {
    await wish(client, "d", { backend: "memory:1M" });
    await untilState(client, "d", "4");
    const path = "/dmu/target/d/state";
    const root = store.connect(0);
    let goOn = true;
    const writing = (async (): Promise<void> => {
      // No timer has its turn meanwhile, so this is in the middle of every transaction.
      for (let turn = 0; goOn && turn < 1_000_000; turn += 1) {
        root.write(path, root.readText(path));
        await Promise.resolve();
      }
    })();
    await targets.complain("d", "too much");
    goOn = false;
    await writing;
    root.close();
    assert.ok(log.lines.some((line) => line.endsWith("all the time: it is written regardless")));
    assert.equal(await valueOf(client, "/dmu/target/d/error"), "too much");
    assert.equal(await valueOf(client, path), "4");
  }));

/** One random step of somebody who has the rights to do anything. */
async function step({ client, ask }: PlaneUnderTest, random: SeededRandom): Promise<void> {
  const name = `t${random.below(3)}`;
  const top = `/dmu/target/${name}`;
  const size = String((1 + random.below(4)) << 20);
  switch (random.below(9)) {
    case 0:
    case 1:
    case 2:
      return await wish(client, name, { backend: "memory:1M", size });
    case 3:
      return await client.write(`${top}/state`, "5");
    case 4:
      return await client.remove(top).catch(() => {});
    case 5:
      return void await ask({ verb: "revoke", target: name, keepOpen: random.below(3) === 0 });
    case 6:
      return void await ask({ verb: "admit", target: name });
    case 7:
      return await client.write(`${top}/size`, size);
    default:
      return await client.write(`${top}/state`, String(random.below(4)));
  }
}

for (const seed of [1, 2, 3]) {
  Deno.test(`ControlPlane shows state 4 only for who is let in, random steps of seed ${seed}`, () =>
    withPlane(async (under) => {
      const random = new SeededRandom(seed);
      const { client, targets, store, plane, admitted } = under;
      let seen = 0;
      for (let turn = 0; turn < 150; turn += 1) {
        await step(under, random);
        checkTruth(admitted(), store);
        seen += connected(store).length;
        if (random.below(4) === 0) await plane.idle();
      }
      assert.ok(seen > 20, `state 4 was seen ${seen} times`);
      await plane.idle();
      // In the end tree and targets agree.
      const open = [...targets].filter(({ state }) => state === "connected");
      assert.deepEqual(connected(store).sort(), open.map(({ wish: { name } }) => name).sort());
      for (const name of await client.directory("/dmu/target")) {
        const state = await valueOf(client, `/dmu/target/${name}/state`);
        if (targets.get(name) === null) {
          assert.ok(state !== "4" && state !== "2", `${name} ${state}`);
        }
      }
    }, { onUpdate: checkTruth }));
}
