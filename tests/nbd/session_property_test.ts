/**
 * Property tests of the server session, seeded: random requests, cut anywhere, over a disk whose calls
 * are done in random order, are answered once each, as a model says.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { SeededRandom } from "../support/context.ts";
import { assertSame, deviceOver, joined, outputOf, ram, sessionFor } from "./fixtures.ts";
import {
  diskContent,
  diskExtents,
  type Planned,
  planRequest,
  type Style,
} from "./random_requests.ts";
import { readReplies } from "./reply_reader.ts";

const STYLES: readonly Style[] = ["simple", "structured", "extended"];

/** Lets everything that promises have set off happen. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

function check(plan: readonly Planned[], output: Uint8Array, style: Style): void {
  const byCookie = new Map(plan.map((planned) => [planned.cookie, planned]));
  const answers = readReplies(output, style, (cookie) => {
    const planned = byCookie.get(cookie);
    assert.ok(planned !== undefined, `cookie ${cookie} was never sent`);
    return planned.asked;
  });
  for (const { cookie, errors, data, asked } of plan) {
    const answer = answers.get(cookie);
    assert.ok(answer !== undefined, `cookie ${cookie} has no answer`);
    assert.ok(
      errors.includes(answer.error),
      `${answer.error} instead of ${errors} for ${asked.offset}+${asked.length}`,
    );
    if (data !== null) assertSame(answer.data?.subarray(0, data.length) ?? data, data);
    assert.equal(answer.data !== null, asked.read && answer.error === 0);
  }
}

/** Sends `plan` in random pieces; returns all that comes back. */
async function run(
  plan: readonly Planned[],
  style: Style,
  random: SeededRandom,
  later: boolean,
): Promise<Uint8Array> {
  const held: (() => void)[] = [];
  const { backend, content } = ram({
    content: diskContent(),
    extents: diskExtents,
    ...(later
      ? {
        before: (verb: string): Promise<void> | undefined => {
          // Some calls are done at once, as when a page is cached.
          if (verb === "flush" || random.below(4) === 0) return undefined;
          const { promise, resolve } = Promise.withResolvers<void>();
          held.push(resolve);
          return promise;
        },
      }
      : {}),
  });
  await using device = deviceOver(backend);
  const session = sessionFor(device, style);
  const input = joined(plan.map(({ bytes }) => bytes));
  const outputs: Uint8Array[] = [];
  let at = 0;
  const finishSome = async (): Promise<void> => {
    const index = random.below(held.length);
    held.splice(index, 1)[0]?.();
    if (random.below(3) === 0) await turns();
  };
  while (at < input.length || session.inFlight > 0) {
    if (held.length > 0 && (random.below(2) === 0 || at === input.length)) await finishSome();
    if (session.ready && at < input.length) {
      const end = at + 1 + random.below(random.below(2) === 0 ? 40 : 4000);
      session.receive(input.slice(at, end));
      at = end;
    }
    if (random.below(3) === 0) outputs.push(outputOf(session));
    await turns();
  }
  outputs.push(outputOf(session));
  for (const { written } of plan) {
    if (written === null) continue;
    const { offset, bytes } = written;
    assertSame(content.slice(offset, offset + bytes.length), bytes);
  }
  session.end(undefined);
  assert.equal(session.finished, true);
  assert.equal(device.pool.takenCount, 0);
  return joined(outputs);
}

for (const style of STYLES) {
  for (const later of [false, true]) {
    const when = later ? "in random order" : "at once";
    Deno.test(`NbdServerSession answers random requests done ${when}, ${style} replies`, async () => {
      for (let seed = 1; seed <= 12; seed++) {
        const random = new SeededRandom(seed);
        const plan = Array.from({ length: 120 }, (_, index) => planRequest(random, style, index));
        try {
          check(plan, await run(plan, style, random, later), style);
        } catch (error) {
          throw new Error(`seed ${seed}: ${error}`, { cause: error });
        }
      }
    });
  }
}

Deno.test("NbdServerSession gives the same bytes wherever chunks are cut", () => {
  const random = new SeededRandom(77);
  for (const style of STYLES) {
    const plan = Array.from({ length: 30 }, (_, index) => planRequest(random, style, index));
    const input = joined(plan.map(({ bytes }) => bytes));
    const play = (cuts: readonly number[]): Uint8Array => {
      const disk = ram({ content: diskContent(), extents: diskExtents });
      const device = deviceOver(disk.backend);
      const session = sessionFor(device, style);
      const outputs: Uint8Array[] = [];
      let at = 0;
      for (const cut of [...cuts, input.length]) {
        if (cut > at) session.receive(input.slice(at, cut));
        at = Math.max(at, cut);
        outputs.push(outputOf(session));
      }
      session.end(undefined);
      assert.equal(device.pool.takenCount, 0);
      return joined(outputs);
    };
    const whole = play([]);
    fc.assert(
      fc.property(
        fc.array(fc.nat(input.length), { maxLength: 40 }).map((cuts) => cuts.sort((a, b) => a - b)),
        (cuts) => assertSame(play(cuts), whole),
      ),
      { seed: 1, numRuns: 60 },
    );
  }
});
