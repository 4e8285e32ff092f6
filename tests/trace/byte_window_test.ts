/**
 * The window on a stream: its bytes are those of the stream at its position, however it is moved on.
 *
 * @module
 */
import assert from "node:assert/strict";
import { seededRandom } from "../../lib/testing/random.ts";
import { ByteWindow } from "../../lib/trace/byte_window.ts";
import { WINDOW_BYTES } from "../../lib/trace/limits.ts";
import { sampleBytes } from "../support/tools.ts";
import { inChunks } from "./format_support.ts";

Deno.test("ByteWindow shows the bytes at its position, whatever is taken of it", async () => {
  const bytes = sampleBytes(6 * WINDOW_BYTES, 5), random = seededRandom(6);
  const window = new ByteWindow(inChunks(bytes, 10_007));
  let more = true;
  for (let round = 0; more; round += 1) {
    more = round % 3 === 0 ? await window.atLeast(random.below(WINDOW_BYTES)) : await window.fill();
    const { position, length } = window;
    const there = window.bytes.subarray(window.at, window.end);
    assert.equal(there.length, length);
    assert.deepEqual(
      there.subarray(0, 100),
      bytes.subarray(position, position + 100).subarray(0, length),
    );
    if (length >= 4) {
      const expected = new DataView(bytes.buffer).getUint32(position + length - 4);
      assert.equal(window.view.getUint32(window.end - 4), expected);
    }
    window.at += more ? random.below(length + 1) : length;
  }
  assert.equal(window.position, bytes.length);
  assert.equal(await window.fill(), false);
});

Deno.test("ByteWindow.atLeast() holds a record that is longer than the window", async () => {
  const bytes = sampleBytes(8 * WINDOW_BYTES, 7);
  const window = new ByteWindow(inChunks(bytes, 65_536));
  window.at = await window.atLeast(10) ? 10 : 0;
  assert.ok(await window.atLeast(bytes.length - 10));
  assert.equal(window.position, 10);
  assert.deepEqual(window.bytes.subarray(window.at, window.end), bytes.subarray(10));
  assert.equal(await window.atLeast(bytes.length), false);
});
