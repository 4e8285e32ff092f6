/** Targets that outlive the daemon: what is kept, who may have it, and what is said of a bad file. @module */
import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import { StateStore } from "../../../lib/daemon/control/state_store.ts";
import { untilState, valueOf, wish } from "../../support/control.ts";
import { withPlane } from "../../support/control_plane.ts";
import { withTempDir } from "../../support/tools.ts";

const DISK = new Map([["backend", "memory:1M"], ["description", "größer"]]);

Deno.test("StateStore keeps what was put until it is deleted", () =>
  withTempDir((folder) => {
    const place = `${folder}/deep/state`;
    {
      using store = new StateStore(place);
      assert.deepEqual(store.list(), []);
      store.put("b", DISK);
      store.put("a", new Map([["backend", "null:1M"]]));
      store.put("c", DISK);
      store.put("a", new Map([["backend", "null:2M"]]));
      store.resize("b", 4096);
      store.resize("nobody", 4096);
      store.delete("c");
      store.delete("nobody");
    }
    assert.equal((Deno.statSync(place).mode ?? 0) & 0o777, 0o700);
    using store = new StateStore(place);
    assert.deepEqual(store.list(), [
      { name: "a", nodes: new Map([["backend", "null:2M"]]) },
      { name: "b", nodes: new Map([...DISK, ["size", "4096"]]) },
    ]);
  }));

Deno.test("StateStore belongs to one daemon at a time", () =>
  withTempDir((folder) => {
    {
      using first = new StateStore(folder);
      assert.throws(() => new StateStore(folder), {
        errno: "EBUSY",
        message: /another daemon keeps its targets there/,
      });
      first.put("a", DISK);
    }
    using second = new StateStore(folder);
    assert.equal(second.list().length, 1);
  }));

Deno.test("StateStore says what is wrong with a file that it cannot use, and leaves it alone", () =>
  withTempDir((folder) => {
    const path = `${folder}/targets.sqlite`;
    const text = "This is no database. ".repeat(100);
    Deno.writeTextFileSync(path, text);
    assert.throws(() => new StateStore(folder), { errno: "EIO", message: /it is damaged \(/ });
    assert.equal(Deno.readTextFileSync(path), text);
    Deno.removeSync(path);

    {
      using store = new StateStore(folder);
      for (let n = 0; n < 200; n += 1) store.put(`t${n}`, DISK);
    }
    const whole = Deno.readFileSync(path);
    Deno.writeFileSync(path, whole.fill(0xa5, 4096, whole.length - 100));
    assert.throws(() => new StateStore(folder), { errno: "EIO", message: /it is damaged \(/ });
    Deno.removeSync(path);

    const database = new DatabaseSync(path);
    database.exec("PRAGMA user_version = 2; CREATE TABLE target (name TEXT, more TEXT)");
    database.close();
    assert.throws(() => new StateStore(folder), {
      errno: "EINVAL",
      message: /a newer version of dmu has written it \(layout 2, this one knows 1\)/,
    });

    Deno.writeTextFileSync(`${folder}/file`, "");
    assert.throws(() => new StateStore(`${folder}/file`), { message: /^Cannot keep targets in / });
  }));

Deno.test("ControlPlane opens many kept targets, none in the way of another", () =>
  withTempDir(async (folder) => {
    using state = new StateStore(folder);
    const names = Array.from({ length: 60 }, (_, index) => `t${index}`);
    for (const name of names) state.put(name, DISK);
    await withPlane(({ targets, log }) => {
      const open = [...targets].filter(({ state: now }) => now === "connected");
      assert.equal(open.length, names.length);
      assert.deepEqual(log.lines, []);
      return Promise.resolve();
    }, { state });
  }));

Deno.test("ControlPlane opens kept targets again, and shows those that it cannot open as failed", () =>
  withTempDir(async (folder) => {
    {
      using state = new StateStore(folder);
      await withPlane(async ({ client }) => {
        await wish(client, "d", { backend: "memory:1M", description: "kept" });
        await wish(client, "e", { backend: "memory:1M", ephemeral: "1" });
        await wish(client, "f", { backend: "memory:1M" });
        for (const name of ["d", "e", "f"]) await untilState(client, name, "4");
        assert.deepEqual(state.list().map(({ name }) => name), ["d", "f"]);
        await client.write("/dmu/target/d/size", "2097152");
        await client.write("/dmu/target/f/state", "5");
        await untilState(client, "f", "6");
        assert.deepEqual(state.list().map(({ name }) => name), ["d"]);
        await wish(client, "bad", { backend: "file:/nonexistent/disk" });
        await untilState(client, "bad", "6");
        assert.deepEqual(state.list().map(({ name }) => name), ["d"]);
      }, { state });
      state.put("gone", new Map([["backend", "file:/nonexistent/disk"]]));
    }
    const database = new DatabaseSync(`${folder}/targets.sqlite`);
    database.exec("INSERT INTO target VALUES ('mad', '[]'), ('a b', '{}')");
    database.close();
    using state = new StateStore(folder);
    await withPlane(async ({ client, targets }) => {
      const states = await Promise.all(
        ["d", "e", "f", "gone", "mad"].map((name) => valueOf(client, `/dmu/target/${name}/state`)),
      );
      assert.deepEqual(states, ["4", null, null, "6", "6"]);
      assert.equal(await valueOf(client, "/dmu/target/d/description"), "kept");
      assert.equal(targets.opened("d").device.geometry.size, 2 << 20);
      assert.match(
        await valueOf(client, "/dmu/target/gone/error") ?? "",
        /^Cannot open target gone/,
      );
      assert.equal(await valueOf(client, "/dmu/target/gone/backend"), "file:/nonexistent/disk");
      assert.match(await valueOf(client, "/dmu/target/mad/error") ?? "", /is damaged/);
      assert.equal(state.list().length, 4);
      state.delete("a b");
      for (const name of ["d", "gone", "mad"]) await client.remove(`/dmu/target/${name}`);
      while (state.list().length > 0) await new Promise<void>((resolve) => setTimeout(resolve, 0));
    }, { state });
  }));
