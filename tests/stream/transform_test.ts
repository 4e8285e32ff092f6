/** Tests of lib/stream/transform.ts. @module */
import assert from "node:assert/strict";
import fc from "fast-check";
import { ProtocolError } from "../../lib/stream/frame.ts";
import { FrameDecoderStream, FrameEncoderStream } from "../../lib/stream/transform.ts";
import { concat, frameOf, LENGTH_FORMAT } from "./echo_session.ts";

async function decode(chunks: readonly Uint8Array[]): Promise<Uint8Array[][]> {
  const batches: Uint8Array[][] = [];
  const decoder = new FrameDecoderStream(LENGTH_FORMAT);
  for await (const batch of ReadableStream.from(chunks).pipeThrough(decoder)) batches.push(batch);
  return batches;
}

Deno.test("FrameDecoderStream undoes FrameEncoderStream for any cut", async () => {
  const sequences = fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 10 });
  const property = fc.asyncProperty(
    sequences,
    fc.integer({ min: 1, max: 120 }),
    async (list, size) => {
      const frames = list.map(frameOf);
      const parts: Uint8Array[] = [];
      const encoder = new FrameEncoderStream();
      const batches = [frames.slice(0, 3), [], frames.slice(3, 4), frames.slice(4)];
      for await (const part of ReadableStream.from(batches).pipeThrough(encoder)) parts.push(part);
      assert.ok(parts.length <= 3);
      const bytes = concat(parts);
      assert.deepEqual(bytes, concat(frames));
      const chunks: Uint8Array[] = [];
      for (let start = 0; start < bytes.length; start += size) {
        chunks.push(bytes.slice(start, start + size));
      }
      assert.deepEqual((await decode(chunks)).flat(), frames);
    },
  );
  await fc.assert(property, { seed: 6, numRuns: 60 });
});

Deno.test("FrameDecoderStream gives one batch a chunk, and none for a chunk without a frame's end", async () => {
  const frame = frameOf(Uint8Array.of(1, 2, 3));
  const batches = await decode([
    concat([frame, frame, frame.slice(0, 2)]),
    frame.slice(2, 5),
    frame.slice(5),
  ]);
  assert.deepEqual(batches.map((batch) => batch.length), [2, 1]);
});

Deno.test("FrameDecoderStream errors when the input ends inside a frame or is no frame", async () => {
  const frame = frameOf(Uint8Array.of(1, 2, 3));
  await assert.rejects(decode([frame.slice(0, 6)]), (error) => {
    assert.ok(error instanceof ProtocolError);
    assert.equal(error.message, "Cannot read a frame: the input ends after 6 bytes of it");
    return true;
  });
  await assert.rejects(decode([new Uint8Array(8)]), ProtocolError);
});
