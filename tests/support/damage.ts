/**
 * Damage for fuzzers: what a broken or hostile peer makes of valid bytes.
 *
 * @module
 */
import { joined } from "../nbd/fixtures.ts";
import type { SeededRandom } from "./context.ts";

/** Damages a copy of `bytes`: flips, zeroes, inserts, removes, repeats; mostly a little. */
export function damaged(bytes: Uint8Array, random: SeededRandom): Uint8Array {
  let result: Uint8Array = bytes.slice();
  for (let round = random.below(random.below(2) === 0 ? 5 : 2); round > 0; round--) {
    const at = random.below(result.length + 1);
    const count = 1 + random.below(random.below(4) === 0 ? 64 : 4);
    const before = result.subarray(0, at), after = result.subarray(at);
    const noise = new Uint8Array(count);
    random.fill(noise);
    switch (random.below(5)) {
      case 0:
        result = joined([before, noise, after.subarray(count)]);
        break;
      case 1:
        result = joined([before, noise, after]);
        break;
      case 2:
        result = joined([before, after.subarray(count)]);
        break;
      case 3:
        result = joined([before, noise.fill(random.below(2) * 255), after.subarray(count)]);
        break;
      default:
        result = joined([before, after.subarray(0, count * 8), after]);
    }
  }
  return result;
}

/** Cuts bytes into chunks of random length. */
export function* chunksOf(bytes: Uint8Array, random: SeededRandom): Generator<Uint8Array> {
  const longest = [1, 7, 100, 5000][random.below(4)] ?? 1;
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + random.below(longest);
    yield bytes.slice(at, end);
    at = end;
  }
}
