/**
 * `deno task bench:dm-user [--quick] [--json]`: our dm-user daemon over channels in this process, on
 * memory. A simulated kernel keeps 32 BIOs under way; kernel and daemon share one thread. The line
 * "bare" is a daemon of a few lines that answers without doing anything but copying, and so shows
 * what the kernel's side costs; runs take turns, figures are medians. Data is read back before it is
 * measured.
 *
 * @module
 */
import process from "node:process";
import { defaultRegistry } from "../backends/mod.ts";
import type { Device } from "../lib/block/device.ts";
import { parseSpec } from "../lib/block/spec.ts";
import type { Maybe } from "../lib/block/types.ts";
import { systemClock, systemRandom } from "../lib/daemon/context.ts";
import { openDevice } from "../lib/daemon/open_device.ts";
import {
  HEADER_BYTES,
  REQUEST_TYPES,
  RESPONSE_TYPES,
  SECTOR_BYTES,
} from "../lib/dm_user/constants.ts";
import { decodeHeader, encodeHeader } from "../lib/dm_user/message.ts";
import { serveChannel } from "../lib/dm_user/serve.ts";
import { makeBio } from "../lib/dm_user/simulator/bio.ts";
import type { Channel } from "../lib/dm_user/simulator/channel.ts";
import type { SimulatedDevice } from "../lib/dm_user/simulator/device.ts";
import { SimulatedKernel } from "../lib/dm_user/simulator/kernel.ts";
import { channelPair } from "../lib/dm_user/simulator/streams.ts";
import { print } from "../tools/process.ts";
import { taskOptions } from "./options.ts";
import { spread } from "./report.ts";

const KIB = 1024, MIB = 1024 * KIB;
const DEVICE_BYTES = 64 * MIB;
/** BIOs under way. */
const DEPTH = 32;

interface Load {
  readonly operation: "read" | "write";
  readonly bytes: number;
  readonly channels: number;
}

const LOADS: readonly Load[] = [1, 4].flatMap((channels) =>
  [4 * KIB, MIB].flatMap((bytes) =>
    (["read", "write"] as const).map((operation) => ({ operation, bytes, channels }))
  )
);

/** Serves one channel until the target is removed. */
type Daemon = (channel: Channel, device: Device) => Promise<void>;

const DAEMONS: Readonly<Record<string, Daemon>> = {
  dmu: (channel, device) => serveChannel(channelPair(channel), device),
  bare,
};

/** Reads, copies to or from one buffer, answers. */
async function bare(channel: Channel): Promise<void> {
  const buffer = new Uint8Array(HEADER_BYTES + MIB), header = buffer.subarray(0, HEADER_BYTES);
  while (await filled(channel, header)) {
    const { seq, type, length } = decodeHeader(header);
    const bytes = Number(length);
    const writes = type === BigInt(REQUEST_TYPES.WRITE);
    if (writes) await filled(channel, buffer.subarray(HEADER_BYTES, HEADER_BYTES + bytes));
    const success = BigInt(RESPONSE_TYPES.SUCCESS);
    encodeHeader({ seq, type: success, flags: 0n, sector: 0n, length: 0n }, header);
    const answer = buffer.subarray(0, HEADER_BYTES + (writes ? 0 : bytes));
    for (let at = 0; at < answer.length;) at += channel.write(answer.subarray(at));
  }
  channel.close();
}

async function filled(channel: Channel, into: Uint8Array): Promise<boolean> {
  for (let at = 0; at < into.length;) {
    const count: Maybe<number> = channel.read(at === 0 ? into : into.subarray(at));
    const now = typeof count === "number" ? count : await count;
    if (now < 0) return false;
    at += now;
  }
  return true;
}

interface Measurement {
  readonly messagesPerSecond: number;
  readonly cpuUs: number;
}

