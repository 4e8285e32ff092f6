/**
 * What the tests of dm-user share: a simulated kernel that tells what it does, daemons in a few lines,
 * and headers.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Maybe } from "../../lib/block/types.ts";
import { HEADER_BYTES, REQUEST_TYPES, RESPONSE_TYPES } from "../../lib/dm_user/constants.ts";
import { decodeHeader, encodeHeader, type MessageHeader } from "../../lib/dm_user/message.ts";
import { type Bio, makeBio } from "../../lib/dm_user/simulator/bio.ts";
import type { Channel } from "../../lib/dm_user/simulator/channel.ts";
import type { SimulatedDevice } from "../../lib/dm_user/simulator/device.ts";
import { describeEvent } from "../../lib/dm_user/simulator/event.ts";
import { SimulatedKernel } from "../../lib/dm_user/simulator/kernel.ts";
import type { Target, TargetOptions } from "../../lib/dm_user/simulator/target.ts";
import { ManualClock, SeededRandom } from "../support/context.ts";

/** Sectors of the devices that tests make if they do not say. */
export const SECTORS = 2048;

/** A kernel with a device of one target, both named "disk". */
export interface Simulation {
  readonly kernel: SimulatedKernel;
  readonly device: SimulatedDevice;
  readonly target: Target;
  readonly clock: ManualClock;
  /** All events, in words. */
  readonly log: string[];
}

/** Makes one. */
export function simulate(options: TargetOptions = {}, seed = 1, sectors = SECTORS): Simulation {
  const clock = new ManualClock(), log: string[] = [];
  const kernel = new SimulatedKernel({
    clock,
    random: new SeededRandom(seed),
    listener: (event) => log.push(describeEvent(event)),
  });
  const device = kernel.createSimple("disk", sectors, options);
  const [placed] = device.targets;
  assert.ok(placed !== undefined);
  return { kernel, device, target: placed.target, clock, log };
}

/** The value of something that has to be there at once. */
export function now<T>(value: Maybe<T>): T {
  if (value instanceof Promise) assert.fail("It is not there at once");
  return value;
}

/** Lets everything run that can without time going on. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await Promise.resolve();
}

/** True if `promise` is settled once everything ran that could. */
export async function isSettled(promise: Maybe<unknown>): Promise<boolean> {
  let done = false;
  const mark = (): void => void (done = true);
  Promise.resolve(promise).then(mark, mark);
  await settled();
  return done;
}

/** Bytes 1, 2, 3 … from `first` on, modulo 256. */
export function pattern(length: number, first = 1): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, index) => first + index);
}

/** A READ of `length` bytes. */
export function readBio(length: number, sector = 0, flags = 0): Bio {
  return makeBio(REQUEST_TYPES.READ, { sector, flags, data: new Uint8Array(length) });
}

/** A WRITE of a pattern. */
export function writeBio(length: number, sector = 0, flags = 0): Bio {
  return makeBio(REQUEST_TYPES.WRITE, { sector, flags, data: pattern(length) });
}

/** A message as it is on the wire. */
export function messageBytes(
  header: Partial<MessageHeader>,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const length = BigInt(payload.length);
  encodeHeader({ seq: 0n, type: 0n, flags: 0n, sector: 0n, length, ...header }, bytes);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** A response as it is on the wire. */
export function answerBytes(
  seq: number | bigint,
  type: number = RESPONSE_TYPES.SUCCESS,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  return messageBytes({ seq: BigInt(seq), type: BigInt(type) }, payload);
}

/** A message that was read. */
export interface ReadMessage extends MessageHeader {
  readonly payload: Uint8Array;
}

/** Reads a message that is there, whole. */
export function readMessage(channel: Channel): ReadMessage {
  const head = new Uint8Array(HEADER_BYTES);
  assert.equal(now(channel.read(head)), HEADER_BYTES);
  const payload = new Uint8Array(channel.remaining);
  if (payload.length > 0) assert.equal(now(channel.read(payload)), payload.length);
  return { ...decodeHeader(head), payload };
}

/** Writes all of `bytes`, looping on the count. */
export function writeAll(channel: Channel, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) {
    const count = channel.write(bytes.subarray(at));
    assert.ok(count > 0, `write gives ${count}`);
    at += count;
  }
}

/** Answers a message with SUCCESS, a READ with a pattern. */
export function answer(channel: Channel, message: ReadMessage): void {
  const reads = message.type === BigInt(REQUEST_TYPES.READ);
  writeAll(
    channel,
    answerBytes(message.seq, RESPONSE_TYPES.SUCCESS, pattern(reads ? Number(message.length) : 0)),
  );
}
