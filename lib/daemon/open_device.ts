/**
 * From a spec to a Device on this machine, for whoever works with one device and serves nothing:
 * looking at it, copying it.
 *
 * @module
 */
import type { Clock, Log } from "../block/context.ts";
import { Device } from "../block/device.ts";
import { toBlockError } from "../block/errors.ts";
import type { Registry } from "../block/registry.ts";
import type { Spec } from "../block/spec.ts";
import type { Opened } from "../block/types.ts";
import { systemContext } from "./context.ts";

/** How to open a device. */
export interface OpenDeviceOptions {
  /** The kinds that there are. */
  readonly registry: Registry;
  /** Messages for a human. */
  readonly log: Log;
  /** Open it read-only. */
  readonly readOnly: boolean;
  /** This thread has nothing else to do: calls may block it. False if left out. */
  readonly mayBlock?: boolean;
  /** Flush when it is closed; true if left out. */
  readonly flushAtEnd?: boolean;
  /** Gives up waiting when it aborts. */
  readonly signal?: AbortSignal;
  /** Time; that of `systemClock` if left out. */
  readonly clock?: Clock;
}

/** An open device. */
export interface OpenDevice extends AsyncDisposable {
  /** The way to it. */
  readonly device: Device;
  /** The backend, for what it can do, and its management. */
  readonly opened: Opened;
  /** What it was opened from. */
  readonly spec: Spec;
  /** Finishes what is in flight, flushes and closes. Throws BlockError if that fails; once. */
  close(): Promise<void>;
}

/** Opens what `spec` says. Throws UsageError for a wrong spec, BlockError for what cannot be opened. */
export async function openDevice(spec: Spec, options: OpenDeviceOptions): Promise<OpenDevice> {
  const { registry, log, readOnly, mayBlock = false, flushAtEnd = true } = options;
  const prepared = registry.prepare(spec);
  const teardown = new AbortController();
  const signal = options.signal === undefined
    ? teardown.signal
    : AbortSignal.any([teardown.signal, options.signal]);
  const { clock: ownClock } = options;
  const context = systemContext({
    ...{ log, readOnly, mayBlock, signal },
    ...(ownClock === undefined ? {} : { clock: ownClock }),
  });
  const { opened } = await prepared.open(context);
  let device: Device;
  try {
    const { clock } = context;
    device = new Device(opened.backend, { name: spec.text, clock, log, flushAtEnd });
  } catch (error) {
    await opened.backend[Symbol.asyncDispose]();
    throw toBlockError(error);
  }
  const close = async (): Promise<void> => {
    try {
      await device[Symbol.asyncDispose]();
    } finally {
      teardown.abort();
    }
  };
  return { device, opened, spec, close, [Symbol.asyncDispose]: close };
}
