/**
 * Client and server over memory pairs, and bytes that make no sense.
 *
 * @module
 */
import assert from "node:assert/strict";
import { memoryPair } from "../../lib/stream/mod.ts";
import {
  domainOfUser,
  serveXenstore,
  Store,
  type StoreConnection,
  XenstoreClient,
  XenstoreSession,
} from "../../lib/xenstore/mod.ts";
import { sampleBytes } from "../support/tools.ts";
import { Peer, request } from "./wire.ts";

async function withClient(
  fn: (client: XenstoreClient, root: StoreConnection) => Promise<void>,
): Promise<void> {
  const store = new Store();
  const [here, there] = memoryPair();
  const serving = serveXenstore(there, store, { domid: 0 });
  const root = store.connect(0);
  const client = new XenstoreClient(here);
  try {
    await fn(client, root);
  } finally {
    await client.close();
    await serving;
    root.close();
  }
  assert.equal(store.connectionCount(), 0);
}

Deno.test("XenstoreClient does every operation", () =>
  withClient(async (client) => {
    await client.write("/a/b", "grün");
    await client.mkdir("/a/c");
    assert.equal(await client.readText("/a/b"), "grün");
    assert.deepEqual(await client.directory("/a"), ["b", "c"]);
    assert.equal(await client.exists("/a/d"), false);
    await client.setPermissions("/a", [{ domid: 0, rights: 1 }]);
    assert.deepEqual(await client.getPermissions("/a"), [{ domid: 0, rights: 1 }]);
    await client.remove("/a/b");
    await assert.rejects(client.read("/a/b"), { name: "XenstoreError", code: "ENOENT" });
  }));

Deno.test("XenstoreClient keeps the order of many requests at once", () =>
  withClient(async (client) => {
    const values = Array.from({ length: 3000 }, (_, i) => String(i));
    await Promise.all(values.map((value) => client.write("/x", value)));
    const read = await Promise.all(values.map(() => client.readText("/x")));
    assert.deepEqual(new Set(read), new Set(["2999"]));
  }));

Deno.test("directory() lists more names than fit into one reply", () =>
  withClient(async (client, root) => {
    const names = Array.from({ length: 500 }, (_, i) => `${i}-${"x".repeat(40)}`);
    for (const name of names) root.mkdir(`/d/${name}`);
    assert.deepEqual(await client.directory("/d"), names);
  }));

Deno.test("watch() gives the first event, then changes, and ends the watch at the end", () =>
  withClient(async (client, root) => {
    const seen: string[] = [];
    for await (const { path } of await client.watch("/w")) {
      seen.push(path);
      if (seen.length === 3) break;
      await client.write(`/w/${seen.length}`, "x");
    }
    assert.deepEqual(seen, ["/w", "/w/1", "/w/2"]);
    assert.equal(root.store.watches.empty, true);
  }));

Deno.test("transaction() tries again when another change came first", () =>
  withClient(async (client, root) => {
    await client.write("/n", "1");
    let tries = 0;
    const sum = await client.transaction(async (inside) => {
      const before = Number(await inside.readText("/n"));
      if (++tries === 1) root.write("/n", "10");
      await inside.write("/n", String(before + 1));
      return before + 1;
    });
    assert.deepEqual([sum, tries, await client.readText("/n")], [11, 2, "11"]);
    await assert.rejects(client.transaction(() => Promise.reject(new Error("no"))), /no/);
  }));

Deno.test("XenstoreClient rejects what waits when the server goes", async () => {
  const [here, there] = memoryPair();
  const client = new XenstoreClient(here);
  const waiting = client.read("/x");
  await there.readable.cancel();
  await there.writable.close();
  await assert.rejects(waiting);
  await client.close();
});

Deno.test("serveXenstore() survives any bytes and leaves nothing behind", async () => {
  for (let seed = 1; seed <= 200; seed++) {
    const store = new Store();
    const [here, there] = memoryPair({ chunkBytesMax: 1 + seed % 64 });
    const serving = serveXenstore(there, store, { domid: seed % 2 }).catch(() => {});
    const reading = (async (): Promise<void> => {
      for await (const chunk of here.readable) assert.ok(chunk.length > 0);
    })().catch(() => {});
    const noise = sampleBytes(400, seed);
    // Headers that make sense with payloads that do not.
    for (let at = 0; at + 16 <= noise.length; at += 40) {
      const view = new DataView(noise.buffer, at);
      view.setUint32(0, (noise[at] ?? 0) % 28, true);
      view.setUint32(8, (noise[at + 8] ?? 0) % 2, true);
      view.setUint32(12, seed % 5 === 0 ? 5000 : 24, true);
    }
    const writer = here.writable.getWriter();
    await writer.write(noise).catch(() => {});
    await writer.close().catch(() => {});
    await Promise.all([serving, reading]);
    assert.equal(store.connectionCount(), 0, `seed ${seed}`);
    assert.equal(store.watches.empty, true);
  }
});

Deno.test("XenstoreSession stops taking requests while its replies are not read", () => {
  const store = new Store();
  const { session } = new Peer(store);
  store.connect(0).write("/x", "v".repeat(4000));
  const one = request("READ", "/x|");
  const many = new Uint8Array(one.length * 1000);
  for (let i = 0; i < 1000; i++) many.set(one, i * one.length);
  session.receive(many);
  assert.equal(session.ready, false);
  let total = 0;
  for (let output = session.takeOutput(); output !== null; output = session.takeOutput()) {
    assert.ok(output.bytes.length <= 300_000);
    total += output.bytes.length;
    output.release();
  }
  assert.equal(total, 1000 * 4016);
  assert.equal(session.ready, true);
  session.end(undefined);
});

Deno.test("domainOfUser() knows root, itself, and who is listed", () => {
  assert.equal(domainOfUser(0), 0);
  assert.equal(domainOfUser(Deno.uid() ?? 0), 0);
  assert.equal(domainOfUser(70_001, new Map([[70_001, 3]])), 3);
  assert.equal(domainOfUser(70_002, new Map([[70_001, 3]])), null);
});

Deno.test("release() of a domain ends its sessions", () => {
  const store = new Store();
  store.introduce(4);
  const session = new XenstoreSession(store, { domid: 4 });
  store.release(4);
  assert.equal(session.finished, true);
  session.end(undefined);
});

Deno.test("inTransaction() and onChange() serve code in the same process", () => {
  const store = new Store();
  const here = store.connect(0);
  const changes: string[] = [];
  const stop = store.onChange(({ path, kind }) => void changes.push(`${kind} ${path}`));
  const events: string[] = [];
  here.watch("/t", "token", { deliver: (path) => void events.push(path) });
  here.inTransaction((id) => {
    here.write("/t/a", "1", id);
    here.write("/t/b", "1", id);
  });
  here.remove("/t/a");
  stop();
  here.write("/t/c", "1");
  assert.deepEqual(events, ["/t/a", "/t/b", "/t/a", "/t/c"]);
  assert.deepEqual(changes, ["set /t/a", "set /t/b", "removed /t/a"]);
});