/** Keeps DEPTH BIOs under way for `seconds`, each at the next place, and counts. */
async function drive(device: SimulatedDevice, load: Load, seconds: number): Promise<Measurement> {
  const { operation, bytes } = load;
  const type = operation === "read" ? REQUEST_TYPES.READ : REQUEST_TYPES.WRITE;
  const places = DEVICE_BYTES / bytes;
  const end_us = systemClock.now() + seconds * 1e6;
  let count = 0, place = 0;
  const worker = async (): Promise<void> => {
    const data = new Uint8Array(bytes).fill(1);
    while (systemClock.now() < end_us) {
      place = (place + 1) % places;
      const status = await device.submit(
        makeBio(type, { sector: place * bytes / SECTOR_BYTES, data }),
      );
      if (status !== 0) throw new Error(`A BIO has failed: ${status}`);
      count += 1;
    }
  };
  const begun_us = systemClock.now(), cpu = process.cpuUsage();
  await Promise.all(Array.from({ length: DEPTH }, worker));
  const { user, system } = process.cpuUsage(cpu);
  const elapsed_us = systemClock.now() - begun_us;
  return { messagesPerSecond: count * 1e6 / elapsed_us, cpuUs: (user + system) / count };
}

/** Fills the device through the daemon and looks at a part of it. */
async function check(device: SimulatedDevice): Promise<void> {
  for (let at = 0; at < DEVICE_BYTES; at += MIB) {
    const data = new Uint8Array(MIB).fill(1 + at / MIB);
    await device.submit(makeBio(REQUEST_TYPES.WRITE, { sector: at / SECTOR_BYTES, data }));
  }
  const data = new Uint8Array(4 * KIB);
  await device.submit(makeBio(REQUEST_TYPES.READ, { sector: 5 * MIB / SECTOR_BYTES, data }));
  if (data.some((byte) => byte !== 6)) throw new Error("The daemon does not give its data back");
}

async function runOnce(name: string, load: Load, seconds: number): Promise<Measurement> {
  const kernel = new SimulatedKernel({ clock: systemClock, random: systemRandom });
  const device = kernel.createSimple("disk", DEVICE_BYTES / SECTOR_BYTES);
  const log = { error: print, warn: print, info: (): void => {}, debug: (): void => {} };
  const spec = parseSpec(`memory:${DEVICE_BYTES}`);
  await using storage = await openDevice(spec, {
    registry: defaultRegistry(),
    log,
    readOnly: false,
  });
  const daemon = DAEMONS[name] ?? bare;
  const over = Array.from(
    { length: load.channels },
    () => daemon(kernel.open("disk"), storage.device),
  );
  if (name !== "bare") await check(device);
  await drive(device, load, seconds / 4); // warms up
  const measured = await drive(device, load, seconds);
  kernel.remove("disk");
  await Promise.all(over);
  return measured;
}

function row(cells: readonly string[]): string {
  const padded = cells.map((cell, index) => index < 2 ? cell.padEnd(26) : cell.padStart(12));
  return padded.join(" ").trimEnd() + "\n";
}

function nameOf({ operation, bytes, channels }: Load): string {
  const size = bytes === MIB ? "1 MiB" : `${bytes / KIB} KiB`;
  return `${size} ${operation}, ${channels} channel${channels === 1 ? "" : "s"}`;
}

async function main(): Promise<void> {
  const { flags } = taskOptions({ task: "bench:dm-user", flags: ["quick", "json"] });
  const quick = flags.has("quick"), json = flags.has("json");
  const runs = quick ? 3 : 5, seconds = quick ? 0.5 : 2;
  const load = Deno.loadavg().map((each) => each.toFixed(2)).join(" ");
  if (!json) {
    print(
      `depth ${DEPTH}, ${runs} runs of ${seconds} s, Deno ${Deno.version.deno}, load ${load}\n\n`,
    );
    print(row(["load", "daemon", "messages/s", "MiB/s", "CPU µs/msg"]));
  }
  const results: Record<string, unknown>[] = [];
  for (const load of LOADS) {
    const measured = new Map<string, Measurement[]>(Object.keys(DAEMONS).map((name) => [name, []]));
    for (let round = 0; round < runs; round++) {
      for (const [name, list] of measured) list.push(await runOnce(name, load, seconds));
    }
    for (const [name, list] of measured) {
      const rate = spread(list.map((each) => each.messagesPerSecond));
      const cpu = spread(list.map((each) => each.cpuUs));
      results.push({ ...load, daemon: name, messagesPerSecond: rate, cpuUsPerMessage: cpu });
      if (json) continue;
      const speed = (rate.median * load.bytes / MIB).toFixed(0);
      print(row([nameOf(load), name, rate.median.toFixed(0), speed, cpu.median.toFixed(1)]));
    }
  }
  if (json) print(JSON.stringify({ depth: DEPTH, runs, seconds, results }, null, 2) + "\n");
}

await main();
