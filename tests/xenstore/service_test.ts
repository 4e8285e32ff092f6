/**
 * The XenStore service: its thread, its sockets, who comes and goes, and what is for the daemon.
 *
 * @module
 */
import assert from "node:assert/strict";
import net from "node:net";
import { join } from "node:path";
import { OPERATION, startXenstoreService, XenstoreClient } from "../../lib/xenstore/mod.ts";
import { run, withTempDir } from "../support/tools.ts";
import { RecordedService, withService } from "../support/xenstore.ts";
import { request } from "./wire.ts";

/** A CONTROL for the daemon with its words. */
function ask(client: XenstoreClient, ...words: string[]): Promise<string> {
  const text = ["dmu", ...words].map((each) => `${each}\0`).join("");
  const payload = new TextEncoder().encode(text);
  return client.request(OPERATION.CONTROL, payload).then((reply) =>
    new TextDecoder().decode(reply).replace(/\0$/, "")
  );
}

/** A raw connection that collects what comes. */
function connectRaw(path: string): { socket: net.Socket; closed: Promise<unknown> } {
  const socket = net.connect(path);
  socket.on("error", () => {});
  socket.resume();
  const closed = new Promise((resolve) => socket.once("close", resolve));
  return { socket, closed };
}

Deno.test("startXenstoreService() serves a unix socket and cleans up when clients go", () =>
  withService(async (record) => {
    const { service, path } = record;
    assert.equal((Deno.statSync(path).mode ?? 0) & 0o777, 0o600);
    const client = await XenstoreClient.connectUnix(path);
    await client.write("/x", "1");
    const watch = await client.watch("/x");
    await watch.next();
    await client.request(OPERATION.TRANSACTION_START, "\0");
    assert.equal(await service.client.readText("/x"), "1");
    assert.deepEqual(record.peers, [
      { id: 1, kind: "control", peer: `process ${Deno.pid} of user ${Deno.uid()}`, domid: 0 },
    ]);
    assert.match(await record.report(), /connections 2\n/);
    await client.close();
    await record.untilEmpty();
    assert.match(await record.report(), /connections 1\n/);
    await service.close();
    await assert.rejects(XenstoreClient.connectUnix(path));
    await assert.rejects(Deno.lstat(path), Deno.errors.NotFound);
  }));

Deno.test("startXenstoreService() takes the place of a dead server and not of a living one", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "socket");
    const first = await RecordedService.start(path);
    await assert.rejects(RecordedService.start(path), { code: "EADDRINUSE" });
    await first.service.close();
    const second = await RecordedService.start(path);
    assert.equal(await second.service.client.exists("/tool"), true);
    await second.service.close();
  }));

Deno.test("startXenstoreService() refuses a table with a domain that cannot be", () =>
  assert.rejects(
    startXenstoreService({
      sockets: [],
      xenbus: [],
      domains: new Map([[1000, 0x7ff0]]),
      opened: () => {},
      closed: () => {},
      control: () => Promise.resolve(""),
      onFailure: () => {},
    }),
    RangeError,
  ));

Deno.test("control() answers in the order of its connection while others go on", () => {
  const replies = new Map<string, PromiseWithResolvers<string>>();
  const asked = Promise.withResolvers<void>();
  return withService(async ({ path, service }) => {
    await using slow = await XenstoreClient.connectUnix(path);
    await using other = await XenstoreClient.connectUnix(path);
    const order: string[] = [];
    const first = ask(slow, "first").then((text) => order.push(text));
    const write = slow.write("/x", "2").then(() => order.push("write"));
    const second = ask(slow, "second").then((text) => order.push(text));
    await asked.promise;
    await other.write("/x", "1");
    assert.equal(await other.readText("/x"), "1");
    assert.deepEqual([...replies.keys()], ["first"], "the second waits for the first");
    replies.get("first")?.resolve("grün");
    await Promise.all([first, write]);
    assert.equal(await service.client.readText("/x"), "2");
    while (!replies.has("second")) await service.client.exists("/x");
    replies.get("second")?.resolve("2");
    await second;
    assert.deepEqual(order, ["grün", "write", "2"]);
  }, {
    control: (_, [word = ""]) => {
      const reply = Promise.withResolvers<string>();
      replies.set(word, reply);
      asked.resolve();
      return reply.promise;
    },
  });
});

Deno.test("control() is told whose it is, and errors reach the client", () =>
  withService(async (record) => {
    await using client = await XenstoreClient.connectUnix(record.path);
    assert.equal(await ask(client, "who"), "1 who");
    assert.equal(await ask(record.service.client, "who", "", "ü"), "0 who  ü");
    await assert.rejects(ask(client, "long"), { code: "E2BIG" });
    await assert.rejects(ask(client, "fail"), { code: "EIO" });
    assert.equal(await client.exists("/"), true);
  }, {
    control: (id, words) => {
      if (words[0] === "long") return Promise.resolve("x".repeat(4096));
      if (words[0] === "fail") return Promise.reject(new Error("no"));
      return Promise.resolve(`${id} ${words.join(" ")}`);
    },
  }));

