/**
 * The control file of a simulated target, through system calls: what read(2) and write(2) give there
 * is what the device gives. The other side is dd on the disk file.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  type SimulationServer,
  type SimulationTest,
  simulationTest,
} from "../support/simulation.ts";
import { run, type RunResult, sampleBytes } from "../support/tools.ts";

const MIB = 1024 * 1024;
const SUCCESS = 0, FAILURE = 1;
const EINVAL = /os error 22\b/, ENOTBLK = /os error 15\b/, EIO = /Input\/output error/;

/** One open of a control file; calls block this thread, so a message has to be on its way. */
class Control implements Disposable {
  readonly #file: Deno.FsFile;
  #open = true;

  constructor(sim: SimulationServer, name = "disk") {
    this.#file = Deno.openSync(sim.control(name), { read: true, write: true });
  }

  read(length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    return bytes.subarray(0, this.#file.readSync(bytes) ?? 0);
  }

  write(bytes: Uint8Array): number {
    return this.#file.writeSync(bytes);
  }

  /** The seq of the next message, of which the header is read. */
  seq(): number {
    const header = this.read(40);
    assert.equal(header.length, 40);
    return Number(new DataView(header.buffer).getBigUint64(0, true));
  }

  seek(): void {
    this.#file.seekSync(0, Deno.SeekMode.Start);
  }

  [Symbol.dispose](): void {
    if (this.#open) this.#file.close();
    this.#open = false;
  }
}

function answer(seq: number, type: number, data = new Uint8Array()): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(40 + data.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(seq), true);
  view.setBigUint64(8, BigInt(type), true);
  bytes.set(data, 40);
  return bytes;
}

function join(...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function readDisk(sim: SimulationServer, bytes: number): Promise<RunResult> {
  return run("dd", [`if=${sim.disk("disk")}`, `bs=${bytes}`, "count=1", "status=none"]);
}

/** From a file: this thread, which blocks, could feed no pipe. */
function writeDisk(
  { folder }: SimulationTest,
  sim: SimulationServer,
  data: Uint8Array<ArrayBuffer>,
): Promise<RunResult> {
  const file = `${folder}/data`;
  Deno.writeFileSync(file, data);
  const args = [`if=${file}`, `of=${sim.disk("disk")}`, `bs=${data.length}`];
  return run("dd", [...args, "conv=notrunc", "status=none"]);
}

await simulationTest("one read gives a header or data, never both", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  using control = new Control(sim);
  const data = sampleBytes(8192, 1);
  const write = writeDisk(test, sim, data);
  assert.equal(control.read(4096).length, 40);
  assert.equal(control.read(1).length, 1);
  assert.deepEqual(control.read(4095), data.slice(1, 4096));
  assert.deepEqual(control.read(MIB), data.slice(4096));
  assert.equal(control.write(answer(0, SUCCESS)), 40);
  assert.equal((await write).code, 0);
});

await simulationTest("long reads and writes end where the message ends", {}, async (test) => {
  await using sim = await test.start("disk=4M");
  using control = new Control(sim);
  const data = sampleBytes(MIB, 2);
  const write = writeDisk(test, sim, data);
  assert.equal(control.read(4 * MIB).length, 40);
  // The kernel cuts this read into pieces of 1 MiB; the second one must not wait for a message.
  assert.deepEqual(control.read(4 * MIB), data);
  assert.equal(control.write(answer(0, SUCCESS)), 40);
  assert.equal((await write).code, 0);
  const read = readDisk(sim, MIB);
  assert.equal(control.seq(), 1);
  // Cut into two as well; what is packed behind the first answer is not taken.
  assert.equal(control.write(join(answer(1, SUCCESS, data), answer(1, SUCCESS))), 40 + MIB);
  assert.deepEqual((await read).output, data);
  const last = readDisk(sim, 4096);
  assert.equal(control.write(answer(control.seq(), SUCCESS).subarray(0, 7)), 7);
  assert.equal(control.write(answer(2, SUCCESS, data.slice(0, 4096)).subarray(7)), 33 + 4096);
  assert.deepEqual((await last).output, data.slice(0, 4096));
});

for (const [version, flags] of [["later", 0x288], ["v1", 0x88]] as const) {
  await simulationTest(
    `O_DSYNC on the disk is FUA, which ${version} sends or not`,
    {},
    async (test) => {
      await using sim = await test.start("disk=1M", ...(version === "v1" ? ["--v1"] : []));
      using control = new Control(sim);
      const disk = sim.disk("disk");
      const args = ["if=/dev/zero", `of=${disk}`, "bs=512", "count=1", "oflag=dsync"];
      const write = run("dd", [...args, "conv=notrunc", "status=none"]);
      const view = new DataView(control.read(40).buffer);
      assert.deepEqual([8, 16, 32].map((at) => Number(view.getBigUint64(at, true))), [
        1,
        flags,
        512,
      ]);
      assert.equal(control.read(512).length, 512);
      control.write(answer(0, SUCCESS));
      const { code, stderr } = await write;
      assert.equal(code, 0, stderr);
    },
  );
}

await simulationTest("two answers in one write: 40 comes back", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  using control = new Control(sim);
  const reads = [readDisk(sim, 512), readDisk(sim, 512)];
  const seqs = [control.seq(), control.seq()];
  const both = join(answer(seqs[1] ?? 0, FAILURE), answer(seqs[0] ?? 0, FAILURE));
  assert.equal(control.write(both), 40);
  assert.equal(control.write(both.subarray(40)), 40);
  for (const each of await Promise.all(reads)) assert.match(each.stderr, EIO);
});

