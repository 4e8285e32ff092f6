/**
 * Properties of the simulated kernel under any mix of what daemons and block layer can do: reads and
 * writes of any size, several channels, answers in any order, errors, nonsense, signals, closes, kills,
 * and removal. Every BIO is completed exactly once, with the right data or an error.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { HEADER_BYTES, REQUEST_TYPES, RESPONSE_TYPES } from "../../lib/dm_user/constants.ts";
import { decodeHeader } from "../../lib/dm_user/message.ts";
import { type Bio, makeBio, STATUS_EIO } from "../../lib/dm_user/simulator/bio.ts";
import type { Channel } from "../../lib/dm_user/simulator/channel.ts";
import type { TargetOptions } from "../../lib/dm_user/simulator/target.ts";
import { SeededRandom } from "../support/context.ts";
import {
  answerBytes,
  pattern,
  type ReadMessage,
  settled,
  simulate,
  type Simulation,
} from "./fixtures.ts";

/** A BIO and what became of it. */
interface Tracked {
  readonly bio: Bio;
  readonly statuses: number[];
  /** How its message was answered: by seq, which is its place in the list. */
  answeredWith: number | null;
  received: Uint8Array | null;
}

/** A daemon that reads and writes in pieces of any size. */
class SloppyDaemon {
  readonly channel: Channel;
  /** Reads that were begun, in order: what came of them is taken in that order. */
  readonly #reads: { readonly bytes: Uint8Array; count: number | null }[] = [];
  #seen: number[] = [];
  readonly #got: ReadMessage[] = [];
  #unsent = new Uint8Array(0);
  readonly #run: RandomRun;

  constructor(channel: Channel, run: RandomRun) {
    this.channel = channel;
    this.#run = run;
  }

  /** One read(2). */
  read(size: number): void {
    const bytes = new Uint8Array(size);
    const result = this.channel.read(bytes);
    const read: { bytes: Uint8Array; count: number | null } = { bytes, count: null };
    this.#reads.push(read);
    const done = (count: number): void => {
      read.count = count;
      this.#takeReads();
    };
    if (typeof result === "number") done(result);
    else result.then(done);
  }

