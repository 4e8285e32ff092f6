/**
 * A mount's session: what the kernel is told, streams whose reads wait, disks over a Device.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Device } from "../../lib/block/device.ts";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend } from "../../lib/block/types.ts";
import {
  type DiskFile,
  type FuseNode,
  makeFolder,
  type StreamCall,
  type StreamFile,
} from "../../lib/fuse/tree.ts";
import { ManualClock, MemoryLog } from "../support/context.ts";
import { fields, Mount, readArguments, u32, u64, writeArguments } from "./fuse_bytes.ts";

const O_NONBLOCK = 0o4000;
const EINTR = -4, EIO = -5, EINVAL = -22;

interface WaitingRead extends StreamCall {
  readonly into: Uint8Array;
  readonly finish: (count: number) => void;
}

/** A stream whose reads wait until the test says what they give. */
class TestStream implements StreamFile {
  readonly kind = "stream";
  readonly permissions = 0o600;
  readonly reads: WaitingRead[] = [];
  readonly written: string[] = [];
  closed = 0;

  open({ uid, gid, pid }: Parameters<StreamFile["open"]>[0]): ReturnType<StreamFile["open"]> {
    assert.deepEqual({ uid, gid, pid }, { uid: 10, gid: 20, pid: 30 });
    return {
      read: (into, call) => {
        const { promise, resolve } = Promise.withResolvers<number>();
        call.signal.addEventListener("abort", () => resolve(EINTR));
        const { signal, nonBlocking, continuation } = call;
        this.reads.push({ signal, nonBlocking, continuation, into, finish: resolve });
        return promise;
      },
      write: (from, { continuation }) => {
        const text = new TextDecoder().decode(from);
        if (text === "bug") throw new TypeError("not a function");
        if (text === "wrong") return EINVAL;
        this.written.push(continuation ? `+${text}` : text);
        return Math.min(from.length, 3);
      },
      close: () => void (this.closed += 1),
    };
  }
}

/** A disk of 4 blocks of 512 bytes; `gate` holds writes back. */
function testDisk(calls: string[], gate?: Promise<void>): DiskFile {
  const store = new Uint8Array(2048);
  const backend: Backend = {
    geometry: { size: 2048, minimum: 512, preferred: 512, maximum: 1024, readOnly: false },
    capabilities: { synchronous: false, fua: true },
    read(into, offset): void {
      calls.push(`read ${offset}+${into.length}`);
      into.set(store.subarray(offset, offset + into.length));
    },
    async write(from, offset, { fua }): Promise<void> {
      await gate;
      calls.push(`write ${offset}+${from.length}${fua ? " fua" : ""}`);
      store.set(from, offset);
    },
    flush: () => void calls.push("flush"),
    zero: (offset, length, { mayTrim }) => void calls.push(`zero ${offset}+${length} ${mayTrim}`),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const options = { name: "test", clock: new ManualClock(), log: new MemoryLog() };
  const device = new Device(backend, options);
  const close = (): void => void calls.push("close");
  return { kind: "disk", permissions: 0o600, size: 2048, open: () => ({ device, close }) };
}

function mountOf(entries: Record<string, FuseNode>): Mount {
  return new Mount(makeFolder({ folder: makeFolder(entries) }));
}

/** Lets all promises run that are ready. */
function settled(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    port2.close();
    resolve();
  };
  port2.postMessage(0);
  return promise;
}

Deno.test("INIT agrees on what both sides know", () => {
  const mount = mountOf({});
  const { data } = mount.ask(26, 0, fields([4, 7], [4, 45], [4, 4096], [4, 0xffff_ffff]));
  assert.deepEqual([u32(data, 0), u32(data, 4), u32(data, 8)], [7, 38, 4096]);
  assert.equal(u32(data, 12), 1 | (1 << 5) | (1 << 15) | (1 << 18) | (1 << 22));
  const old = mount.ask(26, 0, fields([4, 7], [4, 12], [4, 0], [4, 1]));
  assert.equal(u32(old.data, 12), 1);
  assert.equal(mount.ask(26, 0, fields([4, 6], [4, 1], [4, 0], [4, 0])).error, -71);
});

