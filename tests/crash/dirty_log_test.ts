/**
 * Ends of the machine and of the daemon at any moment, over files that forget what was not synced. What
 * has to hold at each: regions whose legs differ are not clean on the medium, the next daemon does not
 * call them in sync, and the first leg has every write that was answered. Bugs are planted to see that
 * the tests find them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { readLog } from "../../lib/dirty_log/disk_layout.ts";
import { DiskStore } from "../../lib/dirty_log/disk_store.ts";
import { DirtyLog } from "../../lib/dirty_log/log.ts";
import { parseLogArguments } from "../../lib/dirty_log/log_arguments.ts";
import { RegionBitmap } from "../../lib/dirty_log/region_bitmap.ts";
import type { LogSession } from "../../lib/dirty_log/session.ts";
import { REQUEST_TYPES } from "../../lib/dirty_log/constants.ts";
import { decodeFrame } from "../../lib/dirty_log/message.ts";
import { SimulatedLogKernel } from "../../lib/dirty_log/simulator/kernel.ts";
import { type Leg, SimulatedMirror } from "../../lib/dirty_log/simulator/mirror.ts";
import { SimulatedUserspaceLog } from "../../lib/dirty_log/simulator/userspace_log.ts";
import type { FileAccess, FileOpenOptions, RawFile } from "../../lib/sys/file_access.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { sessionOver, settled } from "../dirty_log/fixtures.ts";
import { ManualClock, MemoryLog, SeededRandom } from "../support/context.ts";
import { CrashFiles } from "../support/crash_files.ts";

/** A bug in the layer below the log, or in how the log uses it. */
type Bug = "none" | "no flush" | "writes wait for the flush" | "one flush of two";

/** The files of one process: they are gone with it, and may have a bug or fail. */
class ProcessFiles implements FileAccess {
  failing = false;
  /** Calls until `onCall` is called. */
  callsLeft = Infinity;
  onLastCall: () => void = () => {};
  readonly #files: CrashFiles;
  readonly #bug: Bug;
  readonly #open: RawFile[] = [];

  constructor(files: CrashFiles, bug: Bug) {
    this.#files = files;
    this.#bug = bug;
  }

