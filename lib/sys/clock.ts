/**
 * The monotonic clock of the system, for whoever reads it for each request: a third of the cost of
 * `performance.now`. See clock_gettime(2).
 *
 * @module
 */
import { CLOCK_MONOTONIC, SC_NPROCESSORS_ONLN, socketCalls } from "./socket_calls.ts";

/** struct timespec: two numbers of 64 bits, of which the lower halves are enough (68 years after boot). */
const TIME = new Int32Array(4);
const TIME_BYTES = new Uint8Array(TIME.buffer);
const SECONDS_AT = 0, NANOSECONDS_AT = 2;

/** Time since some moment, in µs. */
export function monotonicUs(): number {
  socketCalls().clock_gettime(CLOCK_MONOTONIC, TIME_BYTES);
  return (TIME[SECONDS_AT] ?? 0) * 1e6 + (TIME[NANOSECONDS_AT] ?? 0) / 1e3;
}

/** Processors of this machine, also those that this process may not use. */
export function processorsOnline(): number {
  return Number(socketCalls().sysconf(SC_NPROCESSORS_ONLN));
}