Deno.test("names are found, files have attributes, what is unknown has an errno", () => {
  const mount = mountOf({ disk: testDisk([]), stream: new TestStream() });
  const disk = mount.node("folder", "disk");
  const { data } = mount.ask(3, disk, new Uint8Array(16));
  assert.deepEqual([u64(data, 16), u64(data, 24), u32(data, 76)], [disk, 2048, 0o100600]);
  assert.equal(mount.node("folder", "disk"), disk, "a node keeps its number");
  assert.equal(mount.ask(1, mount.node("folder"), "nobody").error, -2);
  assert.equal(mount.ask(1, disk, "below a file").error, -20);
  assert.equal(mount.ask(14, 1, new Uint8Array(8)).error, -21);
  assert.equal(mount.ask(15, disk, readArguments(99, 0, 10)).error, -9);
  assert.equal(mount.ask(22, disk, new Uint8Array(8)).error, -38);
  assert.equal(mount.ask(34, disk, new Uint8Array(8)).error, -38);
  for (const opcode of [6, 8, 9, 11, 12, 13, 35, 45]) {
    assert.equal(mount.ask(opcode, 1, "new").error, -1, `opcode ${opcode} would change names`);
  }
  const listed = new TextDecoder().decode(mount.ask(28, 2, readArguments(0, 0, 4096)).data);
  assert.match(listed, /disk.*stream/);
  assert.equal(mount.replyTo(mount.send(2, disk, fields([8, 1]))), null, "FORGET has no reply");
});

Deno.test("unlink() is up to the folder", () => {
  const gone: string[] = [];
  const entries = new Map<string, FuseNode>([["a", new TestStream()], ["b", new TestStream()]]);
  const unlink = (name: string): void => {
    if (name === "b") throw new BlockError("EBUSY");
    gone.push(name);
  };
  const kept = { stream: new TestStream() };
  const root = makeFolder({
    loose: { kind: "folder", permissions: 0o755, entries, unlink },
    fixed: makeFolder(kept),
  });
  const mount = new Mount(root);
  assert.equal(mount.ask(10, mount.node("loose"), "a").error, 0);
  assert.equal(mount.ask(10, mount.node("loose"), "b").error, -16);
  assert.equal(mount.ask(10, mount.node("loose"), "c").error, -2);
  assert.equal(mount.ask(10, mount.node("fixed"), "stream").error, -1);
  assert.deepEqual(gone, ["a"]);
});

Deno.test("a stream is opened without a position, and its reads wait", async () => {
  const stream = new TestStream();
  const mount = mountOf({ stream });
  const node = mount.node("folder", "stream");
  const opened = mount.ask(14, node, fields([4, 2], [4, 0]));
  assert.equal(u32(opened.data, 8), 1 | 4 | 16, "DIRECT_IO, NONSEEKABLE, STREAM");
  const handle = u64(opened.data, 0);
  const first = mount.send(15, node, readArguments(handle, 0, 100));
  const second = mount.send(15, node, readArguments(handle, 4096, 50, O_NONBLOCK));
  assert.equal(mount.session.pending, 2);
  const [one, two] = stream.reads;
  assert.ok(one !== undefined && two !== undefined);
  assert.deepEqual([one.continuation, one.nonBlocking, one.into.length], [false, false, 100]);
  assert.deepEqual([two.continuation, two.nonBlocking, two.into.length], [true, true, 50]);
  // A write goes through while reads wait; what it takes is told.
  const wrote = mount.ask(
    16,
    node,
    writeArguments(handle, 0, 5),
    new TextEncoder().encode("hello"),
  );
  assert.deepEqual([wrote.error, u32(wrote.data, 0)], [0, 3]);
  two.into.set([7, 8]);
  two.finish(2);
  one.finish(-15);
  await settled();
  assert.deepEqual(mount.replyTo(second), { error: 0, data: Uint8Array.of(7, 8) });
  assert.deepEqual(mount.replyTo(first), { error: -15, data: new Uint8Array() });
  assert.equal(mount.session.pending, 0);
});

Deno.test("an interrupted read is answered with EINTR, once", async () => {
  const stream = new TestStream();
  const mount = mountOf({ stream });
  const node = mount.node("folder", "stream"), handle = mount.open(node);
  const read = mount.send(15, node, readArguments(handle, 0, 100));
  const interrupt = mount.send(36, 0, fields([8, read]));
  await settled();
  assert.equal(mount.replyTo(read)?.error, EINTR);
  assert.equal(mount.replyTo(interrupt), null, "INTERRUPT has no reply");
  mount.send(36, 0, fields([8, read])); // too late: nobody minds
  stream.reads[0]?.finish(100);
  await settled();
});