  /** The process ends: its files are closed, and that is all. */
  kill(): void {
    for (const file of this.#open) file.close();
  }

  open(path: string, options: FileOpenOptions): RawFile {
    const file = this.#files.open(path, options);
    this.#open.push(file);
    const waiting: (() => void)[] = [];
    let flushes = 0;
    const write = (from: Uint8Array, offset: number): void => {
      this.#step(path);
      const bytes = from.slice();
      if (this.#bug === "writes wait for the flush") {
        waiting.push(() => file.write(bytes, offset));
      } else file.write(bytes, offset);
    };
    const flush = (): void => {
      this.#step(path);
      waiting.splice(0).forEach((each) => each());
      flushes += 1;
      if (this.#bug === "one flush of two" && flushes % 2 === 1) return;
      file.flush();
    };
    return new Proxy(file, {
      get(target, name): unknown {
        if (name === "write") return write;
        if (name === "flush") return flush;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  #step(path: string): void {
    this.callsLeft -= 1;
    if (this.callsLeft === 0) this.onLastCall();
    if (this.failing) throw new SystemError("EIO", "use", path, "the medium is gone");
  }
}

function cleanOnMedium(files: CrashFiles, regions: number): RegionBitmap {
  const file = files.open("log", { readOnly: false, direct: false, lock: false, createSize: 4096 });
  const found = readLog(file, regions, 512);
  const clean = new RegionBitmap(regions);
  clean.load(found.bits, found.regions);
  return clean;
}

const REGIONS = 24, LEGS = 3, WRITERS = 4, SECTORS = REGIONS * WRITERS;

function regionDiffers([first, ...others]: readonly Leg[], region: number): boolean {
  const start = region * WRITERS;
  return others.some((leg) =>
    leg.subarray(start, start + WRITERS).some((value, at) => value !== first?.[start + at])
  );
}

function checkClean(clean: RegionBitmap, legs: readonly Leg[]): void {
  for (let region = 0; region < REGIONS; region += 1) {
    const wrong = clean.has(region) && regionDiffers(legs, region);
    assert.ok(!wrong, `region ${region} differs and is clean`);
  }
}

/** A machine with a mirror whose steps a test picks. */
class Machine {
  readonly clock = new ManualClock();
  readonly kernel: SimulatedLogKernel;
  /** What waits to be let on: steps of the mirror, answers of the daemon. */
  readonly gates: (() => void)[] = [];
  session: LogSession | null = null;
  process: ProcessFiles;
  acknowledged = 0;
  /** Percent of the steps at which the daemon dies. */
  readonly #deadly: number;
  /**
   * The kernel has made its log anew and is about to resume it. If the daemon died then, it would take
   * every region for one out of sync without anybody who could write that down: no daemon can help it.
   */
  #reconnecting = 0;

  constructor(
    readonly files: CrashFiles,
    readonly random: SeededRandom,
    readonly bug: Bug,
    readonly legs: readonly Leg[],
  ) {
    this.process = new ProcessFiles(files, bug);
    this.#deadly = 1 + random.below(8);
    this.startDaemon();
    this.kernel = new SimulatedLogKernel({ clock: this.clock, send: (frame) => this.#send(frame) });
  }

  startDaemon(): void {
    this.process = new ProcessFiles(this.files, this.bug);
    this.session = sessionOver(this.process, { log: new MemoryLog(), clock: this.clock });
  }

  killDaemon(): void {
    this.process.kill();
    this.session = null;
  }

  /** Makes the mirror and what writes to it; all of that is left alone when the machine ends. */
  async boot(
    generation: number,
    values: Float64Array,
    { inSync, integratedFlush }: { inSync: boolean; integratedFlush: boolean },
  ): Promise<void> {
    const text = inSync ? "disk log 8 nosync" : "disk log 8";
    const table = { uuid: "M", sectors: REGIONS * 8, text, integratedFlush };
    const made = SimulatedUserspaceLog.create(this.kernel, table, BigInt(generation));
    const log = await this.#through(made);
    assert.equal(await this.#through(log.resume()), 0);
    await this.#checkSync(log);
    const pause = (): Promise<void> => new Promise((resolve) => void this.gates.push(resolve));
    const mirror = new SimulatedMirror(log, this.legs, pause);
    for (let writer = 0; writer < WRITERS; writer += 1) {
      void this.#write(mirror, values, writer, pause);
    }
    void this.#recover(mirror, pause);
  }

  /** Lets everything on until a promise settles. */
  async #through<T>(promise: Promise<T>): Promise<T> {
    let done = false;
    const end = (): void => void (done = true);
    promise.then(end, end);
    while (!done) {
      await settled(10);
      this.gates.splice(0).forEach((open) => open());
      this.clock.advance(2_000_000);
    }
    return await promise;
  }

  async #checkSync(log: SimulatedUserspaceLog): Promise<void> {
    for (let region = 0; region < REGIONS; region += 1) {
      const differs = regionDiffers(this.legs, region);
      const inSync = await this.#through(log.inSync(region));
      assert.ok(!(differs && inSync), `region ${region} differs and is in sync`);
    }
  }

  /** A writer has its own sector in each region. */
  async #write(
    mirror: SimulatedMirror,
    values: Float64Array,
    writer: number,
    pause: () => Promise<void>,
  ): Promise<void> {
    for (;;) {
      await pause();
      const sector = this.random.below(REGIONS) * WRITERS + writer, value = this.random.uint32();
      values[sector] = NaN; // not answered: anything may be there
      if (!await mirror.write(sector, value)) continue;
      values[sector] = value;
      this.acknowledged += 1;
    }
  }

  async #recover(mirror: SimulatedMirror, pause: () => Promise<void>): Promise<void> {
    for (;;) {
      await pause();
      await mirror.recover();
    }
  }

  #send(frame: Uint8Array<ArrayBuffer>): boolean {
    const { session } = this;
    if (session === null) return false;
    // A request that waits in the socket of a daemon that dies is lost.
    this.gates.push(() => {
      if (this.session !== session) return;
      const reply = session.handle(frame);
      this.#watchReconnect(reply);
      if (reply !== null) this.gates.push(() => this.kernel.receive(reply));
    });
    return true;
  }

  #watchReconnect(reply: Uint8Array | null): void {
    const decoded = decodeFrame(reply ?? new Uint8Array(0));
    if (decoded.kind !== "message" || decoded.message.error !== 0) return;
    const { type } = decoded.message;
    if (type === REQUEST_TYPES.CTR) this.#reconnecting += 1;
    else if (type === REQUEST_TYPES.RESUME) this.#reconnecting -= 1;
  }

  /** One thing happens. */
  step(): void {
    const { random, gates } = this;
    const what = random.below(100);
    if (what < this.#deadly && this.session !== null && this.#reconnecting === 0) this.killDaemon();
    else if (what > 90 && this.session === null) this.startDaemon();
    else if (what === 9) this.process.failing = !this.process.failing && random.below(4) === 0;
    else if (what < 20) this.clock.advance(random.below(4_000_000));
    else if (what === 20) this.session?.settle();
    else gates.splice(random.below(gates.length), 1).forEach((open) => open());
  }
}

/** Runs a mirror through some crashes; gives how many writes were answered. */
async function live(seed: number, bug: Bug): Promise<number> {
  const random = new SeededRandom(seed);
  const files = new CrashFiles({ seed, flushDoesNothing: bug === "no flush" });
  const legs = Array.from({ length: LEGS }, () => new Float64Array(SECTORS));
  const inSync = seed % 2 === 0; // at first
  legs.forEach((leg, index) => leg.fill(inSync ? 0 : index));
  const values = new Float64Array(SECTORS).fill(NaN);
  let acknowledged = 0;
  for (let generation = 1; generation <= 3; generation += 1) {
    const machine = new Machine(files, random, bug, legs);
    await machine.boot(generation, values, { inSync, integratedFlush: random.below(2) === 0 });
    for (let count = 200 + random.below(600); count > 0; count -= 1) {
      machine.step();
      await settled(12);
      // Any of what was written may outlive a crash, the latest as well.
      checkClean(cleanOnMedium(files, REGIONS), legs);
    }
    acknowledged += machine.acknowledged;
    machine.killDaemon();
    files.crash();
    checkClean(cleanOnMedium(files, REGIONS), legs);
    for (const [sector, value] of values.entries()) {
      const found = legs[0]?.[sector] ?? NaN;
      assert.ok(Number.isNaN(value) || found === value, `sector ${sector} lost a write`);
      values[sector] = found;
    }
  }
  return acknowledged;
}

Deno.test("no region that may differ is clean after a crash, whatever ended when", async () => {
  let acknowledged = 0;
  for (let seed = 1; seed <= 120; seed += 1) {
    try {
      acknowledged += await live(seed, "none");
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
  assert.ok(acknowledged > 2_000, `only ${acknowledged} writes were answered`);
});

/** The first seed at which a planted bug shows. */
async function foundAt(bug: Bug, seeds: number): Promise<number | null> {
  for (let seed = 1; seed <= seeds; seed += 1) {
    try {
      await live(seed, bug);
    } catch (error) {
      if (!(error instanceof assert.AssertionError)) throw error;
      return seed;
    }
  }
  return null;
}

for (const bug of ["no flush", "writes wait for the flush"] as const) {
  Deno.test(`a log with a planted bug is found out: ${bug}`, async () => {
    assert.notEqual(await foundAt(bug, 200), null);
  });
}

/** A log that is made longer, crashing at a call to its file; gives regions wrongly clean afterwards. */
function grow(seed: number, callsLeft: number, bug: Bug): { wrong: number; crashed: boolean } {
  const files = new CrashFiles({ seed });
  const open = (regions: number, access: FileAccess): DirtyLog => {
    const parsed = parseLogArguments(
      `${regions * 8} disk log 8 ${regions === 30_000 ? "nosync" : ""}`,
    );
    const options = { readOnly: false, direct: false, lock: false, createSize: 8192 };
    const medium = { store: new DiskStore(access.open("log", options), regions), label: "log" };
    const rest = { name: "A", reconnected: false, log: new MemoryLog(), now_us: () => 0 };
    const log = new DirtyLog({ ...rest, arguments: parsed, medium });
    log.resume(null);
    return log;
  };
  open(30_000, files); // all clean
  const short = open(5_000, files);
  short.mark([7, 4_999]);
  short.flush();
  let crashed = false;
  const process = new ProcessFiles(files, bug);
  process.callsLeft = callsLeft;
  process.onLastCall = (): void => {
    crashed = true;
    files.crash();
  };
  try {
    open(20_000, process);
  } catch (error) {
    if (!crashed) throw error;
  }
  if (!crashed) files.crash();
  const clean = cleanOnMedium(files, 20_000);
  const wrong = [...clean.runs(true)].reduce((sum, { start, count }) => {
    const end = start + count;
    const old = [7, 4_999].filter((region) => region >= start && region < end).length;
    return sum + old + Math.max(0, end - Math.max(start, 5_000));
  }, 0);
  return { wrong, crashed };
}

function wrongAfterGrowing(bug: Bug): number {
  let wrong = 0;
  for (let calls = 1; calls <= 6; calls += 1) {
    for (let seed = 1; seed <= 60; seed += 1) wrong += grow(seed, calls, bug).wrong;
  }
  return wrong;
}

Deno.test("a log that grows is never taken for one with clean regions, wherever it crashes", () => {
  assert.equal(wrongAfterGrowing("none"), 0);
  assert.ok(grow(1, 3, "none").crashed && !grow(1, 6, "none").crashed, "all calls are tried");
});

Deno.test("a header that is durable before its bitmap is found out", () => {
  assert.ok(wrongAfterGrowing("one flush of two") > 0);
});
