/** Tests of lib/driver/accept_loop.ts for what accept(2) can fail with; the loop runs in this thread. @module */
import assert from "node:assert/strict";
import { type AcceptEvent, AcceptLoop } from "../../lib/driver/accept_loop.ts";
import type { HandshakeEnd } from "../../lib/driver/handshake.ts";
import { ACCEPT_PAUSE_MS } from "../../lib/driver/limits.ts";
import { closeEvent, openEvent, signalEvent } from "../../lib/sys/poll.ts";
import { closeDescriptor, connectUnix, listenTcp, shutdown } from "../../lib/sys/socket.ts";
import { listenUnix } from "../../lib/sys/unix_listener.ts";

/** A loop whose `run` comes back after each event. */
function makeLoop(listeners: readonly number[]): {
  loop: AcceptLoop<HandshakeEnd>;
  events: AcceptEvent[];
  wakeFd: number;
  clock: { time_ms: number };
} {
  const wakeFd = openEvent();
  const events: AcceptEvent[] = [];
  const clock = { time_ms: 0 };
  const loop = new AcceptLoop<HandshakeEnd>({
    listeners: listeners.map((fd, i) => ({ fd, label: `listener ${i}` })),
    wakeFd,
    clock: { now: () => clock.time_ms * 1_000 },
    createHandshake: () => ({
      ready: true,
      result: null,
      receive(): void {},
      takeOutput: () => null,
      end(): void {},
    }),
    onHandOver(): void {},
    onEvent(event): void {
      events.push(event);
      signalEvent(wakeFd);
    },
  });
  return { loop, events, wakeFd, clock };
}

function limitDescriptors(soft: string): void {
  const { success, stderr } = new Deno.Command("prlimit", {
    args: [`--pid=${Deno.pid}`, `--nofile=${soft}`],
  }).outputSync();
  assert.ok(success, new TextDecoder().decode(stderr));
}

/** Opens files until no descriptor is left, runs `action`, and closes them. */
function withoutDescriptors(action: (free: () => void) => void): void {
  const limit = /^Max open files\s+(\d+)/m.exec(Deno.readTextFileSync("/proc/self/limits"))?.[1];
  assert.ok(limit !== undefined);
  const highest = Math.max(...[...Deno.readDirSync("/proc/self/fd")].map(({ name }) => +name));
  const files: Deno.FsFile[] = [];
  limitDescriptors(`${highest + 50}:`);
  try {
    for (;;) files.push(Deno.openSync("/dev/null"));
  } catch {
    action(() => files.pop()?.close());
  } finally {
    for (const file of files) file.close();
    limitDescriptors(`${limit}:`);
  }
}

Deno.test("AcceptLoop pauses when descriptors run out, and evicts if that helps", () => {
  const folder = Deno.makeTempDirSync();
  const listener = listenUnix(`${folder}/s`);
  const clients = [1, 2, 3].map(() => connectUnix(listener.path));
  const { loop, events, wakeFd, clock } = makeLoop([listener.fd]);
  withoutDescriptors((free) => {
    assert.equal(loop.run(), 1);
    assert.deepEqual(events.splice(0).map(({ kind }) => kind), ["accept-failed"]);
    clock.time_ms += ACCEPT_PAUSE_MS - 1;
    signalEvent(wakeFd);
    loop.run();
    assert.deepEqual(events, []);
    free();
    clock.time_ms += 1;
    assert.equal(loop.run(), 2);
    assert.deepEqual(events.splice(0).map(({ kind, reason }) => [kind, reason]), [
      ["evicted", "there are no more descriptors"],
      ["evicted", "there are no more descriptors"],
    ]);
    assert.equal(loop.count, 1);
  });
  loop.close("the test ends");
  assert.equal(loop.count, 0);
  closeEvent(wakeFd);
  clients.forEach(closeDescriptor);
  listener.close();
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("AcceptLoop lets go of a listener that does not work, and serves the others", () => {
  const lost = [listenTcp("127.0.0.1", 0), listenTcp("127.0.0.1", 0)];
  const folder = Deno.makeTempDirSync();
  const listener = listenUnix(`${folder}/s`);
  const { loop, events, wakeFd } = makeLoop([...lost, listener.fd]);
  shutdown(lost[0] ?? -1, "both");
  closeDescriptor(lost[1] ?? -1);
  loop.run();
  assert.deepEqual(events.map(({ kind, listener }) => [kind, listener]), [
    ["listener-lost", "listener 0"],
    ["listener-lost", "listener 1"],
  ]);
  const client = connectUnix(listener.path);
  closeDescriptor(client);
  loop.run();
  assert.equal(events[2]?.reason, "the client went away");
  closeDescriptor(lost[0] ?? -1);
  closeEvent(wakeFd);
  listener.close();
  Deno.removeSync(folder, { recursive: true });
});