Deno.test("errors of a stream pass, and a bug is logged and becomes EIO", () => {
  const stream = new TestStream();
  const mount = mountOf({ stream });
  const node = mount.node("folder", "stream"), handle = mount.open(node);
  const write = (text: string, offset = 0): number => {
    const data = new TextEncoder().encode(text);
    return mount.ask(16, node, writeArguments(handle, offset, data.length), data).error;
  };
  assert.equal(write("wrong"), EINVAL);
  assert.equal(write("bug"), EIO);
  assert.equal(mount.log.lines.length, 1);
  assert.equal(write("a"), 0);
  assert.equal(write("b", 1), 0);
  assert.deepEqual(stream.written, ["a", "+b"]);
  assert.equal(mount.ask(20, node, fields([8, handle], [8, 0])).error, EINVAL);
  assert.equal(mount.ask(39, node, fields([8, handle], [8, 0], [8, 0], [8, 0])).error, -95);
});

Deno.test("a mount may be one file; who polls it is told once when it is ready", () => {
  let ready = 0;
  const wakes: (() => void)[] = [];
  const root: StreamFile = {
    kind: "stream",
    permissions: 0o640,
    open: () => ({
      read: () => 0,
      write: () => 0,
      poll: (wake) => {
        if (wake !== null) wakes.push(wake);
        return ready;
      },
      close: () => {},
    }),
  };
  const mount = new Mount(root);
  assert.equal(u32(mount.ask(3, 1, fields([8, 0], [8, 0])).data, 16 + 60), 0o100_640);
  const handle = mount.open(1);
  const poll = (kh: number, flags: number): number =>
    u32(mount.ask(40, 1, fields([8, handle], [8, kh], [4, flags], [4, 1])).data, 0);
  assert.equal(poll(7, 0), 0, "it does not wait");
  assert.equal(wakes.length, 0);
  assert.equal(poll(8, 1), 0);
  ready = 1;
  wakes.forEach((wake) => wake());
  assert.deepEqual(mount.wakeups, [8]);
  assert.equal(poll(9, 1), 1);
});

Deno.test("poll() of a stream that does not know is ENOSYS", () => {
  const mount = new Mount(makeFolder({ control: new TestStream() }));
  const node = mount.node("control");
  const handle = mount.open(node);
  assert.equal(mount.ask(40, node, fields([8, handle], [8, 1], [4, 1], [4, 1])).error, -38);
});

Deno.test("RELEASE closes once; the end of the mount closes what is open", async () => {
  const stream = new TestStream();
  const mount = mountOf({ stream });
  const node = mount.node("folder", "stream");
  const [first, second] = [mount.open(node), mount.open(node)];
  assert.notEqual(first, second);
  const release = (handle: number): number =>
    mount.ask(18, node, fields([8, handle], [8, 0], [8, 0])).error;
  assert.equal(mount.ask(25, node, fields([8, first], [8, 0], [8, 0])).error, 0, "FLUSH");
  assert.equal(stream.closed, 0);
  assert.equal(release(first), 0);
  assert.equal(release(first), -9);
  assert.equal(stream.closed, 1);
  const read = mount.send(15, node, readArguments(second, 0, 100));
  mount.session.end();
  await settled();
  assert.deepEqual([stream.closed, mount.replyTo(read)], [2, null]);
});

