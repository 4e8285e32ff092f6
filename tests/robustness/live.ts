/**
 * What attacks on live servers need: a daemon in this process, a client that does verified I/O all the
 * while, and what the server still holds when everybody is gone.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { defaultRegistry } from "../../backends/mod.ts";
import { memory, type MemoryOptions } from "../../backends/memory.ts";
import { Device } from "../../lib/block/device.ts";
import { FLAG_FUA, makeRequest } from "../../lib/block/request.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { BackendType, Maybe, Opened } from "../../lib/block/types.ts";
import { type ConfigParts, finishConfig } from "../../lib/daemon/config.ts";
import type { ClientLimits } from "../../lib/daemon/connections.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../lib/daemon/endpoint.ts";
import { MemoryLog, SeededRandom } from "../support/context.ts";
import { flippedBits } from "../support/faulty_backends.ts";
import { withTempDir } from "../support/tools.ts";

/** The target that attackers do not know of. */
export const GOOD_TARGET = "good";

/** A daemon under attack. */
export interface Live {
  readonly daemon: Daemon;
  readonly log: MemoryLog;
  /** Its unix socket. */
  readonly path: string;
  /** Bytes of buffers that are out, of all connections. */
  takenBytes(): number;
}

/** Lets others run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Lets a time pass, where a test is about time itself: what a server must not hold against anybody. */
export function lapse(ms: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  AbortSignal.timeout(ms).addEventListener("abort", () => resolve());
  return promise;
}

/** Waits until `holds`; fails with `what` if that takes more than `timeout_ms`. */
export async function until(
  what: string,
  holds: () => boolean,
  timeout_ms = 20_000,
): Promise<void> {
  const signal = AbortSignal.timeout(timeout_ms);
  while (!holds()) {
    assert.ok(!signal.aborted, `not within ${timeout_ms} ms: ${what}`);
    await turn();
  }
}

/** Fails if `work` takes more than `timeout_ms`. */
export async function bounded<T>(what: string, timeout_ms: number, work: Promise<T>): Promise<T> {
  const signal = AbortSignal.timeout(timeout_ms);
  const late = Promise.withResolvers<never>();
  const onAbort = (): void =>
    late.reject(new assert.AssertionError({ message: `not within ${timeout_ms} ms: ${what}` }));
  signal.addEventListener("abort", onAbort);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** `later`: memory whose calls end some turns after they began. */
const later: BackendType<MemoryOptions> = {
  ...memory,
  name: "later",
  async open(options, context): Promise<Opened> {
    const { backend } = await memory.open(options, context);
    const wait = async (work: () => Maybe<void>): Promise<void> => {
      await turn();
      await work();
    };
    return {
      backend: {
        geometry: backend.geometry,
        capabilities: { synchronous: false, fua: true },
        read: (into, offset) => wait(() => backend.read(into, offset)),
        write: (from, offset, options) => wait(() => backend.write(from, offset, options)),
        flush: () => wait(() => backend.flush()),
        [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
      },
    };
  },
};

/** Settings of a daemon under attack. */
export interface LiveSettings {
  readonly limits?: ClientLimits;
  readonly config?: ConfigParts;
  /** The spec of GOOD_TARGET; memory if left out. */
  readonly good?: string;
}

/** Runs a daemon with these targets and GOOD_TARGET; nothing may be left when it has stopped. */
export async function withLive(
  specs: Readonly<Record<string, string>>,
  settings: LiveSettings,
  attack: (live: Live) => Promise<void>,
): Promise<void> {
  await withTempDir(async (folder) => {
    const log = new MemoryLog();
    const registry = defaultRegistry();
    registry.register(later);
    registry.register(flippedBits);
    const all = { ...specs, [GOOD_TARGET]: settings.good ?? "memory:16M" };
    const targets = Object.entries(all).map(([name, spec]) => ({
      name,
      spec: parseSpec(spec.replaceAll("DIR", folder)),
      description: "",
      readOnly: false,
    }));
    const path = `${folder}/s`;
    const endpoints = [parseEndpoint(`unix:${path}`)];
    const config = finishConfig({ targets, endpoints, ...settings.config });
    const { limits = {} } = settings;
    const before = openDescriptors();
    const daemon = await startDaemon(config, { registry, log, limits });
    try {
      const takenBytes = (): number => daemon.buffers.takenBytes;
      const live: Live = { daemon, log, path, takenBytes };
      await attack(live);
      await until("all connections are over", () => daemon.connectionCount === 0);
      assert.equal(takenBytes(), 0, "buffers are still out");
    } finally {
      await daemon.stop();
    }
    // A bug in the server is logged as an error, with its stack.
    assert.deepEqual(log.lines.filter((line) => line.startsWith("error")), []);
    await until("all sockets are closed", () => openDescriptors() <= before);
  });
}

/** Sockets and files that a process has open. */
export function openDescriptors(pid: number | "self" = "self"): number {
  let count = 0;
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    try {
      const target = Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
      if (/^socket:|^\/(?!proc\/|dev\/|sys\/)/.test(target)) count += 1;
    } catch {
      // The descriptor of the listing itself.
    }
  }
  return count;
}

/** Memory of a process that is in RAM, in bytes. */
export function residentBytes(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  const [, kib = "0"] = /^VmRSS:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kib) * 1024;
}