await simulationTest("a wrong seq poisons writing on its channel, for ever", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  const reads = [readDisk(sim, 512)];
  using other = new Control(sim);
  {
    using control = new Control(sim);
    const seq = control.seq();
    assert.equal(control.write(answer(seq + 7, SUCCESS)), 40);
    assert.throws(() => control.write(answer(seq, FAILURE)), EINVAL);
    assert.throws(() => control.write(answer(seq, FAILURE)), EINVAL);
    // Reads go on, and so do other channels.
    reads.push(readDisk(sim, 512));
    assert.equal(control.seq(), seq + 1);
  }
  for (const each of await Promise.all(reads)) assert.match(each.stderr, EIO);
  const read = readDisk(sim, 512);
  assert.equal(other.write(answer(other.seq(), SUCCESS, new Uint8Array(512).fill(7))), 552);
  assert.deepEqual((await read).output, new Uint8Array(512).fill(7));
});

await simulationTest(
  "removal: a message in hand is read to its end, then ENOTBLK",
  {},
  async (test) => {
    await using sim = await test.start("disk=1M");
    using control = new Control(sim);
    const write = writeDisk(test, sim, new Uint8Array(512));
    assert.equal(control.read(8).length, 8);
    const stopped = sim.server.stop();
    assert.match((await write).stderr, EIO);
    assert.equal(control.read(100).length, 32);
    assert.equal(control.read(1000).length, 512);
    assert.throws(() => control.read(40), ENOTBLK);
    assert.throws(() => control.read(40), ENOTBLK);
    assert.equal(control.write(answer(0, SUCCESS)), 40);
    assert.equal(control.write(answer(0, SUCCESS)), 40);
    assert.throws(() => control.write(answer(0, SUCCESS)), EINVAL);
    control[Symbol.dispose]();
    await stopped;
  },
);

await simulationTest("a control file has no position", {}, async (test) => {
  await using sim = await test.start("disk=1M");
  using control = new Control(sim);
  assert.throws(() => control.seek(), /os error 29\b/); // ESPIPE
});

await simulationTest("policy fail: EIO without a daemon", {}, async (test) => {
  await using sim = await test.start("disk=1M", "--policy", "fail");
  assert.match((await readDisk(sim, 512)).stderr, EIO); // 4 s later: no daemon ever came
  {
    using control = new Control(sim);
    const read = readDisk(sim, 512);
    control.seq();
    control[Symbol.dispose]();
    assert.match((await read).stderr, EIO);
  }
  assert.match((await readDisk(sim, 512)).stderr, EIO); // at once
});

const DEALLOCATIONS: readonly {
  readonly flags: readonly string[];
  readonly option: string;
  /** Types of the messages that come, or none if it is refused. */
  readonly types: readonly number[];
}[] = [
  { flags: [], option: "--punch-hole", types: [] },
  { flags: [], option: "--zero-range", types: [] },
  { flags: ["--write-zeroes"], option: "--punch-hole", types: [6] },
  { flags: ["--write-zeroes"], option: "--zero-range", types: [6] },
  { flags: ["--discard", "--write-zeroes"], option: "--punch-hole", types: [3, 6] },
  // A hole reads as zeroes, which a discard does not promise.
  { flags: ["--discard"], option: "--punch-hole", types: [3, 1] },
];

for (const { flags, option, types } of DEALLOCATIONS) {
  const name = `fallocate ${option} with ${flags.join(" ") || "nothing declared"}`;
  await simulationTest(name, {}, async (test) => {
    await using sim = await test.start("disk=1M", ...flags);
    using control = new Control(sim);
    const disk = sim.disk("disk");
    const call = run("fallocate", [option, "--keep-size", "--offset=4096", "--length=8192", disk]);
    for (const type of types) {
      const view = new DataView(control.read(40).buffer);
      assert.equal(Number(view.getBigUint64(8, true)), type);
      assert.equal(Number(view.getBigUint64(24, true)), 8, "sector");
      assert.equal(Number(view.getBigUint64(32, true)), 8192, "length");
      if (type === 1) assert.deepEqual(control.read(MIB), new Uint8Array(8192));
      control.write(answer(Number(view.getBigUint64(0, true)), SUCCESS));
    }
    // The program ends with fsync(2): an empty write with PREFLUSH.
    if (types.length > 0) {
      const view = new DataView(control.read(40).buffer);
      assert.deepEqual([8, 16, 32].map((at) => Number(view.getBigUint64(at, true))), [1, 0x408, 0]);
      control.write(answer(Number(view.getBigUint64(0, true)), SUCCESS));
    }
    const { code, stderr } = await call;
    assert.equal(code, types.length === 0 ? 1 : 0, stderr);
    if (types.length === 0) assert.match(stderr, /unsupported/);
  });
}