Deno.test("a disk is read and written at any byte", async () => {
  const calls: string[] = [];
  const mount = mountOf({ disk: testDisk(calls) });
  const node = mount.node("folder", "disk"), handle = mount.open(node);
  const write = async (offset: number, data: Uint8Array): Promise<number> => {
    const unique = mount.send(16, node, writeArguments(handle, offset, data.length), data);
    await settled();
    const reply = mount.replyTo(unique);
    assert.ok(reply !== null);
    return reply.error === 0 ? u32(reply.data, 0) : reply.error;
  };
  assert.equal(await write(512, new Uint8Array(1024).fill(1)), 1024);
  assert.equal(await write(511, Uint8Array.of(2, 2)), 2);
  assert.equal(await write(2040, new Uint8Array(100).fill(3)), 8);
  assert.equal(await write(2048, new Uint8Array(1)), -28);
  assert.deepEqual(calls, [
    "write 512+1024",
    "read 0+1024",
    "write 0+1024",
    "read 1536+512",
    "write 1536+512",
  ]);
  const unique = mount.send(15, node, readArguments(handle, 510, 5));
  await settled();
  assert.deepEqual(mount.replyTo(unique)?.data, Uint8Array.of(0, 2, 2, 1, 1));
  assert.equal(mount.ask(15, node, readArguments(handle, 1536, 4096)).data.length, 512);
  assert.equal(mount.ask(15, node, readArguments(handle, 4096, 10)).data.length, 0);
});

Deno.test("a write with O_DSYNC is durable, on whole blocks and within one", async () => {
  const calls: string[] = [];
  const mount = mountOf({ disk: testDisk(calls) });
  const node = mount.node("folder", "disk"), handle = mount.open(node);
  const O_RDWR = 2, O_DSYNC = 0o10_000, O_SYNC = 0o4_010_000;
  for (const [offset, flags] of [[0, O_RDWR | O_DSYNC], [1, O_SYNC], [512, O_RDWR]] as const) {
    const data = new Uint8Array(512 - offset % 512);
    const unique = mount.send(16, node, writeArguments(handle, offset, data.length, flags), data);
    await settled();
    assert.equal(mount.replyTo(unique)?.error, 0);
  }
  assert.deepEqual(calls, ["write 0+512 fua", "read 0+512", "write 0+512 fua", "write 512+512"]);
});

Deno.test("a disk is flushed and deallocated", async () => {
  const calls: string[] = [];
  const mount = mountOf({ disk: testDisk(calls) });
  const node = mount.node("folder", "disk"), handle = mount.open(node);
  assert.equal(mount.ask(20, node, fields([8, handle], [8, 1])).error, 0);
  const results: (number | undefined)[] = [];
  for (const mode of [3, 0x11, 0x10, 0, 1, 0x20]) {
    const unique = mount.send(
      43,
      node,
      fields([8, handle], [8, 512], [8, 1024], [4, mode], [4, 0]),
    );
    await settled();
    results.push(mount.replyTo(unique)?.error);
  }
  assert.deepEqual(results, [0, 0, 0, -95, -95, -95]);
  assert.deepEqual(calls, [
    "flush",
    "zero 512+1024 true",
    "zero 512+1024 false",
    "zero 512+1024 false",
  ]);
  assert.equal(mount.ask(18, node, fields([8, handle], [8, 0], [8, 0])).error, 0);
  assert.equal(calls.at(-1), "close");
});

Deno.test("O_TRUNC does nothing to a disk, ftruncate is refused", () => {
  const mount = mountOf({ disk: testDisk([]) });
  const node = mount.node("folder", "disk");
  const set = (valid: number, size: number): number => {
    const rest = Array<readonly [8, number]>(8).fill([8, 0]);
    return mount.ask(4, node, fields([4, valid], [4, 0], [8, 1], [8, size], ...rest)).error;
  };
  assert.deepEqual([set(0x8, 0), set(0x48, 0), set(0x48, 2048), set(0x1, 0)], [0, EINVAL, 0, 0]);
});

Deno.test("who waits for a disk is let go by a signal, or when the disk fails; the disk goes on", async () => {
  const calls: string[] = [];
  const gate = Promise.withResolvers<void>();
  const mount = mountOf({ disk: testDisk(calls, gate.promise) });
  const node = mount.node("folder", "disk"), handle = mount.open(node);
  const write = (): number =>
    mount.send(16, node, writeArguments(handle, 0, 512), new Uint8Array(512));
  const [first, second] = [write(), write()];
  mount.send(36, 0, fields([8, first]));
  assert.equal(mount.replyTo(first)?.error, EINTR);
  assert.equal(mount.replyTo(second), null);
  mount.session.failDisks("EIO");
  assert.equal(mount.replyTo(second)?.error, EIO);
  gate.resolve();
  await settled();
  assert.deepEqual(calls, ["write 0+512", "write 0+512"]);
});
