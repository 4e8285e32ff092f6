/**
 * Framing as Web Streams transforms, for whoever wants to pipe: bytes to batches of frames and back.
 * One batch a chunk, since a stream operation costs far more than a frame. The servers use
 * FrameSplitter and runSession directly.
 *
 * @module
 */
import { BufferPool } from "../block/pool.ts";
import { type FrameFormat, ProtocolError } from "./frame.ts";
import { FrameSplitter } from "./splitter.ts";

/**
 * Bytes, cut anywhere, become batches of whole frames. A frame is a view of the chunk it came in, or
 * of memory of its own if it was cut. Errors with ProtocolError if the bytes are no frame, or if they
 * end inside a frame.
 *
 * @example
 * ```ts
 * import { FrameDecoderStream } from "./transform.ts";
 *
 * const decoder = new FrameDecoderStream({
 *   headerLengthMin: 1,
 *   frameLengthMax: 255,
 *   frameLength: (bytes: Uint8Array, start: number): number => bytes[start] ?? 0,
 * });
 * const chunks = ReadableStream.from([new Uint8Array([2, 7, 3]), new Uint8Array([8, 9])]);
 * const frames: string[] = [];
 * for await (const batch of chunks.pipeThrough(decoder)) {
 *   for (const frame of batch) frames.push(frame.join("-"));
 * }
 * if (frames.join() !== "2-7,3-8-9") throw new Error(frames.join());
 * ```
 */
export class FrameDecoderStream extends TransformStream<Uint8Array, Uint8Array[]> {
  /** Cuts by `format`. */
  constructor(format: FrameFormat) {
    // Frames go to the reader for good, so nothing ever comes back to this pool.
    const splitter = new FrameSplitter(format, new BufferPool({ keptBytesMax: 0 }));
    super({
      transform(chunk, controller): void {
        const batch: Uint8Array[] = [];
        splitter.push(chunk);
        while (splitter.next()) {
          batch.push(splitter.bytes.subarray(splitter.start, splitter.end));
          splitter.takeBuffer();
        }
        if (batch.length > 0) controller.enqueue(batch);
      },
      flush(): void {
        if (splitter.pending === 0) return;
        throw new ProtocolError(
          `Cannot read a frame: the input ends after ${splitter.pending} bytes of it`,
        );
      },
    });
  }
}

/** Batches of frames become bytes, one chunk a batch. */
export class FrameEncoderStream extends TransformStream<readonly Uint8Array[], Uint8Array> {
  /** Makes an encoder. */
  constructor() {
    super({
      transform(batch, controller): void {
        const [first] = batch;
        if (first !== undefined) controller.enqueue(batch.length === 1 ? first : concat(batch));
      },
    });
  }
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}
