/**
 * Seeded attacks on a live server: noise, and valid conversations with random damage, cut anywhere,
 * ended in every way that a connection can end.
 *
 * @module
 */
import { COMMAND, OPTION } from "../../lib/nbd/constants.ts";
import { compact, hex, joined } from "../nbd/fixtures.ts";
import { BASE, FIXED_NO_ZEROES, infoData, metaData, option } from "../nbd/handshake_messages.ts";
import { META_ROWS } from "../nbd/handshake_meta_rows.ts";
import { OPTION_ROWS } from "../nbd/handshake_rows.ts";
import { planRequest, type Style } from "../nbd/random_requests.ts";
import { SeededRandom } from "../support/context.ts";
import { chunksOf, damaged } from "../support/damage.ts";
import { entrance, RawClient } from "./raw_client.ts";

/** Targets that attacks know: all of 1 MiB. */
export const VICTIMS: readonly string[] = ["disk", "later", "file"];

const STYLES: readonly Style[] = ["simple", "structured", "extended"];
const HANDSHAKES: readonly Uint8Array[] = [...OPTION_ROWS, ...META_ROWS]
  .map(({ send }) => hex(send)).filter(({ length }) => length < 10_000);
/** A write that announces more than it ever sends. */
const ANNOUNCED_BYTES = 60 << 20;

/** Bytes that are sent in small pieces; what is beyond follows in one. */
const CUT_BYTES = 500;

function pick<T>(from: readonly T[], random: SeededRandom): T {
  const item = from[random.below(from.length)];
  if (item === undefined) throw new RangeError("nothing to pick from");
  return item;
}

/** A handshake that ends in the transmission phase with replies of this style. */
function wayIn(name: string, style: Style): Uint8Array {
  if (style === "simple") return entrance(name);
  const agreed = style === "extended" ? OPTION.EXTENDED_HEADERS : OPTION.STRUCTURED_REPLY;
  return hex(
    FIXED_NO_ZEROES + option(agreed) +
      option(OPTION.SET_META_CONTEXT, metaData(name, BASE)) +
      option(OPTION.GO, infoData(name)),
  );
}

function requests(random: SeededRandom, style: Style): Uint8Array {
  const count = 1 + random.below(12);
  return joined(Array.from({ length: count }, (_, i) => planRequest(random, style, i).bytes));
}

/** All that an attacker will ever send. */
function ammunition(random: SeededRandom): Uint8Array {
  const style = pick(STYLES, random);
  switch (random.below(6)) {
    case 0: {
      const noise = new Uint8Array(random.below(3000));
      random.fill(noise);
      return noise;
    }
    case 1: {
      const rows = Array.from({ length: 1 + random.below(6) }, () => pick(HANDSHAKES, random));
      return joined([hex(FIXED_NO_ZEROES), damaged(joined(rows), random)]);
    }
    case 2:
      return damaged(
        joined([wayIn(pick(VICTIMS, random), style), requests(random, style)]),
        random,
      );
    case 3: {
      const write = compact(COMMAND.WRITE, 1, 0, ANNOUNCED_BYTES);
      return joined([
        entrance(pick(VICTIMS, random)),
        write,
        new Uint8Array(random.below(100_000)),
      ]);
    }
    default:
      return joined([
        wayIn(pick(VICTIMS, random), style),
        damaged(requests(random, style), random),
      ]);
  }
}

/** What came of attacks. */
export interface Toll {
  attacks: number;
  /** Bytes that the server has answered. */
  answered: number;
  /** Attackers that the server has cut off before they had sent everything. */
  cutOff: number;
}

/** One attacker, from connecting to its end. Those that are to linger are added to `lingering`. */
async function attackOnce(
  path: string,
  random: SeededRandom,
  lingering: RawClient[],
  toll: Toll,
): Promise<void> {
  const client = await RawClient.connect(path);
  const end = random.below(6);
  const bytes = ammunition(random);
  const sent = bytes.subarray(0, end === 0 ? random.below(bytes.length + 1) : bytes.length);
  const reading = end >= 2 ? client.drain() : Promise.resolve(0);
  toll.attacks += 1;
  let goesOn = true;
  for (
    const chunk of [...chunksOf(sent.subarray(0, CUT_BYTES), random), sent.subarray(CUT_BYTES)]
  ) {
    goesOn = goesOn && await client.send(chunk);
  }
  if (!goesOn) toll.cutOff += 1;
  if (end === 1) {
    // Never reads, and stays.
    lingering.push(client);
    return;
  }
  if (end === 2) client[Symbol.dispose]();
  else if (end > 2) await client.endInput();
  toll.answered += await reading;
  client[Symbol.dispose]();
}

/** Attackers, `depth` at a time, each with a seed of its own. */
export async function attack(
  path: string,
  settings: { readonly seed: number; readonly count: number; readonly depth: number },
): Promise<Toll> {
  const { seed, count, depth } = settings;
  const toll: Toll = { attacks: 0, answered: 0, cutOff: 0 };
  const lingering: RawClient[] = [];
  let next = seed;
  const work = async (): Promise<void> => {
    while (next < seed + count) await attackOnce(path, new SeededRandom(next++), lingering, toll);
  };
  try {
    await Promise.all(Array.from({ length: depth }, work));
  } finally {
    for (const client of lingering) client[Symbol.dispose]();
  }
  return toll;
}