  #takeReads(): void {
    for (;;) {
      const [first] = this.#reads;
      if (first === undefined || first.count === null) return;
      this.#reads.shift();
      this.#take(first.bytes, first.count);
    }
  }

  /** One write(2) of what is to be sent, or of the next answer, chosen by `pick`. */
  write(size: number, pick: number, type: number): void {
    if (this.#unsent.length === 0) this.#answer(pick, type);
    if (this.#unsent.length === 0 || size === 0) return;
    const count = this.channel.write(this.#unsent.subarray(0, size));
    if (count < 0) return;
    assert.ok(count >= 1 && count <= size);
    this.#unsent = this.#unsent.slice(count);
  }

  /** Reads and answers all that there is. */
  finish(): void {
    while (this.channel.remaining > 0 || this.#run.simulation.target.queued > 0) this.read(4096);
    while (this.#unsent.length > 0 || this.#got.length > 0) {
      this.write(4096, 0, RESPONSE_TYPES.SUCCESS);
    }
  }

  #take(bytes: Uint8Array, count: number): void {
    if (count < 0) return;
    this.#seen.push(...bytes.subarray(0, count));
    if (this.#seen.length < HEADER_BYTES) return;
    const header = decodeHeader(Uint8Array.from(this.#seen.slice(0, HEADER_BYTES)));
    const isWrite = header.type === BigInt(REQUEST_TYPES.WRITE);
    const total = HEADER_BYTES + (isWrite ? Number(header.length) : 0);
    assert.ok(this.#seen.length <= total, "a read went past the end of its message");
    if (this.#seen.length < total) return;
    const payload = Uint8Array.from(this.#seen.slice(HEADER_BYTES));
    this.#got.push({ ...header, payload });
    this.#run.tracked(header.seq).received = payload;
    this.#seen = [];
  }

  #answer(pick: number, type: number): void {
    const [message] = this.#got.splice(pick % Math.max(1, this.#got.length), 1);
    if (message === undefined) return;
    const isRead = message.type === BigInt(REQUEST_TYPES.READ);
    const success = type === RESPONSE_TYPES.SUCCESS;
    const length = isRead && success ? Number(message.length) : 0;
    this.#unsent = answerBytes(message.seq, type, pattern(length, Number(message.sector)));
    this.#run.tracked(message.seq).answeredWith = type;
  }
}

/** One step: what to do, and three numbers to do it with. */
type Step = readonly [action: number, a: number, b: number, c: number];

/** A run of steps with everything that has to hold all the time. */
class RandomRun {
  readonly simulation: Simulation;
  readonly bios: Tracked[] = [];
  daemons: SloppyDaemon[] = [];
  removed = false;

  constructor(options: TargetOptions, seed: number) {
    this.simulation = simulate(options, seed);
  }

  tracked(seq: bigint): Tracked {
    return this.bios[Number(seq)] ?? assert.fail(`seq ${seq} was never submitted`);
  }

  submit(kind: number, sectors: number, sector: number): void {
    const length = 512 * sectors;
    const bio = kind === 0
      ? makeBio(REQUEST_TYPES.READ, { sector, data: new Uint8Array(length) })
      : kind === 1
      ? makeBio(REQUEST_TYPES.WRITE, { sector, data: pattern(length, sector + 7) })
      : kind === 2
      ? makeBio(REQUEST_TYPES.WRITE, { sector, flags: 0x400 })
      : makeBio(REQUEST_TYPES.ZONE_RESET, { sector, length });
    const tracked: Tracked = { bio, statuses: [], answeredWith: null, received: null };
    this.bios.push(tracked);
    Promise.resolve(this.simulation.device.submit(bio))
      .then((status) => tracked.statuses.push(status));
  }

  step([action, a, b, c]: Step): void {
    const { kernel } = this.simulation;
    const daemon = this.daemons[a % Math.max(1, this.daemons.length)];
    if (action < 3 && !this.removed) this.submit(b % 4, 1 + c % 5, c % 1000);
    else if (action < 5 && this.daemons.length < 5 && !this.removed) {
      this.daemons.push(new SloppyDaemon(kernel.open("disk"), this));
    } else if (daemon === undefined) return;
    else if (action < 9) daemon.read([b, 40, 4096, 700, 1][c % 5] ?? 0);
    else if (action < 13) {
      daemon.write([b, 40, 4096, 700, 1][c % 5] ?? 0, c, c % 11 === 0 ? c % 4 : 0);
    } else if (action === 13) daemon.channel.interrupt();
    else if (action === 14 && c < 300) this.end(daemon, b % 2 === 0);
    else if (action === 15 && b === 0 && c < 300) this.poison(daemon, c);
    else if (action === 16 && b === 0 && c < 30) this.remove();
  }

  end(daemon: SloppyDaemon, close: boolean): void {
    if (close) daemon.channel.close();
    else daemon.channel.kill();
    this.daemons = this.daemons.filter((each) => each !== daemon);
  }

  /** Nonsense, and then nothing more: the channel is of no use. */
  poison(daemon: SloppyDaemon, c: number): void {
    const nonsense = answerBytes(0).fill(0xff, 0, 8);
    for (let count = 0; count < 3; count += 1) {
      daemon.channel.write(nonsense.subarray(0, 1 + c % 40));
    }
    daemon.channel.write(nonsense);
    this.end(daemon, false);
  }

  remove(): void {
    this.simulation.kernel.remove("disk");
    this.removed = true;
  }

  /** No read hangs while there is something for it. */
  check(): void {
    const { target } = this.simulation;
    if (target.waitingReads === 0) return;
    assert.equal(target.queued, 0, "a read waits while a message is queued");
    assert.equal(this.removed, false, "a read waits on a target that is gone");
    for (const { channel } of this.daemons) {
      if (channel.remaining > 0) {
        assert.equal(target.waitingOf(channel).length, 0, "a read waits with a message in hand");
      }
    }
  }

  /** Ends everything; then each BIO has to be over, once, and rightly so. */
  async finish(): Promise<void> {
    await settled();
    const { target, kernel } = this.simulation;
    for (const daemon of this.daemons) daemon.channel.kill();
    for (let turn = 0; turn < 2000 && !this.removed && target.outstanding > 0; turn += 1) {
      const last = new SloppyDaemon(kernel.open("disk"), this);
      last.finish();
      last.channel.kill();
      await settled();
    }
    if (!this.removed) this.remove();
    await settled();
    assert.deepEqual([target.outstanding, target.channelCount, target.freed], [0, 0, true]);
    for (const [seq, each] of this.bios.entries()) this.#judge(seq, each);
  }

  #judge(seq: number, { bio, statuses, answeredWith, received }: Tracked): void {
    assert.equal(statuses.length, 1, `seq ${seq} was completed ${statuses.length} times`);
    if (received !== null && bio.type === REQUEST_TYPES.WRITE) {
      assert.deepEqual(received, bio.data, `seq ${seq} brought other data`);
    }
    if (statuses[0] === STATUS_EIO) return;
    assert.equal(statuses[0], 0);
    assert.equal(answeredWith, RESPONSE_TYPES.SUCCESS, `seq ${seq} was not answered so`);
    if (bio.type === REQUEST_TYPES.READ) {
      assert.deepEqual(bio.data, pattern(bio.length, bio.sector), `seq ${seq} got other data`);
    }
  }
}

const STEP = fc.tuple(fc.nat(16), fc.nat(4), fc.nat(600), fc.nat(999));
const OPTIONS = fc.constantFrom<TargetOptions>(
  {},
  { outstandingMax: 3 },
  { policy: "fail" },
  { policy: "fail", outstandingMax: 1 },
);

Deno.test("any mix of read and write sizes, channels, orders and closes ends with every BIO completed exactly once, with the right data or an error", async () => {
  let completed = 0, failed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(STEP, { minLength: 50, maxLength: 400, size: "max" }),
      OPTIONS,
      fc.nat(),
      async (steps, options, seed) => {
        const run = new RandomRun(options, seed);
        for (const step of steps) {
          run.step(step);
          run.check();
          if (step[3] % 5 === 0) await settled();
        }
        await run.finish();
        completed += run.bios.filter(({ statuses }) => statuses[0] === 0).length;
        failed += run.bios.filter(({ statuses }) => statuses[0] !== 0).length;
      },
    ),
    { seed: 20_201_203, numRuns: 150 },
  );
  // The run is worth something only if both happen often.
  assert.ok(completed > 2000 && failed > 2000, `${completed} done, ${failed} failed`);
});

/** An answer that is right, or broken at some place. */
function fuzzed(seq: bigint, random: SeededRandom): Uint8Array {
  const bytes = answerBytes(seq, 0, pattern(random.below(600)));
  for (let count = random.below(4); count > 0; count -= 1) {
    bytes[random.below(bytes.length)] = random.below(256);
  }
  return bytes.subarray(0, random.below(bytes.length + 1));
}

Deno.test("Fuzzed answers poison only their own channel", async () => {
  let poisoned = 0;
  for (let seed = 1; seed <= 200; seed += 1) {
    const run = new RandomRun({}, seed);
    const { kernel, target, log } = run.simulation;
    const random = new SeededRandom(seed);
    const bad = kernel.open("disk"), good = new SloppyDaemon(kernel.open("disk"), run);
    for (let turn = 0; turn < 30; turn += 1) {
      run.submit(random.below(4), 1 + random.below(3), random.below(1000));
      const seq = run.bios.length - 1;
      if (random.below(2) === 0) {
        good.finish();
      } else {
        for (let reads = random.below(4); reads > 0; reads -= 1) {
          if (target.queued > 0 || bad.remaining > 0) {
            bad.read(new Uint8Array(random.below(2) === 0 ? 40 : 4096));
          }
        }
        for (let writes = random.below(3); writes > 0; writes -= 1) {
          bad.write(fuzzed(BigInt(random.below(seq + 2)), random));
        }
      }
    }
    good.finish();
    bad.close();
    await settled();
    assert.equal(target.outstanding, 0);
    // What the bad one took may fail; what it did not take may not.
    for (const [seq, { statuses }] of run.bios.entries()) {
      assert.equal(statuses.length, 1);
      const taken = log.some((line) => line.endsWith(`channel ${bad.id} take seq ${seq}`));
      if (!taken) assert.equal(statuses[0], 0, `seq ${seq} was harmed`);
    }
    poisoned += log.some((line) => line.includes("channel 1 poison")) ? 1 : 0;
    assert.ok(!log.some((line) => line.includes("channel 2 poison")));
    good.channel.close();
    kernel.remove("disk");
  }
  assert.ok(poisoned > 100, `${poisoned} channels were poisoned`);
});
