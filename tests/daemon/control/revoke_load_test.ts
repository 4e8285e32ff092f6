/**
 * Revocation through the product's own path, a thousand times: a daemon with its acceptor and its control
 * socket, an NBD client at depth 32 that loses its access in mid-run by a CONTROL request, and another
 * client on the same daemon that must see nothing of it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../../backends/mod.ts";
import { memory, type MemoryOptions } from "../../../backends/memory.ts";
import { Device } from "../../../lib/block/device.ts";
import { BlockError } from "../../../lib/block/errors.ts";
import { makeRequest } from "../../../lib/block/request.ts";
import { parseSpec } from "../../../lib/block/spec.ts";
import type { BackendType, Opened } from "../../../lib/block/types.ts";
import { finishConfig } from "../../../lib/daemon/config.ts";
import { systemContext } from "../../../lib/daemon/context.ts";
import { type Daemon, startDaemon } from "../../../lib/daemon/daemon.ts";
import { parseEndpoint } from "../../../lib/daemon/endpoint.ts";
import type { OpenFile } from "../../../lib/handle/open_file.ts";
import type { XenstoreClient } from "../../../lib/xenstore/mod.ts";
import { MemoryLog, SeededRandom } from "../../support/context.ts";
import { ask, valueOf, withControl } from "../../support/control.ts";
import { withTempDir } from "../../support/tools.ts";

const ROUNDS = 1_000;
const DEPTH = 32, OTHER_DEPTH = 4;
const BLOCK = 512;
const BLOCKS = 64;
const DRAIN_MS = 20_000;

/** What reaches the storage of one target. */
class Storage {
  begun = 0;
  inside = 0;