const AREA_BYTES = 1 << 20;

/** A client that does verified I/O on GOOD_TARGET for as long as it is told to. */
export class GoodClient implements AsyncDisposable {
  readonly #device: Device;
  readonly #random: SeededRandom;
  /** Where its own area begins. */
  readonly #start: number;
  readonly #model = new Uint8Array(AREA_BYTES);
  /** Reads that were compared. */
  verified = 0;
  /** The longest time that one request took, in ms. */
  slowest_ms = 0;

  private constructor(device: Device, area: number) {
    this.#device = device;
    this.#start = area * AREA_BYTES;
    this.#random = new SeededRandom(area);
  }

  /** Connects to the server at `path`. Clients at the same time need areas of their own, 0 to 15. */
  static connect(path: string, area = 0): Promise<GoodClient> {
    return GoodClient.open(`nbd+unix:///${GOOD_TARGET}?socket=${path}`, area);
  }

  /** Connects to the server that the URI says. */
  static async open(uri: string, area = 0): Promise<GoodClient> {
    const context = systemContext({ log: new MemoryLog() });
    const { opened } = await defaultRegistry().open(parseSpec(uri), context);
    const options = { name: "client", clock: context.clock, log: context.log };
    const client = new GoodClient(new Device(opened.backend, options), area);
    await client.#read(client.#model, 0);
    return client;
  }

  /** Writes something and reads something else, which has to be right. */
  async step(): Promise<void> {
    const started = performance.now();
    const length = 1 + this.#random.below(64 * 1024);
    const offset = this.#random.below(AREA_BYTES - length);
    const data = this.#model.subarray(offset, offset + length);
    data.fill(this.#random.below(256));
    const flags = this.#random.below(4) === 0 ? FLAG_FUA : 0;
    await this.#device.submit(makeRequest("write", this.#start + offset, length, { data, flags }));
    const at = this.#random.below(AREA_BYTES - length);
    const into = new Uint8Array(length);
    await this.#read(into, at);
    assert.equal(Buffer.compare(into, this.#model.subarray(at, at + length)), 0, `read at ${at}`);
    this.verified += 1;
    this.slowest_ms = Math.max(this.slowest_ms, (performance.now() - started) / 2);
  }

  async #read(into: Uint8Array, offset: number): Promise<void> {
    await this.#device.submit(
      makeRequest("read", this.#start + offset, into.length, { data: into }),
    );
  }

  /** Goes on until `work` is over, and fails if it was harmed. */
  async during<T>(work: Promise<T>): Promise<T> {
    let over = false;
    const watched = work.finally(() => over = true);
    watched.catch(() => {});
    while (!over) await this.step();
    await this.step();
    return await watched;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#device[Symbol.asyncDispose]();
  }
}