Deno.test("a client that goes while the daemon works on its CONTROL is gone at once", () => {
  const asked = Promise.withResolvers<void>();
  const reply = Promise.withResolvers<string>();
  return withService(async (record) => {
    const { socket, closed } = connectRaw(record.path);
    socket.write(request("CONTROL", "dmu|x|"));
    await asked.promise;
    socket.destroy();
    await closed;
    await record.untilEmpty();
    reply.resolve("too late");
    assert.equal(await record.service.client.exists("/"), true);
  }, {
    control: () => {
      asked.resolve();
      return reply.promise;
    },
  });
});

Deno.test("kick() ends one connection and no other", () =>
  withService(async (record) => {
    const { socket, closed } = connectRaw(record.path);
    await record.until(() => record.open === 1, "it has come");
    await using other = await XenstoreClient.connectUnix(record.path);
    await record.until(() => record.open === 2, "both have come");
    const [first] = record.peers;
    record.service.kick(first?.id ?? 0);
    record.service.kick(999);
    await closed;
    await record.until(() => record.open === 1, "one has gone");
    assert.equal(await other.exists("/"), true);
    assert.deepEqual(record.all("closed").map(({ id }) => id), [first?.id]);
    socket.destroy();
  }));

Deno.test("a client that closes its side gets all its replies", () =>
  withService(async (record) => {
    const { socket } = connectRaw(record.path);
    const parts: Uint8Array[] = [];
    socket.on("data", (part: Uint8Array) => void parts.push(part));
    const over = new Promise((resolve) => socket.once("end", resolve));
    await record.service.client.write("/x", "v".repeat(3000));
    const one = request("READ", "/x|");
    socket.end(new Uint8Array(Array.from({ length: 500 }, () => [...one]).flat()));
    await over;
    assert.equal(parts.reduce((sum, { length }) => sum + length, 0), 500 * 3016);
    await record.untilEmpty();
  }));

Deno.test("a client that reads no events is closed, and others go on", () =>
  withService(async (record) => {
    const { socket, closed } = connectRaw(record.path);
    socket.pause();
    socket.write(request("WATCH", `/|${"t".repeat(4000)}|`));
    const { client } = record.service;
    await record.until(() => record.open === 1, "it has come");
    for (let round = 0; record.open > 0 && round < 200; round++) {
      const names = Array.from({ length: 200 }, (_, at) => `/n/${round}/${at}`);
      await Promise.all(names.map((name) => client.mkdir(name)));
    }
    await record.untilEmpty();
    assert.match(record.all("closed")[0]?.text ?? "", /unsent/);
    assert.equal((await client.directory("/n/0")).length, 200);
    socket.destroy();
    await closed;
  }));

/** Takes the listening socket away from the thread, in a process of its own: descriptors are not ours here. */
const DYING = `
import { closeDescriptor, isListening } from "${new URL(
  "../../lib/sys/socket.ts",
  import.meta.url,
)}";
import { startXenstoreService, XenstoreClient } from "${new URL(
  "../../lib/xenstore/mod.ts",
  import.meta.url,
)}";
const [path = ""] = Deno.args;
const failed = Promise.withResolvers<void>();
const service = await startXenstoreService({
  sockets: [{ path, mode: 0o600 }],
  xenbus: [],
  domains: new Map(),
  opened: ({ id }) => console.log("opened", id),
  closed: (id) => console.log("closed", id),
  control: () => Promise.resolve(""),
  onFailure: (reason) => {
    console.log("failed", /Cannot accept/.test(reason));
    failed.resolve();
  },
});
const client = await XenstoreClient.connectUnix(path);
await client.exists("/");
const numbers = [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name));
numbers.filter(isListening).forEach(closeDescriptor);
await client.exists("/").catch(() => {});
await failed.promise;
await client.exists("/").catch(() => console.log("client rejected"));
await service.client.exists("/").catch(() => console.log("own client rejected"));
`;

Deno.test("onFailure() is called when the thread dies, after closed() for all", () =>
  withTempDir(async (folder) => {
    const args = ["eval", "--ext=ts", DYING, join(folder, "socket")];
    const { stdout, stderr } = await run(Deno.execPath(), args);
    assert.deepEqual(stdout.trimEnd().split("\n"), [
      "opened 1",
      "closed 1",
      "failed true",
      "client rejected",
      "own client rejected",
    ], stderr);
  }));

Deno.test("a message that is too long ends its connection with a reason", () =>
  withService(async (record) => {
    const { socket, closed } = connectRaw(record.path);
    const bytes = request("READ", "/|");
    new DataView(bytes.buffer).setUint32(12, 4097, true);
    socket.write(bytes);
    await closed;
    await record.untilEmpty();
    assert.match(record.all("closed")[0]?.text ?? "", /payload of 4097 bytes/);
  }));
