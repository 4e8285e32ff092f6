/**
 * Two connected ends of a byte connection in memory: what tests and the simulator run sessions over.
 * Writes are copied, as the kernel does for a socket, and wait for room, so back-pressure is real.
 *
 * @module
 */
import { MEMORY_PAIR_BYTES } from "./limits.ts";
import type { BytePair } from "./session.ts";

/** Settings of a memory pair. */
export interface MemoryPairOptions {
  /** Bytes in each direction that a write does not wait for; MEMORY_PAIR_BYTES if not told. */
  readonly bufferBytes?: number;
  /** Longest chunk that the other end reads; longer writes are cut up. Not limited if not told. */
  readonly chunkBytesMax?: number;
}

/** Makes both ends: what is written to one is read from the other. */
export function memoryPair(options: MemoryPairOptions = {}): [BytePair, BytePair] {
  const there = direction(options);
  const back = direction(options);
  return [
    { readable: back.readable, writable: there.writable },
    { readable: there.readable, writable: back.writable },
  ];
}

function direction(options: MemoryPairOptions): BytePair {
  const { bufferBytes = MEMORY_PAIR_BYTES, chunkBytesMax = Infinity } = options;
  let room = Promise.withResolvers<void>();
  let source: ReadableStreamDefaultController<Uint8Array> | null = null;
  let gone: Error | null = null;
  const readable = new ReadableStream<Uint8Array>({
    start(controller): void {
      source = controller;
    },
    pull: () => room.resolve(),
    cancel(): void {
      gone = new Error("Cannot write to the peer: it does not read any more");
      room.reject(gone);
      room.promise.catch(() => {});
    },
  }, new ByteLengthQueuingStrategy({ highWaterMark: bufferBytes }));
  const writable = new WritableStream<Uint8Array>({
    start(controller): void {
      controller.signal.addEventListener("abort", () => {
        if (gone === null) source?.error(controller.signal.reason);
        gone ??= new Error("Cannot write to the peer: the stream was aborted");
        room.reject(gone);
        room.promise.catch(() => {});
      });
    },
    async write(chunk): Promise<void> {
      for (let start = 0; start < chunk.length; start += chunkBytesMax) {
        if (gone !== null) throw gone;
        source?.enqueue(chunk.slice(start, Math.min(chunk.length, start + chunkBytesMax)));
        if ((source?.desiredSize ?? 0) > 0) continue;
        room = Promise.withResolvers<void>();
        await room.promise;
      }
    },
    close(): void {
      if (gone === null) source?.close();
    },
  });
  return { readable, writable };
}
