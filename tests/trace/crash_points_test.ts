/**
 * Crash points: what must be there is there, what may be lost is lost in some of them, and a missing
 * flush is found.
 *
 * @module
 */
import assert from "node:assert/strict";
import { FLAG_FUA } from "../../lib/block/request.ts";
import { systemContext } from "../../lib/daemon/context.ts";
import { collectedLog } from "../../lib/testing/context.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import {
  type CheckResult,
  type CrashPointOptions,
  crashPoints,
  type CrashReport,
} from "../../lib/trace/crash_points.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { withTempDir } from "../support/tools.ts";

const SIZE = 64 * 1024;
const RECORD = 0, DATA = 8192;

/** A trace that is written down as it would happen, one request after another. */
class Script {
  readonly events: TraceEvent[] = [];
  #id = 0;

  write(offset: number, value: number, flags = 0): this {
    const payload = new Uint8Array(4096).fill(value);
    return this.#request("write", offset, payload.length, flags, payload);
  }

  flush(): this {
    return this.#request("flush", 0, 0, 0, null);
  }

  zero(offset: number): this {
    return this.#request("zero", offset, 4096, 0, null);
  }

  #request(
    operation: "write" | "flush" | "zero",
    offset: number,
    length: number,
    flags: number,
    payload: Uint8Array | null,
  ): this {
    const id = ++this.#id, timeUs = id * 10;
    this.events.push(
      {
        kind: "submit",
        timeUs,
        id,
        connection: 1,
        operation,
        offset,
        length,
        flags,
        payload,
        digest: null,
      },
      { kind: "complete", timeUs: timeUs + 5, id, errno: null, payload: null, digest: null },
    );
    return this;
  }
}

function openOf(events: readonly TraceEvent[]): () => Promise<TraceSource> {
  const info = { started_ms: null, target: null, size: SIZE, completes: true };
  async function* batches(): AsyncGenerator<readonly TraceEvent[]> {
    yield await Promise.resolve(events);
  }
  return () => Promise.resolve({ info, notes: new TraceNotes(), batches });
}

async function look(
  script: Script,
  folder: string,
  check: (image: Uint8Array) => string,
  rest: Partial<CrashPointOptions> = {},
): Promise<CrashReport> {
  const { files } = systemContext({ log: collectedLog() });
  return await crashPoints({
    ...{ open: openOf(script.events), base: null, folder, files, moments: { kind: "flush" } },
    ...{ random: seededRandom(1), stopAtFirst: false },
    check: (path): Promise<CheckResult> => {
      const output = check(Deno.readFileSync(path));
      return Promise.resolve({ ok: output === "", output });
    },
    ...rest,
  });
}

/** Data of a round must never be there without the record that announces it. */
function announced(image: Uint8Array): string {
  const record = image[RECORD] ?? 0, data = image[DATA] ?? 0;
  return data <= record ? "" : `data of round ${data}, record of round ${record}`;
}

function rounds(count: number, careful: boolean): Script {
  const script = new Script();
  for (let round = 1; round <= count; round += 1) {
    script.write(RECORD, round);
    if (careful) script.flush();
    script.write(DATA, round);
  }
  return script;
}

Deno.test("crashPoints() passes who flushes, and finds who does not", async () => {
  await withTempDir(async (folder) => {
    const moments = { kind: "sample", count: 60 } as const;
    const good = await look(rounds(10, true), folder, announced, { moments });
    assert.deepEqual([good.points, good.failed, good.events], [60, 0, 60]);
    const bad = await look(rounds(10, false), folder, announced, { moments });
    assert.ok(bad.failed > 0);
    const [first] = bad.failures;
    assert.ok(first !== undefined && first.image !== null);
    assert.match(first.output, /data of round \d+, record of round \d+/);
    assert.notEqual(
      announced(Deno.readFileSync(first.image)),
      "",
      "the kept image shows the fault",
    );
    const again = await look(rounds(10, false), folder, announced, { moments });
    assert.deepEqual(again, bad);
  });
});

Deno.test("crashPoints() at flushes has all before each, and nothing behind it", async () => {
  await withTempDir(async (folder) => {
    const script = new Script().write(0, 1).write(4096, 2).flush().write(0, 3).zero(4096).flush();
    script.write(8192, 9);
    const seen: number[][] = [];
    await look(script, folder, (image) => {
      seen.push([0, 4096, 8192].map((at) => image[at] ?? -1));
      return "";
    });
    assert.deepEqual(seen, [[1, 2, 0], [3, 0, 0], [3, 0, 9]]);
  });
});

Deno.test("crashPoints() at every change has all up to it", async () => {
  await withTempDir(async (folder) => {
    const seen: number[] = [];
    const script = new Script().write(0, 1).write(0, 2).flush().write(0, 3);
    await look(script, folder, (image) => {
      seen.push(image[0] ?? -1);
      return "";
    }, { moments: { kind: "every" } });
    assert.deepEqual(seen, [1, 2, 3, 3]);
  });
});

Deno.test("crashPoints() never loses a write with FUA that is done, nor what a flush covers", async () => {
  await withTempDir(async (folder) => {
    const script = new Script().write(0, 1).write(4096, 2, FLAG_FUA).write(8192, 3).flush();
    script.write(12_288, 4);
    const lost = new Set<number>();
    const report = await look(script, folder, (image) => {
      const values = [0, 4096, 8192, 12_288].map((at) => image[at] ?? 0);
      values.forEach((value, index) => {
        if (value === 0) lost.add(index);
      });
      return "";
    }, { moments: { kind: "sample", count: 300 } });
    assert.equal(report.failed, 0);
    assert.deepEqual([...lost].sort(), [0, 1, 2, 3], "before their time all are missing");
    // Behind the last event only the last write may be missing.
    const late = await look(script, folder, (image) => {
      const values = [0, 4096, 8192].map((at) => image[at]);
      return values.join() === "1,2,3" ? "" : values.join();
    }, { moments: { kind: "sample", count: 40 }, random: { ...seededRandom(1), uint32: atEnd() } });
    assert.deepEqual([late.failed, late.points], [0, 40]);
  });
});

/** Chance that always chooses the last event. */
function atEnd(): () => number {
  const random = seededRandom(4);
  let calls = 0;
  return () => ++calls <= 40 ? 2 ** 32 - 1 : random.uint32();
}

Deno.test("crashPoints() starts from a base image, and needs the data of writes", async () => {
  await withTempDir(async (folder) => {
    const base = `${folder}/base`;
    Deno.writeFileSync(base, new Uint8Array(SIZE).fill(5));
    const seen: number[] = [];
    await look(new Script().write(0, 1).flush(), folder, (image) => {
      seen.push(image[0] ?? -1, image[SIZE - 1] ?? -1);
      return "";
    }, { base });
    assert.deepEqual(seen, [1, 5, 1, 5]);
    const script = new Script().write(0, 1);
    const without = script.events.map((event) => ({ ...event, payload: null }));
    const rest = { open: openOf(without) };
    await assert.rejects(look(script, folder, () => "", rest), /not kept the data of request 1/);
  });
});