  /** A kind of storage that takes a turn of the event loop for each operation, or two. */
  type(name: string, random: SeededRandom): BackendType<MemoryOptions> {
    const open = async (...args: Parameters<typeof memory.open>): Promise<Opened> => {
      const { backend } = await memory.open(...args);
      const later = async (operation: () => unknown): Promise<void> => {
        this.begun += 1;
        this.inside += 1;
        for (let turns = random.below(3); turns >= 0; turns -= 1) await turn();
        await operation();
        this.inside -= 1;
      };
      return {
        backend: {
          geometry: backend.geometry,
          capabilities: { synchronous: false, fua: true },
          read: (into, offset) => later(() => backend.read(into, offset)),
          write: (from, offset, options) => later(() => backend.write(from, offset, options)),
          flush: () => backend.flush(),
          [Symbol.asyncDispose]: () => backend[Symbol.asyncDispose](),
        },
      };
    };
    return { ...memory, name, open };
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** An NBD client that keeps `depth` requests in flight until it is told to stop or cannot go on. */
class Load {
  done = 0;
  failed = 0;
  readonly over: Promise<void>;
  #stop = false;

  constructor(readonly device: Device, depth: number = DEPTH) {
    const lanes = Array.from({ length: depth }, (_, lane) => this.#lane(lane));
    this.over = Promise.all(lanes).then(() => device[Symbol.asyncDispose]()).catch(ignoreLost);
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await this.over;
  }

  /** Each lane has two blocks of its own, so what it reads is what it has written. */
  async #lane(lane: number): Promise<void> {
    const data = new Uint8Array(BLOCK), back = new Uint8Array(BLOCK);
    for (let count = 1; !this.#stop; count += 1) {
      const offset = (2 * lane + count % 2) * BLOCK;
      data.fill(count);
      try {
        await this.device.submit(makeRequest("write", offset, BLOCK, { data }));
        await this.device.submit(makeRequest("read", offset, BLOCK, { data: back }));
      } catch (error) {
        assert.ok(error instanceof BlockError);
        this.failed += 1;
        return;
      }
      assert.ok(back.every((byte) => byte === count % 256), `what was read is not block ${count}`);
      this.done += 1;
    }
  }
}

function ignoreLost(error: unknown): void {
  assert.ok(error instanceof BlockError, String(error));
}

interface Bench {
  readonly daemon: Daemon;
  readonly client: XenstoreClient;
  readonly victim: Storage;
  readonly connect: (target: string) => Promise<Device>;
}

async function withBench(run: (bench: Bench) => Promise<void>): Promise<void> {
  await withTempDir(async (folder) => {
    const registry = defaultRegistry();
    const victim = new Storage(), random = new SeededRandom(5);
    registry.register(victim.type("victim", random));
    registry.register(new Storage().type("other", random));
    const targets = ["victim", "other"].map((name) => ({
      name,
      spec: parseSpec(`${name}:${BLOCKS * BLOCK}`),
      description: "",
      readOnly: false,
    }));
    const sockets = [{ kind: "unix", path: `${folder}/control`, mode: 0o600 } as const];
    const config = finishConfig({
      targets,
      endpoints: [parseEndpoint(`unix:${folder}/nbd`)],
      control: { sockets, xenbus: [], users: new Map(), ifFree: false },
    });
    const log = new MemoryLog();
    const daemon = await startDaemon(config, { registry, log });
    const connect = async (target: string): Promise<Device> => {
      const context = systemContext({ log: new MemoryLog() });
      const uri = daemon.endpoints[0]?.uri(target) ?? "";
      const { opened } = await registry.open(parseSpec(uri), context);
      return new Device(opened.backend, { name: target, clock: context.clock, log: context.log });
    };
    try {
      await withControl(
        `${folder}/control`,
        (client) => run({ daemon, client, victim, connect }),
      );
    } finally {
      await daemon.stop();
    }
    assert.deepEqual(log.lines.filter((line) => /^(?:error|warn)/.test(line)), []);
  });
}

function fileOf(daemon: Daemon): OpenFile | null {
  return [...daemon.files].find(({ target }) => target === "victim") ?? null;
}

/** One life and revocation of a client of the victim. Gives how many of its requests were cut off. */
async function round({ daemon, client, victim, connect }: Bench, number: number): Promise<number> {
  const load = new Load(await connect("victim"));
  while (load.done < number % 7 || fileOf(daemon) === null) await turn();
  const file = fileOf(daemon) ?? assert.fail("it has ended by itself");
  const shut = number % 3 === 0;
  const whose = number % 3 === 1 ? { minor: file.minor } : { target: "victim", keepOpen: !shut };
  const limit = number % 2 === 0 ? { drain_ms: DRAIN_MS } : {};
  const reply = await ask(client, { verb: "revoke", ...whose, ...limit });
  const { begun, inside } = victim;
  assert.deepEqual([reply["ok"], reply["files"]], [true, 1], JSON.stringify(reply));
  if (number % 2 === 0) assert.deepEqual([reply["drained"], inside], [true, 0], "not drained");
  if (shut) {
    assert.equal(await valueOf(client, "/dmu/target/victim/state"), "2");
    if (number % 30 === 0) await assert.rejects(connect("victim"));
  }
  await load.over;
  await file.released;
  assert.ok(load.failed > 0, "the victim has not noticed");
  assert.equal(victim.begun, begun, "an operation has entered after the revocation");
  assert.equal(victim.inside, 0, "an operation is still inside");
  if (shut) await ask(client, { verb: "admit", target: "victim" });
  assert.equal(await valueOf(client, "/dmu/target/victim/state"), "4");
  return load.failed;
}

Deno.test("dmu's revoke takes access away under load, a thousand times, and others see nothing", () =>
  withBench(async (bench) => {
    const other = new Load(await bench.connect("other"), OTHER_DEPTH);
    let failed = 0;
    for (let number = 0; number < ROUNDS; number += 1) {
      const before = other.done;
      failed += await round(bench, number);
      assert.equal(other.failed, 0);
      if (number % 100 === 99) { while (other.done === before) await turn(); }
    }
    assert.ok(failed > ROUNDS, "there was load");
    await other.stop();
    assert.equal(other.failed, 0);
    while (bench.daemon.connectionCount > 0) await turn();
  }));
