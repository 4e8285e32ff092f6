/**
 * The contract kit against backends that are broken on purpose: each has one bug, and the kit has to
 * find it. A kit that passes everything would pass these too.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import type { Backend } from "../../lib/block/types.ts";
import { type ContractOptions, contractTests, runContract } from "../../lib/testing/mod.ts";
import { BUGS, makeLater, PLAIN, type Planted, SIZE, sound } from "./planted_bugs.ts";

/** Fewer steps than an author would take: the bugs are coarse. */
const QUICK: ContractOptions = { steps: 150, windowBytes: 2 ** 18, largestBytes: 2 ** 20 };

for (const { what, by, plant, message } of BUGS) {
  Deno.test(`contract kit finds a backend that ${what}`, async () => {
    const open = async (): Promise<Backend> => {
      const backend = await sound();
      plant(backend);
      return backend;
    };
    const cases = contractTests("broken", open, { ...QUICK, timeoutMs: 1000 })
      .filter(({ name }) => by.test(name));
    const said: string[] = [];
    for (const { run } of cases) {
      try {
        await run();
      } catch (error) {
        said.push(String(error));
      }
    }
    assert.ok(said.some((text) => message.test(text)), said.join("; ") || "no case found it");
  });
}

/** Sound backends of other kinds: what the kit asks must not be more than the contract does. */
const SOUND: Record<string, (backend: Planted) => void> = {
  "every verb": () => {},
  "every verb, asynchronous": (backend) => void makeLater(backend),
  "reading, writing and flushing alone": (backend) => {
    delete backend.trim;
    delete backend.zero;
    delete backend.extents;
    delete backend.resize;
  },
  "no FUA": (backend) => {
    const { write } = backend;
    backend.capabilities = { synchronous: true, fua: false };
    backend.write = (from, offset, options) => {
      assert.ok(!options.fua);
      return write(from, offset, options);
    };
  },
  "large units and a small maximum": (backend) => {
    const geometry = { ...backend.geometry, minimum: 4096, preferred: 8192, maximum: 24_576 };
    const { read } = backend;
    backend.geometry = geometry;
    backend.read = (into, offset) => {
      assert.ok(into.length <= 24_576 && into.length % 4096 === 0 && offset % 4096 === 0);
      return read(into, offset);
    };
    const { write } = backend;
    backend.write = (from, offset, options) => {
      assert.ok(from.length <= 24_576 && from.length % 4096 === 0 && offset % 4096 === 0);
      return write(from, offset, options);
    };
    delete backend.resize;
  },
  "zero and trim that are always refused": (backend) => {
    const refuse = (): never => {
      throw new BlockError("EOPNOTSUPP", "Cannot: the medium does not have it");
    };
    backend.trim = refuse;
    backend.zero = refuse;
  },
  "trims that read as garbage": (backend) => {
    const { write } = backend;
    backend.trim = (offset, length) => write(new Uint8Array(length).fill(0xcc), offset, PLAIN);
  },
};

for (const [what, change] of Object.entries(SOUND)) {
  Deno.test(`contract kit passes a sound backend with ${what}`, async () => {
    const open = async (): Promise<Backend> => {
      const backend = await sound();
      change(backend);
      return backend;
    };
    for (const { name, error } of await runContract("sound", open, QUICK)) {
      assert.equal(error, null, `${name}: ${String(error)}`);
    }
  });
}

/** A disk in a variable, which may be durable or not. */
function disk(flushes: boolean): ContractOptions & { open: () => Promise<Backend> } {
  let durable = new Uint8Array(0), live = new Uint8Array(0);
  const openLive = (): Promise<Backend> =>
    Promise.resolve({
      geometry: { size: SIZE, minimum: 1, preferred: 4096, maximum: 2 ** 20, readOnly: false },
      capabilities: { synchronous: true, fua: false },
      read: (into, offset) => into.set(live.subarray(offset, offset + into.length)),
      write: (from, offset) => live.set(from, offset),
      flush: () => {
        if (flushes) durable = live.slice();
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  return {
    ...QUICK,
    open: () => {
      durable = new Uint8Array(SIZE);
      live = new Uint8Array(SIZE);
      return openLive();
    },
    reopen: openLive,
    crash: () => {
      live = durable.slice();
      return openLive();
    },
  };
}

Deno.test("contract kit passes a disk that is durable", async () => {
  const { open, ...options } = disk(true);
  const results = await runContract("durable", open, options);
  assert.deepEqual(results.filter(({ error }) => error !== null), []);
  const ran = results.filter(({ name, skipped }) => /power|again/.test(name) && skipped === null);
  assert.equal(ran.length, 4);
});

Deno.test("contract kit finds a disk whose flush does nothing", async () => {
  const { open, ...options } = disk(false);
  const results = await runContract("forgetful", open, options);
  const failed = results.filter(({ error }) => error !== null).map(({ name }) => name);
  assert.deepEqual(failed, [
    "forgetful keeps what is durable through a loss of power",
    "forgetful keeps what is durable through a loss of power, through a Device",
  ]);
});

Deno.test("contract kit does the same for the same seed", async () => {
  const record = async (seed: number): Promise<string> => {
    const calls: string[] = [];
    const open = async (): Promise<Backend> => {
      const backend = await sound();
      const { write, zero } = backend;
      backend.write = (from, offset, options) => {
        calls.push(`${offset} ${from.subarray(0, 8).toHex()}`);
        return write(from, offset, options);
      };
      backend.zero = (offset, length, options) => {
        calls.push(`${offset} ${length}`);
        return zero?.(offset, length, options);
      };
      return backend;
    };
    for (const { name, run } of contractTests("recorded", open, { ...QUICK, seed })) {
      if (/history|overlapping|same time/.test(name)) await run();
    }
    return calls.join("\n");
  };
  const first = await record(7);
  assert.ok(first.length > 10_000);
  assert.ok(await record(7) === first, "the same seed made other calls");
  assert.ok(await record(8) !== first, "another seed made the same calls");
});

Deno.test("contract kit says what it skipped and cleans up after each case", async () => {
  let cleaned = 0;
  const open = async (): Promise<Backend> => {
    const backend = await sound();
    delete backend.trim;
    return backend;
  };
  const cleanUp = (): void => void (cleaned += 1);
  const results = await runContract("limited", open, { ...QUICK, cleanUp });
  assert.equal(cleaned, results.length);
  const trims = results.filter(({ name }) => name.startsWith("limited trims "));
  assert.ok(trims.length > 0);
  for (const { skipped } of trims) assert.equal(skipped, "trim");
});
