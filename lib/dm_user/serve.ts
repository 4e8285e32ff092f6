/**
 * A daemon in one call: the session of a channel, run over a pair of Web Streams.
 *
 * @module
 */
import type { Device } from "../block/device.ts";
import { runSession } from "../stream/run_session.ts";
import type { BytePair } from "../stream/session.ts";
import { ChannelSession, type ChannelSessionOptions } from "./session.ts";

/** Settings of `serveChannel`. */
export interface ServeChannelOptions extends ChannelSessionOptions {
  /** Ends the daemon at once: what is unanswered fails, what is still queued waits for another one. */
  readonly signal?: AbortSignal;
}

/**
 * Answers the messages of one channel from `device` until the target is removed; then resolves.
 * Rejects with the first error of a stream, a ProtocolError, or the reason of the signal. The device
 * is not disposed: other channels may serve from it, or a later call.
 */
export async function serveChannel(
  pair: BytePair,
  device: Device,
  options: ServeChannelOptions = {},
): Promise<void> {
  const { signal, ...rest } = options;
  const session = new ChannelSession(device, rest);
  await runSession(pair, session, signal === undefined ? {} : { signal });
  if (session.failure !== null) throw session.failure;
}
